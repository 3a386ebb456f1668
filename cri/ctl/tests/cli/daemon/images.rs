//! The image calls, and Berth's own.

use cri_api::berth::v1::berth_server::Berth;
use cri_api::berth::v1::layer_progress::State as LayerState;
use cri_api::berth::v1::{
    LayerProgress, PullImageRequest as PullRequest, PullProgress, WaitContainerRequest,
    WaitContainerResponse,
};
use cri_api::runtime::v1::image_service_server::ImageService;
use cri_api::runtime::v1::{
    ContainerState, ImageStatusRequest, ImageStatusResponse, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::{Node, image};

impl Node {
    fn pull(&self, name: &str) -> Result<String, Status> {
        if name.contains("missing") {
            return Err(Status::not_found(format!("no manifest of {name} at the registry")));
        }
        let image = image(name);
        let id = image.id.clone();
        self.state.lock().unwrap().images.push(image);
        Ok(id)
    }
}

#[tonic::async_trait]
impl ImageService for Node {
    async fn list_images(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let images = self.state.lock().unwrap().images.clone();
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let name = request.into_inner().image.unwrap().image;
        let images = self.state.lock().unwrap().images.clone();
        let image = images.into_iter().find(|one| one.id == name || one.repo_tags.contains(&name));
        Ok(Response::new(ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let image_ref = self.pull(&request.into_inner().image.unwrap().image)?;
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = request.into_inner().image.unwrap().image;
        self.state.lock().unwrap().images.retain(|one| !one.repo_tags.contains(&name));
        Ok(Response::new(RemoveImageResponse {}))
    }
}

#[tonic::async_trait]
impl Berth for Node {
    async fn pull_image(
        &self,
        request: Request<PullRequest>,
    ) -> Result<Response<BoxStream<PullProgress>>, Status> {
        let name = request.into_inner().image;
        let image_ref = self.pull(&name)?;
        let progress = |done, state: LayerState, image_ref: &str| PullProgress {
            resolved: name.clone(),
            layers: vec![LayerProgress {
                digest: format!("sha256:{}", "3c".repeat(32)),
                done,
                total: 1_500_000,
                state: state.into(),
            }],
            image_ref: image_ref.into(),
        };
        let messages = [
            Ok(progress(0, LayerState::Downloading, "")),
            Ok(progress(1_500_000, LayerState::Unpacked, &image_ref)),
        ];
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn wait_container(
        &self,
        request: Request<WaitContainerRequest>,
    ) -> Result<Response<WaitContainerResponse>, Status> {
        let id = request.into_inner().container_id;
        {
            let mut state = self.state.lock().unwrap();
            if state.away > 0 {
                state.away -= 1;
                return Err(Status::unavailable("the daemon is being restarted"));
            }
        }
        let mut changes = self.changes.subscribe();
        loop {
            {
                let state = self.state.lock().unwrap();
                let container =
                    state.containers.get(&id).ok_or_else(|| Status::not_found("no container"))?;
                if container.state == ContainerState::ContainerExited {
                    let exit_code = container.exit_code;
                    let reason = if exit_code == 0 { "Completed" } else { "Error" }.into();
                    let answer = WaitContainerResponse { exit_code, reason, ..Default::default() };
                    return Ok(Response::new(answer));
                }
            }
            changes.changed().await.unwrap();
        }
    }
}
