//! Where a registry is asked: the registry itself and its mirrors, as directories in containerd's layout say.
//!
//! ```text
//! <config path>/registry.example_5000_/hosts.toml    or  registry.example:5000/, else  _default/
//!                                      *.crt, *.cert, *.key where there is no hosts.toml: Docker's certs.d
//! ```
//!
//! Everything is read anew for each pull, so that a change needs no restart. Mirrors are asked in the order of the file,
//! the registry itself last.

mod file;

use super::address;
use super::tls::Identity;
use file::{Entry, File};
use reqwest::Url;
use reqwest::header::HeaderMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// One place to ask.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// Where its API begins, with a slash at the end: `https://mirror.example/v2/`.
    pub(super) api: Url,
    pub(super) abilities: Abilities,
    /// Sent to this origin and nowhere else.
    pub(super) headers: HeaderMap,
    pub(super) identity: Arc<Identity>,
    pub(super) dial_timeout: Option<Duration>,
    /// A mirror is told which registry it stands for.
    pub(super) is_mirror: bool,
}

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Content by digest.
    pub(super) pull: bool,
    /// What a tag means.
    pub(super) resolve: bool,
    pub(super) push: bool,
}

/// One of [`Abilities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ability {
    Pull,
    Resolve,
    Push,
}

/// A directory for a registry that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file or directory.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not TOML, or other keys than it may have.
    #[error("parse {}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value that means nothing.
    #[error("{}: {key} {value:?} is not {want}", path.display())]
    Value {
        /// In which file.
        path: PathBuf,
        /// Of which key.
        key: &'static str,
        /// What is there.
        value: String,
        /// What should be.
        want: &'static str,
    },
    /// A certificate or a key.
    #[error("use the certificates that {} names", path.display())]
    Certificate {
        /// In which file.
        path: PathBuf,
        /// What is wrong with them.
        source: super::tls::BadIdentity,
    },
}

impl Abilities {
    const ALL: Self = Self { pull: true, resolve: true, push: true };

    pub(super) fn has(self, ability: Ability) -> bool {
        match ability {
            Ability::Pull => self.pull,
            Ability::Resolve => self.resolve,
            Ability::Push => self.push,
        }
    }
}

/// The hosts to ask about `registry`, in order; never none.
///
/// # Errors
///
/// [`HostsError`] when what is configured cannot be read: asking somebody else instead would be a surprise.
pub(super) fn lookup(
    config_path: Option<&Path>,
    registry: &str,
    insecure: &[String],
) -> Result<Vec<Host>, super::RegistryError> {
    let own = address::base(registry, insecure)?;
    let plain = |api: Url| Host {
        api,
        abilities: Abilities::ALL,
        headers: HeaderMap::new(),
        identity: Arc::default(),
        dial_timeout: None,
        is_mirror: false,
    };
    let api = own.join("v2/").map_err(|_| super::RegistryError::Address(registry.to_owned()))?;
    let Some(directory) = config_path.and_then(|root| directory(root, registry)) else {
        return Ok(vec![plain(api)]);
    };
    let path = directory.join("hosts.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(err) if err.kind() == ErrorKind::NotFound => {
            let identity = Arc::new(certificates_of(&directory)?);
            return Ok(vec![Host { identity, ..plain(api) }]);
        }
        Err(source) => return Err(HostsError::Read { path, source }.into()),
    };
    let file: File = toml::from_str(&text)
        .map_err(|source| HostsError::Parse { path: path.clone(), source: Box::new(source) })?;
    let reader = Reader { path: &path, directory: &directory, own: &own };
    let mut hosts = Vec::new();
    for (name, entry) in file.hosts(&path)? {
        hosts.push(reader.host(&name, &entry)?);
    }
    let server = file.server.clone().unwrap_or_else(|| own.as_str().to_owned());
    hosts.push(reader.host(&server, &file.entry)?);
    Ok(hosts)
}

/// The directory for a registry, by its name with the port between underscores, by its name, or the one for all others.
fn directory(root: &Path, registry: &str) -> Option<PathBuf> {
    let with_port = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let names = [with_port.as_deref(), Some(registry), Some("_default")];
    names.into_iter().flatten().map(|name| root.join(name)).find(|path| path.is_dir())
}

struct Reader<'a> {
    path: &'a Path,
    directory: &'a Path,
    /// Where the registry itself is.
    own: &'a Url,
}

impl Reader<'_> {
    fn host(&self, name: &str, entry: &Entry) -> Result<Host, HostsError> {
        let api = self.api(name, entry.override_path)?;
        let identity = entry.certificates(self.directory).and_then(|files| files.read())?;
        let identity = identity.with_verification(!entry.skip_verify.unwrap_or(false));
        let identity = identity
            .checked()
            .map_err(|source| HostsError::Certificate { path: self.path.to_owned(), source })?;
        Ok(Host {
            // The registry may be configured to be spoken to in another way than one would guess.
            is_mirror: !(address::same_host(&api, self.own) && api.port() == self.own.port()),
            api,
            abilities: self.abilities(entry)?,
            headers: entry.headers(self.path)?,
            identity: Arc::new(identity),
            dial_timeout: entry.dial_timeout(self.path)?,
        })
    }

    fn api(&self, name: &str, override_path: bool) -> Result<Url, HostsError> {
        let bad = || self.value("host", name, "the address of a host");
        let full = if name.contains("://") { name.to_owned() } else { format!("https://{name}") };
        let mut url = Url::parse(&full).map_err(|_| bad())?;
        let is_http = matches!(url.scheme(), "http" | "https");
        if !is_http || !url.has_host() || !url.username().is_empty() || url.query().is_some() {
            return Err(bad());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        let is_complete = override_path || path.ends_with("/v2");
        url.set_path(&if is_complete { format!("{path}/") } else { format!("{path}/v2/") });
        Ok(url)
    }

    fn abilities(&self, entry: &Entry) -> Result<Abilities, HostsError> {
        let Some(names) = &entry.capabilities else { return Ok(Abilities::ALL) };
        let mut abilities = Abilities { pull: false, resolve: false, push: false };
        for name in names {
            match name.to_ascii_lowercase().as_str() {
                "pull" => abilities.pull = true,
                "resolve" => abilities.resolve = true,
                "push" => abilities.push = true,
                // Of containerd's later versions; nothing here asks for it.
                "referrers" => {}
                _ => return Err(self.value("capability", name, "pull, resolve or push")),
            }
        }
        Ok(abilities)
    }

    fn value(&self, key: &'static str, value: &str, want: &'static str) -> HostsError {
        HostsError::Value { path: self.path.to_owned(), key, value: value.to_owned(), want }
    }
}

/// Docker's layout: `*.crt` are authorities, `x.cert` with `x.key` is a client certificate.
fn certificates_of(directory: &Path) -> Result<Identity, HostsError> {
    let failed = |source| HostsError::Read { path: directory.to_owned(), source };
    let mut files = file::Certificates::default();
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => files.authorities.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                files.clients.push((path, key.exists().then_some(key)));
            }
            Some(_) | None => {}
        }
    }
    let identity = files.read()?;
    identity
        .checked()
        .map_err(|source| HostsError::Certificate { path: directory.to_owned(), source })
}

#[cfg(test)]
mod tests;
