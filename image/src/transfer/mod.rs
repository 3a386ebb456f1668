//! Images on their way out, and in from an archive: push, save, load.
//!
//! A layer is in the store unpacked. Its packed bytes, which its digest names, are asked of the registry it came from
//! when they are wanted again, and only where nobody else has them (an archive was loaded), or the configuration says so,
//! are they kept. Packing anew would make other bytes, another digest and so another image; keeping all would cost a node
//! that never pushes half of its image disk.

mod packed;
mod push;
mod save;

pub use push::PushRequest;
pub use save::Saving;

use crate::archive::{Archive, ArchiveError};
use crate::digest::Digest;
use crate::pull::request::{ProgressSender, Pulled};
use crate::pull::{PullCause, PullFault};
use crate::reference::Reference;
use crate::store::Store;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Images that could not be pushed, saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// To a registry.
    #[error("push {reference}")]
    Push {
        /// Where to.
        reference: Reference,
        /// The step that failed.
        source: PullCause,
    },
    /// To an archive.
    #[error("save image {id}")]
    Save {
        /// Which.
        id: Digest,
        /// The step that failed.
        source: PullCause,
    },
    /// From an archive.
    #[error("load images")]
    Load(#[source] PullCause),
}

impl TransferError {
    /// What kind of failure this is.
    #[must_use]
    pub fn fault(&self) -> PullFault {
        match self {
            Self::Push { source, .. } | Self::Save { source, .. } | Self::Load(source) => {
                source.fault()
            }
        }
    }
}

impl Store {
    /// A file without a name, for an archive that arrives.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn spool(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::openat(rustix::fs::CWD, self.root(), flags, mode)?.into())
    }

    /// Takes the images of an archive over. `base` names those that have only a tag. The content is durable when this
    /// returns; see [`Store::pull`] for the leases.
    ///
    /// # Errors
    ///
    /// [`TransferError::Load`]; of images before the one that failed, the content is left to the collector.
    pub async fn load(
        &self,
        spool: File,
        base: Option<Reference>,
        progress: ProgressSender,
    ) -> Result<Vec<Pulled>, TransferError> {
        let limits = self.limits().clone();
        let this = self.clone();
        let open = move || {
            let file = this.unpacked(spool, limits.compressed_image_bytes)?;
            Archive::open(file, base.as_ref(), &limits)
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let failed = |err: ArchiveError| TransferError::Load(err.into());
        let archive = opened.map_err(|_| TransferError::Load(PullCause::Lost))?.map_err(failed)?;
        let archive = Arc::new(archive);
        let mut all = Vec::new();
        for listed in archive.images() {
            let loaded = self.puller().load(&archive, listed, progress.clone()).await;
            all.push(loaded.map_err(TransferError::Load)?);
        }
        Ok(all)
    }

    /// The archive itself, where it came in gzip.
    fn unpacked(&self, spool: File, limit: u64) -> Result<File, ArchiveError> {
        use std::os::unix::fs::FileExt;
        let mut start = [0; 2];
        let read = spool.read_at(&mut start, 0).map_err(ArchiveError::Read)?;
        if read < start.len() || start != [0x1f, 0x8b] {
            return Ok(spool);
        }
        let unpacked = self.spool().map_err(ArchiveError::Read)?;
        io::Seek::rewind(&mut &spool).map_err(ArchiveError::Read)?;
        crate::archive::unzip(&spool, &unpacked, limit)?;
        Ok(unpacked)
    }
}
