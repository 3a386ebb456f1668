//! Credentials that `docker login` left: `~/.docker/config.json` and the helpers it names.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cri_api::runtime::v1::AuthConfig;
use serde::Deserialize;

use crate::error::CliError;

/// The key that Docker Hub has in the file, for historical reasons.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a helper gives as the name when the secret is a token.
const TOKEN_USER: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Why the file, or a helper it names, gives nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("read it")]
    Read(#[source] io::Error),
    #[error("it is not what `docker login` writes")]
    Parse(#[source] serde_json::Error),
    #[error("{0:?} is not the name of a credential helper")]
    Name(String),
    #[error("run docker-credential-{name}")]
    Run { name: String, source: io::Error },
    #[error("docker-credential-{name}: {text}")]
    Helper { name: String, text: String },
}

/// What is stored for the registry of `image`; nothing where there is no file, or nothing for it in the file.
pub(crate) fn credentials(image: &str) -> Result<Option<AuthConfig>, CliError> {
    let Some(path) = path() else { return Ok(None) };
    let found = look_up(&path, registry(image));
    found.map_err(|source| CliError::Login { path, source })
}

fn path() -> Option<PathBuf> {
    let directory = env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty());
    let home = env::var_os("HOME").filter(|value| !value.is_empty());
    let directory = directory
        .map(PathBuf::from)
        .or_else(|| home.map(|home| PathBuf::from(home).join(".docker")))?;
    Some(directory.join("config.json"))
}

/// The registry in a name: the part before the first slash, where it could not be a user's name.
pub(crate) fn registry(image: &str) -> &str {
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    match image.split_once('/') {
        Some(("index.docker.io", _)) => "docker.io",
        Some((first, _)) if is_registry(first) => first,
        Some(_) | None => "docker.io",
    }
}

fn look_up(path: &Path, registry: &str) -> Result<Option<AuthConfig>, LoginError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoginError::Read(source)),
    };
    let file: File = serde_json::from_slice(&text).map_err(LoginError::Parse)?;
    let key = if registry == "docker.io" { DOCKER_HUB_KEY } else { registry };
    let of = |map: &BTreeMap<String, String>| map.get(key).or(map.get(registry)).cloned();
    if let Some(helper) = of(&file.cred_helpers) {
        return ask(&helper, key, registry);
    }
    if !file.creds_store.is_empty()
        && let Some(found) = ask(&file.creds_store, key, registry)?
    {
        return Ok(Some(found));
    }
    // Old entries are URLs.
    let host = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        key.split('/').next().unwrap_or_default().to_owned()
    };
    let by_host = || file.auths.iter().find(|(other, _)| host(other) == host(key));
    let entry = file.auths.get(key).or_else(|| by_host().map(|(_, entry)| entry));
    let is_empty = |entry: &&Entry| {
        entry.auth.is_empty()
            && entry.username.is_empty()
            && entry.identitytoken.is_empty()
            && entry.registrytoken.is_empty()
    };
    Ok(entry.filter(|entry| !is_empty(entry)).map(|entry| AuthConfig {
        username: entry.username.clone(),
        password: entry.password.clone(),
        auth: entry.auth.clone(),
        server_address: registry.to_owned(),
        identity_token: entry.identitytoken.clone(),
        registry_token: entry.registrytoken.clone(),
    }))
}

/// Asks a helper by Docker's protocol: the registry on its standard input, JSON on its standard output.
fn ask(name: &str, key: &str, registry: &str) -> Result<Option<AuthConfig>, LoginError> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(is_word) {
        return Err(LoginError::Name(name.to_owned()));
    }
    let failed = |source| LoginError::Run { name: name.to_owned(), source };
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read says why in its answer.
        writeln!(input, "{key}").ok();
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        // The one failure that the protocol has a text for.
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(LoginError::Helper { name: name.to_owned(), text });
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(LoginError::Parse)?;
    let mut auth = AuthConfig { server_address: registry.to_owned(), ..Default::default() };
    if answer.username == TOKEN_USER {
        auth.identity_token = answer.secret;
    } else {
        (auth.username, auth.password) = (answer.username, answer.secret);
    }
    Ok(Some(auth))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, registry: &str) -> Option<String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let auth = look_up(file.path(), registry).unwrap()?;
        let AuthConfig { username, auth, identity_token, server_address, .. } = auth;
        Some(format!("{username}|{auth}|{identity_token}|{server_address}"))
    }

    #[test]
    fn logins_are_found_under_every_key_that_docker_writes() {
        let text = r#"{ "auths": {
            "https://index.docker.io/v1/": { "auth": "aHVi" },
            "quay.io": { "auth": "cXVheQ==" },
            "https://old.example/v2/": { "username": "ann", "password": "x" },
            "token.example:5000": { "identitytoken": "t" },
            "empty.example": {}
        } }"#;
        let cases = [
            ("docker.io", Some("|aHVi||docker.io")),
            ("quay.io", Some("|cXVheQ==||quay.io")),
            ("old.example", Some("ann|||old.example")),
            ("token.example:5000", Some("||t|token.example:5000")),
            ("token.example", None),
            ("empty.example", None),
            ("unknown.example", None),
        ];
        for (registry, want) in cases {
            assert_eq!(found(text, registry).as_deref(), want, "{registry}");
        }
    }

    #[test]
    fn the_registry_of_a_name_is_found() {
        for (image, want) in [
            ("busybox", "docker.io"),
            ("ann/app", "docker.io"),
            ("index.docker.io/app", "docker.io"),
            ("localhost/app", "localhost"),
            ("reg:5000/app:1", "reg:5000"),
            ("quay.io/a/b@sha256:00", "quay.io"),
            ("busybox:1.36", "docker.io"),
        ] {
            assert_eq!(registry(image), want, "{image}");
        }
    }

    #[test]
    fn no_file_is_no_login_and_a_broken_one_is_an_error() {
        assert!(look_up(Path::new("/nonexistent"), "quay.io").unwrap().is_none());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"{").unwrap();
        assert!(look_up(file.path(), "quay.io").is_err());
        assert!(matches!(ask("../evil", "k", "r"), Err(LoginError::Name(_))));
    }
}
