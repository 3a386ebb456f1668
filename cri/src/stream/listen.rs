//! The listening socket: connections, TLS where it is configured, and how many there can be.

use super::http;
use crate::config::Stream as Config;
use crate::node::Node;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Connections at a time; each holds a few hundred KiB at the very most.
const MOST: usize = 2048;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request.
const MOST_HEAD: usize = 16 << 10;
/// How long bytes may stay unacknowledged, the signs of life of an open session among them: then its peer is gone.
const MOST_SILENCE_MS: u32 = 60_000;

/// Why there is no streaming server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("configuration: stream.address {0:?} is no address with a port")]
    Address(String),
    #[error("listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("configuration: stream.tls_cert and stream.tls_key go together")]
    HalfTls,
    #[error("read {}", path.display())]
    Pem { path: PathBuf, source: tokio_rustls::rustls::pki_types::pem::Error },
    #[error("use the certificate {}", path.display())]
    Certificate { path: PathBuf, source: tokio_rustls::rustls::Error },
}

/// A socket that listens, before anybody is served.
pub(crate) struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    /// The beginning of the addresses to hand out.
    pub(crate) base: String,
}

impl Listener {
    /// Listens as the configuration says.
    pub(crate) async fn new(config: &Config) -> Result<Self, ListenError> {
        let address: SocketAddr =
            config.address.parse().map_err(|_| ListenError::Address(config.address.clone()))?;
        let tls = acceptor(config)?;
        let failed = |source| ListenError::Listen { address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let at = reachable(socket.local_addr().map_err(failed)?);
        let scheme = if tls.is_some() { "https" } else { "http" };
        Ok(Self { socket, tls, base: format!("{scheme}://{at}") })
    }
}

/// Kubelet is on this machine, so that any address that is listened on is reached by loopback.
fn reachable(mut at: SocketAddr) -> SocketAddr {
    if at.ip().is_unspecified() {
        at.set_ip(match at.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    at
}

/// Serves for as long as the process lives.
pub(crate) async fn serve(listener: Listener, node: Arc<Node>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        // Those who come when all places are taken wait in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let connection = match listener.socket.accept().await {
            Ok((connection, _)) => connection,
            Err(err) => {
                // No descriptors, say: there will be some again.
                tracing::warn!(%err, "accept streaming connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (node, tls, place) = (Arc::clone(&node), listener.tls.clone(), Arc::new(place));
        tokio::spawn(async move {
            prepare(&connection);
            match tls {
                None => converse(connection, &node, place).await,
                Some(tls) => {
                    // Whoever does not speak TLS has nothing to be told.
                    if let Ok(Ok(secured)) = timeout(PATIENCE, tls.accept(connection)).await {
                        converse(secured, &node, place).await;
                    }
                }
            }
        });
    }
}

fn prepare(connection: &TcpStream) {
    // Keystrokes are not to wait for each other. Where either fails, the connection works all the same.
    connection.set_nodelay(true).ok();
    sockopt::set_tcp_user_timeout(connection, MOST_SILENCE_MS).ok();
}

async fn converse<T>(io: T, node: &Arc<Node>, place: http::Place)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = http::answer(node, request, Arc::clone(&place));
        async { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .max_buf_size(MOST_HEAD)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
    if let Err(err) = served {
        tracing::debug!(%err, "streaming connection");
    }
}

fn acceptor(config: &Config) -> Result<Option<TlsAcceptor>, ListenError> {
    let (cert, key) = (&config.tls_cert, &config.tls_key);
    match (cert.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => return Ok(None),
        (false, false) => {}
        (true, false) | (false, true) => return Err(ListenError::HalfTls),
    }
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| ListenError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem(cert))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    let tls = ServerConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
    .map_err(|source| ListenError::Certificate { path: cert.clone(), source })?;
    Ok(Some(TlsAcceptor::from(Arc::new(tls))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: &str, cert: &str, key: &str) -> Config {
        Config {
            address: address.into(),
            tls_cert: cert.into(),
            tls_key: key.into(),
            ..Config::default()
        }
    }

    #[tokio::test]
    async fn addresses_lead_back_here() {
        let cases = [("127.0.0.1:0", "http://127.0.0.1:"), ("0.0.0.0:0", "http://127.0.0.1:")];
        for (address, want) in cases {
            let listener = Listener::new(&config(address, "", "")).await.unwrap();
            assert!(listener.base.starts_with(want), "{}", listener.base);
            let port = listener.socket.local_addr().unwrap().port();
            assert!(listener.base.ends_with(&format!(":{port}")));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_served_is_refused_at_the_start() {
        let cases = [
            ("no port", config("127.0.0.1", "", ""), "is no address with a port"),
            ("a name", config("localhost:0", "", ""), "is no address with a port"),
            ("a certificate alone", config("127.0.0.1:0", "/c.pem", ""), "go together"),
            ("no such file", config("127.0.0.1:0", "/no/c.pem", "/no/k.pem"), "read /no/c.pem"),
        ];
        for (name, config, want) in cases {
            let Err(err) = Listener::new(&config).await else { panic!("{name}") };
            assert!(err.to_string().contains(want), "{name}: {err}");
        }
    }
}
