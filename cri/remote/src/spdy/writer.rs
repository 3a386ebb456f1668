//! The writing half of a connection.

use super::headers::Packer;
use super::{Broken, CANCEL, FIN, Side, kind};
use crate::channel::Frame;
use crate::link::{Activity, PING};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(super) struct Writer<T> {
    io: T,
    packer: Packer,
    activity: Activity,
    side: Side,
    ping: u32,
}

impl<T: AsyncWrite + Unpin> Writer<T> {
    pub(super) fn new(io: T, activity: Activity, side: Side) -> Self {
        Self { io, packer: Packer::new(), activity, side, ping: side.first() }
    }

    pub(super) async fn run(mut self, mut frames: mpsc::Receiver<Frame>) {
        loop {
            let written = match timeout(PING, frames.recv()).await {
                Ok(Some(Frame::Close) | None) => break,
                Ok(Some(frame)) => self.write(frame).await,
                Err(_) => self.ping().await,
            };
            if written.is_err() {
                return;
            }
        }
        // Whoever has left already needs no farewell.
        self.control(kind::GOAWAY, 0, &[0; 8]).await.ok();
        self.io.shutdown().await.ok();
    }

    async fn write(&mut self, frame: Frame) -> Result<(), Broken> {
        match frame {
            Frame::Open { id, headers } => {
                let packed = self.packer.pack(&headers)?;
                let body = [&id.to_be_bytes()[..], &[0; 6], &packed].concat();
                self.control(kind::SYN_STREAM, 0, &body).await
            }
            Frame::Reply { id } => {
                let packed = self.packer.pack(&[])?;
                let body = [&id.to_be_bytes()[..], &packed].concat();
                self.control(kind::SYN_REPLY, 0, &body).await
            }
            Frame::Data { id, bytes } => {
                self.activity.note();
                self.data(id, 0, &bytes).await
            }
            Frame::Finish { id } => self.data(id, FIN, &[]).await,
            Frame::Reset { id } => {
                let body = [id.to_be_bytes(), CANCEL.to_be_bytes()].concat();
                self.control(kind::RST_STREAM, 0, &body).await
            }
            Frame::Pong { bytes } => self.control(kind::PING, 0, &bytes).await,
            Frame::Close => Ok(()),
        }
    }

    async fn ping(&mut self) -> Result<(), Broken> {
        let body = self.ping.to_be_bytes();
        self.ping = self.ping.checked_add(2).unwrap_or(self.side.first());
        self.control(kind::PING, 0, &body).await
    }

    async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<(), Broken> {
        self.frame(0x8003_0000 | u32::from(kind), flags, body).await
    }

    async fn data(&mut self, id: u32, flags: u8, bytes: &[u8]) -> Result<(), Broken> {
        self.frame(id, flags, bytes).await
    }

    async fn frame(&mut self, word: u32, flags: u8, body: &[u8]) -> Result<(), Broken> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let rest = u32::from(flags) << 24 | length & 0x00ff_ffff;
        let head = [word.to_be_bytes(), rest.to_be_bytes()].concat();
        self.io.write_all(&[&head, body].concat()).await?;
        Ok(self.io.flush().await?)
    }
}
