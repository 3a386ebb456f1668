//! Images: names, registries, pulls, blobs and layers.

mod blobs;
pub mod catalog;
pub mod digest;
mod document;
pub mod layer;
mod leases;
pub mod limits;
pub mod pull;
pub mod record;
pub mod reference;
mod registry;
pub mod store;

pub use catalog::{Ambiguous, Catalog};
pub use digest::{ChainId, Digest};
pub use layer::{LayerError, LayerFault, Usage};
pub use leases::Lease;
pub use limits::Limits;
pub use pull::request::{
    Auth, LayerProgress, LayerState, Progress, ProgressSender, PullRequest, Pulled,
};
pub use pull::{PullError, PullFault};
pub use record::{Config, Image, Layer};
pub use reference::{BadReference, Reference};
pub use store::{Reclaimed, Store, StoreConfig, StoreError};
