//! The reading half: frames to messages, messages to channels, in pieces.

use super::frame::{self, Broken, Head, Opcode};
use super::{ENDS, Encoding, Form, Side};
use crate::channel::{Frame, Inlet, PIECE};
use crate::link::Activity;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader, ReadHalf};
use tokio::sync::mpsc;

/// The messages of a connection; control frames between them are answered here.
pub(super) struct Messages<T> {
    io: BufReader<ReadHalf<T>>,
    side: Side,
    frames: mpsc::Sender<Frame>,
    /// The data frame that is being read, and how much of it was.
    current: Option<(Head, u64)>,
    /// Whether a message has begun whose last frame was not yet.
    within: bool,
}

/// What comes next in a connection.
#[derive(Debug)]
pub(super) enum Next {
    /// A part of a message, which ends with it where `last`.
    Piece { bytes: BytesMut, last: bool },
    /// The peer says farewell.
    Closed,
}

impl<T: AsyncRead> Messages<T> {
    pub(super) fn new(io: ReadHalf<T>, side: Side, frames: mpsc::Sender<Frame>) -> Self {
        let io = BufReader::with_capacity(32 << 10, io);
        Self { io, side, frames, current: None, within: false }
    }

    /// The next piece of a message. Lengths are not believed: nothing is held but a piece.
    pub(super) async fn next(&mut self) -> Result<Next, Broken> {
        loop {
            let Some((head, read)) = self.current else {
                if !self.begin().await? {
                    return Ok(Next::Closed);
                }
                continue;
            };
            let left = head.length - read;
            let room = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let mut bytes = BytesMut::with_capacity(room);
            if left > 0 && (&mut self.io).take(room as u64).read_buf(&mut bytes).await? == 0 {
                return Err(Broken::Protocol("a frame that is cut short"));
            }
            if let Some(mask) = head.mask {
                frame::apply(mask, read, &mut bytes);
            }
            let read = read + bytes.len() as u64;
            let ended = read == head.length;
            self.current = (!ended).then_some((head, read));
            self.within = !(ended && head.last);
            return Ok(Next::Piece { bytes, last: ended && head.last });
        }
    }

    /// Reads heads up to that of a data frame; `false` at the farewell.
    async fn begin(&mut self) -> Result<bool, Broken> {
        loop {
            let head = frame::head(&mut self.io, self.side == Side::Server).await?;
            if head.opcode.is_control() {
                if !self.control(&head).await? {
                    return Ok(false);
                }
                continue;
            }
            if (head.opcode == Opcode::Continuation) != self.within {
                return Err(Broken::Protocol("a message within a message"));
            }
            self.current = Some((head, 0));
            return Ok(true);
        }
    }

    async fn control(&mut self, head: &Head) -> Result<bool, Broken> {
        let mut content = vec![0; usize::try_from(head.length).unwrap_or(0)];
        self.io.read_exact(&mut content).await?;
        if let Some(mask) = head.mask {
            frame::apply(mask, 0, &mut content);
        }
        if head.opcode == Opcode::Ping {
            let pong = Frame::Pong { bytes: Bytes::from(content) };
            self.frames.send(pong).await.map_err(|_| Broken::Protocol("nobody is here"))?;
        }
        Ok(head.opcode != Opcode::Close)
    }
}

/// Gives messages to their channels.
pub(super) struct Reader<T> {
    messages: Messages<T>,
    form: Form,
    inlets: BTreeMap<u8, Inlet>,
    activity: Activity,
    /// The channel of the message that is being read.
    channel: Option<u8>,
    /// Digits of base64 that wait for the rest of their four.
    digits: Vec<u8>,
}

impl<T: AsyncRead> Reader<T> {
    pub(super) fn new(
        messages: Messages<T>,
        form: Form,
        inlets: BTreeMap<u8, Inlet>,
        activity: Activity,
    ) -> Self {
        Self { messages, form, inlets, activity, channel: None, digits: Vec::new() }
    }

    /// Ends when the peer is gone or breaks the protocol; with it, every channel does.
    pub(super) async fn run(mut self) {
        while let Ok(Next::Piece { bytes, last }) = self.messages.next().await {
            self.activity.note();
            if self.take(bytes, last).await.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, mut bytes: BytesMut, last: bool) -> Result<(), Broken> {
        let channel = match self.channel {
            Some(channel) => channel,
            // An empty message is a sign of life.
            None if bytes.is_empty() => return Ok(()),
            None => {
                let first = bytes.split_to(1)[0];
                match self.form.encoding {
                    Encoding::Binary => first,
                    Encoding::Base64 => first.wrapping_sub(b'0'),
                }
            }
        };
        self.channel = (!last).then_some(channel);
        let bytes = match self.form.encoding {
            Encoding::Binary => bytes.freeze(),
            Encoding::Base64 => self.decode(&bytes, last)?,
        };
        if channel == ENDS && self.form.ends {
            bytes.iter().for_each(|ended| drop(self.inlets.remove(ended)));
        } else if let Some(inlet) = self.inlets.get(&channel) {
            inlet.put(bytes).await;
        }
        Ok(())
    }

    fn decode(&mut self, bytes: &[u8], last: bool) -> Result<Bytes, Broken> {
        let bad = |_| Broken::Protocol("a message that is no base64");
        self.digits.extend_from_slice(bytes);
        let whole = if last { self.digits.len() } else { self.digits.len() / 4 * 4 };
        let decoded = BASE64_STANDARD.decode(&self.digits[..whole]).map_err(bad)?;
        self.digits.drain(..whole);
        Ok(decoded.into())
    }
}
