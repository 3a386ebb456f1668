//! A blocking client of the CRI services: one method a call, named as in the API.

use std::path::Path;

use cri_api::runtime::v1::image_service_client::ImageServiceClient;
use cri_api::runtime::v1::runtime_service_client::RuntimeServiceClient;
use cri_api::runtime::v1::{self, VersionRequest};
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// The largest message, as the kubelet allows it.
const MESSAGE_BYTES: usize = 16 << 20;

/// One connection to a daemon. The test's own thread drives it, so it lives in the test's own
/// namespaces.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
}

impl Cri {
    /// Connects and asks for the version, as a kubelet does.
    ///
    /// # Errors
    ///
    /// When nobody answers at the socket.
    pub fn connect(socket: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
        let channel = runtime.block_on(endpoint.connect())?;
        let cri = Self { runtime, channel };
        cri.version(VersionRequest { version: "v1".into() })?;
        Ok(cri)
    }

    /// For calls side by side: clone it into futures given to [`Cri::block_on`].
    pub fn runtime_service(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    pub fn image_service(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// `service: call(Request) -> Response` for each call.
macro_rules! calls {
    ($($service:ident: $call:ident($request:ident) -> $response:ident;)*) => {
        impl Cri {
            $(
                #[doc = concat!("The call of the same name, on the ", stringify!($service), ".")]
                ///
                /// # Errors
                ///
                /// What the daemon answered instead.
                pub fn $call(&self, request: v1::$request) -> Result<v1::$response, Status> {
                    let mut service = self.$service();
                    self.block_on(service.$call(request)).map(tonic::Response::into_inner)
                }
            )*
        }
    };
}

calls! {
    runtime_service: version(VersionRequest) -> VersionResponse;
    runtime_service: status(StatusRequest) -> StatusResponse;
    runtime_service: runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
    runtime_service: update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
    runtime_service: run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    runtime_service: stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    runtime_service: remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    runtime_service: pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    runtime_service: list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    runtime_service: create_container(CreateContainerRequest) -> CreateContainerResponse;
    runtime_service: start_container(StartContainerRequest) -> StartContainerResponse;
    runtime_service: stop_container(StopContainerRequest) -> StopContainerResponse;
    runtime_service: remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    runtime_service: list_containers(ListContainersRequest) -> ListContainersResponse;
    runtime_service: container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    runtime_service: exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    runtime_service: exec(ExecRequest) -> ExecResponse;
    runtime_service: attach(AttachRequest) -> AttachResponse;
    runtime_service: port_forward(PortForwardRequest) -> PortForwardResponse;
    runtime_service: reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    runtime_service: update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    runtime_service: update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    runtime_service: container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    runtime_service: list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    runtime_service: pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    runtime_service: list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    runtime_service: list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    runtime_service: list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    image_service: list_images(ListImagesRequest) -> ListImagesResponse;
    image_service: image_status(ImageStatusRequest) -> ImageStatusResponse;
    image_service: pull_image(PullImageRequest) -> PullImageResponse;
    image_service: remove_image(RemoveImageRequest) -> RemoveImageResponse;
    image_service: image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
}
