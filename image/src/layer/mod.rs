//! The layer seam: where unpacked layers live.
//!
//! A layer is unpacked into a staging area by a confined worker, and becomes visible under its chain id only once
//! both its digests have been checked. It is one EROFS image, or a tree of directories where images cannot be mounted;
//! what a container sees is the same.
//!
//! ```text
//!   begin ──▶ Staging ──input──▶ worker ──finish──▶ Staged ──commit──▶ layer
//!                │                                     │
//!                └─────────────── drop ────────────────┴──▶ nothing
//! ```

mod area;
mod both;
mod erofs;
mod inherit;
mod overlay;
mod shelf;
pub mod wire;
mod worker;

pub use both::LayerStore;
pub use inherit::{Like, inherit};

use crate::digest::{ChainId, Digest};
use crate::limits::Limits;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::Duration;
use wire::Omitted;

/// What new layers are unpacked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// Images where they can be mounted, directories elsewhere.
    #[default]
    Auto,
    /// EROFS images.
    Erofs,
    /// Directories.
    Overlay,
}

/// A store of unpacked layers.
pub trait Layers: Send + Sync + Debug {
    /// Whether the layer is here, whole.
    fn contains(&self, layer: &ChainId) -> bool;

    /// Whether the layer is on disk, be it in a form that cannot be used now.
    fn holds(&self, layer: &ChainId) -> bool {
        self.contains(layer)
    }

    /// Starts a confined worker on an empty staging area.
    ///
    /// # Errors
    ///
    /// Any [`LayerError`]; nothing is left behind then.
    fn begin(&self, media: Compression, limits: &Limits) -> Result<Box<dyn Staging>, LayerError>;

    /// The layer's tree, an `O_PATH` directory.
    ///
    /// # Errors
    ///
    /// [`LayerError::Missing`] when it is not here.
    fn open(&self, layer: &ChainId) -> Result<OwnedFd, LayerError>;

    /// Whether the layer hides everything below it (`.wh..wh..opq` at its root). Overlayfs does not know that of a root, so
    /// layers below it must not be mounted with it.
    ///
    /// # Errors
    ///
    /// [`LayerError::Missing`] when it is not here.
    fn hides_below(&self, layer: &ChainId) -> Result<bool, LayerError>;

    /// Removes a layer; a missing one is fine.
    ///
    /// # Errors
    ///
    /// [`LayerError::Store`] when the file system refuses; what is left is no layer any more.
    fn remove(&self, layer: &ChainId) -> Result<(), LayerError>;

    /// All layers here.
    ///
    /// # Errors
    ///
    /// [`LayerError::Store`] when the directory cannot be read.
    fn list(&self) -> Result<Vec<ChainId>, LayerError>;

    /// What the layers take, from counters.
    fn usage(&self) -> Usage;
}

/// A layer being unpacked. Dropping it kills the worker and removes the area.
pub trait Staging: Send {
    /// The write end of the worker's pipe, for the compressed bytes. Given once.
    fn input(&mut self) -> Option<File>;

    /// Waits for the worker. Blocks; the input must have been closed before.
    ///
    /// # Errors
    ///
    /// What the worker found wrong with the layer, or with itself.
    fn finish(self: Box<Self>) -> Result<Box<dyn Staged>, LayerError>;
}

/// A layer unpacked whole, not yet visible. Dropping it removes the area.
pub trait Staged: Send {
    /// The digest of the whole uncompressed stream.
    fn diff_id(&self) -> &Digest;

    /// Directories that the archive says nothing about.
    fn omitted(&self) -> &[Omitted];

    /// Gives one of those the attributes that it has in the layers below.
    ///
    /// # Errors
    ///
    /// [`LayerError::Store`]; the layer must not be committed then.
    fn adopt(&mut self, omitted: &Omitted, like: &Like) -> Result<(), LayerError>;

    /// Makes the layer durable, then visible. An equal layer already there is fine.
    ///
    /// # Errors
    ///
    /// [`LayerError::Store`]; the layer is not visible then.
    fn commit(self: Box<Self>, as_layer: &ChainId) -> Result<(), LayerError>;
}

/// The layers `chain`, lowest first, as an overlay wants them: topmost first, `O_PATH` directories. One that hides all
/// below it is the last.
pub(crate) fn lowers<'a, I>(layers: &dyn Layers, chain: I) -> Result<Vec<OwnedFd>, LayerError>
where
    I: IntoIterator<Item = &'a ChainId, IntoIter: DoubleEndedIterator>,
{
    let mut lowers = Vec::new();
    for layer in chain.into_iter().rev() {
        lowers.push(layers.open(layer)?);
        if layers.hides_below(layer)? {
            break;
        }
    }
    Ok(lowers)
}

/// How a layer's tar stream is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, several members allowed.
    Gzip,
    /// Zstandard, window at most 128 MiB.
    Zstd,
}

/// What the layer store takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, directories and everything else that has an inode.
    pub inodes: u64,
}

/// Why a layer could not be unpacked, stored, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer's bytes are not what a layer may be.
    #[error("layer refused: {0}")]
    Content(String),
    /// The layer is larger than it may be.
    #[error("layer refused: more than {limit} {what}")]
    Limit {
        /// The thing counted.
        what: &'static str,
        /// Its bound.
        limit: u64,
    },
    /// Images are asked for, and none can be mounted here.
    #[error(
        "mount EROFS images from files, as configured: it needs Linux 6.15, and a disk that is not memory"
    )]
    NoImages(#[source] Box<LayerError>),
    /// No such layer.
    #[error("layer {0} is not in the store")]
    Missing(ChainId),
    /// The store's file system.
    #[error("{step} in the layer store")]
    Store {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The store's file system, while the worker filled it.
    #[error("unpack the layer: {step}")]
    Unpack {
        /// What was tried, and on which entry.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The worker process itself.
    #[error("{step} by the unpack worker")]
    Worker {
        /// What was tried.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The worker ended without a report: a bound on its memory or time, or a system call it must not make.
    #[error("the unpack worker ended early: {0}")]
    Died(ExitStatus),
    /// The worker did nothing for so long that it was killed.
    #[error("the unpack worker stood still for {} s", .0.as_secs())]
    Stalled(Duration),
}

/// Whose fault a [`LayerError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerFault {
    /// The image's: another try with the same bytes ends the same way.
    Content,
    /// The image is larger than this node allows.
    Limit,
    /// This node's disk: full, broken or read-only.
    Disk,
    /// This node's: a worker that could not be started or died.
    Worker,
}

impl LayerError {
    /// Whose fault this is.
    #[must_use]
    pub fn fault(&self) -> LayerFault {
        match self {
            Self::Content(_) => LayerFault::Content,
            Self::Limit { .. } => LayerFault::Limit,
            Self::Missing(_) | Self::Store { .. } | Self::Unpack { .. } | Self::NoImages(_) => {
                LayerFault::Disk
            }
            Self::Worker { .. } | Self::Died(_) | Self::Stalled(_) => LayerFault::Worker,
        }
    }
}
