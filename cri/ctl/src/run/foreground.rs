//! Standing by a container: its output to ours, our interrupts to it, its exit code in the end.

use std::path::Path;
use std::pin::pin;

use cri_api::runtime::v1::StopContainerRequest;

use super::pod::Pod;
use crate::commands::containers;
use crate::commands::exec::exit_code;
use crate::error::CliError;
use crate::interrupt::Interrupts;
use crate::log::{self, Options, Printer};
use crate::node::Node;
use crate::output::{Out, note};
use crate::waiting::{self, Ended};

/// Seconds that a container gets to end by itself when it is asked to.
const GRACE: i64 = 10;

/// Gives the exit code of the container.
pub(super) async fn attend(
    node: &Node,
    pod: &Pod,
    container: &str,
    interrupts: &mut Interrupts,
    out: &mut Out,
) -> Result<u8, CliError> {
    let (status, _) = containers::status(node, container, false).await?;
    let mut stderr = Out::stderr();
    let mut printer = Printer::new(out, &mut stderr, Options::default());
    let end = ended_or_stopped(node, container, interrupts);
    let followed = log::follow(Path::new(&status.log_path), None, &mut printer, end).await?;
    // Without a limit of bytes the printer never has enough.
    let ended = followed.unwrap_or_else(|| unreachable!("no limit was given"))?;
    match ended.reason.as_str() {
        "Completed" | "Error" => {}
        "OOMKilled" => note(format_args!("{} was out of memory and was killed", pod.plan.name)),
        reason => note(format_args!("{} ended: {reason} {}", pod.plan.name, ended.message)),
    }
    Ok(exit_code(ended.exit_code))
}

/// The first interrupt asks the container to end, a second one kills it.
async fn ended_or_stopped(
    node: &Node,
    container: &str,
    interrupts: &mut Interrupts,
) -> Result<Ended, CliError> {
    let mut ended = pin!(waiting::ended(node, container));
    tokio::select! {
        ended = &mut ended => return ended,
        () = interrupts.next() => {}
    }
    let mut asked = pin!(stop(node, container, GRACE));
    tokio::select! {
        ended = &mut ended => return ended,
        stopped = &mut asked => stopped?,
        () = interrupts.next() => stop(node, container, 0).await?,
    }
    ended.await
}

async fn stop(node: &Node, container: &str, timeout: i64) -> Result<(), CliError> {
    node.stop_container(StopContainerRequest { container_id: container.into(), timeout })
        .await
        .map(drop)
        .map_err(CliError::call(format!("stop container {container}")))
}
