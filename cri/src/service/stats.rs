//! The answers of statistics and metrics, whole or as streams of parts.

use super::Service;
use cri_api::runtime::v1::*;
use tokio_stream::StreamExt;
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

/// What one message of a stream holds: well below the limit of a message, whatever the labels.
const ITEMS_A_MESSAGE: usize = 50;

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    pub(super) async fn stats_of_container(&self, id: &str) -> Answer<ContainerStatsResponse> {
        let stats = self.node.container_stats(id).await.map_err(|err| Status::from(&err))?;
        Ok(Response::new(ContainerStatsResponse { stats: Some(stats) }))
    }

    pub(super) async fn stats_of_containers(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Vec<ContainerStats> {
        self.node.list_container_stats(filter.unwrap_or_default()).await
    }

    pub(super) async fn stats_of_pod(&self, id: &str) -> Answer<PodSandboxStatsResponse> {
        let stats = self.node.pod_stats(id).await.map_err(|err| Status::from(&err))?;
        Ok(Response::new(PodSandboxStatsResponse { stats: Some(stats) }))
    }

    pub(super) async fn stats_of_pods(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Vec<PodSandboxStats> {
        self.node.list_pod_stats(filter.unwrap_or_default()).await
    }
}

/// A stream of messages with some items each; nothing at all where there are none.
pub(super) fn parts<T, M>(items: Vec<T>, message: fn(Vec<T>) -> M) -> Answer<BoxStream<M>>
where
    T: Send + 'static,
    M: Send + 'static,
{
    let mut parts = Vec::new();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        parts.push(items.by_ref().take(ITEMS_A_MESSAGE).collect::<Vec<_>>());
    }
    Ok(Response::new(Box::pin(tokio_stream::iter(parts).map(move |part| Ok(message(part))))))
}
