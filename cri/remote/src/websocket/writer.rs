//! The writing half.

use super::frame::{self, Broken, Opcode};
use super::{ENDS, Encoding, Form, Side, random};
use crate::channel::Frame;
use crate::link::{Activity, PING};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The code of a normal farewell (RFC 6455, section 7.4.1).
const NORMAL: u16 = 1000;

/// Writes frames until the last one, or until the peer is gone.
pub(super) async fn run<T: AsyncWrite>(
    mut io: WriteHalf<T>,
    side: Side,
    form: Form,
    mut frames: mpsc::Receiver<Frame>,
    activity: Activity,
) {
    loop {
        let bytes = match timeout(PING, frames.recv()).await {
            Ok(Some(Frame::Close) | None) => break,
            Ok(Some(frame)) => {
                // Neither our own pings nor answers to the peer's are activity.
                if matches!(frame, Frame::Data { .. }) {
                    activity.note();
                }
                encode(side, form, &frame)
            }
            Err(_) => Some(masked(side, Opcode::Ping, &[])),
        };
        let Some(bytes) = bytes else { continue };
        if put(&mut io, &bytes).await.is_err() {
            return;
        }
    }
    farewell(&mut io, side).await;
}

/// Whoever has left already needs no farewell.
pub(super) async fn farewell<T: AsyncWrite>(io: &mut WriteHalf<T>, side: Side) {
    let bytes = masked(side, Opcode::Close, &[&NORMAL.to_be_bytes()]);
    put(io, &bytes).await.ok();
    io.shutdown().await.ok();
}

pub(super) async fn put<T: AsyncWrite>(io: &mut WriteHalf<T>, bytes: &[u8]) -> Result<(), Broken> {
    io.write_all(bytes).await?;
    Ok(io.flush().await?)
}

pub(super) fn masked(side: Side, opcode: Opcode, parts: &[&[u8]]) -> Vec<u8> {
    frame::write(opcode, (side == Side::Client).then(random), parts)
}

fn encode(side: Side, form: Form, frame: &Frame) -> Option<Vec<u8>> {
    match frame {
        Frame::Data { id, bytes } => Some(message(side, form, *id, bytes)),
        Frame::Finish { id } | Frame::Reset { id } if form.ends => {
            let ended = u8::try_from(*id).unwrap_or(ENDS);
            Some(message(side, form, ENDS.into(), &[ended]))
        }
        Frame::Pong { bytes } => Some(masked(side, Opcode::Pong, &[bytes])),
        // Channels are there from the beginning to the end.
        Frame::Finish { .. }
        | Frame::Reset { .. }
        | Frame::Open { .. }
        | Frame::Reply { .. }
        | Frame::Close => None,
    }
}

fn message(side: Side, form: Form, channel: u32, bytes: &[u8]) -> Vec<u8> {
    let channel = u8::try_from(channel).unwrap_or(ENDS);
    match form.encoding {
        Encoding::Binary => masked(side, Opcode::Binary, &[&[channel], bytes]),
        Encoding::Base64 => {
            let digits = BASE64_STANDARD.encode(bytes);
            let channel = channel.wrapping_add(b'0');
            masked(side, Opcode::Text, &[&[channel], digits.as_bytes()])
        }
    }
}
