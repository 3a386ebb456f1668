//! RuntimeService.

use super::{Service, node, stats, stream, to_the_end};
use crate::container::ExecSync;
use crate::host::blocking;
use crate::network;
use crate::stream::Wanted;
use cri_api::runtime::v1::runtime_service_server::RuntimeService;
use cri_api::runtime::v1::*;
use std::sync::Arc;
use std::time::Duration;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(node::version()))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let (node, verbose) = (Arc::clone(&self.node), request.get_ref().verbose);
        Ok(Response::new(blocking(move || node::status(&node, verbose)).await))
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Answer<RuntimeConfigResponse> {
        Ok(Response::new(node::runtime_config(&self.node)))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.unwrap_or_default();
        let cidr = config.network_config.unwrap_or_default().pod_cidr;
        let host = Arc::clone(&self.node.host);
        to_the_end(blocking(move || network::set_pod_cidr(&host, &cidr))).await?;
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        let run = self.node.sandboxes.run(request.into_inner());
        let id = run.await.map_err(|err| Status::from(&*err))?;
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: id.to_string() }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let (node, id) = (Arc::clone(&self.node), request.into_inner().pod_sandbox_id);
        to_the_end(async move { node.stop_pod(&id).await }).await?;
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let (node, id) = (Arc::clone(&self.node), request.into_inner().pod_sandbox_id);
        to_the_end(async move { node.remove_pod(&id).await }).await?;
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let sandboxes = Arc::clone(&self.node.sandboxes);
        let request = request.into_inner();
        to_the_end(async move { sandboxes.update(request).await }).await?;
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let resolved = self.node.sandboxes.resolve(&request.pod_sandbox_id);
        let sandbox = resolved.map_err(|err| Status::from(&err))?;
        let info = if request.verbose { node::pod_info(&sandbox) } else { Default::default() };
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(sandbox.status()),
            info,
            containers_statuses: self.node.host.events.statuses(&sandbox),
            timestamp: crate::host::now_ns(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let items = node::pods(&self.node, &request.into_inner().filter.unwrap_or_default());
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxesResponse>> {
        let pods = node::pods(&self.node, &request.into_inner().filter.unwrap_or_default());
        Ok(stream::rows(pods, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let create = self.node.containers.create(request.into_inner());
        let id = create.await.map_err(|err| Status::from(&*err))?;
        Ok(Response::new(CreateContainerResponse { container_id: id.to_string() }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let containers = Arc::clone(&self.node.containers);
        let id = request.into_inner().container_id;
        to_the_end(async move { containers.start(&id).await }).await?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let containers = Arc::clone(&self.node.containers);
        let request = request.into_inner();
        let grace = Duration::from_secs(request.timeout.try_into().unwrap_or(0));
        to_the_end(async move { containers.stop_named(&request.container_id, grace).await })
            .await?;
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let containers = Arc::clone(&self.node.containers);
        let id = request.into_inner().container_id;
        to_the_end(async move { containers.remove(&id).await }).await?;
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let containers = node::containers(&self.node, &filter);
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<BoxStream<StreamContainersResponse>> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let containers = node::containers(&self.node, &filter);
        Ok(stream::rows(containers, |containers| StreamContainersResponse { containers }))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<BoxStream<ContainerEventResponse>> {
        Ok(stream::events(self.node.host.events.listen()))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        let resolved = self.node.containers.resolve(&request.container_id);
        let container = resolved.map_err(|err| Status::from(&err))?;
        let sandbox = self.node.sandboxes.table.get(container.pod().as_str());
        let logs = sandbox.map(|sandbox| sandbox.config.log_directory.clone()).unwrap_or_default();
        let info =
            if request.verbose { node::container_info(&container) } else { Default::default() };
        Ok(Response::new(ContainerStatusResponse { status: Some(container.status(&logs)), info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let containers = Arc::clone(&self.node.containers);
        let request = request.into_inner();
        to_the_end(async move { containers.update(request).await }).await?;
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let containers = Arc::clone(&self.node.containers);
        let id = request.into_inner().container_id;
        to_the_end(async move { containers.reopen_log(&id).await }).await?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    /// Not run to its end: an exec whose client has gone is killed.
    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let timeout = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0);
        let exec = ExecSync { command: request.cmd, timeout: timeout.map(Duration::from_secs) };
        let output = self.node.containers.exec_sync(&request.container_id, exec).await;
        let output = output.map_err(|err| Status::from(&err))?;
        Ok(Response::new(ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.code,
        }))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        self.stats_of_container(&request.into_inner().container_id).await
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let stats = self.stats_of_containers(request.into_inner().filter).await;
        Ok(Response::new(ListContainerStatsResponse { stats }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<BoxStream<StreamContainerStatsResponse>> {
        let stats = self.stats_of_containers(request.into_inner().filter).await;
        stats::parts(stats, |container_stats| StreamContainerStatsResponse { container_stats })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        self.stats_of_pod(&request.into_inner().pod_sandbox_id).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let stats = self.stats_of_pods(request.into_inner().filter).await;
        Ok(Response::new(ListPodSandboxStatsResponse { stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxStatsResponse>> {
        let stats = self.stats_of_pods(request.into_inner().filter).await;
        stats::parts(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats })
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        let descriptors = crate::stats::metrics::descriptors();
        Ok(Response::new(ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        let pod_metrics = self.node.pod_metrics().await;
        Ok(Response::new(ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxMetricsResponse>> {
        let metrics = self.node.pod_metrics().await;
        stats::parts(metrics, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        })
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request.into_inner();
        let wanted = Wanted { stdin, stdout, stderr, tty };
        let url = self.node.exec_url(&container_id, cmd, wanted);
        Ok(Response::new(ExecResponse { url: url.map_err(|err| Status::from(&err))? }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let AttachRequest { container_id, stdin, tty, stdout, stderr } = request.into_inner();
        let wanted = Wanted { stdin, stdout, stderr, tty };
        let url = self.node.attach_url(&container_id, wanted);
        Ok(Response::new(AttachResponse { url: url.map_err(|err| Status::from(&err))? }))
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Answer<PortForwardResponse> {
        let PortForwardRequest { pod_sandbox_id, port } = request.into_inner();
        let url = self.node.forward_url(&pod_sandbox_id, &port);
        Ok(Response::new(PortForwardResponse { url: url.map_err(|err| Status::from(&err))? }))
    }
}
