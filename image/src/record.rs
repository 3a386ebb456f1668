//! What is known of an image once it is here.

use crate::digest::{ChainId, Digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An image whose content is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its configuration, of an artifact that of its manifest: the one identifier clients see.
    pub id: Digest,
    /// The digest of the manifest for this machine's platform.
    pub manifest: Digest,
    /// Canonical names with a tag: `docker.io/library/busybox:latest`.
    pub tags: Vec<String>,
    /// Canonical names with the digest that was pulled, an index's where there was one:
    /// `docker.io/library/busybox@sha256:…`.
    pub digests: Vec<String>,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// Compressed layers, configuration and manifest, in bytes; never 0.
    pub bytes: u64,
    /// What its author wants of a container.
    pub config: Config,
    /// Annotations of the manifest. Untrusted: shown, never acted on.
    pub annotations: BTreeMap<String, String>,
    /// When the last pull ended, in nanoseconds since the Unix epoch.
    pub pulled_at: u64,
    /// Set for what is no container image: it can be mounted, not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
}

/// What an artifact is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its type, as its author has it. Untrusted.
    pub kind: String,
    /// The digest of its configuration, which many artifacts share.
    pub config: Digest,
}

impl Image {
    /// The digest of its configuration.
    #[must_use]
    pub fn config_digest(&self) -> &Digest {
        self.artifact.as_ref().map_or(&self.id, |artifact| &artifact.config)
    }
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Of the compressed bytes, as the manifest names them.
    pub digest: Digest,
    /// Of the uncompressed tar stream, as the configuration names it.
    pub diff_id: Digest,
    /// Its name in the layer store.
    pub chain_id: ChainId,
    /// Compressed size.
    pub bytes: u64,
}

/// The part of an image's configuration that concerns containers, byte for byte as the author wrote it.
///
/// Untrusted: it configures the workload and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// `user`, `uid`, with or without `:group`; empty for root.
    pub user: String,
    /// Usually `KEY=VALUE`, but nothing has checked that.
    pub env: Vec<String>,
    /// The start of the command line.
    pub entrypoint: Vec<String>,
    /// The rest of the command line.
    pub cmd: Vec<String>,
    /// Empty for `/`.
    pub working_dir: String,
    /// Free-form labels.
    pub labels: BTreeMap<String, String>,
    /// Name or number of the signal that ends the program.
    pub stop_signal: Option<String>,
    /// Paths that want a volume.
    pub volumes: Vec<String>,
    /// `port/protocol`, as documentation.
    pub exposed_ports: Vec<String>,
    /// In Go's spelling: `amd64`.
    pub architecture: String,
    /// In Go's spelling: `linux`.
    pub os: String,
    /// RFC 3339, as the author wrote it.
    pub created: Option<String>,
}
