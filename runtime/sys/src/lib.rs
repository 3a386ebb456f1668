//! What the kernel gives and how it is given back.
//!
//! Every unsafe line of Berth lives in this crate, one operation a block, each with the invariant that makes that call
//! sound. What the rest of the workspace sees is safe: descriptors in, descriptors out.

pub mod confine;
pub mod durable;
pub mod pin;
pub mod undo;

pub use undo::Undo;
