//! The channels of an exec or an attach, whatever carries them.

use super::negotiate::{Carrier, Command};
use super::tickets::Wanted;
use remote::message::Status;
use remote::spdy::Spdy;
use remote::{Incoming, Link, Outgoing, Stream, websocket};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// The channels that a client has opened, in the terms of the program.
#[derive(Debug)]
pub(super) struct Wires {
    pub(super) link: Link,
    pub(super) stdin: Option<Incoming>,
    pub(super) stdout: Option<Outgoing>,
    pub(super) stderr: Option<Outgoing>,
    pub(super) resize: Option<Incoming>,
    pub(super) verdict: Verdict,
}

/// Where a client hears how it ended.
#[derive(Debug)]
pub(super) struct Verdict {
    error: Outgoing,
    /// Whether it reads a status; a text where not.
    status: bool,
}

/// How long a client may take to open its channels: as with other runtimes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The numbers of the channels over WebSocket.
mod number {
    pub(super) const STDIN: u8 = 0;
    pub(super) const STDOUT: u8 = 1;
    pub(super) const STDERR: u8 = 2;
    pub(super) const ERROR: u8 = 3;
    pub(super) const RESIZE: u8 = 4;
    pub(super) const ALL: u8 = 5;
}

impl Wires {
    /// Waits for the channels that `wanted` says; `None` where they do not come.
    pub(super) async fn new<T>(io: T, how: Command, wanted: Wanted) -> Option<Self>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        match how.carrier {
            Carrier::Spdy => {
                let opened = timeout(PATIENCE, spdy(Spdy::server(io), how, wanted));
                opened.await.ok().flatten()
            }
            Carrier::WebSocket(form) => {
                let server = websocket::Side::Server;
                let channels = websocket::channels(io, server, form, number::ALL);
                socket(channels, how, wanted).await
            }
        }
    }
}

/// Takes streams until all are there; what each is for is in its header `streamType`.
async fn spdy(mut spdy: Spdy, how: Command, wanted: Wanted) -> Option<Wires> {
    let resizes = wanted.tty && how.resize;
    let (mut error, mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None, None);
    let missing = |error: &Option<_>, stdin: &Option<_>, stdout: &Option<_>, stderr: &Option<_>| {
        error.is_none()
            || wanted.stdin && stdin.is_none()
            || wanted.stdout && stdout.is_none()
            || wanted.stderr && stderr.is_none()
    };
    while missing(&error, &stdin, &stdout, &stderr) || resizes && resize.is_none() {
        let opened = spdy.accept().await?;
        let kind = opened.header("streamType").to_owned();
        let Stream { incoming, outgoing } = opened.stream;
        match kind.as_str() {
            "error" => error = Some(outgoing),
            "stdin" => stdin = Some(incoming),
            "stdout" => stdout = Some(outgoing),
            "stderr" => stderr = Some(outgoing),
            "resize" => resize = Some(incoming),
            _ => return None,
        }
    }
    let verdict = Verdict { error: error?, status: how.status };
    let stdin = stdin.filter(|_| wanted.stdin);
    let (stdout, stderr) = (stdout.filter(|_| wanted.stdout), stderr.filter(|_| wanted.stderr));
    Some(Wires { link: spdy.link, stdin, stdout, stderr, resize, verdict })
}

/// The channels are there from the beginning.
async fn socket(mut channels: websocket::Channels, how: Command, wanted: Wanted) -> Option<Wires> {
    let mut incoming = |wanted: bool, number| {
        let stream = channels.take(number)?;
        wanted.then_some(stream.incoming)
    };
    let (stdin, resize) =
        (incoming(wanted.stdin, number::STDIN), incoming(wanted.tty, number::RESIZE));
    let mut outgoing = |wanted: bool, number| {
        let stream = channels.take(number)?;
        wanted.then_some(stream.outgoing)
    };
    let stdout = outgoing(wanted.stdout, number::STDOUT);
    let stderr = outgoing(wanted.stderr, number::STDERR);
    let error = outgoing(true, number::ERROR)?;
    // Clients wait for something on the lowest channel that they read, to know that we are there.
    let first = stdout.as_ref().or(stderr.as_ref()).unwrap_or(&error);
    first.send(Vec::new()).await.ok()?;
    let verdict = Verdict { error, status: how.status };
    Some(Wires { link: channels.link, stdin, stdout, stderr, resize, verdict })
}

impl Verdict {
    /// Tells how it ended, and that nothing more comes.
    pub(super) async fn tell(self, status: &Status) {
        let is_success = status.exit_code() == Some(0);
        let text = match self.status {
            true => serde_json::to_vec(status).unwrap_or_default(),
            false if is_success => Vec::new(),
            false => status.message().as_bytes().to_vec(),
        };
        // The client may have gone.
        if !text.is_empty() {
            self.error.send(text).await.ok();
        }
        self.error.finish().await.ok();
    }
}
