//! Images: names, registries, pulls, blobs and layers.

pub mod digest;
pub mod layer;
pub mod limits;

pub use digest::{ChainId, Digest};
pub use limits::Limits;
