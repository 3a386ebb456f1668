//! Channels over WebSocket messages, as Kubernetes' `channel.k8s.io` family has them: the first byte of a message is the
//! channel. A tunnel makes a byte stream of the messages instead, for SPDY over WebSocket.

mod frame;
mod message;
mod tunnel;
mod writer;

pub use tunnel::tunnel;

use crate::channel::{Stream, channel};
use crate::link::{Activity, Link};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use message::{Messages, Reader};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use tokio::io::{AsyncRead, AsyncWrite};

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that asked for it, and has to mask what it sends.
    Client,
    /// The one that answered.
    Server,
}

/// How bytes are put into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are, in binary messages.
    Binary,
    /// In base64, in text messages; the channel is a digit.
    Base64,
}

/// How the channels of a connection are told apart and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// How bytes are put into messages.
    pub encoding: Encoding,
    /// Whether a channel can end before the connection does: `v5.channel.k8s.io` has a message for it.
    pub ends: bool,
}

/// The channel that ends others, where there is that.
const ENDS: u8 = 255;

/// A connection that carries channels.
#[derive(Debug)]
pub struct Channels {
    /// The connection itself.
    pub link: Link,
    streams: BTreeMap<u8, Stream>,
}

impl Channels {
    /// The stream of a channel, once.
    pub fn take(&mut self, channel: u8) -> Option<Stream> {
        self.streams.remove(&channel)
    }
}

/// Carries the channels below `count` over a connection that was upgraded.
pub fn channels<T>(io: T, side: Side, form: Form, count: u8) -> Channels
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let (frames, queue) = Link::queue();
    let activity = Activity::new();
    let (mut streams, mut inlets) = (BTreeMap::new(), BTreeMap::new());
    for number in 0..count {
        let (stream, inlet) = channel(number.into(), &frames);
        streams.insert(number, stream);
        inlets.insert(number, inlet);
    }
    let messages = Messages::new(read, side, frames.clone());
    let reader = Reader::new(messages, form, inlets, activity.clone());
    let writer = writer::run(write, side, form, queue, activity.clone());
    let link = Link::start(frames, activity, reader.run(), writer);
    Channels { link, streams }
}

/// What a server answers to a client's `Sec-WebSocket-Key` (RFC 6455, section 4.2.2).
#[must_use]
pub fn accept(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(hash.finalize())
}

/// A new `Sec-WebSocket-Key`.
#[must_use]
pub fn key() -> String {
    BASE64_STANDARD.encode([random(), random(), random(), random()].concat())
}

/// Four bytes that a peer cannot foresee, where the kernel has them.
fn random() -> [u8; 4] {
    let mut bytes = [0; 4];
    // A mask protects proxies from what a page may choose to send; without one nothing of ours is in danger.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok();
    bytes
}

#[cfg(test)]
mod tests;
