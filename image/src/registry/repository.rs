//! One repository of one registry, as one caller sees it.

use super::address::{self, show};
use super::auth::Caller;
use super::client::{Client, Patience};
use super::error::{Fault, RegistryError};
use super::hosts::{Ability, Host};
use crate::digest::{Digest, Hasher};
use crate::document::{excerpt, media};
use crate::pull::request::{Auth, Credentials};
use crate::reference::Reference;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
    RETRY_AFTER,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

const MAX_REDIRECTS: usize = 5;

/// Largest error text that is looked at.
const ERROR_BYTES: u64 = 64 << 10;

/// A handle; clones are cheap and equal.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(super) client: Arc<Client>,
    /// As images name it.
    pub(super) registry: Arc<str>,
    pub(super) path: Arc<str>,
    /// Mirrors first, the registry itself last.
    hosts: Arc<[Host]>,
    /// Mirrors that did not answer, or let nobody in: what is asked for next, they are not asked for.
    shunned: Arc<[AtomicBool]>,
    credentials: Option<Arc<Credentials>>,
}

/// A manifest or an index, its digest checked.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    /// As the registry announces it, without parameters; empty when it announces nothing.
    pub(crate) media_type: String,
}

/// A repository at one of its hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    pub(super) repository: &'a Repository,
    pub(super) host: &'a Host,
    /// Its place among the hosts.
    place: usize,
    /// Tries of one request: where there is somebody else to ask, one.
    tries: u32,
}

/// What a GET is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// `manifests` or `blobs`.
    pub(super) kind: &'static str,
    /// A tag or a digest.
    pub(super) name: &'a str,
    pub(super) headers: &'a HeaderMap,
}

impl Repository {
    /// The repository that `reference` names, with its hosts as they are configured now.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Address`] and [`RegistryError::Hosts`].
    pub(crate) async fn open(
        client: &Arc<Client>,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Self, RegistryError> {
        let hosts = client.hosts(reference.registry()).await?;
        Ok(Self {
            client: Arc::clone(client),
            shunned: hosts.iter().map(|_| AtomicBool::new(false)).collect(),
            registry: reference.registry().into(),
            path: reference.repository().into(),
            hosts: hosts.into(),
            credentials: credentials.map(Arc::new),
        })
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
        let ability = if want.is_some() { Ability::Pull } else { Ability::Resolve };
        let mut failed = self.nobody(ability);
        for site in self.sites(ability, 0) {
            match site.document(name, want, limit).await {
                Ok(fetched) => return Ok(fetched),
                Err(err) => failed = site.passed_over(err),
            }
        }
        Err(failed)
    }

    /// A successful answer to a GET, of the first host that gives one. `turn` lets another host begin, after one that did
    /// not keep its word.
    pub(super) async fn get(
        &self,
        wanted: Wanted<'_>,
        turn: usize,
    ) -> Result<Response, RegistryError> {
        let mut failed = self.nobody(Ability::Pull);
        for site in self.sites(Ability::Pull, turn) {
            match site.get(wanted).await {
                Ok(response) => return Ok(response),
                Err(err) => failed = site.passed_over(err),
            }
        }
        Err(failed)
    }

    fn sites(&self, ability: Ability, turn: usize) -> Vec<Site<'_>> {
        let all = self.hosts.iter().enumerate();
        let all: Vec<(usize, &Host)> =
            all.filter(|(_, host)| host.abilities.has(ability)).collect();
        let is_shunned = |place: usize| {
            self.shunned.get(place).is_some_and(|shunned| shunned.load(Ordering::Relaxed))
        };
        let mut able = all.clone();
        able.retain(|(place, _)| !is_shunned(*place));
        if able.is_empty() {
            able = all;
        }
        let first = turn.checked_rem(able.len()).unwrap_or(0);
        able.rotate_left(first);
        let (last, patience) = (able.len(), &self.client.patience);
        let site = |(index, (place, host))| Site {
            repository: self,
            host,
            place,
            tries: if index + 1 == last { patience.tries } else { 1 },
        };
        able.into_iter().enumerate().map(site).collect()
    }

    /// Where to push: to the registry itself if that may be, else to the first mirror that takes it.
    pub(super) fn push_site(&self) -> Result<Site<'_>, RegistryError> {
        let able = || self.hosts.iter().filter(|host| host.abilities.has(Ability::Push));
        let host = able().find(|host| !host.is_mirror).or_else(|| able().next());
        let host = host.ok_or_else(|| self.nobody(Ability::Push))?;
        Ok(Site { repository: self, host, place: 0, tries: self.client.patience.tries })
    }

    /// For who sends bytes that nobody takes.
    pub(crate) fn stalled(&self) -> RegistryError {
        let url = self.hosts.last().map(|host| &host.api);
        let seconds = self.client.patience.stall.as_secs();
        RegistryError::Stalled { url: url.map(show).unwrap_or_default(), seconds }
    }

    fn nobody(&self, ability: Ability) -> RegistryError {
        let ability = match ability {
            Ability::Pull => "pull",
            Ability::Resolve => "resolve",
            Ability::Push => "push",
        };
        RegistryError::NoHost { registry: self.registry.to_string(), ability }
    }
}

impl<'a> Site<'a> {
    /// The credentials, where this host may see them: those for no host in particular are for the registry itself.
    pub(super) fn auth(&self) -> Option<&'a Auth> {
        let credentials = self.repository.credentials.as_ref()?;
        let is_for = match &credentials.server {
            None => !self.host.is_mirror,
            Some(server) => {
                let is_registry = *server == *self.repository.registry && !self.host.is_mirror;
                is_registry || address::names(server, &self.host.api)
            }
        };
        is_for.then_some(&credentials.auth)
    }

    pub(super) fn caller(&self) -> Caller {
        let origin = self.host.api.origin().ascii_serialization();
        Caller::new(origin, self.repository.path.to_string(), self.auth())
    }

    fn passed_over(&self, err: RegistryError) -> RegistryError {
        let cause = &err as &dyn std::error::Error;
        let is_no_use = matches!(err.fault(), Fault::Denied | Fault::Unavailable);
        if is_no_use
            && self.host.is_mirror
            && let Some(shunned) = self.repository.shunned.get(self.place)
        {
            shunned.store(true, Ordering::Relaxed);
        }
        tracing::debug!(host = %self.host.api, err = cause, "host did not give it");
        err
    }

    pub(super) fn patience(&self) -> &'a Patience {
        &self.repository.client.patience
    }

    async fn document(
        &self,
        name: &str,
        want: Option<&Digest>,
        limit: u64,
    ) -> Result<Fetched, RegistryError> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(media::ACCEPT))]);
        let patience = self.patience();
        let mut failures = 0;
        loop {
            let wanted = Wanted { kind: "manifests", name, headers: &headers };
            let response = self.get(wanted).await?;
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

    /// A successful answer to a GET of `<api>/<repository>/<kind>/<name>`: redirected, authenticated, tried again.
    async fn get(&self, wanted: Wanted<'_>) -> Result<Response, RegistryError> {
        let url = self.url(&format!("{}/{}", wanted.kind, wanted.name))?;
        let patience = self.patience();
        let mut failures = 0;
        loop {
            let err = match self.ask(&Method::GET, &url, wanted.headers).await {
                Ok(response) => return Ok(response),
                Err(err) => err,
            };
            failures += 1;
            if !err.is_transient() || failures >= self.tries {
                return Err(err);
            }
            tracing::debug!(%url, failures, err = &err as &dyn std::error::Error, "request again");
            tokio::time::sleep(patience.wait(failures, err.retry_after())).await;
        }
    }

    /// `<api>/<repository>/<rest>`; a mirror is told whose content is meant.
    pub(super) fn url(&self, rest: &str) -> Result<Url, RegistryError> {
        let Repository { registry, path, .. } = self.repository;
        let url = self.host.api.join(&format!("{path}/{rest}"));
        let mut url = url.map_err(|_| RegistryError::Address(path.to_string()))?;
        if self.host.is_mirror {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// One try of a request without a body. A 401 is answered once, with what the registry asks for.
    pub(super) async fn ask(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, RegistryError> {
        let tokens = &self.repository.client.tokens;
        let known = tokens.known(&self.caller()).await;
        let mut response = self.follow(method, url, headers, known.as_ref()).await?;
        // Another origin's 401 is none of ours: it would learn credentials that are not for it (CVE-2020-15157).
        if response.status() == StatusCode::UNAUTHORIZED
            && address::same_origin(response.url(), url)
        {
            let fresh = tokens.renew(self, response.headers(), known.as_ref()).await?;
            response = self.follow(method, url, headers, Some(&fresh)).await?;
        }
        self.success(response).await
    }

    /// The answer, where it is one of success.
    pub(super) async fn success(&self, response: Response) -> Result<Response, RegistryError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let url = response.url().clone();
        Err(status_error(response, &url, self.patience()).await)
    }

    async fn follow(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut url = url.clone();
        let mut authorization = authorization;
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request(method, &url, authorization).await?;
            let response = send(request.headers(headers.clone()), &url, self.patience()).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            url = address::redirect(&self.host.api, &url, location.unwrap_or_default())?;
            if !address::same_origin(&self.host.api, &url) {
                // And not again, should the way lead back.
                authorization = None;
            }
        }
        Err(RegistryError::Redirect { from: show(&url), why: "there were too many before" })
    }

    /// A request to this host, or to where it pointed: our certificate and the configured headers are for the host alone.
    pub(super) async fn request(
        &self,
        method: &Method,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<RequestBuilder, RegistryError> {
        let Host { api, identity, headers, dial_timeout, .. } = self.host;
        let client = &self.repository.client;
        let is_own = address::same_origin(api, url);
        let http = match is_own {
            true => client.http(url, identity, *dial_timeout).await?,
            false => client.http(url, &identity.anonymous(), *dial_timeout).await?,
        };
        // Layers are compressed already, and have their digest as they are.
        let mut request = http.request(method.clone(), url.clone());
        request = request.header(ACCEPT_ENCODING, "identity");
        if is_own {
            request = request.headers(headers.clone());
        }
        if let Some(value) = authorization {
            // In place of a configured one.
            request = request.headers(HeaderMap::from_iter([(AUTHORIZATION, value.clone())]));
        }
        Ok(request)
    }
}

/// Sends one request and waits for the head of its answer, for [`Patience::stall`] at most.
pub(super) async fn send(
    request: RequestBuilder,
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
