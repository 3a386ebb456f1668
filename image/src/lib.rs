//! Images: names, registries, pulls, blobs and layers.
//!
//! ```text
//!   "busybox" ──► reference ──► pull ──► registry          Catalog: which name is which image (pure)
//!                                │          │
//!                document: parse strictly   │ bytes        Store: pull, collect, lowers
//!                                ▼          ▼
//!                              blobs      layer ──► berth-unpack, confined
//! ```
//!
//! [`Store::pull`] resolves a name, checks manifest and configuration, streams each missing layer through a hash into a
//! confined worker and commits it under its chain id once both its digests are right. The caller records the [`Image`]
//! it gets and then drops the [`Lease`]. [`Store::collect`] removes what neither record nor lease holds. A failed or
//! abandoned pull leaves whole layers, for the next try or the collector, and nothing else.
//!
//! Everything an image brings along is untrusted: it is bounded, checked, kept byte for byte, and never acted on.

mod archive;
mod blobs;
pub mod catalog;
pub mod digest;
mod document;
pub mod history;
pub mod layer;
mod leases;
pub mod limits;
mod policy;
pub mod pull;
pub mod record;
pub mod reference;
mod registry;
pub mod store;
pub mod transfer;

pub use archive::write::{ArchiveFormat, Export};
pub use catalog::{Ambiguous, Catalog};
pub use digest::{ChainId, Digest};
pub use layer::{Choice, LayerError, LayerFault, Usage};
pub use leases::Lease;
pub use limits::Limits;
pub use pull::request::{
    Auth, Credentials, LayerProgress, LayerState, Progress, ProgressSender, PullRequest, Pulled,
};
pub use pull::{PullError, PullFault};
pub use record::{Artifact, Config, Image, Layer};
pub use reference::{BadReference, Reference};
pub use store::{Reclaimed, Store, StoreConfig, StoreError};
pub use transfer::{PushRequest, Saving, TransferError};
