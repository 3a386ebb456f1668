//! The HTTP client under everything: TLS, deadlines, tokens.

use super::address;
use super::auth::Tokens;
use super::error::RegistryError;
use super::hosts::{self, Host};
use super::tls::Identity;
use crate::digest::Digest;
use reqwest::Url;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;

/// Sets of connections with different certificates that are kept.
const MAX_CONNECTIONS: usize = 64;

/// Talks to registries. One for the whole daemon: connections and tokens are shared.
#[derive(Debug)]
pub(crate) struct Client {
    pub(super) registries: Registries,
    pub(super) patience: Patience,
    pub(super) tokens: Tokens,
    trust: Trust,
    /// Read at the first use: the system's certificates take a while, and memory.
    roots: OnceCell<Arc<RootCertStore>>,
    http: Mutex<HashMap<HttpKey, Http>>,
}

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registries {
    /// As their images name them: over http.
    pub(crate) insecure: Vec<String>,
    /// The directory of `hosts.toml` files.
    pub(crate) config_path: Option<PathBuf>,
}

/// What makes connections unlike others: certificates, and the patience for them.
type HttpKey = (Digest, Option<Duration>);

#[derive(Clone, Debug)]
struct Http {
    /// For this host and those whose addresses were given: never through a proxy.
    direct: reqwest::Client,
    /// For the rest: through the proxy of the environment, where one is set.
    outside: reqwest::Client,
}

/// Whom the client believes beside the system's certificate authorities and name servers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    /// Certificate authorities.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    /// Addresses of names.
    pub(crate) hosts: Vec<(String, SocketAddr)>,
}

/// How long the client waits, and how often it tries.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// For a connection.
    pub(crate) connect: Duration,
    /// Without [`MIN_PROGRESS`] bytes, while waiting for a peer; the same for the unpack worker.
    pub(crate) stall: Duration,
    /// Before the second try; doubles with each further one.
    pub(crate) backoff: Duration,
    /// The longest wait between two tries, whatever the registry asks for.
    pub(crate) backoff_cap: Duration,
    /// Tries of one request.
    pub(crate) tries: u32,
    /// Times that one body may be resumed without 1 MiB of progress in between.
    pub(crate) resumes: u32,
}

/// Fewer bytes than this in a whole [`Patience::stall`] are no progress.
pub(super) const MIN_PROGRESS: usize = 1024;

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            stall: Duration::from_secs(60),
            backoff: Duration::from_millis(250),
            backoff_cap: Duration::from_secs(60),
            tries: 4,
            resumes: 5,
        }
    }
}

impl Trust {
    fn knows(&self, url: &Url) -> bool {
        self.hosts.iter().any(|(name, _)| url.host_str() == Some(name))
    }
}

impl Patience {
    /// The wait after the `failures`th failure: what the registry asked for, else a doubling, jittered one.
    pub(super) fn wait(&self, failures: u32, retry_after: Option<u64>) -> Duration {
        let wait = match retry_after {
            Some(seconds) => Duration::from_secs(seconds),
            None => {
                let doubled = self.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16));
                // Between half of it and all of it, so that many nodes do not come back at once.
                let jitter = RandomState::new().hash_one(failures) % 512;
                doubled / 2 + doubled * u32::try_from(jitter).unwrap_or(0) / 1024
            }
        };
        wait.min(self.backoff_cap)
    }
}

impl Client {
    pub(crate) fn new(registries: Registries, patience: Patience, trust: Trust) -> Self {
        Self {
            registries,
            patience,
            trust,
            tokens: Tokens::default(),
            roots: OnceCell::new(),
            http: Mutex::default(),
        }
    }

    /// See [`Patience::stall`].
    pub(crate) fn stall(&self) -> Duration {
        self.patience.stall
    }

    /// The hosts to ask about `registry`, as they are configured now.
    pub(super) async fn hosts(&self, registry: &str) -> Result<Vec<Host>, RegistryError> {
        let (registries, registry) = (self.registries.clone(), registry.to_owned());
        let read = move || {
            let Registries { insecure, config_path } = &registries;
            hosts::lookup(config_path.as_deref(), &registry, insecure)
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|panic| Err(RegistryError::Client(panic.into())))
    }

    /// The HTTP client for `url`, with the certificates of `identity`.
    pub(super) async fn http(
        &self,
        url: &Url,
        identity: &Identity,
        dial_timeout: Option<Duration>,
    ) -> Result<reqwest::Client, RegistryError> {
        let key = (identity.fingerprint(), dial_timeout);
        let known = self.lock().get(&key).cloned();
        let http = match known {
            Some(http) => http,
            None => {
                let http = self.connect(identity, dial_timeout.unwrap_or(self.patience.connect));
                let http = http.await?;
                let mut all = self.lock();
                if all.len() >= MAX_CONNECTIONS {
                    all.clear();
                }
                all.insert(key, http.clone());
                http
            }
        };
        let is_near = address::is_loopback(url) || self.trust.knows(url);
        Ok(if is_near { http.direct } else { http.outside })
    }

    async fn connect(&self, identity: &Identity, dial: Duration) -> Result<Http, RegistryError> {
        let roots = self
            .roots
            .get_or_try_init(|| async {
                let authorities = self.trust.authorities.clone();
                let read = tokio::task::spawn_blocking(move || roots(&authorities)).await;
                read.unwrap_or_else(|panic| Err(RegistryError::Client(panic.into())))
            })
            .await?;
        let tls = identity.config(RootCertStore::clone(roots));
        let tls = tls.map_err(|err| RegistryError::Client(err.into()))?;
        let build = |builder: reqwest::ClientBuilder| {
            let hosts = self.trust.hosts.iter();
            hosts
                .fold(builder, |builder, (name, address)| builder.resolve(name, *address))
                .tls_backend_preconfigured(tls.clone())
                .connect_timeout(dial)
                .pool_idle_timeout(Duration::from_secs(30))
                // Redirects are followed by our own rules.
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|err| RegistryError::Client(err.into()))
        };
        Ok(Http {
            direct: build(reqwest::Client::builder().no_proxy())?,
            outside: build(reqwest::Client::builder())?,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HttpKey, Http>> {
        // Every change to it is a single step.
        self.http.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The system's certificate authorities and `more`.
fn roots(more: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, RegistryError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        tracing::warn!(errors = ?found.errors, "no certificate authorities on this system, https needs configured ones");
    }
    for authority in more {
        roots.add(authority.clone()).map_err(|err| RegistryError::Client(err.into()))?;
    }
    Ok(Arc::new(roots))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_bounded_whatever_the_registry_asks() {
        let patience = Patience::default();
        let second = Duration::from_secs(1);
        let cases = [
            ("first", 1, None, second / 8, second / 4),
            ("third", 3, None, second / 2, second),
            ("hundredth", 100, None, 60 * second, 60 * second),
            ("asked for", 1, Some(7), 7 * second, 7 * second),
            ("asked for at once", 1, Some(0), Duration::ZERO, Duration::ZERO),
            ("asked for 30 years", 1, Some(1_000_000_000), 60 * second, 60 * second),
        ];
        for (name, failures, retry_after, least, most) in cases {
            let wait = patience.wait(failures, retry_after);
            assert!(least <= wait && wait <= most, "{name}: {wait:?}");
        }
    }
}
