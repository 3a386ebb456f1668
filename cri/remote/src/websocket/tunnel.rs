//! A byte stream in binary messages: what carries SPDY where the way there lets WebSocket through only
//! (`SPDY/3.1+portforward.k8s.io`, KEP-4006).

use super::Side;
use super::frame::Opcode;
use super::message::{Messages, Next};
use super::writer::{farewell, masked, put};
use crate::channel::{Frame, PIECE};
use crate::link::Link;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf};
use tokio::sync::mpsc;

/// What waits in each direction.
const ROOM: usize = 64 << 10;

/// Makes a byte stream of a connection that was upgraded. It ends when the connection does, and dropping it ends that.
pub fn tunnel<T>(io: T, side: Side) -> DuplexStream
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(ROOM);
    let (from_us, mut to_us) = tokio::io::split(theirs);
    let (read, write) = tokio::io::split(io);
    // Only pongs go through the queue.
    let (frames, queue) = Link::queue();
    let mut messages = Messages::new(read, side, frames);
    let reader = tokio::spawn(async move {
        while let Ok(Next::Piece { bytes, .. }) = messages.next().await {
            if to_us.write_all(&bytes).await.is_err() {
                return;
            }
        }
        to_us.shutdown().await.ok();
    });
    tokio::spawn(async move {
        send(from_us, write, queue, side).await;
        // The half that reads holds the connection as well, and our own reader may have stopped reading.
        reader.abort();
    });
    ours
}

async fn send<T: AsyncRead + AsyncWrite>(
    mut from_us: ReadHalf<DuplexStream>,
    mut write: tokio::io::WriteHalf<T>,
    mut queue: mpsc::Receiver<Frame>,
    side: Side,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let bytes = tokio::select! {
            Some(frame) = queue.recv() => match frame {
                Frame::Pong { bytes } => masked(side, Opcode::Pong, &[&bytes]),
                Frame::Open { .. } | Frame::Reply { .. } | Frame::Data { .. } | Frame::Finish { .. }
                | Frame::Reset { .. } | Frame::Close => continue,
            },
            count = from_us.read(&mut buffer) => match count {
                Ok(0) | Err(_) => break,
                Ok(count) => masked(side, Opcode::Binary, &[&buffer[..count]]),
            },
        };
        if put(&mut write, &bytes).await.is_err() {
            return;
        }
    }
    farewell(&mut write, side).await;
}
