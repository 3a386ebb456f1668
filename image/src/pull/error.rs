//! Why a pull did not come to its end.

use crate::archive::ArchiveError;
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::layer::{Compression, LayerError, LayerFault};
use crate::policy::PolicyError;
use crate::reference::Reference;
use crate::registry::{Fault, RegistryError};
use std::io;
use std::sync::Arc;

/// A pull that gave no image. What it had unpacked by then stays for the next try or the collector.
#[derive(Clone, Debug, thiserror::Error)]
#[error("pull {reference}")]
pub struct PullError {
    reference: Reference,
    source: Arc<PullCause>,
}

/// What kind of failure a [`PullError`] is, for whoever has to choose a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullFault {
    /// The registry does not have it.
    NotFound,
    /// The registry does not give it to this caller.
    Unauthorized,
    /// The registry cannot be reached or does not work; another try may succeed.
    Unavailable,
    /// Bytes that are not what their digest, size or type says.
    InvalidContent,
    /// Sound, but refused by a rule of this node: foreign layers, artifacts, other platforms, redirects out of TLS.
    Refused,
    /// Not signed, or not allowed, as the policy wants it.
    Signature,
    /// More than this node allows one image.
    Limit,
    /// This node's disk: full, broken or read-only.
    Disk,
    /// Anything else of this node.
    Internal,
}

/// The step at which a pull ended.
#[derive(Debug, thiserror::Error)]
pub enum PullCause {
    /// Talking to the registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Reading a manifest, an index or a configuration.
    #[error("read {digest}")]
    Document {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// Fetching a layer.
    #[error("fetch layer {digest}")]
    Fetch {
        /// Which.
        digest: Digest,
        /// What went wrong.
        source: RegistryError,
    },
    /// Unpacking or storing a layer.
    #[error("unpack layer {digest}")]
    Unpack {
        /// Which.
        digest: Digest,
        /// What went wrong.
        source: LayerError,
    },
    /// The uncompressed bytes are not those that the configuration names.
    #[error("layer {digest} unpacks to {got}, its image says {want}")]
    DiffId {
        /// Of the compressed bytes.
        digest: Digest,
        /// In the configuration.
        want: Digest,
        /// What it is.
        got: Digest,
    },
    /// The layer is packed in another way than its media type says.
    #[error("layer {digest} is {got:?} by its first bytes, its media type says {want:?}")]
    Packing {
        /// Which.
        digest: Digest,
        /// By its media type.
        want: Compression,
        /// By its first bytes.
        got: Compression,
    },
    /// A descriptor names more bytes than this node takes.
    #[error("{digest} has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// By its descriptor.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// What is to be fetched does not fit on the disk.
    #[error("{needed} bytes are to be fetched, and {free} are free")]
    NoSpace {
        /// Compressed bytes of all layers that are missing.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// Packed bytes of a layer that are wanted again.
    #[error("layer {0} is not kept in packed form, and its image came from no registry")]
    NotKept(Digest),
    /// A rule about who may be trusted, and for what.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// An archive that an image was to be taken from.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A document has another size than its descriptor says.
    #[error("{digest} has another size than the {want} bytes its index says")]
    Size {
        /// Which.
        digest: Digest,
        /// By its descriptor.
        want: u64,
    },
    /// Writing or reading a document on disk.
    #[error("keep {digest}")]
    Blob {
        /// Which.
        digest: Digest,
        /// What the kernel said.
        source: io::Error,
    },
    /// The unpack worker stopped reading without a word.
    #[error("unpack worker of layer {0} takes no more bytes")]
    Stuck(Digest),
    /// The pipe to the unpack worker.
    #[error("feed the unpack worker of layer {digest}")]
    Feed {
        /// Which.
        digest: Digest,
        /// What the kernel said.
        source: io::Error,
    },
    /// The task that did the work panicked.
    #[error("the work ended without a result")]
    Lost,
    /// The same, shared with another pull that wanted the same layer.
    #[error(transparent)]
    Shared(Arc<PullCause>),
}

impl PullError {
    pub(super) fn new(reference: Reference, source: Arc<PullCause>) -> Self {
        Self { reference, source }
    }

    /// What was to be pulled.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn fault(&self) -> PullFault {
        self.source.fault()
    }

    /// The step that failed.
    #[must_use]
    pub fn cause(&self) -> &PullCause {
        &self.source
    }
}

impl PullCause {
    pub(crate) fn fault(&self) -> PullFault {
        match self {
            Self::Registry(source) | Self::Fetch { source, .. } => registry_fault(source),
            Self::Document { source, .. } if source.is_policy() => PullFault::Refused,
            Self::Document { source, .. } if source.is_limit() => PullFault::Limit,
            Self::Document { .. }
            | Self::DiffId { .. }
            | Self::Packing { .. }
            | Self::Size { .. } => PullFault::InvalidContent,
            Self::Unpack { source, .. } => match source.fault() {
                LayerFault::Content => PullFault::InvalidContent,
                LayerFault::Limit => PullFault::Limit,
                LayerFault::Disk => PullFault::Disk,
                LayerFault::Worker => PullFault::Internal,
            },
            Self::TooLarge { .. } => PullFault::Limit,
            Self::Blob { .. } | Self::NoSpace { .. } => PullFault::Disk,
            Self::Archive(err) if err.is_disk() => PullFault::Disk,
            Self::Archive(_) => PullFault::InvalidContent,
            Self::NotKept(_) => PullFault::NotFound,
            Self::Policy(_) => PullFault::Signature,
            Self::Stuck(_) | Self::Feed { .. } | Self::Lost => PullFault::Internal,
            Self::Shared(cause) => cause.fault(),
        }
    }

    /// Whether the bytes were not what they should be: with a body from several answers, worth another try.
    pub(super) fn is_content(&self) -> bool {
        self.fault() == PullFault::InvalidContent
    }

    /// Whether other credentials, or another registry, might have got it.
    pub(super) fn is_about_access(&self) -> bool {
        match self.fault() {
            PullFault::NotFound | PullFault::Unauthorized | PullFault::Unavailable => true,
            PullFault::InvalidContent
            | PullFault::Refused
            | PullFault::Signature
            | PullFault::Limit
            | PullFault::Disk
            | PullFault::Internal => false,
        }
    }

    /// Whether another try with the same bytes ends the same way.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self.fault(),
            PullFault::InvalidContent
                | PullFault::Refused
                | PullFault::Signature
                | PullFault::Limit
        )
    }

    /// Whether a resumed body was answered with something that does not continue it.
    pub(super) fn is_bad_range(&self) -> bool {
        if let Self::Shared(cause) = self {
            return cause.is_bad_range();
        }
        matches!(self, Self::Fetch { source: RegistryError::Range { .. }, .. })
    }
}

fn registry_fault(err: &RegistryError) -> PullFault {
    match err.fault() {
        Fault::NotFound => PullFault::NotFound,
        Fault::Denied => PullFault::Unauthorized,
        Fault::Unavailable => PullFault::Unavailable,
        Fault::Content => PullFault::InvalidContent,
        Fault::Policy => PullFault::Refused,
        Fault::Limit => PullFault::Limit,
        Fault::Local => PullFault::Internal,
    }
}
