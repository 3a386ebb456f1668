//! Pushing: OCI distribution specification 1.1, sections "Pushing blobs" and "Pushing manifests".

use super::address;
use super::error::RegistryError;
use super::repository::{Repository, Site, send};
use crate::digest::Digest;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Where a blob is to be sent, or that it need not be.
#[derive(Debug)]
pub(crate) enum Place {
    /// The registry has taken it from another of its repositories.
    Mounted,
    /// Send it there.
    Upload(Url),
}

/// The bytes of a blob, from whoever reads them. Its end before the size given breaks the upload off.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) bytes: mpsc::Receiver<Bytes>,
}

impl Repository {
    /// Whether the repository has the blob.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let site = self.push_site()?;
        let url = site.url(&format!("blobs/{digest}"))?;
        match site.ask(&Method::HEAD, &url, &HeaderMap::new()).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Begins an upload; with `from`, a repository of the same registry, asks for the blob there first.
    pub(crate) async fn begin_upload(
        &self,
        digest: &Digest,
        from: Option<&str>,
    ) -> Result<Place, RegistryError> {
        let site = self.push_site()?;
        let mut url = site.url("blobs/uploads/")?;
        if let Some(from) = from {
            let mount = [("mount", digest.as_str()), ("from", from)];
            url.query_pairs_mut().extend_pairs(mount);
        }
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static("0"))]);
        let response = site.ask(&Method::POST, &url, &headers).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Place::Mounted),
            _ => Ok(Place::Upload(site.location(&response)?)),
        }
    }

    /// Sends a blob in one piece.
    pub(crate) async fn upload(&self, to: Url, upload: Upload) -> Result<(), RegistryError> {
        let site = self.push_site()?;
        let Upload { digest, size, bytes } = upload;
        let mut url = to;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let headers = HeaderMap::from_iter([(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        )]);
        let body = reqwest::Body::wrap(Sent { bytes, left: size });
        let request = site.authorized(&Method::PUT, &url).await?.headers(headers).body(body);
        let response = request.send().await.map_err(|source| RegistryError::Transport {
            url: address::show(&url),
            source: source.without_url(),
        })?;
        site.success(response).await.map(drop)
    }

    /// Puts a manifest under a tag or its digest.
    pub(crate) async fn put_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<(), RegistryError> {
        let site = self.push_site()?;
        let url = site.url(&format!("manifests/{name}"))?;
        let bad = || RegistryError::Address(media_type.to_owned());
        let kind = HeaderValue::try_from(media_type).map_err(|_| bad())?;
        let request = site.authorized(&Method::PUT, &url).await?;
        let request = request.header(CONTENT_TYPE, kind).body(bytes);
        let response = send(request, &url, site.patience()).await?;
        site.success(response).await.map(drop)
    }
}

impl Site<'_> {
    /// A request with what was granted before: an upload cannot be sent twice to find out what it wants.
    async fn authorized(
        &self,
        method: &Method,
        url: &Url,
    ) -> Result<reqwest::RequestBuilder, RegistryError> {
        let known = match address::same_origin(&self.host.api, url) {
            true => self.repository.client.tokens.known(&self.caller()).await,
            false => None,
        };
        self.request(method, url, known.as_ref()).await
    }

    fn location(&self, response: &Response) -> Result<Url, RegistryError> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        address::redirect(&self.host.api, response.url(), location.unwrap_or_default())
    }
}

/// A body whose length is known before it is there.
struct Sent {
    bytes: mpsc::Receiver<Bytes>,
    left: u64,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.bytes.poll_recv(context).map(|bytes| match bytes {
            Some(bytes) if bytes.len() as u64 <= self.left => {
                self.left -= bytes.len() as u64;
                Some(Ok(Frame::data(bytes)))
            }
            Some(_) | None => Some(Err(io::ErrorKind::UnexpectedEof.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
