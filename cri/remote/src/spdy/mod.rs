//! SPDY/3.1 over a connection that was upgraded to it, as Kubernetes' clients speak it.
//!
//! Those (`moby/spdystream`) know no flow control of streams: they neither keep to windows nor open them, so the
//! connection as a whole is what holds a sender back. Priorities and settings mean nothing to them either.

mod headers;
mod reader;
mod writer;

use crate::channel::{Closed, Frame, Inlet, Stream, channel};
use crate::link::{Activity, Link};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::mpsc;

/// The streams of a connection that its peer may have open at a time.
const MOST_STREAMS: usize = 1024;
/// New streams that wait to be accepted.
const QUEUE: usize = 16;
/// A control frame is at most this long.
const MOST_CONTROL: usize = 64 << 10;

/// A connection that carries streams.
#[derive(Debug)]
pub struct Spdy {
    /// The connection itself.
    pub link: Link,
    opened: Openings,
    shared: Arc<Shared>,
    frames: mpsc::Sender<Frame>,
    next: u32,
}

/// The streams that the peer of a connection opens.
#[derive(Debug)]
pub struct Openings(mpsc::Receiver<Opened>);

/// A stream that the peer has opened.
#[derive(Debug)]
pub struct Opened {
    headers: Vec<(String, String)>,
    /// The stream.
    pub stream: Stream,
}

/// Who opens streams with which numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// What the reader and those who open streams share.
#[derive(Debug)]
struct Shared {
    /// By the streams' numbers; `None` once nothing is read any more.
    inlets: Mutex<Option<HashMap<u32, Inlet>>>,
}

/// Why a connection came to its end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("read or write")]
    Io(#[from] io::Error),
    #[error("not SPDY/3")]
    Version,
    #[error("malformed frame")]
    Malformed,
    #[error("headers: {0}")]
    Headers(&'static str),
    #[error("nobody is here any more")]
    Closed,
}

impl Spdy {
    /// The server's end.
    pub fn server<T: AsyncRead + AsyncWrite + Send + 'static>(io: T) -> Self {
        Self::new(io, Side::Server)
    }

    /// The client's end.
    pub fn client<T: AsyncRead + AsyncWrite + Send + 'static>(io: T) -> Self {
        Self::new(io, Side::Client)
    }

    fn new<T: AsyncRead + AsyncWrite + Send + 'static>(io: T, side: Side) -> Self {
        let (read, write) = tokio::io::split(io);
        let (frames, queue) = Link::queue();
        let (opened, accepting) = mpsc::channel(QUEUE);
        let (shared, activity) = (Arc::new(Shared::new()), Activity::new());
        let reader = reader::Reader {
            io: BufReader::with_capacity(32 << 10, read),
            unpacker: headers::Unpacker::new(),
            shared: Arc::clone(&shared),
            opened,
            frames: frames.clone(),
            activity: activity.clone(),
            side,
            last: 0,
        };
        let writer = writer::Writer::new(write, activity.clone(), side);
        let link = Link::start(frames.clone(), activity, reader.run(), writer.run(queue));
        let next = side.first();
        Self { link, opened: Openings(accepting), shared, frames, next }
    }

    /// The next stream that the peer opens; `None` once it is gone.
    pub async fn accept(&mut self) -> Option<Opened> {
        self.opened.next().await
    }

    /// The connection, and the streams that the peer opens, each for itself.
    #[must_use]
    pub fn split(self) -> (Link, Openings) {
        (self.link, self.opened)
    }

    /// Opens a stream.
    ///
    /// # Errors
    ///
    /// [`Closed`] where the peer is gone.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> Result<Stream, Closed> {
        let id = self.next;
        self.next += 2;
        let (stream, inlet) = channel(id, &self.frames);
        self.shared.insert(id, inlet)?;
        let headers =
            headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        self.frames.send(Frame::Open { id, headers }).await.map_err(|_| Closed)?;
        Ok(stream)
    }
}

impl Openings {
    /// The next one; `None` once the peer is gone.
    pub async fn next(&mut self) -> Option<Opened> {
        self.0.recv().await
    }
}

impl Opened {
    /// The value of a header; empty where it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str())
    }
}

impl Shared {
    fn new() -> Self {
        Self { inlets: Mutex::new(Some(HashMap::new())) }
    }

    fn insert(&self, id: u32, inlet: Inlet) -> Result<(), Closed> {
        self.inlets().as_mut().ok_or(Closed)?.insert(id, inlet);
        Ok(())
    }

    fn inlet(&self, id: u32) -> Option<Inlet> {
        self.inlets().as_ref()?.get(&id).cloned()
    }

    fn remove(&self, id: u32) -> Option<Inlet> {
        self.inlets().as_mut()?.remove(&id)
    }

    fn count(&self) -> usize {
        self.inlets().as_ref().map_or(0, HashMap::len)
    }

    /// Ends every stream, and those to come.
    fn close(&self) {
        self.inlets().take();
    }

    fn inlets(&self) -> MutexGuard<'_, Option<HashMap<u32, Inlet>>> {
        // The table is whole at every moment, so a panic elsewhere does not spoil it.
        self.inlets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Side {
    /// Its first number of a stream or a ping; the others follow by two.
    fn first(self) -> u32 {
        match self {
            Side::Client => 1,
            Side::Server => 2,
        }
    }

    fn owns(self, number: u32) -> bool {
        number % 2 == self.first() % 2
    }
}

/// The types of control frames (SPDY/3, section 2.6).
mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
}

/// Of the flags of a frame: nothing more comes on its stream.
const FIN: u8 = 1;
/// Why a stream is reset: `CANCEL` (section 2.6.3).
const CANCEL: u32 = 5;

#[cfg(test)]
mod tests;
