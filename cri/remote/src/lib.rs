//! Byte channels over one connection: what exec, attach and port-forward speak, both ends of it.
//!
//! ```text
//!   connection ─▶ spdy::Spdy ──────────────┐
//!             └─▶ websocket::channels ─────┼─▶ Stream { incoming, outgoing } for each channel, and one Link
//!             └─▶ websocket::tunnel ─▶ spdy┘
//! ```
//!
//! Each connection has a task that reads it and one that writes it, with short queues to and from the channels. A queue
//! that is full holds up the connection, and through TCP its peer: nothing here grows with what a peer sends. Neither
//! protocol's peers keep windows per channel, so a channel that nobody reads holds up its neighbours on the same connection.
//! What a peer says is bounded where it is read, and a connection that breaks its protocol ends.

mod channel;
mod link;
pub mod message;
pub mod spdy;
pub mod websocket;

pub use channel::{Closed, Incoming, Outgoing, Stream};
pub use link::Link;
