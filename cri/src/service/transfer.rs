//! Images out and in: the streams of push, load and save.

use super::berth::{message, tell};
use super::image::credentials;
use crate::host::blocking;
use crate::images::ImageError;
use crate::node::Node;
use cri_api::berth::v1::image_history_response::Step;
use cri_api::berth::v1::load_images_response::Loaded;
use cri_api::berth::v1::save_images_request::Format;
use cri_api::berth::v1::{
    ImageHistoryResponse, LoadImagesRequest, LoadImagesResponse, PullProgress, PushImageRequest,
    SaveImagesRequest, SaveImagesResponse,
};
use image::{ArchiveFormat, Digest, Image, Progress, Reference};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Response, Status, Streaming};

type Answers<T> = Result<Response<BoxStream<T>>, Status>;

pub(super) fn push(node: &Arc<Node>, request: PushImageRequest) -> Answers<PullProgress> {
    let PushImageRequest { image, to, auth } = request;
    let to = Some(to).filter(|to| !to.is_empty()).map(|to| to.parse::<Reference>()).transpose();
    let to = to.map_err(|err| Status::from(&ImageError::Reference(err)))?;
    let auth = auth.and_then(credentials);
    let (progress, following) = watch::channel(Progress::default());
    let images = Arc::clone(&node.images);
    let pushing = tokio::spawn(async move { images.push(&image, to, auth, progress).await });
    let (to_client, stream) = mpsc::channel(4);
    // A push whose client has gone ends with it.
    let ended = pushing.abort_handle();
    tokio::spawn(async move {
        let gone = to_client.clone();
        tokio::select! {
            () = tell(pushing, following, to_client) => {}
            () = gone.closed() => ended.abort(),
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

/// Takes the archive in, then its images over. A client that hangs up before the end of its archive leaves nothing.
pub(super) async fn load(
    node: &Arc<Node>,
    mut incoming: Streaming<LoadImagesRequest>,
) -> Answers<LoadImagesResponse> {
    let images = Arc::clone(&node.images);
    let made = blocking(move || images.spool()).await;
    let mut spool = made.map_err(|err| Status::from(&err))?;
    let mut base = None;
    while let Some(LoadImagesRequest { base: named, data }) = incoming.message().await? {
        if !named.is_empty() {
            let parsed = named.parse::<Reference>();
            base = Some(parsed.map_err(|err| Status::from(&ImageError::Reference(err)))?);
        }
        let written = blocking(move || write(spool, &data)).await;
        spool = written.map_err(|err| Status::from(&ImageError::Spool(err)))?;
    }
    let (progress, mut following) = watch::channel(Progress::default());
    let (to_client, stream) = mpsc::channel(4);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let loading = node.load_images(spool, base, progress);
        tokio::pin!(loading);
        let loaded = loop {
            tokio::select! {
                loaded = &mut loading => break loaded,
                Ok(()) = following.changed() => {
                    let progress = Some(message(&following.borrow_and_update(), String::new()));
                    let now = LoadImagesResponse { progress, loaded: Vec::new() };
                    // Nobody has to be there: what was handed over whole is loaded.
                    to_client.try_send(Ok(now)).ok();
                }
            }
        };
        let last = match loaded {
            Ok(images) => {
                let loaded = images.into_iter().map(row).collect();
                Ok(LoadImagesResponse { progress: None, loaded })
            }
            Err(err) => Err(Status::from(&err)),
        };
        to_client.send(last).await.ok();
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

fn write(mut spool: File, data: &[u8]) -> std::io::Result<File> {
    spool.write_all(data)?;
    Ok(spool)
}

fn row(image: Image) -> Loaded {
    Loaded { image_ref: image.id.to_string(), tags: image.tags }
}

pub(super) async fn save(
    node: &Arc<Node>,
    request: SaveImagesRequest,
) -> Answers<SaveImagesResponse> {
    let format = match request.format() {
        Format::OciArchive => ArchiveFormat::Oci,
        Format::DockerArchive => ArchiveFormat::Docker,
    };
    let auth = request.auth.and_then(credentials);
    if request.images.is_empty() {
        return Err(Status::from(&ImageError::NoReference(String::new())));
    }
    let saving = node.images.save(&request.images, format, auth).await;
    let (mut saving, holds) = saving.map_err(|err| Status::from(&err))?;
    let (to_client, stream) = mpsc::channel(4);
    tokio::spawn(async move {
        let first = SaveImagesResponse { total: saving.total, data: Vec::new() };
        let mut open = to_client.send(Ok(first)).await.is_ok();
        while let Some(bytes) = saving.bytes.recv().await.filter(|_| open) {
            let next = match bytes {
                Ok(bytes) => Ok(SaveImagesResponse { total: 0, data: bytes.to_vec() }),
                Err(err) => Err(Status::from(&ImageError::Transfer(err))),
            };
            open = to_client.send(next).await.is_ok();
        }
        drop(holds);
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

pub(super) fn history(id: &Digest, steps: Vec<image::history::Step>) -> ImageHistoryResponse {
    let step = |step: image::history::Step| Step {
        created: step.created.unwrap_or_default(),
        created_by: step.created_by,
        comment: step.comment,
        size: step.bytes,
    };
    ImageHistoryResponse {
        image_ref: id.to_string(),
        steps: steps.into_iter().rev().map(step).collect(),
    }
}
