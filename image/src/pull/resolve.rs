//! From a name to what there is to fetch.

use super::error::PullCause;
use super::origin::Origin;
use crate::blobs::Blobs;
use crate::digest::{ChainId, Digest};
use crate::document::DocumentError;
use crate::document::config::ConfigDocument;
use crate::document::manifest::{
    Descriptor, Document, Index, LayerDescriptor, MAX_INDEX_DEPTH, MAX_INDEX_ENTRIES, Manifest,
};
use crate::document::platform::Host;
use crate::leases::{Content, Leases};
use crate::limits::Limits;
use crate::record::Config;
use crate::registry::Fetched;
use std::sync::Arc;

/// Where documents come from: the disk, where they are there already, else the registry.
pub(super) struct Source<'a> {
    pub(super) blobs: &'a Arc<Blobs>,
    pub(super) leases: &'a Arc<Leases>,
    pub(super) origin: &'a Origin,
    pub(super) limits: &'a Limits,
}

/// What a name means on this machine, checked as far as it can be without the layers.
#[derive(Debug)]
pub(super) struct Plan {
    /// The digest the name has at the registry: of an index, or of the manifest.
    pub(super) resolved: Digest,
    pub(super) manifest_digest: Digest,
    pub(super) manifest: Manifest,
    pub(super) config: ConfigDocument,
    /// As many as the manifest has layers, lowest first.
    pub(super) chain: Vec<ChainId>,
    manifest_bytes: Arc<Vec<u8>>,
    config_bytes: Arc<Vec<u8>>,
}

impl Plan {
    /// The documents to keep.
    pub(super) fn documents(&self) -> impl Iterator<Item = (&Digest, &Arc<Vec<u8>>)> {
        [
            (&self.manifest_digest, &self.manifest_bytes),
            (&self.manifest.config.digest, &self.config_bytes),
        ]
        .into_iter()
    }
}

impl Source<'_> {
    /// # Errors
    ///
    /// When the registry does not give it, or what it gives is not an image for this machine.
    pub(super) async fn resolve(&self, top: Fetched) -> Result<Plan, PullCause> {
        let resolved = top.digest.clone();
        let (fetched, manifest) = self.descend(top).await?;
        let manifest_digest = fetched.digest;
        self.check_sizes(&manifest)?;
        let config_bytes = self.config(&manifest.config).await?;
        let config = match &manifest.artifact {
            Some(_) => artifact_config(&manifest),
            None => self.image_config(&manifest, &config_bytes)?,
        };
        Ok(Plan {
            resolved,
            manifest_digest,
            chain: ChainId::chain(&config.diff_ids),
            manifest,
            config,
            manifest_bytes: Arc::new(fetched.bytes),
            config_bytes: Arc::new(config_bytes),
        })
    }

    fn image_config(&self, manifest: &Manifest, bytes: &[u8]) -> Result<ConfigDocument, PullCause> {
        let digest = &manifest.config.digest;
        let bad = |source| PullCause::Document { digest: digest.clone(), source };
        let config = ConfigDocument::parse(bytes, manifest.layers.len()).map_err(bad)?;
        let host = Host::this();
        if !host.runs(&config.config.os, &config.config.architecture) {
            let offered = vec![format!("{}/{}", config.config.os, config.config.architecture)];
            return Err(bad(DocumentError::NoPlatform { wanted: host.to_string(), offered }));
        }
        Ok(config)
    }

    /// Through indexes to the manifest for this machine. Nothing but the chosen entries is fetched.
    async fn descend(&self, top: Fetched) -> Result<(Fetched, Manifest), PullCause> {
        let mut fetched = top;
        let mut entries = 0;
        for depth in 0.. {
            let bad = |source| PullCause::Document { digest: fetched.digest.clone(), source };
            let document = Document::parse(&fetched.bytes, &fetched.media_type, self.limits.layers);
            let index = match document.map_err(bad)? {
                Document::Manifest(manifest) => return Ok((fetched, *manifest)),
                Document::Index(index) => index,
            };
            entries += index.entries.len();
            if entries > MAX_INDEX_ENTRIES {
                let (count, limit) = (entries, MAX_INDEX_ENTRIES);
                return Err(bad(DocumentError::TooMany { what: "index entries", count, limit }));
            }
            if depth == MAX_INDEX_DEPTH {
                return Err(bad(DocumentError::TooDeep(MAX_INDEX_DEPTH)));
            }
            let entry = choose(&index).map_err(bad)?;
            fetched = self.entry(entry).await?;
        }
        unreachable!("a range without an end has none")
    }

    async fn entry(&self, entry: &Descriptor) -> Result<Fetched, PullCause> {
        let Descriptor { digest, size, media_type, .. } = entry;
        self.check_document_size(entry)?;
        let fetched = match self.on_disk(digest).await? {
            Some(bytes) => {
                Fetched { bytes, digest: digest.clone(), media_type: media_type.clone() }
            }
            None => self.origin.manifest(digest, self.limits.document_bytes).await?,
        };
        if fetched.bytes.len() as u64 != *size {
            return Err(PullCause::Size { digest: digest.clone(), want: *size });
        }
        if fetched.media_type != *media_type {
            let (announced, own) = (media_type.clone(), fetched.media_type);
            let source = DocumentError::MediaTypeMismatch { announced, own };
            return Err(PullCause::Document { digest: digest.clone(), source });
        }
        Ok(fetched)
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullCause> {
        let Descriptor { digest, size, .. } = descriptor;
        self.check_document_size(descriptor)?;
        match self.on_disk(digest).await? {
            Some(bytes) if bytes.len() as u64 == *size => Ok(bytes),
            Some(_) => Err(PullCause::Size { digest: digest.clone(), want: *size }),
            None => self.origin.small(digest, *size).await,
        }
    }

    async fn on_disk(&self, digest: &Digest) -> Result<Option<Vec<u8>>, PullCause> {
        // For the time of reading only: what is read is written again where it has gone by the end.
        let lease = self.leases.acquire(vec![Content::Blob(digest.clone())]).await;
        let (blobs, wanted, limit) =
            (Arc::clone(self.blobs), digest.clone(), self.limits.document_bytes);
        let read = tokio::task::spawn_blocking(move || blobs.get(&wanted, limit)).await;
        drop(lease);
        read.map_err(|_| PullCause::Lost)?
            .map_err(|source| PullCause::Blob { digest: digest.clone(), source })
    }

    fn check_sizes(&self, manifest: &Manifest) -> Result<(), PullCause> {
        let limit = self.limits.compressed_layer_bytes;
        if let Some(layer) = manifest.layers.iter().find(|layer| layer.size > limit) {
            let (digest, bytes) = (layer.digest.clone(), layer.size);
            return Err(PullCause::TooLarge { digest, bytes, limit });
        }
        let limit = self.limits.compressed_image_bytes;
        let bytes = manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
        if bytes > limit {
            let digest = manifest.config.digest.clone();
            return Err(PullCause::TooLarge { digest, bytes, limit });
        }
        Ok(())
    }

    fn check_document_size(&self, descriptor: &Descriptor) -> Result<(), PullCause> {
        let limit = self.limits.document_bytes;
        if descriptor.size <= limit {
            return Ok(());
        }
        let (digest, bytes) = (descriptor.digest.clone(), descriptor.size);
        Err(PullCause::TooLarge { digest, bytes, limit })
    }
}

/// An artifact configures nothing, and its files get names in the layer store that follow from what is made of them.
fn artifact_config(manifest: &Manifest) -> ConfigDocument {
    let made_up = |layer: &LayerDescriptor| {
        let head = layer.frame.as_ref().map(|frame| frame.head.as_slice()).unwrap_or_default();
        Digest::of(&[head, layer.digest.as_str().as_bytes()].concat())
    };
    ConfigDocument {
        config: Config::default(),
        diff_ids: manifest.layers.iter().map(made_up).collect(),
    }
}

fn choose(index: &Index) -> Result<&Descriptor, DocumentError> {
    let host = Host::this();
    host.choose(&index.entries).ok_or_else(|| {
        let mut offered: Vec<String> =
            index.entries.iter().filter_map(Descriptor::platform_name).collect();
        offered.sort_unstable();
        offered.dedup();
        offered.truncate(16);
        DocumentError::NoPlatform { wanted: host.to_string(), offered }
    })
}
