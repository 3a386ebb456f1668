//! Our own service beside CRI: what a command line needs and CRI lacks.

use super::image::pull_request;
use super::{Service, to_the_end, transfer};
use crate::container::State;
use crate::host::blocking;
use crate::images::ImageError;
use cri_api::berth::v1::berth_server::Berth;
use cri_api::berth::v1::{
    ImageHistoryRequest, ImageHistoryResponse, LayerProgress, LoadImagesRequest,
    LoadImagesResponse, PullImageRequest, PullProgress, PushImageRequest, SaveImagesRequest,
    SaveImagesResponse, TagImageRequest, TagImageResponse, UntagImageRequest, UntagImageResponse,
    WaitContainerRequest, WaitContainerResponse, layer_progress,
};
use image::{Digest, LayerState, Progress};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

/// Progress is told no oftener than this; the last word is always told.
const PACE: Duration = Duration::from_millis(100);

#[tonic::async_trait]
impl Berth for Service {
    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<BoxStream<PullProgress>>, Status> {
        let request = request.into_inner();
        let pull = pull_request(&request.image, request.auth)?;
        let (progress, following) = watch::channel(Progress::default());
        let node = Arc::clone(&self.node);
        // Goes on without us: a client that hangs up does not cut the pull off.
        let pulling = tokio::spawn(async move { node.pull_image(pull, progress).await });
        let (to_client, stream) = mpsc::channel(4);
        tokio::spawn(tell(pulling, following, to_client));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn wait_container(
        &self,
        request: Request<WaitContainerRequest>,
    ) -> Result<Response<WaitContainerResponse>, Status> {
        let resolved = self.node.containers.resolve(&request.get_ref().container_id);
        let container = resolved.map_err(|err| Status::from(&err))?;
        let mut state = container.follow();
        let ended = state
            .wait_for(State::is_exited)
            .await
            .map_err(|_| Status::not_found("the container was removed"))?;
        let State::Exited(exited) = &*ended else {
            return Err(Status::internal("an ended container has not exited"));
        };
        Ok(Response::new(WaitContainerResponse {
            exit_code: exited.code,
            reason: exited.reason.as_str().to_owned(),
            message: exited.message.clone(),
            finished_at: exited.finished_at,
        }))
    }

    async fn push_image(
        &self,
        request: Request<PushImageRequest>,
    ) -> Result<Response<BoxStream<PullProgress>>, Status> {
        transfer::push(&self.node, request.into_inner())
    }

    async fn load_images(
        &self,
        request: Request<Streaming<LoadImagesRequest>>,
    ) -> Result<Response<BoxStream<LoadImagesResponse>>, Status> {
        transfer::load(&self.node, request.into_inner()).await
    }

    async fn save_images(
        &self,
        request: Request<SaveImagesRequest>,
    ) -> Result<Response<BoxStream<SaveImagesResponse>>, Status> {
        transfer::save(&self.node, request.into_inner()).await
    }

    async fn tag_image(
        &self,
        request: Request<TagImageRequest>,
    ) -> Result<Response<TagImageResponse>, Status> {
        let TagImageRequest { image, name } = request.into_inner();
        let images = Arc::clone(&self.node.images);
        to_the_end(async move { blocking(move || images.tag(&image, &name)).await }).await?;
        Ok(Response::new(TagImageResponse {}))
    }

    async fn untag_image(
        &self,
        request: Request<UntagImageRequest>,
    ) -> Result<Response<UntagImageResponse>, Status> {
        let UntagImageRequest { name } = request.into_inner();
        let images = Arc::clone(&self.node.images);
        to_the_end(async move { blocking(move || images.untag(&name)).await }).await?;
        Ok(Response::new(UntagImageResponse {}))
    }

    async fn image_history(
        &self,
        request: Request<ImageHistoryRequest>,
    ) -> Result<Response<ImageHistoryResponse>, Status> {
        let history = self.node.images.history(&request.get_ref().image).await;
        let (id, steps) = history.map_err(|err| Status::from(&err))?;
        Ok(Response::new(transfer::history(&id, steps)))
    }
}

/// Tells the client how far the pull, or push, is until it has ended.
pub(super) async fn tell(
    mut pulling: JoinHandle<Result<Digest, ImageError>>,
    mut following: watch::Receiver<Progress>,
    to_client: mpsc::Sender<Result<PullProgress, Status>>,
) {
    let result = loop {
        tokio::select! {
            result = &mut pulling => break result,
            Ok(()) = following.changed() => {
                let now = message(&following.borrow_and_update(), String::new());
                if to_client.send(Ok(now)).await.is_err() {
                    return;
                }
                tokio::select! {
                    result = &mut pulling => break result,
                    () = tokio::time::sleep(PACE) => {}
                }
            }
        }
    };
    let last = match result {
        Ok(Ok(id)) => Ok(message(&following.borrow(), id.to_string())),
        Ok(Err(err)) => Err(Status::from(&err)),
        Err(panic) => Err(Status::internal(panic.to_string())),
    };
    // Nobody has to be there to hear it.
    to_client.send(last).await.ok();
}

pub(super) fn message(progress: &Progress, image_ref: String) -> PullProgress {
    PullProgress {
        resolved: progress.resolved.clone().unwrap_or_default(),
        layers: progress
            .layers
            .iter()
            .map(|layer| LayerProgress {
                digest: layer.digest.clone(),
                done: layer.done,
                total: layer.total,
                state: state(layer.state) as i32,
            })
            .collect(),
        image_ref,
    }
}

fn state(state: LayerState) -> layer_progress::State {
    match state {
        LayerState::Waiting => layer_progress::State::Waiting,
        LayerState::Downloading => layer_progress::State::Downloading,
        LayerState::Unpacked => layer_progress::State::Unpacked,
        LayerState::Exists => layer_progress::State::Exists,
    }
}
