//! The services: request to domain values, one call, domain value to response. Nothing else happens here.

mod berth;
mod code;
mod image;
mod node;
mod runtime;
mod stats;
mod stream;
mod transfer;

use crate::node::Node;
use std::future::Future;
use std::sync::Arc;
use tonic::Status;

/// Serves CRI v1 and our own calls.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    node: Arc<Node>,
}

impl Service {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

/// Runs `work` in a task of its own: a client that hangs up drops the handler's future, and must not be able to cut a
/// change to the node in half. A panic in it costs this call and not the daemon.
async fn to_the_end<T, E>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Status>
where
    T: Send + 'static,
    E: Send + 'static,
    Status: for<'e> From<&'e E>,
{
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(|err| Status::from(&err)),
        Err(panic) => Err(Status::internal(panic.to_string())),
    }
}
