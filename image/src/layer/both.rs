//! The layers of a node, each in the form that it was unpacked to.

use super::erofs::{self, Erofs};
use super::overlay::{self, Overlay};
use super::shelf::Shelf;
use super::wire::Form;
use super::{Choice, Compression, LayerError, Layers, Staging, Usage};
use crate::digest::ChainId;
use crate::limits::Limits;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// Both stores, in one directory. New layers get one of the two forms; those of the other stay in use.
#[derive(Debug)]
pub struct LayerStore {
    overlay: Overlay,
    erofs: Erofs,
    fresh: Form,
    /// Images can be mounted here.
    mounts_images: bool,
}

impl LayerStore {
    /// Opens the store below `root`, making it if need be. `worker` is the path of `berth-unpack`.
    ///
    /// What an earlier process left half-done is removed on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`LayerError::Store`] when the directories cannot be made or read, [`LayerError::Worker`] when there is no worker,
    /// [`LayerError::NoImages`] when images are asked for and cannot be mounted.
    pub fn open(root: &Path, worker: &Path, choice: Choice) -> Result<Self, LayerError> {
        let shelf = Shelf::open(root, worker, |form, dir, name| match form {
            Form::Directories => overlay::read_record(dir, name),
            Form::Erofs => erofs::read_record(dir, name),
        })?;
        let shelf = Arc::new(shelf);
        let (overlay, erofs) = (Overlay::new(Arc::clone(&shelf)), Erofs::new(Arc::clone(&shelf)));
        let tried = match choice {
            Choice::Overlay if shelf.list(Form::Erofs).is_empty() => None,
            Choice::Auto | Choice::Erofs | Choice::Overlay => Some(erofs.try_out()),
        };
        let (mounts_images, fresh) = match (choice, tried) {
            (Choice::Auto | Choice::Erofs, Some(Ok(()))) => (true, Form::Erofs),
            (Choice::Erofs, Some(Err(err))) => return Err(LayerError::NoImages(Box::new(err))),
            (Choice::Auto, Some(Err(err))) => {
                let err: &dyn std::error::Error = &err;
                tracing::info!(err, "layers are kept as directories: no image can be mounted here");
                (false, Form::Directories)
            }
            (Choice::Overlay, Some(tried)) => (tried.is_ok(), Form::Directories),
            (_, None) => (false, Form::Directories),
        };
        Ok(Self { overlay, erofs, fresh, mounts_images })
    }

    /// What new layers are unpacked into.
    #[must_use]
    pub fn form(&self) -> Form {
        self.fresh
    }

    /// Who has a layer, if anybody has it.
    fn keeper(&self, layer: &ChainId) -> Option<&dyn Layers> {
        if self.mounts_images && self.erofs.contains(layer) {
            return Some(&self.erofs);
        }
        self.overlay.contains(layer).then_some(&self.overlay as &dyn Layers)
    }

    fn having(&self, layer: &ChainId) -> Result<&dyn Layers, LayerError> {
        self.keeper(layer).ok_or_else(|| LayerError::Missing(layer.clone()))
    }
}

impl Layers for LayerStore {
    fn contains(&self, layer: &ChainId) -> bool {
        self.keeper(layer).is_some()
    }

    fn begin(&self, media: Compression, limits: &Limits) -> Result<Box<dyn Staging>, LayerError> {
        match self.fresh {
            Form::Directories => self.overlay.begin(media, limits),
            Form::Erofs => self.erofs.begin(media, limits),
        }
    }

    fn open(&self, layer: &ChainId) -> Result<OwnedFd, LayerError> {
        self.having(layer)?.open(layer)
    }

    fn hides_below(&self, layer: &ChainId) -> Result<bool, LayerError> {
        self.having(layer)?.hides_below(layer)
    }

    /// In whatever form it is there, usable or not.
    fn remove(&self, layer: &ChainId) -> Result<(), LayerError> {
        self.erofs.remove(layer).and(self.overlay.remove(layer))
    }

    fn list(&self) -> Result<Vec<ChainId>, LayerError> {
        let mut all = self.erofs.list()?;
        all.extend(self.overlay.list()?);
        all.sort();
        all.dedup();
        Ok(all)
    }

    fn usage(&self) -> Usage {
        // They share one count.
        self.overlay.usage()
    }
}
