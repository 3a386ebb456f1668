//! What the kernel gives and how it is given back.
//!
//! Every unsafe line of Berth lives in this crate, one operation a block, each with the invariant that makes that call
//! sound. What the rest of the workspace sees is safe: descriptors in, descriptors out.

pub mod aside;
pub mod bpf;
pub mod clone;
pub mod confine;
pub mod durable;
pub mod exec;
pub mod foresight;
pub mod mount;
pub mod netlink;
pub mod overlay;
pub mod pin;
mod result;
pub mod rights;
pub mod sealed;
pub mod seqpacket;
pub mod signals;
pub mod tree;
pub mod undo;

pub use undo::Undo;
