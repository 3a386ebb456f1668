//! The connection to the daemon: one method a call, each with the patience that fits it.

use std::error::Error;
use std::fmt::Debug;
use std::io;
use std::time::Duration;

use cri_api::berth::v1 as berth;
use cri_api::berth::v1::berth_client::BerthClient;
use cri_api::runtime::v1;
use cri_api::runtime::v1::image_service_client::ImageServiceClient;
use cri_api::runtime::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint as Address};
use tonic::{Request, Response, Status, Streaming};

use crate::error::CliError;
use crate::output::note;
use crate::settings::{Endpoint, Settings};

/// The largest message, as kubelet allows it: an ExecSync answer may be 16 MiB a stream.
const MESSAGE_BYTES: usize = 64 << 20;

/// How long kubelet waits for a change to the node.
const CHANGE: Duration = Duration::from_secs(120);
const RUN_POD: Duration = Duration::from_secs(240);

/// The daemon, by its socket. Cloning shares the connection.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    berth: BerthClient<Channel>,
    timeout: Duration,
    is_debug: bool,
}

impl Node {
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, CliError> {
        let channel = open(&settings.runtime, settings.timeout).await?;
        let image_channel = if settings.images == settings.runtime {
            channel.clone()
        } else {
            open(&settings.images, settings.timeout).await?
        };
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES),
            images: ImageServiceClient::new(image_channel).max_decoding_message_size(MESSAGE_BYTES),
            berth: BerthClient::new(channel),
            timeout: settings.timeout,
            is_debug: settings.debug,
        })
    }

    /// Events from now on.
    pub(crate) async fn container_events(
        &self,
    ) -> Result<Streaming<v1::ContainerEventResponse>, Status> {
        let request = v1::GetEventsRequest {};
        Ok(self.runtime.clone().get_container_events(request).await?.into_inner())
    }

    /// Starts a pull that tells its progress.
    pub(crate) async fn pull_with_progress(
        &self,
        request: berth::PullImageRequest,
    ) -> Result<Streaming<berth::PullProgress>, Status> {
        Ok(self.berth.clone().pull_image(request).await?.into_inner())
    }

    /// Starts a push that tells its progress.
    pub(crate) async fn push(
        &self,
        request: berth::PushImageRequest,
    ) -> Result<Streaming<berth::PullProgress>, Status> {
        Ok(self.images_too().push_image(request).await?.into_inner())
    }

    /// Sends an archive, and gets what became of it.
    pub(crate) async fn load(
        &self,
        archive: tokio::sync::mpsc::Receiver<berth::LoadImagesRequest>,
    ) -> Result<Streaming<berth::LoadImagesResponse>, Status> {
        let archive = tokio_stream::wrappers::ReceiverStream::new(archive);
        Ok(self.images_too().load_images(archive).await?.into_inner())
    }

    /// Begins to write an archive.
    pub(crate) async fn save(
        &self,
        request: berth::SaveImagesRequest,
    ) -> Result<Streaming<berth::SaveImagesResponse>, Status> {
        Ok(self.images_too().save_images(request).await?.into_inner())
    }

    pub(crate) async fn tag(&self, request: berth::TagImageRequest) -> Result<(), Status> {
        let mut client = self.images_too();
        let call = async |request| client.tag_image(request).await;
        self.ask("TagImage", Some(CHANGE), request, call).await.map(drop)
    }

    pub(crate) async fn untag(&self, request: berth::UntagImageRequest) -> Result<(), Status> {
        let mut client = self.images_too();
        let call = async |request| client.untag_image(request).await;
        self.ask("UntagImage", Some(CHANGE), request, call).await.map(drop)
    }

    pub(crate) async fn history(
        &self,
        request: berth::ImageHistoryRequest,
    ) -> Result<berth::ImageHistoryResponse, Status> {
        let mut client = self.images_too();
        let call = async |request| client.image_history(request).await;
        self.ask("ImageHistory", Some(self.timeout), request, call).await
    }

    fn images_too(&self) -> BerthClient<Channel> {
        self.berth.clone().max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Answers when the container has ended.
    pub(crate) async fn wait_container(
        &self,
        container: &str,
    ) -> Result<berth::WaitContainerResponse, Status> {
        let request = berth::WaitContainerRequest { container_id: container.into() };
        Ok(self.berth.clone().wait_container(request).await?.into_inner())
    }

    /// `limit` ends the pull; without one it takes the time it takes.
    pub(crate) async fn pull_image(
        &self,
        request: v1::PullImageRequest,
        limit: Option<Duration>,
    ) -> Result<v1::PullImageResponse, Status> {
        let mut images = self.images.clone();
        self.ask("PullImage", limit, request, async |request| images.pull_image(request).await)
            .await
    }

    /// A `request.timeout` of 0 waits for ever.
    pub(crate) async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let mut runtime = self.runtime.clone();
        let seconds = u64::try_from(request.timeout).unwrap_or_default();
        let limit = (seconds > 0).then(|| Duration::from_secs(seconds) + CHANGE);
        self.ask("ExecSync", limit, request, async |request| runtime.exec_sync(request).await).await
    }

    pub(crate) async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Status> {
        let mut runtime = self.runtime.clone();
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or_default());
        let limit = Some(CHANGE.saturating_add(grace));
        self.ask("StopContainer", limit, request, async |request| {
            runtime.stop_container(request).await
        })
        .await
    }

    /// `patience` is the user's own limit.
    pub(crate) async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
        patience: Option<Duration>,
    ) -> Result<v1::RunPodSandboxResponse, Status> {
        let mut runtime = self.runtime.clone();
        let limit = patience.or(Some(RUN_POD));
        self.ask("RunPodSandbox", limit, request, async |request| {
            runtime.run_pod_sandbox(request).await
        })
        .await
    }

    /// `patience` is the user's own limit.
    pub(crate) async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
        patience: Option<Duration>,
    ) -> Result<v1::CreateContainerResponse, Status> {
        let mut runtime = self.runtime.clone();
        let limit = patience.or(Some(CHANGE));
        self.ask("CreateContainer", limit, request, async |request| {
            runtime.create_container(request).await
        })
        .await
    }

    async fn ask<Q: Debug, A: Debug>(
        &self,
        name: &str,
        limit: Option<Duration>,
        request: Q,
        call: impl AsyncFnOnce(Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Status> {
        self.debug(|| format!("{name}: {request:?}"));
        let mut request = Request::new(request);
        let answer = match limit {
            None => call(request).await,
            Some(limit) => {
                // The daemon is told, so that it does not work on for nobody.
                request.set_timeout(limit);
                tokio::time::timeout(limit, call(request)).await.unwrap_or_else(|_| {
                    Err(Status::deadline_exceeded(format!("no answer within {limit:?}")))
                })
            }
        };
        self.debug(|| format!("{name}: {:?}", answer.as_ref().map(Response::get_ref)));
        answer.map(Response::into_inner)
    }

    fn debug(&self, text: impl FnOnce() -> String) {
        if self.is_debug {
            note(text());
        }
    }
}

macro_rules! calls {
    ($($client:ident: $call:ident($request:ident) -> $response:ident, $limit:expr;)+) => {
        impl Node {
            $(pub(crate) async fn $call(
                &self,
                request: v1::$request,
            ) -> Result<v1::$response, Status> {
                let mut client = self.$client.clone();
                let limit: fn(&Self) -> Duration = $limit;
                self.ask(stringify!($call), Some(limit(self)), request, async |request| {
                    client.$call(request).await
                })
                .await
            })+
        }
    };
}

calls! {
    runtime: version(VersionRequest) -> VersionResponse, |node| node.timeout;
    runtime: status(StatusRequest) -> StatusResponse, |node| node.timeout;
    runtime: runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse, |node| node.timeout;
    runtime: list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse, |node| node.timeout;
    runtime: pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse, |node| node.timeout;
    runtime: list_containers(ListContainersRequest) -> ListContainersResponse, |node| node.timeout;
    runtime: container_status(ContainerStatusRequest) -> ContainerStatusResponse, |node| node.timeout;
    runtime: stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse, |_| CHANGE;
    runtime: remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse, |_| CHANGE;
    runtime: start_container(StartContainerRequest) -> StartContainerResponse, |_| CHANGE;
    runtime: remove_container(RemoveContainerRequest) -> RemoveContainerResponse, |_| CHANGE;
    runtime: update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse, |_| CHANGE;
    runtime: update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse, |_| CHANGE;
    runtime: list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse, |node| node.timeout;
    runtime: list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse, |node| node.timeout;
    runtime: list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse, |node| node.timeout;
    runtime: list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse, |node| node.timeout;
    runtime: exec(ExecRequest) -> ExecResponse, |node| node.timeout;
    runtime: attach(AttachRequest) -> AttachResponse, |node| node.timeout;
    runtime: port_forward(PortForwardRequest) -> PortForwardResponse, |node| node.timeout;
    runtime: reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse, |_| CHANGE;
    images: list_images(ListImagesRequest) -> ListImagesResponse, |node| node.timeout;
    images: image_status(ImageStatusRequest) -> ImageStatusResponse, |node| node.timeout;
    images: image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse, |node| node.timeout;
    images: remove_image(RemoveImageRequest) -> RemoveImageResponse, |_| CHANGE;
}

async fn open(endpoint: &Endpoint, timeout: Duration) -> Result<Channel, CliError> {
    let failed = |source| CliError::Connect {
        socket: endpoint.socket.clone(),
        origin: endpoint.origin.clone(),
        source,
    };
    let address = Address::from_shared(format!("unix://{}", endpoint.socket.display()))
        .map_err(|error| failed(io::Error::other(error)))?;
    match tokio::time::timeout(timeout, address.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(failed(cause_of(error))),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

/// The system's error below the layers of the transport.
fn cause_of(error: tonic::transport::Error) -> io::Error {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(errno);
        }
        cause = error.source();
    }
    io::Error::other(error)
}
