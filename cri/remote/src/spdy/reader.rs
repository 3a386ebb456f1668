//! The reading half of a connection.

use super::headers::Unpacker;
use super::{Broken, FIN, MOST_CONTROL, MOST_STREAMS, Opened, Shared, Side, kind};
use crate::channel::{Frame, PIECE, channel};
use crate::link::Activity;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;

pub(super) struct Reader<T> {
    pub(super) io: BufReader<T>,
    pub(super) unpacker: Unpacker,
    pub(super) shared: Arc<Shared>,
    pub(super) opened: mpsc::Sender<Opened>,
    pub(super) frames: mpsc::Sender<Frame>,
    pub(super) activity: Activity,
    pub(super) side: Side,
    /// The last stream that the peer has opened.
    pub(super) last: u32,
}

/// A frame's first eight bytes.
struct Head {
    word: u32,
    flags: u8,
    length: usize,
}

impl<T: AsyncRead + Unpin> Reader<T> {
    pub(super) async fn run(mut self) {
        // Whatever the reason is, the peer is gone for those who use its streams.
        while matches!(self.frame().await, Ok(true)) {}
        self.shared.close();
    }

    /// Reads one frame; says whether more can come.
    async fn frame(&mut self) -> Result<bool, Broken> {
        let head = self.head().await?;
        if head.word & (1 << 31) == 0 {
            self.data(&head).await?;
            return Ok(true);
        }
        if head.word >> 16 & 0x7fff != 3 {
            return Err(Broken::Version);
        }
        if head.length > MOST_CONTROL {
            return Err(Broken::Malformed);
        }
        let mut body = vec![0; head.length];
        self.io.read_exact(&mut body).await?;
        match u16::try_from(head.word & 0xffff).unwrap_or(0) {
            kind::SYN_STREAM => self.opened(&body, head.flags).await?,
            kind::SYN_REPLY | kind::HEADERS => self.replied(&body, head.flags)?,
            kind::RST_STREAM => {
                let id = number(&body, 0)? & !(1 << 31);
                if let Some(inlet) = self.shared.remove(id) {
                    inlet.reset();
                }
            }
            kind::PING => {
                let id = number(&body, 0)?;
                if !self.side.owns(id) {
                    self.put(Frame::Pong { bytes: Bytes::copy_from_slice(&body[..4]) }).await?;
                }
            }
            kind::GOAWAY => return Ok(false),
            // SETTINGS, WINDOW_UPDATE and what else may come: see the head of this module.
            _ => {}
        }
        Ok(true)
    }

    async fn head(&mut self) -> Result<Head, Broken> {
        let word = self.io.read_u32().await?;
        let rest = self.io.read_u32().await?;
        let [flags, ..] = rest.to_be_bytes();
        let length = usize::try_from(rest & 0x00ff_ffff).unwrap_or(usize::MAX);
        Ok(Head { word, flags, length })
    }

    /// Hands on what a data frame carries, piece by piece: its length is not believed.
    async fn data(&mut self, head: &Head) -> Result<(), Broken> {
        let inlet = self.shared.inlet(head.word);
        let mut left = head.length;
        while left > 0 {
            let mut piece = BytesMut::with_capacity(left.min(PIECE));
            let count = (&mut self.io).take(left as u64).read_buf(&mut piece).await?;
            if count == 0 {
                return Err(Broken::Malformed);
            }
            left -= count;
            self.activity.note();
            // What comes on a stream that is closed was on its way already.
            if let Some(inlet) = &inlet {
                inlet.put(piece.freeze()).await;
            }
        }
        if head.flags & FIN != 0 {
            self.shared.remove(head.word);
        }
        Ok(())
    }

    async fn opened(&mut self, body: &[u8], flags: u8) -> Result<(), Broken> {
        let id = number(body, 0)? & !(1 << 31);
        let packed = body.get(10..).ok_or(Broken::Malformed)?;
        let headers = self.unpacker.unpack(packed)?;
        if self.side.owns(id) || id <= self.last {
            return Err(Broken::Malformed);
        }
        self.last = id;
        if self.shared.count() >= MOST_STREAMS {
            return self.put(Frame::Reset { id }).await;
        }
        let (stream, inlet) = channel(id, &self.frames);
        if flags & FIN == 0 {
            self.shared.insert(id, inlet).map_err(|_| Broken::Closed)?;
        }
        // Before anybody can write to it.
        self.put(Frame::Reply { id }).await?;
        self.opened.send(Opened { headers, stream }).await.map_err(|_| Broken::Closed)
    }

    /// A reply to a stream of ours, or more headers: they say nothing, but the next ones cannot be read without them.
    fn replied(&mut self, body: &[u8], flags: u8) -> Result<(), Broken> {
        let id = number(body, 0)? & !(1 << 31);
        self.unpacker.unpack(body.get(4..).ok_or(Broken::Malformed)?)?;
        if flags & FIN != 0 {
            self.shared.remove(id);
        }
        Ok(())
    }

    async fn put(&mut self, frame: Frame) -> Result<(), Broken> {
        self.frames.send(frame).await.map_err(|_| Broken::Closed)
    }
}

fn number(body: &[u8], at: usize) -> Result<u32, Broken> {
    let bytes = body.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Broken::Malformed)?;
    Ok(u32::from_be_bytes(*bytes))
}
