//! One client's session, from its channels to its end.

use super::tickets::Errand;
use super::wires::Wires;
use super::{attach, exec};
use crate::node::Node;
use remote::message::Status;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a client may take to hear how it ended.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs an exec or an attach. When the client leaves, everything is dropped where it is, and that ends it.
pub(super) async fn run(node: &Arc<Node>, errand: Errand, wires: Wires) {
    let Wires { link, stdin, stdout, stderr, resize, verdict } = wires;
    let limit = Duration::from_secs(node.host.config.stream.idle_timeout_s);
    let streams = Streams { stdin, stdout, stderr, resize };
    let work = async {
        match errand {
            Errand::Exec { container, command, wanted } => {
                exec::run(node, &container, &command, wanted.tty, streams).await
            }
            Errand::Attach { container, wanted } => {
                attach::run(node, &container, wanted, streams).await
            }
            Errand::Forward { .. } => Status::failed("not a command".into()),
        }
    };
    let status = tokio::select! {
        status = work => status,
        () = link.closed() => return,
        () = link.idle(limit) => Status::failed(format!("nothing was said for {limit:?}")),
    };
    // A client that does not read does not get to know, and is hung up on.
    if timeout(FAREWELL, verdict.tell(&status)).await.is_ok() {
        link.close().await;
    }
}

/// The client's side of a program.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: Option<remote::Incoming>,
    pub(super) stdout: Option<remote::Outgoing>,
    pub(super) stderr: Option<remote::Outgoing>,
    pub(super) resize: Option<remote::Incoming>,
}
