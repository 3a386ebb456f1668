//! The client's side of the streaming server: SPDY/3.1 and WebSocket, as crictl speaks them.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use remote::message::{Size, Status as Ending};
use remote::spdy::Spdy;
use remote::websocket::{self, Encoding, Form, Side};
use remote::{Incoming, Link, Outgoing};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::exec::exit_code;
use crate::error::CliError;

/// What carries the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Spdy,
    Websocket,
}

/// Why there is no session, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("{0:?} is no address that can be streamed from; https is not possible yet")]
    Url(String),
    #[error("connect to {0}")]
    Connect(String, #[source] io::Error),
    #[error("the server answered {0:?}")]
    Answer(String),
    #[error("the server does not answer in time")]
    Silent,
    #[error("the connection was lost")]
    Lost,
    #[error("input is not a terminal; leave -t out")]
    NoTerminal,
    #[error("{0}")]
    Told(String),
    #[error("listen on port {0}")]
    Listen(u16, #[source] io::Error),
}

/// Which streams are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
}

/// The longest answer of a server.
const MOST_HEAD: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(30);
const V5: Form = Form { encoding: Encoding::Binary, ends: true };

struct Streams {
    link: Link,
    stdin: Option<Outgoing>,
    stdout: Incoming,
    stderr: Option<Incoming>,
    error: Incoming,
    resize: Option<Outgoing>,
}

/// Connects and switches to what carries the streams. `protocol` is the subprotocol that is spoken there.
pub(crate) async fn switch(
    url: &str,
    transport: Transport,
    protocol: &str,
) -> Result<TcpStream, SessionError> {
    let rest = url.strip_prefix("http://").ok_or_else(|| SessionError::Url(url.to_owned()))?;
    let (host, path) = rest.split_once('/').ok_or_else(|| SessionError::Url(url.to_owned()))?;
    let mut io = TcpStream::connect(host)
        .await
        .map_err(|source| SessionError::Connect(host.to_owned(), source))?;
    let (method, lines) = match transport {
        Transport::Spdy => {
            ("POST", format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n"))
        }
        Transport::Websocket => (
            "GET",
            format!(
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\
                 Sec-WebSocket-Protocol: {protocol}\r\n",
                websocket::key()
            ),
        ),
    };
    let length = if transport == Transport::Spdy { "Content-Length: 0\r\n" } else { "" };
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{length}{lines}\r\n"
    );
    let talk = async {
        io.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") && answer.len() < MOST_HEAD {
            answer.push(io.read_u8().await?);
        }
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, talk).await.map_err(|_| SessionError::Silent)?;
    let answer = answer.map_err(|_| SessionError::Lost)?;
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    if first.split(' ').nth(1) == Some("101") { Ok(io) } else { Err(SessionError::Answer(first)) }
}

async fn streams(url: &str, transport: Transport, wanted: Wanted) -> Result<Streams, SessionError> {
    match transport {
        Transport::Spdy => {
            let mut spdy = Spdy::client(switch(url, transport, "v4.channel.k8s.io").await?);
            let mut all = Vec::new();
            for kind in ["error", "stdin", "stdout", "stderr", "resize"] {
                let is_wanted = match kind {
                    "stdin" => wanted.stdin,
                    "stderr" => !wanted.tty,
                    "resize" => wanted.tty,
                    _ => true,
                };
                let stream = match is_wanted {
                    true => Some(
                        spdy.open(&[("streamType", kind)]).await.map_err(|_| SessionError::Lost)?,
                    ),
                    false => None,
                };
                all.push(stream);
            }
            let mut all = all.into_iter().map(|stream| stream.map(|it| (it.incoming, it.outgoing)));
            let mut next = || all.next().flatten();
            let error = next().ok_or(SessionError::Lost)?.0;
            let stdin = next().map(|it| it.1);
            let stdout = next().ok_or(SessionError::Lost)?.0;
            let (stderr, resize) = (next().map(|it| it.0), next().map(|it| it.1));
            Ok(Streams { link: spdy.link, stdin, stdout, stderr, error, resize })
        }
        Transport::Websocket => {
            let io = switch(url, transport, "v5.channel.k8s.io").await?;
            let mut all = websocket::channels(io, Side::Client, V5, 5);
            let mut take = |number| all.take(number).ok_or(SessionError::Lost);
            let (stdin, stdout, stderr) = (take(0)?, take(1)?, take(2)?);
            let (error, resize) = (take(3)?, take(4)?);
            Ok(Streams {
                stdin: wanted.stdin.then_some(stdin.outgoing),
                stdout: stdout.incoming,
                stderr: (!wanted.tty).then_some(stderr.incoming),
                error: error.incoming,
                resize: wanted.tty.then_some(resize.outgoing),
                link: all.link,
            })
        }
    }
}

/// Connects our own standard streams to those behind `url`, to the end. Gives the exit code.
pub(crate) async fn run(
    url: &str,
    transport: Transport,
    wanted: Wanted,
) -> Result<u8, SessionError> {
    if wanted.tty && !(wanted.stdin && io::stdin().is_terminal()) {
        return Err(SessionError::NoTerminal);
    }
    let streams = streams(url, transport, wanted).await?;
    let _raw = wanted.tty.then(Raw::new).flatten();
    let Streams { link, stdin, stdout, stderr, error, resize } = streams;
    let outputs = async {
        tokio::join!(show(Some(stdout), io::stdout()), show(stderr, io::stderr()), text(error)).2
    };
    let typing = async {
        tokio::join!(type_in(stdin), follow_size(resize));
        std::future::pending::<()>().await;
    };
    let ending = tokio::select! {
        ending = outputs => ending,
        () = typing => String::new(),
    };
    drop(link);
    match serde_json::from_str::<Ending>(&ending) {
        Ok(ending) => match ending.exit_code() {
            Some(code) => Ok(exit_code(code)),
            None => Err(SessionError::Told(ending.message().to_owned())),
        },
        Err(_) if ending.is_empty() => Err(SessionError::Lost),
        Err(_) => Err(SessionError::Told(ending)),
    }
}

async fn show(from: Option<Incoming>, mut to: impl Write) {
    let Some(mut from) = from else { return };
    while let Some(piece) = from.next().await {
        // Who reads our output has gone: the command is not to wait for them.
        if to.write_all(&piece).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

async fn text(mut from: Incoming) -> String {
    let mut bytes = Vec::new();
    while let Some(piece) = from.next().await {
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads on a thread of its own: standard input cannot be waited for in every form it comes in.
async fn type_in(to: Option<Outgoing>) {
    let Some(to) = to else { return };
    let (sender, mut pieces) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    while let Some(piece) = pieces.recv().await {
        if to.send(piece).await.is_err() {
            return;
        }
    }
    to.finish().await.ok();
}

async fn follow_size(to: Option<Outgoing>) {
    let (Some(to), Ok(mut changes)) = (to, signal(SignalKind::window_change())) else { return };
    loop {
        if let Ok(size) = tcgetwinsize(io::stdin()) {
            let size = Size { width: size.ws_col, height: size.ws_row };
            let text = serde_json::to_vec(&size).unwrap_or_default();
            if to.send(text).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Our terminal passes on every key as it is, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs none of it.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}

impl From<SessionError> for CliError {
    fn from(source: SessionError) -> Self {
        Self::Session(source)
    }
}
