//! The image store as the daemon sees it.

use crate::blobs::Blobs;
use crate::digest::{ChainId, Digest};
use crate::layer::{self, Choice, LayerError, LayerStore, Layers, Usage};
use crate::leases::{Content, Leases, Lingering};
use crate::limits::Limits;
use crate::pull::request::{ProgressSender, PullRequest, Pulled};
use crate::pull::{PullCause, PullError, Puller, Rules, Stores};
use crate::record::Image;
use crate::registry::{Client, Patience, Registries, Trust};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a [`Store`] is made of.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Existing directory; `blobs/` and `layers/` are made below it.
    pub root: PathBuf,
    /// The `berth-unpack` binary.
    pub unpack: PathBuf,
    /// What layers are unpacked into.
    pub layers: Choice,
    /// Registries, as image names have them, that are reached over http. Those on loopback always are.
    pub insecure_registries: Vec<String>,
    /// The directory in which each registry may have one, with a `hosts.toml` or certificates: containerd's layout.
    pub registry_config: Option<PathBuf>,
    /// Layers that may be downloading and unpacking at a time, over all pulls.
    pub max_downloads: usize,
    /// Whether layers stay as the registry packed them beside unpacked: a push or save needs no registry then, and the
    /// disk holds everything nearly twice.
    pub keep_packed: bool,
    /// How long what a pull got that was cut off stays without an image, for the next try.
    pub keep_unfinished: Duration,
    /// The file with the policy of signatures, in the form of containers-policy.json(5); everything is accepted without.
    pub policy: Option<PathBuf>,
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
    lingering: Arc<Lingering>,
    client: Arc<Client>,
    limits: Limits,
    root: PathBuf,
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
        let layers = LayerStore::open(&config.root, &config.unpack, config.layers)
            .map_err(StoreError::Layers)?;
        let registries = Registries {
            insecure: config.insecure_registries.clone(),
            config_path: config.registry_config.clone(),
        };
        let client = Client::new(registries, Patience::default(), Trust::default());
        Self::with(config, Arc::new(layers), client)
    }

    fn with(
        config: StoreConfig,
        layers: Arc<dyn Layers>,
        client: Client,
    ) -> Result<Self, StoreError> {
        let client = Arc::new(client);
        let path = config.root.join("blobs");
        let blobs =
            Blobs::open(path.clone()).map_err(|source| StoreError::Open { path, source })?;
        let (blobs, leases) = (Arc::new(blobs), Arc::<Leases>::default());
        let lingering = Arc::new(Lingering::new(config.keep_unfinished));
        let inner = Inner {
            puller: Arc::new(Puller::new(
                Stores {
                    blobs: Arc::clone(&blobs),
                    layers: Arc::clone(&layers),
                    leases: Arc::clone(&leases),
                    lingering: Arc::clone(&lingering),
                },
                Arc::clone(&client),
                Rules {
                    limits: config.limits.clone(),
                    max_downloads: config.max_downloads,
                    keep_packed: config.keep_packed,
                    policy: config.policy,
                },
            )),
            blobs,
            layers,
            leases,
            lingering,
            client,
            limits: config.limits,
            root: config.root,
            collecting: Mutex::new(()),
        };
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
        self.inner.lingering.expire();
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
        layer::lowers(&*self.inner.layers, image.layers.iter().map(|layer| &layer.chain_id))
    }

    /// A manifest or configuration of an image that is here.
    ///
    /// # Errors
    ///
    /// [`PullCause::Blob`] when it is gone or damaged.
    pub(crate) async fn document(&self, digest: &Digest) -> Result<Vec<u8>, PullCause> {
        let (blobs, wanted, limit) =
            (Arc::clone(self.blobs()), digest.clone(), self.limits().document_bytes);
        let read = tokio::task::spawn_blocking(move || blobs.get(&wanted, limit)).await;
        let failed = |source| PullCause::Blob { digest: digest.clone(), source };
        let read = read.map_err(|_| PullCause::Lost)?.map_err(failed)?;
        read.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    pub(crate) fn blobs(&self) -> &Arc<Blobs> {
        &self.inner.blobs
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.inner.client
    }

    pub(crate) fn puller(&self) -> &Puller {
        &self.inner.puller
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Whether all of the image's content is there.
    #[must_use]
    pub fn is_complete(&self, image: &Image) -> bool {
        let Inner { blobs, layers, .. } = &*self.inner;
        blobs.contains(image.config_digest())
            && blobs.contains(&image.manifest)
            && image.layers.iter().all(|layer| layers.contains(&layer.chain_id))
    }

    /// Whether all of the image's content is on disk, be it in a form that cannot be used now, or not readable.
    #[must_use]
    pub fn is_held(&self, image: &Image) -> bool {
        let Inner { blobs, layers, .. } = &*self.inner;
        !blobs.is_gone(image.config_digest())
            && !blobs.is_gone(&image.manifest)
            && image.layers.iter().all(|layer| layers.holds(&layer.chain_id))
    }

    /// Keeps for a while what an earlier process left and none of `claimed` needs: it may be of a pull that its end cut
    /// off. To be called once all records are read, and before the first [`collect`](Self::collect).
    ///
    /// What has an owner is not kept, so that it is freed as soon as that is removed.
    ///
    /// # Errors
    ///
    /// [`StoreError::ListLayers`] and [`StoreError::ListBlobs`]; nothing is kept then.
    pub fn keep_unfinished(&self, claimed: &[Arc<Image>]) -> Result<(), StoreError> {
        let Inner { blobs, layers, leases, lingering, .. } = &*self.inner;
        let claimed: HashSet<Content> = claimed.iter().flat_map(|image| content(image)).collect();
        let layers = layers.list().map_err(StoreError::ListLayers)?;
        let blobs = blobs.list().map_err(StoreError::ListBlobs)?;
        let layers = layers.into_iter().map(Content::Layer);
        let all = layers.chain(blobs.into_iter().map(|blob| Content::Blob(blob.digest)));
        let unclaimed = all.filter(|piece| !claimed.contains(piece)).collect();
        lingering.keep(leases.acquire_first(unclaimed));
        Ok(())
    }

    /// What the layers take, from counters.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.inner.layers.usage()
    }
}

/// All that an image needs.
fn content(image: &Image) -> Vec<Content> {
    let documents =
        [image.config_digest(), &image.manifest].map(|digest| Content::Blob(digest.clone()));
    let layers = image.layers.iter().flat_map(|layer| {
        [Content::Layer(layer.chain_id.clone()), Content::Blob(layer.digest.clone())]
    });
    documents.into_iter().chain(layers).collect()
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
            collection.kept.extend(content(&image));
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
