//! ImageService.

use super::{Service, node, stream, to_the_end};
use crate::images::ImageError;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cri_api::runtime::v1::image_service_server::ImageService;
use cri_api::runtime::v1::{
    AuthConfig, Image as Row, ImageFilter, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec,
    ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
    StreamImagesRequest, StreamImagesResponse,
};
use image::{Auth, Credentials, Image, ProgressSender, PullRequest};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let images = self.rows(request.into_inner().filter)?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Answer<BoxStream<StreamImagesResponse>> {
        let images = self.rows(request.into_inner().filter)?;
        Ok(stream::rows(images, |images| StreamImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Answer<ImageStatusResponse> {
        let request = request.into_inner();
        let name = name(request.image)?;
        let found = self.node.images.resolve(&name).map_err(ImageError::from);
        let image = found.map_err(|err| Status::from(&err))?;
        let info = match (&image, request.verbose) {
            (Some(image), true) => info(image),
            (Some(_), false) | (None, _) => BTreeMap::new(),
        };
        let image = image.as_deref().map(row);
        Ok(Response::new(ImageStatusResponse { image, info }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let request = request.into_inner();
        let pull = pull_request(&name(request.image)?, request.auth)?;
        // Not run to its end: a pull that nobody waits for any more stops, and keeps what it has.
        let pulled = self.node.pull_image(pull, ProgressSender::default()).await;
        let id = pulled.map_err(|err| Status::from(&err))?;
        Ok(Response::new(PullImageResponse { image_ref: id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Answer<RemoveImageResponse> {
        let name = name(request.into_inner().image)?;
        let node = Arc::clone(&self.node);
        to_the_end(async move { node.remove_image(name).await }).await?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        Ok(Response::new(node::image_fs_info(&self.node)))
    }
}

fn name(spec: Option<ImageSpec>) -> Result<String, Status> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(spec.image),
        Some(_) | None => Err(Status::from(&ImageError::NoReference(String::new()))),
    }
}

pub(super) fn pull_request(name: &str, auth: Option<AuthConfig>) -> Result<PullRequest, Status> {
    let reference = name.parse().map_err(|err| Status::from(&ImageError::Reference(err)))?;
    Ok(PullRequest { reference, auth: auth.and_then(credentials) })
}

/// What the client shows, and to whom.
pub(super) fn credentials(auth: AuthConfig) -> Option<Credentials> {
    let server = Some(auth.server_address.clone()).filter(|server| !server.is_empty());
    secret(auth).map(|auth| Credentials { auth, server })
}

/// The first of the client's credentials that says anything; `auth` is the base64 of `username:password`.
fn secret(auth: AuthConfig) -> Option<Auth> {
    if !auth.registry_token.is_empty() {
        return Some(Auth::RegistryToken(auth.registry_token));
    }
    if !auth.identity_token.is_empty() {
        return Some(Auth::IdentityToken(auth.identity_token));
    }
    if !auth.username.is_empty() {
        return Some(Auth::Basic { username: auth.username, password: auth.password });
    }
    let decoded = BASE64_STANDARD.decode(auth.auth.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (username, password) = text.split_once(':')?;
    // Docker pads the text with NULs.
    let password = password.trim_matches('\0').to_owned();
    Some(Auth::Basic { username: username.to_owned(), password })
}

impl Service {
    /// The images that a filter lets through.
    fn rows(&self, filter: Option<ImageFilter>) -> Result<Vec<Row>, Status> {
        let name = filter.and_then(|filter| filter.image).map(|spec| spec.image);
        let name = name.unwrap_or_default();
        let images = if name.is_empty() {
            self.node.images.list()
        } else {
            let found = self.node.images.resolve(&name).map_err(ImageError::from);
            found.map_err(|err| Status::from(&err))?.into_iter().collect()
        };
        Ok(images.iter().map(|image| row(image)).collect())
    }
}

fn row(image: &Image) -> Row {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<u32>().ok();
    Row {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.bytes,
        uid: match (user, uid) {
            ("", _) => Some(Int64Value { value: 0 }),
            (_, uid) => uid.map(|uid| Int64Value { value: uid.into() }),
        },
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        spec: Some(ImageSpec {
            image: image.id.to_string(),
            annotations: image.annotations.clone().into_iter().collect(),
            ..Default::default()
        }),
        pinned: false,
    }
}

fn info(image: &Image) -> BTreeMap<String, String> {
    let config = &image.config;
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let info = json!({
        "chainID": image.layers.last().map(|layer| layer.chain_id.to_string()),
        "imageSpec": {
            "created": config.created,
            "architecture": config.architecture,
            "os": config.os,
            "config": {
                "User": config.user,
                "Env": config.env,
                "Entrypoint": config.entrypoint,
                "Cmd": config.cmd,
                "WorkingDir": config.working_dir,
                "Labels": config.labels,
                "StopSignal": config.stop_signal,
                "Volumes": config.volumes,
                "ExposedPorts": config.exposed_ports,
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        },
    });
    BTreeMap::from([("info".into(), info.to_string())])
}
