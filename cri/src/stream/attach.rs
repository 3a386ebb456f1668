//! Attach: following a container that runs, and typing into it.

use super::copy::{self, Resizes};
use super::descriptor::Descriptor;
use super::session::Streams;
use super::tickets::Wanted;
use crate::chain::chain;
use crate::container::{Attached, Container, ContainerError};
use crate::node::Node;
use remote::message::Status;
use remote::{Incoming, Outgoing};
use runtime::monitor::Detached;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Follows the container until it ends. Dropping this detaches the client.
pub(super) async fn run(
    node: &Arc<Node>,
    container: &Arc<Container>,
    wanted: Wanted,
    streams: Streams,
) -> Status {
    let result = match node.containers.attach(container, wanted).await {
        Ok(attached) => {
            let failed = |source| ContainerError::ExecIo {
                container: container.id.clone(),
                step: "follow it",
                source,
            };
            follow(node, container, attached, streams).await.map_err(failed)
        }
        Err(err) => Err(err),
    };
    match result {
        Ok(Detached::Ended) => Status::exited(0),
        Ok(Detached::TooSlow) => Status::failed(
            "cut off: the container said more than this client could take; its log has all of it"
                .into(),
        ),
        Ok(Detached::Left) => Status::failed("detached".into()),
        Err(err) => Status::failed(chain(&err)),
    }
}

async fn follow(
    node: &Arc<Node>,
    container: &Arc<Container>,
    attached: Attached,
    streams: Streams,
) -> io::Result<Detached> {
    let Attached { attachment, input, stdout, stderr } = attached;
    // The pipes end with the attachment: nobody else holds them.
    let (_ended, told) = watch::channel(false);
    let followed = async {
        let outputs = tokio::join!(
            output(stdout, streams.stdout, told.clone()),
            output(stderr, streams.stderr, told.clone()),
        );
        outputs.0.and(outputs.1)?;
        crate::container::detached(&attachment).await
    };
    let typed = async {
        if let Some(from) = streams.stdin {
            type_into(from, input).await?;
            attachment.end_input().map_err(io::Error::other)?;
        }
        io::Result::Ok(())
    };
    let sizes = async {
        let mut sizes = Resizes::new(streams.resize);
        while let Some(size) = sizes.next().await {
            Arc::clone(&node.containers).resize(Arc::clone(container), size).await;
        }
    };
    let from_client = async {
        if let Err(err) = tokio::join!(typed, sizes).0 {
            tracing::debug!(%err, "input of attached client");
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        why = followed => why,
        never = from_client => match never {},
    }
}

async fn output(
    pipe: Option<OwnedFd>,
    to: Option<Outgoing>,
    told: watch::Receiver<bool>,
) -> io::Result<()> {
    if let Some(pipe) = pipe {
        copy::output(&Descriptor::new(pipe)?, to, told, Duration::ZERO).await;
    }
    Ok(())
}

/// Copies a client's input, or throws it away where the container takes none.
async fn type_into(mut from: Incoming, to: Option<OwnedFd>) -> io::Result<()> {
    match to {
        Some(to) => copy::input(from, &Descriptor::new(to)?).await,
        None => while from.next().await.is_some() {},
    }
    Ok(())
}
