//! The JSON documents of an image: read strictly, because every one of them was written by somebody else.
//!
//! A document is parsed only after its size and digest have been checked, and refused where two readers could read it
//! in two ways: a key twice, a manifest that is an index too, a media type that is not the announced one
//! (CVE-2021-41190).

pub(crate) mod config;
pub(crate) mod json;
pub(crate) mod manifest;
pub(crate) mod media;
pub(crate) mod platform;

use crate::digest::Digest;
use json::BadJson;

/// Why a document is not used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON of the form it must have.
    #[error("parse {what}")]
    Json {
        /// Which document.
        what: &'static str,
        /// What is wrong with it.
        source: BadJson,
    },
    /// The registry announces one type and the document says it is another.
    #[error("media type is {announced:?} by its registry or descriptor, {own:?} by itself")]
    MediaTypeMismatch {
        /// Of the `Content-Type` header or the descriptor.
        announced: String,
        /// Of the document.
        own: String,
    },
    /// No manifest and no index that this node understands.
    #[error("media type {0:?} is neither an image manifest nor an index")]
    UnknownMediaType(String),
    /// A Docker image manifest of version 1.
    #[error("image has a schema 1 manifest, which nobody has written since 2017; push it again")]
    SchemaOne,
    /// One document that is both.
    #[error("{what} has the key {key:?}, which belongs to another kind of document")]
    Confused {
        /// What it is by its media type.
        what: &'static str,
        /// What it is not to have.
        key: &'static str,
    },
    /// `schemaVersion` is not 2.
    #[error("{what} has schema version {version}, not 2")]
    SchemaVersion {
        /// Which document.
        what: &'static str,
        /// The one it has.
        version: i64,
    },
    /// More of something than an image may have.
    #[error("image has {count} {what}, at most {limit} are allowed")]
    TooMany {
        /// The things counted.
        what: &'static str,
        /// How many.
        count: usize,
        /// The bound.
        limit: usize,
    },
    /// Index in index in index.
    #[error("index is nested more than {0} deep")]
    TooDeep(usize),
    /// Nothing in the index runs here.
    #[error("image is not made for {wanted}, only for {}", offered.join(", "))]
    NoPlatform {
        /// This machine.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// No container image but something else that lives in a registry.
    #[error("{0:?} is an artifact, not a container image: it has no root file system")]
    Artifact(String),
    /// A layer whose bytes are to be fetched from a URL in the manifest.
    #[error(
        "layer {0} is a foreign layer (its manifest refers to other servers), which is refused"
    )]
    ForeignLayer(Digest),
    /// A layer in a format this node does not read.
    #[error("layer {digest} has the unknown media type {media_type:?}")]
    UnknownLayer {
        /// Which.
        digest: Digest,
        /// What it says it is.
        media_type: String,
    },
    /// The configuration and the manifest tell different numbers of layers.
    #[error("image has {layers} layers and {diff_ids} diff ids")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
}

impl DocumentError {
    /// Whether the document is sound but more, or other, than this node takes.
    #[must_use]
    pub(crate) fn is_policy(&self) -> bool {
        match self {
            Self::Artifact(_)
            | Self::ForeignLayer(_)
            | Self::NoPlatform { .. }
            | Self::SchemaOne
            | Self::UnknownLayer { .. } => true,
            Self::Json { .. }
            | Self::MediaTypeMismatch { .. }
            | Self::UnknownMediaType(_)
            | Self::Confused { .. }
            | Self::SchemaVersion { .. }
            | Self::TooMany { .. }
            | Self::TooDeep(_)
            | Self::LayerCount { .. } => false,
        }
    }

    /// Whether the document only exceeds a bound.
    #[must_use]
    pub(crate) fn is_limit(&self) -> bool {
        matches!(self, Self::TooMany { .. } | Self::TooDeep(_))
    }
}

/// `text` for an error message, cut short: whoever wrote it may have written a megabyte.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}
