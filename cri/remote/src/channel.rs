//! One channel of a connection: a queue each way.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// The most bytes of one piece, either way.
pub(crate) const PIECE: usize = 16 << 10;
/// The pieces that wait for whoever reads a channel.
const QUEUE: usize = 8;

/// A channel, both ways.
#[derive(Debug)]
pub struct Stream {
    /// What the peer sends.
    pub incoming: Incoming,
    /// What it is sent.
    pub outgoing: Outgoing,
}

/// What a peer sends on a channel. While nobody takes it, the peer waits; once this is dropped, it is thrown away.
#[derive(Debug)]
pub struct Incoming {
    pieces: mpsc::Receiver<Bytes>,
    reset: Arc<AtomicBool>,
}

/// What is sent to a peer on a channel.
#[derive(Clone, Debug)]
pub struct Outgoing {
    id: u32,
    frames: mpsc::Sender<Frame>,
    reset: Arc<AtomicBool>,
}

/// The peer is gone, or does not want to hear any more on this channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer has closed the channel")]
pub struct Closed;

/// Where the reader of a connection puts what it reads.
#[derive(Clone, Debug)]
pub(crate) struct Inlet {
    pieces: mpsc::Sender<Bytes>,
    reset: Arc<AtomicBool>,
}

/// What the writer of a connection writes.
#[derive(Debug)]
pub(crate) enum Frame {
    /// A new channel with these headers.
    Open {
        id: u32,
        headers: Vec<(String, String)>,
    },
    /// The peer's new channel is known.
    Reply {
        id: u32,
    },
    Data {
        id: u32,
        bytes: Bytes,
    },
    /// Nothing more comes on the channel.
    Finish {
        id: u32,
    },
    /// Nothing more comes, and nothing more is taken.
    Reset {
        id: u32,
    },
    /// The answer to a sign of life that was asked for.
    Pong {
        bytes: Bytes,
    },
    /// The last one.
    Close,
}

impl Incoming {
    /// The next piece; `None` at the end, which the peer's half may have reached long before ours.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.pieces.recv().await
    }

    /// Whether the channel has ended before its end: the peer wants neither to send nor to hear any more.
    #[must_use]
    pub fn was_reset(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }
}

impl Outgoing {
    /// Sends bytes; waits while the connection is busy.
    ///
    /// # Errors
    ///
    /// [`Closed`] where nobody hears it.
    pub async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Closed> {
        let mut bytes = bytes.into();
        loop {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            self.put(Frame::Data { id: self.id, bytes: piece }).await?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    ///
    /// [`Closed`] where nobody hears it.
    pub async fn finish(self) -> Result<(), Closed> {
        self.put(Frame::Finish { id: self.id }).await
    }

    /// Says that nothing more comes and nothing more is taken.
    ///
    /// # Errors
    ///
    /// [`Closed`] where nobody hears it.
    pub async fn reset(self) -> Result<(), Closed> {
        self.put(Frame::Reset { id: self.id }).await
    }

    async fn put(&self, frame: Frame) -> Result<(), Closed> {
        if self.reset.load(Ordering::Acquire) {
            return Err(Closed);
        }
        self.frames.send(frame).await.map_err(|_| Closed)
    }
}

impl Inlet {
    /// Gives a piece to whoever reads; waits while they are busy. Where nobody does it is thrown away.
    pub(crate) async fn put(&self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces.send(piece).await.ok();
        }
    }

    /// Ends the channel both ways; dropping this is the end of one.
    pub(crate) fn reset(self) {
        self.reset.store(true, Ordering::Release);
    }
}

/// Makes a channel that writes to `frames`, and the way into it.
pub(crate) fn channel(id: u32, frames: &mpsc::Sender<Frame>) -> (Stream, Inlet) {
    let (sender, pieces) = mpsc::channel(QUEUE);
    let reset = Arc::new(AtomicBool::new(false));
    let incoming = Incoming { pieces, reset: Arc::clone(&reset) };
    let outgoing = Outgoing { id, frames: frames.clone(), reset: Arc::clone(&reset) };
    (Stream { incoming, outgoing }, Inlet { pieces: sender, reset })
}
