//! The layers of a node, each in the form that it was unpacked to.

use super::erofs::{self, Erofs, Probe};
use super::overlay::{self, Overlay};
use super::shelf::Shelf;
use super::wire::Form;
use super::{Choice, Compression, LayerError, Layers, Staging, Usage};
use crate::digest::ChainId;
use crate::limits::Limits;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// Both stores, in one directory. New layers get one of the two forms; those of the other stay in use, as long as the
/// kernel can mount them.
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
    /// [`LayerError::NoImages`] when images are asked for and this kernel cannot mount them. Nothing that may pass, as a
    /// full disk, is an error here: a daemon that serves what it can is worth more to a node than none.
    pub fn open(root: &Path, worker: &Path, choice: Choice) -> Result<Self, LayerError> {
        let shelf = Shelf::open(root, worker, |form, dir, name| match form {
            Form::Directories => overlay::read_record(dir, name),
            Form::Erofs => erofs::read_record(dir, name),
        })?;
        let shelf = Arc::new(shelf);
        let (overlay, erofs) = (Overlay::new(Arc::clone(&shelf)), Erofs::new(Arc::clone(&shelf)));
        let images = shelf.list(Form::Erofs).len();
        let (mounts_images, fresh) = if choice == Choice::Overlay && images == 0 {
            (false, Form::Directories)
        } else {
            decide(choice, images, erofs.try_out())?
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

/// Whether images are mounted, and the form of new layers, where `images` layers are images already.
fn decide(choice: Choice, images: usize, probe: Probe) -> Result<(bool, Form), LayerError> {
    let wanted = match choice {
        Choice::Auto | Choice::Erofs => Form::Erofs,
        Choice::Overlay => Form::Directories,
    };
    match probe {
        Probe::Works => Ok((true, wanted)),
        Probe::Cannot(err) if choice == Choice::Erofs => Err(LayerError::NoImages(Box::new(err))),
        Probe::Cannot(err) => {
            let err: &dyn std::error::Error = &err;
            if images == 0 {
                tracing::info!(err, "layers are kept as directories: no image can be mounted here");
            } else {
                tracing::error!(
                    err,
                    images,
                    "layers that are EROFS images cannot be mounted here; they are kept"
                );
            }
            Ok((false, Form::Directories))
        }
        // The images that are here were mounted once. Should that not go any more, whoever uses one hears why.
        Probe::Unknown(err) if images > 0 || choice == Choice::Erofs => {
            let err: &dyn std::error::Error = &err;
            tracing::error!(
                err,
                images,
                "could not try whether EROFS images can be mounted; taken for granted"
            );
            Ok((true, wanted))
        }
        Probe::Unknown(err) => {
            let err: &dyn std::error::Error = &err;
            tracing::error!(
                err,
                "could not try whether EROFS images can be mounted; layers are kept as directories"
            );
            Ok((false, Form::Directories))
        }
    }
}

impl Layers for LayerStore {
    fn contains(&self, layer: &ChainId) -> bool {
        self.keeper(layer).is_some()
    }

    fn holds(&self, layer: &ChainId) -> bool {
        self.erofs.contains(layer) || self.overlay.contains(layer)
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    fn failed(errno: Errno) -> LayerError {
        LayerError::Store { step: "mount an image", source: errno.into() }
    }

    #[test]
    fn only_a_kernel_that_cannot_takes_images_out_of_use() {
        let (images, directories) = (Form::Erofs, Form::Directories);
        let cases = [
            (Choice::Auto, 0, Some((false, directories)), (false, directories)),
            (Choice::Auto, 1, Some((false, directories)), (true, images)),
            (Choice::Overlay, 1, Some((false, directories)), (true, directories)),
            (Choice::Erofs, 0, None, (true, images)),
            (Choice::Erofs, 1, None, (true, images)),
        ];
        for (choice, count, cannot, unknown) in cases {
            let decided = decide(choice, count, Probe::Cannot(failed(Errno::INVAL)));
            assert_eq!(decided.ok(), cannot, "{choice:?}, {count}: the kernel cannot");
            let decided = decide(choice, count, Probe::Unknown(failed(Errno::NOSPC)));
            assert_eq!(decided.ok(), Some(unknown), "{choice:?}, {count}: the disk is full");
        }
    }
}
