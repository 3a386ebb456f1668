//! PortForward: connections to ports in a pod's network namespace.
//!
//! A client opens a pair of streams for each connection (over SPDY), or has a pair of channels for each port (over
//! WebSocket): one for the bytes, one to hear what went wrong. Each half ends by itself, as TCP's do.

use super::negotiate::Forward;
use crate::chain::chain;
use crate::node::Node;
use crate::sandbox::Sandbox;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use remote::spdy::{Opened, Spdy};
use remote::websocket::{self, Form};
use remote::{Link, Stream};
use rustix::net::AddressFamily;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections that one client may have open at a time.
const MOST_CONNECTIONS: usize = 256;
/// Streams that wait for their other half.
const MOST_HALVES: usize = 64;
/// How long a connection may take to be made: it never leaves the machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is read from a connection at a time.
const CHUNK: usize = 16 << 10;

/// Why a port cannot be reached.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("port {0:?} is no port")]
    Port(String),
    #[error("{MOST_CONNECTIONS} connections are forwarded already")]
    Many,
    #[error("pod {pod} is not ready")]
    NotReady { pod: String },
    #[error("enter the network of pod {pod}")]
    Network { pod: String, source: io::Error },
    #[error("connect to port {port} of pod {pod}")]
    Connect { pod: String, port: u16, source: io::Error },
}

/// Forwards connections until the client leaves, or none has said anything for the idle limit.
pub(super) async fn run(
    node: &Arc<Node>,
    sandbox: Arc<Sandbox>,
    ports: &[u16],
    how: Forward,
    io: TokioIo<Upgraded>,
) {
    let limit = Duration::from_secs(node.host.config.stream.idle_timeout_s);
    let pod = Pod { node: Arc::clone(node), sandbox };
    match how {
        Forward::Spdy => pairs(pod, Spdy::server(io), limit).await,
        Forward::Tunnel => {
            let io = websocket::tunnel(io, websocket::Side::Server);
            pairs(pod, Spdy::server(io), limit).await;
        }
        Forward::WebSocket { form, .. } => channels(pod, io, ports, form, limit).await,
    }
}

/// The pod whose ports are meant.
#[derive(Clone, Debug)]
struct Pod {
    node: Arc<Node>,
    sandbox: Arc<Sandbox>,
}

/// A connection that a client wants: what goes over it, and where it hears what goes wrong.
struct Wish {
    port: Result<u16, ForwardError>,
    data: Stream,
    error: Stream,
}

/// The half of a pair that came first.
struct Half {
    is_error: bool,
    stream: Stream,
}

/// Puts streams with the same `requestID` together.
async fn pairs(pod: Pod, spdy: Spdy, limit: Duration) {
    let (link, mut openings) = spdy.split();
    let (mut halves, mut connections) = (HashMap::<String, Half>::new(), JoinSet::new());
    loop {
        tokio::select! {
            opened = openings.next() => match opened {
                Some(opened) => {
                    if let Some(wish) = pair(&mut halves, opened) {
                        start(&pod, wish, &mut connections);
                    }
                }
                None => return,
            },
            Some(_) = connections.join_next() => {}
            () = link.idle(limit) => break,
            // Its writer has found the client gone; its reader may wait for a pod that does not read.
            () = link.closed() => return,
        }
    }
    connections.shutdown().await;
    link.close().await;
}

fn pair(halves: &mut HashMap<String, Half>, opened: Opened) -> Option<Wish> {
    let (kind, port) = (opened.header("streamType"), opened.header("port").to_owned());
    let is_error = match kind {
        "error" => true,
        "data" => false,
        // Of no use to anybody: its end says so.
        _ => return None,
    };
    let id = opened.header("requestID").to_owned();
    let half = Half { is_error, stream: opened.stream };
    match halves.remove(&id) {
        Some(first) if first.is_error != is_error => {
            let (error, data) =
                if is_error { (half.stream, first.stream) } else { (first.stream, half.stream) };
            let number = port.parse().ok().filter(|port| *port != 0);
            Some(Wish { port: number.ok_or(ForwardError::Port(port)), data, error })
        }
        Some(_) | None => {
            if halves.len() < MOST_HALVES {
                halves.insert(id, half);
            }
            None
        }
    }
}

/// Serves the two channels of each port; both begin with its number.
async fn channels(pod: Pod, io: TokioIo<Upgraded>, ports: &[u16], form: Form, limit: Duration) {
    // The address says which ports there are, and how many can be.
    let count = u8::try_from(ports.len() * 2).unwrap_or(0);
    let mut all = websocket::channels(io, websocket::Side::Server, form, count);
    let mut connections = JoinSet::new();
    for (port, first) in ports.iter().zip((0_u8..).step_by(2)) {
        let (Some(data), Some(error)) = (all.take(first), all.take(first + 1)) else { return };
        for stream in [&data, &error] {
            if stream.outgoing.send(port.to_le_bytes().to_vec()).await.is_err() {
                return;
            }
        }
        start(&pod, Wish { port: Ok(*port), data, error }, &mut connections);
    }
    finish(connections, all.link, limit).await;
}

async fn finish(mut connections: JoinSet<()>, link: Link, limit: Duration) {
    loop {
        tokio::select! {
            ended = connections.join_next() => if ended.is_none() { break },
            () = link.closed() => return,
            () = link.idle(limit) => break,
        }
    }
    connections.shutdown().await;
    link.close().await;
}

fn start(pod: &Pod, mut wish: Wish, connections: &mut JoinSet<()>) {
    if connections.len() >= MOST_CONNECTIONS {
        wish.port = wish.port.and(Err(ForwardError::Many));
    }
    let pod = pod.clone();
    connections.spawn(async move {
        let connected = match wish.port {
            Ok(port) => pod.connect(port).await,
            Err(err) => Err(err),
        };
        match connected {
            Ok(connection) => carry(wish.data, connection).await,
            Err(err) => {
                let text = chain(&err);
                tracing::debug!(text, "port is not forwarded");
                // The client may have gone.
                wish.error.outgoing.send(text.into_bytes()).await.ok();
                wish.data.outgoing.finish().await.ok();
            }
        }
        wish.error.outgoing.finish().await.ok();
    });
}

impl Pod {
    /// Connects to a port on the pod's loopback: first by IPv4, then by IPv6.
    async fn connect(&self, port: u16) -> Result<TcpStream, ForwardError> {
        let pod = self.sandbox.id.to_string();
        if !self.sandbox.is_ready() {
            return Err(ForwardError::NotReady { pod });
        }
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        match self.dial(v4).await? {
            Ok(connection) => Ok(connection),
            Err(source) => match self.dial(v6).await? {
                Ok(connection) => Ok(connection),
                // What the first said is what most people have to hear.
                Err(_) => Err(ForwardError::Connect { pod, port, source }),
            },
        }
    }

    /// The outer error is that the pod's network cannot be entered.
    async fn dial(&self, to: SocketAddr) -> Result<io::Result<TcpStream>, ForwardError> {
        let (this, family) =
            (self.clone(), if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 });
        let socket = crate::host::blocking(move || this.socket(family)).await;
        let socket = match socket {
            Ok(socket) => socket,
            // A kernel or a pod without such addresses.
            Err(err)
                if err.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
            {
                return Ok(Err(err));
            }
            Err(source) => {
                return Err(ForwardError::Network { pod: self.sandbox.id.to_string(), source });
            }
        };
        let socket = TcpSocket::from_std_stream(socket.into());
        let connected = timeout(PATIENCE, socket.connect(to)).await;
        Ok(connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    }

    fn socket(&self, family: AddressFamily) -> io::Result<std::os::fd::OwnedFd> {
        let netns = match self.sandbox.has_own_network() {
            true => {
                let run = self.node.host.paths.pod_run(&self.sandbox.id);
                std::fs::File::open(run.join(sys::pin::Kind::Network.name()))?
            }
            false => std::fs::File::open("/proc/thread-self/ns/net")?,
        };
        netns::tcp_socket(std::os::fd::AsFd::as_fd(&netns), family)
    }
}

/// Copies both ways until both halves have ended, or the client breaks one off.
async fn carry(data: Stream, connection: TcpStream) {
    let Stream { mut incoming, outgoing } = data;
    let (mut from_pod, mut to_pod) = connection.into_split();
    let there = async {
        while let Some(piece) = incoming.next().await {
            if to_pod.write_all(&piece).await.is_err() {
                // The pod listens no more; what it still says is carried.
                return true;
            }
        }
        to_pod.shutdown().await.ok();
        !incoming.was_reset()
    };
    let back = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = from_pod.read(&mut buffer).await {
            if outgoing.send(buffer[..count].to_vec()).await.is_err() {
                return;
            }
        }
        outgoing.finish().await.ok();
    };
    let (mut there, mut back) = (Box::pin(there), Box::pin(back));
    tokio::select! {
        whole = &mut there => if whole { back.await },
        () = &mut back => drop(there.await),
    }
}
