//! Answers to a registry's 401: RFC 9110 section 11, and the token protocol of the distribution project.

use super::address::{self, Realm, show};
use super::client::Client;
use super::error::RegistryError;
use super::repository::{self, Site};
use crate::digest::Digest;
use crate::document::json;
use crate::pull::request::Auth;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Largest answer of a token server, and largest error text.
const TOKEN_BYTES: u64 = 64 << 10;

/// Callers whose tokens are remembered.
const MAX_TOKENS: usize = 512;

/// One way in that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lowercase.
    scheme: String,
    /// Keys in lowercase.
    params: BTreeMap<String, String>,
}

/// The `Authorization` values that worked, by caller.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Caller, Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Grant>>>;

/// Who asks for what: a token of one is nothing for another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    origin: String,
    repository: String,
    /// A hash, so that no second copy of a secret is kept.
    auth: Option<Digest>,
}

#[derive(Clone, Debug)]
struct Grant {
    value: HeaderValue,
    until: Option<Instant>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Caller {
    pub(super) fn new(origin: String, repository: String, auth: Option<&Auth>) -> Self {
        let auth = auth.map(|auth| {
            let (kind, one, two) = match auth {
                Auth::Basic { username, password } => {
                    ("basic", username.as_str(), password.as_str())
                }
                Auth::IdentityToken(token) => ("identity", token.as_str(), ""),
                Auth::RegistryToken(token) => ("registry", token.as_str(), ""),
            };
            Digest::of(format!("{kind}\0{}\0{one}\0{two}", one.len()).as_bytes())
        });
        Self { origin, repository, auth }
    }
}

impl Tokens {
    fn slot(&self, caller: &Caller) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_TOKENS {
            // Those in use are kept by whoever uses them.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(caller.clone()).or_default())
    }

    /// What worked last time, unless it has expired.
    pub(super) async fn known(&self, caller: &Caller) -> Option<HeaderValue> {
        let slot = self.slot(caller);
        let grant = slot.lock().await;
        grant
            .as_ref()
            .filter(|grant| grant.is_usable(None, Instant::now()))
            .map(|grant| grant.value.clone())
    }

    /// A value to use instead of `rejected`. Of several requests rejected at once, one asks the token server.
    pub(super) async fn renew(
        &self,
        site: &Site<'_>,
        headers: &HeaderMap,
        rejected: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let slot = self.slot(&site.caller());
        let mut grant = slot.lock().await;
        let now = Instant::now();
        if let Some(other) = grant.as_ref().filter(|grant| grant.is_usable(rejected, now)) {
            return Ok(other.value.clone());
        }
        *grant = None;
        let fresh = answer(site, &challenges(headers)).await?;
        Ok(grant.insert(fresh).value.clone())
    }
}

impl Grant {
    fn is_usable(&self, rejected: Option<&HeaderValue>, now: Instant) -> bool {
        Some(&self.value) != rejected && self.until.is_none_or(|until| now < until)
    }
}

async fn answer(site: &Site<'_>, offered: &[Challenge]) -> Result<Grant, RegistryError> {
    let no_way_in = |why| RegistryError::NoWayIn { url: show(&site.host.api), why };
    if let Some(Auth::RegistryToken(token)) = site.auth() {
        return Ok(Grant {
            value: bearer(token).ok_or_else(|| no_way_in("the token is no token"))?,
            until: None,
        });
    }
    let find = |scheme: &str| offered.iter().find(|challenge| challenge.scheme == scheme);
    if let Some(challenge) = find("bearer") {
        return fetch_token(site, challenge).await;
    }
    match (find("basic"), site.auth()) {
        (Some(_), Some(Auth::Basic { username, password })) => {
            Ok(Grant { value: basic(username, password), until: None })
        }
        (Some(_), None) => Err(no_way_in("no credentials were given")),
        (Some(_), Some(Auth::IdentityToken(_) | Auth::RegistryToken(_))) => {
            Err(no_way_in("it wants a password, not a token"))
        }
        (None, _) => Err(no_way_in("it offers no authentication known here")),
    }
}

async fn fetch_token(site: &Site<'_>, challenge: &Challenge) -> Result<Grant, RegistryError> {
    let client: &Client = &site.repository.client;
    let auth = site.auth();
    let realm = challenge.params.get("realm").map(String::as_str).unwrap_or_default();
    let Realm { url: mut target, trusted } =
        Realm::check(&site.host.api, realm, &client.registries.insecure)?;
    if auth.is_some() && !trusted {
        let why = "it belongs to another site than the registry, and must not see its credentials";
        return Err(RegistryError::Realm { realm: show(&target), why });
    }
    let default_scope = format!("repository:{}:pull", site.repository.path);
    let scope = challenge.params.get("scope").map_or(default_scope.as_str(), String::as_str);
    let mut fields = vec![("scope", scope)];
    if let Some(service) = challenge.params.get("service") {
        fields.push(("service", service));
    }
    // Another host gets credentials only when it has proved who it is.
    let identity = &site.host.identity;
    let identity = match address::same_host(&site.host.api, &target) {
        true => identity.anonymous(),
        false => identity.strict(),
    };
    let http = client.http(&target, &identity, site.host.dial_timeout).await?;
    let request = match auth {
        Some(Auth::IdentityToken(token)) => {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "berth"),
                ("refresh_token", token),
            ]);
            let form =
                http.post(target.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            form.body(form_encoded(&fields))
        }
        Some(Auth::Basic { username, password }) => {
            target.query_pairs_mut().extend_pairs(fields);
            http.get(target.clone()).header(AUTHORIZATION, basic(username, password))
        }
        Some(Auth::RegistryToken(_)) | None => {
            target.query_pairs_mut().extend_pairs(fields);
            http.get(target.clone())
        }
    };
    let response = repository::send(request, &target, &client.patience).await?;
    if !response.status().is_success() {
        return Err(repository::status_error(response, &target, &client.patience).await);
    }
    let bytes = repository::read_bounded(response, &target, TOKEN_BYTES, &client.patience).await?;
    let bad = |source| RegistryError::Token { url: show(&target), source };
    let answer: TokenAnswer = json::parse(&bytes).map_err(bad)?;
    let token = answer.token.or(answer.access_token).unwrap_or_default();
    let no_token =
        || RegistryError::NoWayIn { url: show(&target), why: "the token server gave no token" };
    // The specification's default, and a margin for the way there.
    let seconds = answer.expires_in.unwrap_or(60).clamp(15, 3600) - 10;
    let until = Instant::now().checked_add(Duration::from_secs(seconds));
    Ok(Grant { value: bearer(&token).ok_or_else(no_token)?, until })
}

fn form_encoded(fields: &[(&str, &str)]) -> String {
    // A URL's query has the same encoding as a form.
    let mut url = reqwest::Url::parse("form:").expect("a URL that is only a scheme is one");
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

fn bearer(token: &str) -> Option<HeaderValue> {
    if token.is_empty() {
        return None;
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn basic(username: &str, password: &str) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{username}:{password}"));
    let mut value =
        HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}

/// The ways in that a 401 names: `Bearer realm="…",service="…", Basic realm="…"`, in one header or several.
fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(parse_challenges).collect()
}

fn parse_challenges(mut text: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    while !text.is_empty() {
        text = text.trim_start_matches([' ', '\t', ',']);
        let is_word = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let rest = rest.trim_start_matches([' ', '\t']);
        if word.is_empty() {
            break;
        }
        match (rest.strip_prefix('='), found.last_mut()) {
            (Some(rest), Some(challenge)) => {
                let (value, rest) = parse_value(rest.trim_start_matches([' ', '\t']));
                challenge.params.entry(word.to_ascii_lowercase()).or_insert(value);
                text = rest;
            }
            // A parameter of no scheme.
            (Some(_), None) => break,
            (None, _) => {
                found
                    .push(Challenge { scheme: word.to_ascii_lowercase(), params: BTreeMap::new() });
                text = rest;
            }
        }
    }
    found
}

/// A quoted string or a bare word, and what is behind it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_in_every_form_they_come_in() {
        let cases = [
            (
                "Docker Hub",
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                r#"bearer{"realm": "https://auth.docker.io/token", "scope": "repository:a/b:pull,push", "service": "registry.docker.io"}"#,
            ),
            ("basic", r#"Basic realm="Registry""#, r#"basic{"realm": "Registry"}"#),
            (
                "any case and bare words",
                "BEARER Realm=x , service=y",
                r#"bearer{"realm": "x", "service": "y"}"#,
            ),
            (
                "two at once",
                r#"Basic realm="a, b=c", Bearer realm="d""#,
                r#"basic{"realm": "a, b=c"} bearer{"realm": "d"}"#,
            ),
            ("a scheme alone", "Negotiate, Basic realm=x", r#"negotiate{} basic{"realm": "x"}"#),
            ("quoted quotes", r#"Basic realm="a\"b\\""#, r#"basic{"realm": "a\"b\\"}"#),
            ("the first of two", "Bearer realm=good, realm=evil", r#"bearer{"realm": "good"}"#),
            ("no end quote", r#"Bearer realm="x"#, r#"bearer{"realm": "x"}"#),
            ("nothing", "", ""),
            ("garbage", "=,==\"\\", ""),
        ];
        for (name, header, want) in cases {
            let got: Vec<String> = parse_challenges(header)
                .iter()
                .map(|challenge| format!("{}{:?}", challenge.scheme, challenge.params))
                .collect();
            assert_eq!(got.join(" "), want, "{name}");
        }
        parse_challenges(&"Bearer realm=\"".repeat(10_000));
    }

    #[test]
    fn basic_credentials_are_encoded_and_hidden() {
        // RFC 7617 section 2.
        let value = basic("Aladdin", "open sesame");
        assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(!format!("{value:?}").contains("QWxh"));
    }

    #[test]
    fn a_token_is_used_until_it_expires_or_is_rejected() {
        let now = Instant::now();
        let (old, other) = (bearer("old").unwrap(), bearer("other").unwrap());
        let grant = |until| Grant { value: old.clone(), until };
        let later = Some(now + Duration::from_secs(1));
        let cases = [
            ("fresh", grant(later), None, true),
            ("without an end", grant(None), None, true),
            ("expired", grant(Some(now)), None, false),
            ("rejected", grant(later), Some(&old), false),
            ("newer than the rejected one", grant(later), Some(&other), true),
        ];
        for (name, grant, rejected, want) in cases {
            assert_eq!(grant.is_usable(rejected, now), want, "{name}");
        }
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(form_encoded(&[("a", "b c&d"), ("e", "ü")]), "a=b+c%26d&e=%C3%BC");
    }

    #[test]
    fn tokens_of_one_caller_are_nothing_for_another() {
        let auth = |password: &str| Auth::Basic { username: "u".into(), password: password.into() };
        let caller = |auth: Option<&Auth>| Caller::new("https://a".into(), "b".into(), auth);
        assert_ne!(caller(None), caller(Some(&auth("x"))));
        assert_ne!(caller(Some(&auth("x"))), caller(Some(&auth("y"))));
        assert_eq!(caller(Some(&auth("x"))), caller(Some(&auth("x"))));
        assert!(!format!("{:?}", caller(Some(&auth("hunter2")))).contains("hunter2"));
    }
}
