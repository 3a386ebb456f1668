//! The node's images: the catalogue in memory, its records, and the store behind them.
//!
//! An image is recorded only when its content is on disk, and listed only when it is recorded.

use crate::chain::chain;
use crate::host::blocking;
use crate::metrics::Instruments;
use crate::store::{Records, StoreError};
use image::{
    Ambiguous, ArchiveFormat, Catalog, Credentials, Digest, Export, Image, ProgressSender,
    PullError, PullFault, PullRequest, PushRequest, Reference, Saving, Store, TransferError,
};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// All images of the node.
#[derive(Debug)]
pub(crate) struct Images {
    store: Store,
    records: Arc<Records>,
    catalog: Mutex<Catalog>,
    /// Images that are recorded and not listed: their content is here, in a form that cannot be used now.
    asleep: Mutex<Catalog>,
    /// Held while records and catalogue change together.
    changing: Mutex<()>,
    instruments: Instruments,
    /// Images that something is being made of, listed or not.
    held: Arc<Mutex<Vec<Arc<Image>>>>,
}

/// Keeps the content of an image from being collected until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    image: Arc<Image>,
    held: Arc<Mutex<Vec<Arc<Image>>>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = held.iter().position(|image| Arc::ptr_eq(image, &self.image)) {
            held.swap_remove(at);
        }
    }
}

/// Why something could not be done with an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("image reference {0:?} is missing or none")]
    NoReference(String),
    #[error(transparent)]
    Reference(#[from] image::BadReference),
    #[error(transparent)]
    Ambiguous(#[from] Ambiguous),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("no such image: {0:?}")]
    NotFound(String),
    #[error("{0:?} names a digest; a tag is wanted")]
    NoTag(String),
    #[error("image {0} has no name that says where to push it")]
    Nameless(Digest),
    #[error("read the history of image {id}")]
    History { id: Digest, source: image::pull::PullCause },
    #[error("keep the archive")]
    Spool(#[source] std::io::Error),
    #[error("record image")]
    Record(#[from] StoreError),
    #[error("collect unused content")]
    Collect(#[from] image::StoreError),
}

impl ImageError {
    /// Whether another try with the same bytes ends the same way.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            ImageError::Pull(err) => match err.fault() {
                PullFault::InvalidContent
                | PullFault::Refused
                | PullFault::Signature
                | PullFault::Limit => true,
                PullFault::NotFound
                | PullFault::Unauthorized
                | PullFault::Unavailable
                | PullFault::Disk
                | PullFault::Internal => false,
            },
            ImageError::NoReference(_)
            | ImageError::Transfer(_)
            | ImageError::NotFound(_)
            | ImageError::NoTag(_)
            | ImageError::Nameless(_)
            | ImageError::History { .. }
            | ImageError::Spool(_)
            | ImageError::Reference(_)
            | ImageError::Ambiguous(_)
            | ImageError::Record(_)
            | ImageError::Collect(_) => false,
        }
    }
}

/// Whether `text`, as somebody typed it, is this canonical name.
fn names_it(canonical: &str, text: &str) -> bool {
    text.parse::<Reference>().is_ok_and(|reference| reference.to_string() == canonical)
}

impl Images {
    pub(crate) fn new(store: Store, records: Arc<Records>, instruments: Instruments) -> Self {
        Self {
            store,
            records,
            catalog: Mutex::default(),
            asleep: Mutex::default(),
            changing: Mutex::default(),
            instruments,
            held: Arc::default(),
        }
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asleep(&self) -> MutexGuard<'_, Catalog> {
        self.asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the recorded images over, but those whose content is not whole: they are forgotten, and the next pull
    /// brings them again. Those whose content is there and cannot be used keep it, and their record, for another kernel.
    pub(crate) fn recover(&self) -> Result<(), StoreError> {
        for record in self.records.images()? {
            match record {
                Ok(image) if self.store.is_complete(&image) => {
                    self.catalog().insert(image);
                }
                Ok(image) if self.store.is_held(&image) => {
                    tracing::error!(
                        image = %image.id, names = ?image.tags,
                        "not listed: its content is on disk, and layers cannot be mounted or documents not be read; kept"
                    );
                    self.asleep().insert(image);
                }
                Ok(image) => {
                    tracing::warn!(image = %image.id, "content is missing; forgotten");
                    self.records.delete_image(&image.id.to_string())?;
                }
                Err(broken) => tracing::error!(err = chain(&broken), "skipped"),
            }
        }
        Ok(())
    }

    /// Keeps what an earlier daemon's pulls left unfinished; neither what is recorded nor what `used` names is meant.
    /// After [`Self::recover`], once.
    pub(crate) fn keep_unfinished(&self, used: impl Iterator<Item = Image>) {
        let mut claimed = self.list();
        claimed.extend(self.asleep().list());
        claimed.extend(used.map(Arc::new));
        if let Err(err) = self.store.keep_unfinished(&claimed) {
            tracing::error!(err = chain(&err), "keep what unfinished pulls left");
        }
    }

    /// Pulls an image and records it; on return it is listed.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        request: PullRequest,
        progress: ProgressSender,
    ) -> Result<Digest, ImageError> {
        let begun = Instant::now();
        let pulled = self.store.pull(request, progress).await;
        let result = pulled.as_ref().map_or_else(|err| word(err.fault()), |_| "success");
        self.instruments.pulled(result, begun.elapsed());
        let pulled = pulled?;
        let this = Arc::clone(self);
        blocking(move || {
            let id = pulled.image.id.clone();
            this.add(pulled.image)?;
            drop(pulled.lease);
            Ok(id)
        })
        .await
    }

    /// Takes images over from an archive; on return they are listed.
    pub(crate) async fn load(
        self: &Arc<Self>,
        spool: File,
        base: Option<Reference>,
        progress: ProgressSender,
    ) -> Result<Vec<Image>, ImageError> {
        let loaded = self.store.load(spool, base, progress).await?;
        let this = Arc::clone(self);
        blocking(move || {
            for pulled in &loaded {
                this.add(pulled.image.clone())?;
            }
            Ok(loaded.into_iter().map(|pulled| pulled.image).collect())
        })
        .await
    }

    /// An empty file for an archive.
    pub(crate) fn spool(&self) -> Result<File, ImageError> {
        self.store.spool().map_err(ImageError::Spool)
    }

    /// Pushes an image to where `to` says, or else its name.
    pub(crate) async fn push(
        &self,
        name: &str,
        to: Option<Reference>,
        credentials: Option<Credentials>,
        progress: ProgressSender,
    ) -> Result<Digest, ImageError> {
        let (image, _hold) = self.held(name)?;
        // By an id it is pushed to where its first name says.
        let named = image.tags.iter().find(|tag| names_it(tag, name)).or(image.tags.first());
        let own = || named.and_then(|tag| tag.parse().ok());
        let to = to.or_else(own).ok_or_else(|| ImageError::Nameless(image.id.clone()))?;
        if to.tagged().is_none() {
            return Err(ImageError::NoTag(to.to_string()));
        }
        let request = PushRequest { image: Arc::clone(&image), to, credentials };
        Ok(self.store.push(request, progress).await?)
    }

    /// Begins an archive of images; the holds are to be kept until it has been read.
    pub(crate) async fn save(
        &self,
        names: &[String],
        format: ArchiveFormat,
        credentials: Option<Credentials>,
    ) -> Result<(Saving, Vec<Hold>), ImageError> {
        let (mut exports, mut holds) = (Vec::<Export>::new(), Vec::new());
        for name in names {
            let (image, hold) = self.held(name)?;
            holds.push(hold);
            let named = image.tags.iter().filter(|tag| names_it(tag, name)).cloned();
            let mut tags: Vec<String> = named.collect();
            if tags.is_empty() {
                tags = image.tags.clone();
            }
            match exports.iter_mut().find(|export| export.image.id == image.id) {
                Some(known) => {
                    known.names.extend(tags);
                    known.names.sort();
                    known.names.dedup();
                }
                None => exports.push(Export { image, names: tags }),
            }
        }
        Ok((self.store.save(exports, format, credentials).await?, holds))
    }

    /// The steps in which an image was made, first to last.
    pub(crate) async fn history(
        &self,
        name: &str,
    ) -> Result<(Digest, Vec<image::history::Step>), ImageError> {
        let (image, _hold) = self.held(name)?;
        let steps = self.store.history(&image).await;
        let id = image.id.clone();
        match steps {
            Ok(steps) => Ok((id, steps)),
            Err(source) => Err(ImageError::History { id, source }),
        }
    }

    /// Gives an image one more name.
    pub(crate) fn tag(&self, name: &str, new: &str) -> Result<(), ImageError> {
        let new: Reference = new.parse()?;
        let tag = new.tagged().ok_or_else(|| ImageError::NoTag(new.to_string()))?;
        let (image, _hold) = self.held(name)?;
        let mut image = Image::clone(&image);
        image.tags = vec![tag];
        Ok(self.add(image)?)
    }

    /// Takes one name away from whichever image has it.
    pub(crate) fn untag(&self, name: &str) -> Result<(), ImageError> {
        let reference: Reference = name.parse()?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.catalog().clone();
        let missing = || ImageError::NotFound(name.to_owned());
        let changed = next.untag(&reference).ok_or_else(missing)?;
        self.records.put_image(&changed)?;
        *self.catalog() = next;
        Ok(())
    }

    fn held(&self, name: &str) -> Result<(Arc<Image>, Hold), ImageError> {
        self.hold(name)?.ok_or_else(|| ImageError::NotFound(name.to_owned()))
    }

    fn add(&self, image: Image) -> Result<(), StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.catalog().clone();
        // One that sleeps wakes up by being pulled again, and others lose the names that this one takes.
        let mut asleep = self.asleep().clone();
        let mut changed = asleep.insert(image.clone()).into_iter();
        let whole = changed.next().unwrap_or(image);
        asleep.remove(&whole.id);
        for changed in next.insert(whole).into_iter().chain(changed) {
            self.records.put_image(&changed)?;
        }
        *self.catalog() = next;
        *self.asleep() = asleep;
        Ok(())
    }

    /// Takes an image off the list with all its names; says whether there was one.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, ImageError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = self.resolve(name)?;
        let found = if listed.is_some() { listed } else { self.asleep().resolve(name)? };
        let Some(image) = found else { return Ok(false) };
        self.records.delete_image(&image.id.to_string())?;
        self.catalog().remove(&image.id);
        self.asleep().remove(&image.id);
        Ok(true)
    }

    pub(crate) fn resolve(&self, name: &str) -> Result<Option<Arc<Image>>, Ambiguous> {
        self.catalog().resolve(name)
    }

    /// As [`Self::resolve`], and keeps the content from being collected until the hold is dropped.
    pub(crate) fn hold(&self, name: &str) -> Result<Option<(Arc<Image>, Hold)>, Ambiguous> {
        // Under this lock no removal lies between the look-up and the hold.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(image) = self.resolve(name)? else { return Ok(None) };
        let held = Arc::clone(&self.held);
        held.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&image));
        Ok(Some((Arc::clone(&image), Hold { image, held })))
    }

    pub(crate) fn is_listed(&self, id: &Digest) -> bool {
        self.catalog().list().iter().any(|image| image.id == *id)
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.catalog().list()
    }

    /// The layers of an image, topmost first.
    pub(crate) fn lowers(&self, image: &Image) -> Result<Vec<OwnedFd>, image::layer::LayerError> {
        self.store.lowers(image)
    }

    /// Bytes and inodes of all layers, from counters.
    pub(crate) fn usage(&self) -> image::layer::Usage {
        self.store.usage()
    }

    /// Frees what neither a recorded image nor one of `used` needs.
    pub(crate) fn collect(
        &self,
        used: impl FnOnce() -> Vec<Image>,
    ) -> Result<(), image::StoreError> {
        // In the order in which an image moves from one to the next, so that none slips through.
        let keep = || {
            // A sleeper that wakes up moves into the list.
            let mut keep = self.asleep().list();
            keep.extend(self.list());
            keep.extend(self.held.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
            keep.extend(used().into_iter().map(Arc::new));
            keep
        };
        let collected = self.store.collect(keep).map(drop);
        self.records.put_back_reserve();
        collected
    }
}

/// A failure as a label.
fn word(fault: PullFault) -> &'static str {
    match fault {
        PullFault::InvalidContent => "invalid_content",
        PullFault::Refused => "refused",
        PullFault::Limit => "limit",
        PullFault::NotFound => "not_found",
        PullFault::Unauthorized => "unauthorized",
        PullFault::Unavailable => "unavailable",
        PullFault::Disk => "disk",
        PullFault::Signature => "signature",
        PullFault::Internal => "internal",
    }
}
