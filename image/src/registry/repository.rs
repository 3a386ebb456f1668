//! One repository of one registry, as one caller sees it.

use super::address::{self, show};
use super::auth::Caller;
use super::client::{Client, Patience};
use super::error::RegistryError;
use crate::digest::{Digest, Hasher};
use crate::document::{excerpt, media};
use crate::pull::request::{Auth, PullRequest};
use crate::reference::Reference;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
    RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};
use std::sync::Arc;
use std::time::SystemTime;

const MAX_REDIRECTS: usize = 5;

/// Largest error text that is looked at.
const ERROR_BYTES: u64 = 64 << 10;

/// A handle; clones are cheap and equal.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(super) client: Arc<Client>,
    pub(super) base: Url,
    pub(super) path: Arc<str>,
    pub(super) auth: Option<Auth>,
    pub(super) caller: Caller,
}

/// A manifest or an index, its digest checked.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    /// As the registry announces it, without parameters; empty when it announces nothing.
    pub(crate) media_type: String,
}

impl Repository {
    /// The repository that `request` names.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Address`].
    pub(crate) fn new(client: &Arc<Client>, request: &PullRequest) -> Result<Self, RegistryError> {
        let base = address::base(request.reference.registry(), &client.insecure)?;
        let path = request.reference.repository();
        let caller = Caller::new(
            base.origin().ascii_serialization(),
            path.to_owned(),
            request.auth.as_ref(),
        );
        let auth = request.auth.clone();
        Ok(Self { client: Arc::clone(client), base, path: path.into(), auth, caller })
    }

    /// What `reference` names: by digest where it has one.
    pub(crate) async fn resolve(
        &self,
        reference: &Reference,
        limit: u64,
    ) -> Result<Fetched, RegistryError> {
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => self.manifest(digest, limit).await,
            (None, tag) => self.document(tag.unwrap_or("latest"), None, limit).await,
        }
    }

    /// The manifest or index `digest`.
    pub(crate) async fn manifest(
        &self,
        digest: &Digest,
        limit: u64,
    ) -> Result<Fetched, RegistryError> {
        self.document(digest.as_str(), Some(digest), limit).await
    }

    async fn document(
        &self,
        name: &str,
        want: Option<&Digest>,
        limit: u64,
    ) -> Result<Fetched, RegistryError> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(media::ACCEPT))]);
        let patience = &self.client.patience;
        let mut failures = 0;
        loop {
            let response = self.get("manifests", name, &headers).await?;
            let url = response.url().clone();
            let media_type = media_type(&response);
            let announced = announced_digest(&response);
            let bytes = match read_bounded(response, &url, limit, patience).await {
                Err(err) if err.is_transient() && failures < patience.resumes => {
                    failures += 1;
                    tokio::time::sleep(patience.wait(failures, None)).await;
                    continue;
                }
                result => result?,
            };
            // What a tag means is the registry's word, but its word must agree with itself.
            let want = want.or(announced.as_ref());
            let algorithm = want.map_or(crate::digest::Algorithm::Sha256, Digest::algorithm);
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&bytes);
            let digest = hasher.finish();
            if let Some(want) = want.filter(|want| **want != digest) {
                return Err(RegistryError::Digest { want: want.clone(), got: digest });
            }
            return Ok(Fetched { bytes, digest, media_type });
        }
    }

    /// A successful answer to a GET of `/v2/<repository>/<kind>/<name>`: redirected, authenticated, tried again.
    pub(super) async fn get(
        &self,
        kind: &str,
        name: &str,
        headers: &HeaderMap,
    ) -> Result<Response, RegistryError> {
        let patience = &self.client.patience;
        let url = self.base.join(&format!("v2/{}/{kind}/{name}", self.path));
        let url = url.map_err(|_| RegistryError::Address(self.path.to_string()))?;
        let mut failures = 0;
        loop {
            let err = match self.get_once(&url, headers).await {
                Ok(response) => return Ok(response),
                Err(err) => err,
            };
            failures += 1;
            if !err.is_transient() || failures >= patience.tries {
                return Err(err);
            }
            tracing::debug!(%url, failures, err = &err as &dyn std::error::Error, "request again");
            tokio::time::sleep(patience.wait(failures, err.retry_after())).await;
        }
    }

    /// One try. A 401 is answered once, with what the registry asks for.
    async fn get_once(&self, url: &Url, headers: &HeaderMap) -> Result<Response, RegistryError> {
        let known = self.client.tokens.known(&self.caller).await;
        let mut response = self.follow(url, headers, known.as_ref()).await?;
        // Another origin's 401 is none of ours: it would learn credentials that are not for it (CVE-2020-15157).
        if response.status() == StatusCode::UNAUTHORIZED
            && address::same_origin(response.url(), url)
        {
            let fresh = self.client.tokens.renew(self, response.headers(), known.as_ref()).await?;
            response = self.follow(url, headers, Some(&fresh)).await?;
        }
        if response.status().is_success() {
            return Ok(response);
        }
        let url = response.url().clone();
        Err(status_error(response, &url, &self.client.patience).await)
    }

    async fn follow(
        &self,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut url = url.clone();
        let mut authorization = authorization;
        for _ in 0..=MAX_REDIRECTS {
            let http = self.client.http(&url).await?;
            let mut request = http.get(url.clone()).headers(headers.clone());
            // Layers are compressed already, and have their digest as they are.
            request = request.header(ACCEPT_ENCODING, "identity");
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value);
            }
            let response = send(request, &url, &self.client.patience).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            url = address::redirect(&self.base, &url, location.unwrap_or_default())?;
            if !address::same_origin(&self.base, &url) {
                // And not again, should the way lead back.
                authorization = None;
            }
        }
        Err(RegistryError::Redirect { from: show(&url), why: "there were too many before" })
    }
}

/// Sends one request and waits for the head of its answer, for [`Patience::stall`] at most.
pub(super) async fn send(
    request: reqwest::RequestBuilder,
    url: &Url,
    patience: &Patience,
) -> Result<Response, RegistryError> {
    match tokio::time::timeout(patience.stall, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(err)) => Err(RegistryError::Transport { url: show(url), source: err.without_url() }),
        Err(_) => Err(stalled(url, patience)),
    }
}

pub(super) fn stalled(url: &Url, patience: &Patience) -> RegistryError {
    RegistryError::Stalled { url: show(url), seconds: patience.stall.as_secs() }
}

/// The whole body, of at most `limit` bytes.
pub(super) async fn read_bounded(
    mut response: Response,
    url: &Url,
    limit: u64,
    patience: &Patience,
) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::TooLarge { url: show(url), limit };
    let size = response.content_length();
    if size.is_some_and(|size| size > limit) {
        return Err(too_large());
    }
    // One deadline for all of it: such a body is small.
    let read = async {
        let mut bytes = Vec::new();
        loop {
            let chunk = response.chunk().await.map_err(|err| RegistryError::Transport {
                url: show(url),
                source: err.without_url(),
            })?;
            let Some(chunk) = chunk else { return Ok(bytes) };
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(too_large());
            }
        }
    };
    tokio::time::timeout(patience.stall, read).await.unwrap_or_else(|_| Err(stalled(url, patience)))
}

/// The error that a response other than success means, with what the registry says about it.
pub(super) async fn status_error(
    response: Response,
    url: &Url,
    patience: &Patience,
) -> RegistryError {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| parse_retry_after(text, SystemTime::now()));
    let body = read_bounded(response, url, ERROR_BYTES, patience).await;
    let message = body.ok().as_deref().and_then(error_message);
    let url = show(url);
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound { url, message },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied { url, message },
        _ => RegistryError::Status { url, status: status.as_u16(), message, retry_after },
    }
}

/// `{"errors":[{"code":"…","message":"…"}]}`, as the distribution specification has it.
fn error_message(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let first = body.get("errors")?.get(0)?;
    let text = |key| first.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    Some(excerpt(&format!("{}: {}", text("code"), text("message"))))
}

/// Seconds or a date: RFC 9110 section 10.2.3. A past date is now.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<u64> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(seconds);
    }
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    Some(date.duration_since(now).map_or(0, |wait| wait.as_secs()))
}

fn media_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned()
}

fn announced_digest(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod unit {
    use super::*;
    use std::time::Duration;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("1000000000", Some(1_000_000_000)),
            ("-5", None),
            ("soon", None),
            ("", None),
            ("99999999999999999999999", None),
            // RFC 9110 section 5.6.7: this is second 784111777.
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ];
        for (text, want) in cases {
            assert_eq!(parse_retry_after(text, now), want, "{text:?}");
        }
    }

    #[test]
    fn a_registrys_own_words_are_found_and_cut_short() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such tag","detail":{}}]}"#;
        assert_eq!(error_message(body).as_deref(), Some("MANIFEST_UNKNOWN: no such tag"));
        for body in ["<html>", "{}", "[]", r#"{"errors":[]}"#, r#"{"errors":7}"#, ""] {
            assert_eq!(error_message(body.as_bytes()), None, "{body}");
        }
        let long = format!(r#"{{"errors":[{{"code":"{}"}}]}}"#, "x".repeat(10_000));
        assert!(error_message(long.as_bytes()).unwrap().len() < 200);
    }
}
