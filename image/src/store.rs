//! The image store as the daemon sees it.

use crate::blobs::Blobs;
use crate::digest::{ChainId, Digest};
use crate::layer::{LayerError, Layers, Overlay, Usage};
use crate::leases::{Content, Leases};
use crate::limits::Limits;
use crate::pull::request::{ProgressSender, PullRequest, Pulled};
use crate::pull::{PullError, Puller, Stores};
use crate::record::Image;
use crate::registry::{Client, Patience, Trust};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What a [`Store`] is made of.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Existing directory; `blobs/` and `layers/` are made below it.
    pub root: PathBuf,
    /// The `berth-unpack` binary.
    pub unpack: PathBuf,
    /// Registries, as image names have them, that are reached over http. Those on loopback always are.
    pub insecure_registries: Vec<String>,
    /// Layers that may be downloading and unpacking at a time, over all pulls.
    pub max_downloads: usize,
    /// Bounds on what is pulled.
    pub limits: Limits,
}

/// Pulls images and keeps their content. A handle: clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    puller: Arc<Puller>,
    blobs: Arc<Blobs>,
    layers: Arc<dyn Layers>,
    leases: Arc<Leases>,
    /// One collection at a time.
    collecting: Mutex<()>,
}

/// Why the store cannot be opened or collected.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory of the store.
    #[error("open the image store in {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The layer store.
    #[error("open the layer store")]
    Layers(#[source] LayerError),
    /// What is there cannot be listed; nothing was removed.
    #[error("list the layers")]
    ListLayers(#[source] LayerError),
    /// What is there cannot be listed; nothing was removed.
    #[error("list the documents")]
    ListBlobs(#[source] io::Error),
    /// A layer stays; everything else was tried.
    #[error("remove layer {layer}")]
    RemoveLayer {
        /// The first of those that stay.
        layer: ChainId,
        /// Why.
        source: LayerError,
    },
    /// A document stays; everything else was tried.
    #[error("remove document {digest}")]
    RemoveBlob {
        /// The first of those that stay.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
}

/// What a collection gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Layers removed.
    pub layers: usize,
    /// Documents removed.
    pub documents: usize,
    /// Bytes of both.
    pub bytes: u64,
}

impl Store {
    /// Opens the store, or makes an empty one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] and [`StoreError::Layers`] when its directories cannot be made or read.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let layers = Overlay::open(&config.root, &config.unpack).map_err(StoreError::Layers)?;
        let insecure = config.insecure_registries.clone();
        let client = Client::new(insecure, Patience::default(), Trust::default());
        Self::with(config, Arc::new(layers), client)
    }

    fn with(
        config: StoreConfig,
        layers: Arc<dyn Layers>,
        client: Client,
    ) -> Result<Self, StoreError> {
        let path = config.root.join("blobs");
        let blobs =
            Blobs::open(path.clone()).map_err(|source| StoreError::Open { path, source })?;
        let (blobs, leases) = (Arc::new(blobs), Arc::<Leases>::default());
        let stores = Stores {
            blobs: Arc::clone(&blobs),
            layers: Arc::clone(&layers),
            leases: Arc::clone(&leases),
        };
        let puller = Arc::new(Puller::new(stores, client, config.limits, config.max_downloads));
        let inner = Inner { puller, blobs, layers, leases, collecting: Mutex::new(()) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Pulls an image, or joins an equal pull under way (same reference, same credentials).
    ///
    /// The work runs in its own task. Dropping this future gives the pull up, unless others wait for it. The content is
    /// durable when this returns, and safe from [`collect`](Self::collect) while the lease lives.
    ///
    /// # Errors
    ///
    /// See [`PullError::fault`].
    pub async fn pull(
        &self,
        request: PullRequest,
        progress: ProgressSender,
    ) -> Result<Pulled, PullError> {
        self.inner.puller.pull(request, progress).await
    }

    /// Removes content that neither an image of `keep` nor a lease holds. Blocks.
    ///
    /// `keep` is called after the leases have been looked at, so that an image which is recorded, and its lease dropped,
    /// at this very moment is in one of the two.
    ///
    /// # Errors
    ///
    /// The first failure, after everything else was tried.
    pub fn collect(&self, keep: impl FnOnce() -> Vec<Arc<Image>>) -> Result<Reclaimed, StoreError> {
        let _one = self.inner.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let collection = Collection::begin(&self.inner, keep);
        let layers = collection.layers();
        let documents = collection.documents();
        let ((layers, layer_bytes), (documents, document_bytes)) = (layers?, documents?);
        Ok(Reclaimed { layers, documents, bytes: layer_bytes + document_bytes })
    }

    /// The image's layers, topmost first, as an overlay wants them: `O_PATH` directories. A layer that hides all below
    /// it is the last.
    ///
    /// # Errors
    ///
    /// [`LayerError::Missing`] when one is not there.
    pub fn lowers(&self, image: &Image) -> Result<Vec<OwnedFd>, LayerError> {
        let mut lowers = Vec::with_capacity(image.layers.len());
        for layer in image.layers.iter().rev() {
            lowers.push(self.inner.layers.open(&layer.chain_id)?);
            if self.inner.layers.hides_below(&layer.chain_id)? {
                break;
            }
        }
        Ok(lowers)
    }

    /// Whether all of the image's content is there.
    #[must_use]
    pub fn is_complete(&self, image: &Image) -> bool {
        let Inner { blobs, layers, .. } = &*self.inner;
        blobs.contains(&image.id)
            && blobs.contains(&image.manifest)
            && image.layers.iter().all(|layer| layers.contains(&layer.chain_id))
    }

    /// What the layers take, from counters.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.inner.layers.usage()
    }
}

/// A running collection. Nothing that was leased since it began is touched.
struct Collection<'a> {
    inner: &'a Inner,
    kept: HashSet<Content>,
}

impl<'a> Collection<'a> {
    fn begin(inner: &'a Inner, keep: impl FnOnce() -> Vec<Arc<Image>>) -> Self {
        inner.leases.begin_collection();
        // From here on dropping it ends the collection, also when `keep` panics.
        let mut collection = Self { inner, kept: HashSet::new() };
        for image in keep() {
            let layers = image.layers.iter().map(|layer| Content::Layer(layer.chain_id.clone()));
            collection.kept.extend(layers);
            collection.kept.insert(Content::Blob(image.id.clone()));
            collection.kept.insert(Content::Blob(image.manifest.clone()));
        }
        collection
    }

    /// Number and bytes of the layers removed.
    fn layers(&self) -> Result<(usize, u64), StoreError> {
        let before = self.inner.layers.usage();
        let (mut removed, mut failure) = (0, None);
        for layer in self.inner.layers.list().map_err(StoreError::ListLayers)? {
            match self.remove(Content::Layer(layer.clone()), || self.inner.layers.remove(&layer)) {
                Ok(gone) => removed += usize::from(gone),
                Err(source) => {
                    failure = failure.or(Some(StoreError::RemoveLayer { layer, source }))
                }
            }
        }
        let bytes = before.bytes.saturating_sub(self.inner.layers.usage().bytes);
        failure.map_or(Ok((removed, bytes)), Err)
    }

    /// Number and bytes of the documents removed.
    fn documents(&self) -> Result<(usize, u64), StoreError> {
        let (mut removed, mut bytes, mut failure) = (0, 0, None);
        for blob in self.inner.blobs.list().map_err(StoreError::ListBlobs)? {
            let digest = blob.digest;
            match self.remove(Content::Blob(digest.clone()), || self.inner.blobs.remove(&digest)) {
                Ok(true) => {
                    removed += 1;
                    bytes += blob.bytes;
                }
                Ok(false) => {}
                Err(source) => {
                    failure = failure.or(Some(StoreError::RemoveBlob { digest, source }))
                }
            }
        }
        failure.map_or(Ok((removed, bytes)), Err)
    }

    fn remove<E>(&self, piece: Content, remove: impl FnOnce() -> Result<(), E>) -> Result<bool, E> {
        if self.kept.contains(&piece) {
            return Ok(false);
        }
        self.inner.leases.unless_held(&piece, remove)
    }
}

impl Drop for Collection<'_> {
    fn drop(&mut self) {
        self.inner.leases.end_collection();
    }
}

#[cfg(test)]
mod tests;
