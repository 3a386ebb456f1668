//! The HTTP client under everything: TLS, deadlines, tokens.

use super::address;
use super::auth::Tokens;
use super::error::RegistryError;
use reqwest::Url;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Talks to registries. One for the whole daemon: connections and tokens are shared.
#[derive(Debug)]
pub(crate) struct Client {
    pub(super) insecure: Vec<String>,
    pub(super) patience: Patience,
    pub(super) tokens: Tokens,
    trust: Trust,
    /// Made at the first use: reading the system's certificates takes a while, and memory.
    http: OnceCell<Http>,
}

#[derive(Debug)]
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
    /// `insecure`: registries, as their images name them, that are reached over http.
    pub(crate) fn new(insecure: Vec<String>, patience: Patience, trust: Trust) -> Self {
        Self { insecure, patience, trust, tokens: Tokens::default(), http: OnceCell::new() }
    }

    /// See [`Patience::stall`].
    pub(crate) fn stall(&self) -> Duration {
        self.patience.stall
    }

    /// The HTTP client for `url`.
    pub(super) async fn http(&self, url: &Url) -> Result<&reqwest::Client, RegistryError> {
        let http = self
            .http
            .get_or_try_init(|| async {
                let (connect, trust) = (self.patience.connect, self.trust.clone());
                let made = tokio::task::spawn_blocking(move || Http::new(connect, &trust)).await;
                made.unwrap_or_else(|panic| Err(RegistryError::Client(panic.into())))
            })
            .await?;
        let is_near = address::is_loopback(url) || self.trust.knows(url);
        Ok(if is_near { &http.direct } else { &http.outside })
    }
}

impl Http {
    fn new(connect: Duration, trust: &Trust) -> Result<Self, RegistryError> {
        let tls = tls(&trust.authorities).map_err(|err| RegistryError::Client(err.into()))?;
        let build = |builder: reqwest::ClientBuilder| {
            let hosts = trust.hosts.iter();
            hosts
                .fold(builder, |builder, (name, address)| builder.resolve(name, *address))
                .tls_backend_preconfigured(tls.clone())
                .connect_timeout(connect)
                .pool_idle_timeout(Duration::from_secs(30))
                // Redirects are followed by our own rules.
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|err| RegistryError::Client(err.into()))
        };
        Ok(Self {
            direct: build(reqwest::Client::builder().no_proxy())?,
            outside: build(reqwest::Client::builder())?,
        })
    }
}

fn tls(authorities: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        tracing::warn!(errors = ?found.errors, "no certificate authorities on this system, https will not work");
    }
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
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
