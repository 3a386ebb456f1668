//! Layers as EROFS images: one file each, mounted from the file where it lies (Linux 6.12), with the mount never attached
//! anywhere, which overlayfs takes as a layer since Linux 6.15.
//!
//! An image's first kilobyte is nobody's in EROFS: there is the record. One fsync makes a layer durable, one unlink
//! removes it; a container that still uses it keeps the file.
//!
//! A layer is mounted once, when it is first wanted, and stays mounted for as long as it is here: two mounts of the same
//! file would be two file systems with two page caches, and containers of one image would share no memory.

use super::area::{Area, store};
use super::inherit::Like;
use super::shelf::{self, Record, Shelf};
use super::wire::{Form, Omitted};
use super::worker::{Target, Worker};
use super::{Compression, LayerError, Layers, Staged, Staging, Usage};
use crate::digest::{ChainId, Digest};
use crate::limits::Limits;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The layers that are images.
#[derive(Debug)]
pub(super) struct Erofs {
    shelf: Arc<Shelf>,
    mounted: Mutex<HashMap<ChainId, Arc<Mutex<Option<OwnedFd>>>>>,
}

/// What an attempt to use an image says.
#[derive(Debug)]
pub(super) enum Probe {
    /// It can be used.
    Works,
    /// This kernel, or the file system that the store is on, cannot: the next try ends the same way.
    Cannot(LayerError),
    /// Something else was in the way: a full disk, no descriptors, a worker that died. Nothing is known.
    Unknown(LayerError),
}

const FORM: Form = Form::Erofs;

/// Layers that are kept mounted without being used; each takes a descriptor.
const MAX_MOUNTED: usize = 4096;

/// What EROFS leaves free at the start, and the beginning of what we put there.
const FREE: usize = 1024;
const MAGIC: &[u8] = b"berth layer\n";

impl Erofs {
    pub(super) fn new(shelf: Arc<Shelf>) -> Self {
        Self { shelf, mounted: Mutex::default() }
    }

    /// Writes an image, mounts it and puts an overlay on it: whether this kernel, and the file system that the store is
    /// on, can do that.
    pub(super) fn try_out(&self) -> Probe {
        match self.write_and_mount() {
            Ok(Ok(())) => Probe::Works,
            Ok(Err((step, source))) => {
                let is_final = is_final(&source);
                let err = LayerError::Store { step, source };
                if is_final { Probe::Cannot(err) } else { Probe::Unknown(err) }
            }
            Err(err) => Probe::Unknown(err),
        }
    }

    /// The inner result is that of the mounts: the step that failed, and what the kernel said.
    fn write_and_mount(&self) -> Result<Result<(), (&'static str, io::Error)>, LayerError> {
        let mut staging = self.begin_unpacking(Compression::Plain, &Limits::default())?;
        if let Some(mut input) = staging.input() {
            input.write_all(&[0; 1024]).map_err(store("feed the worker"))?;
        }
        let finished = staging.finish_image()?;
        let nothing =
            fs::open(&self.shelf.nothing, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                .map_err(store("open an empty directory"))?;
        let image = match mount(&finished.file) {
            Ok(image) => image,
            Err(err) => return Ok(Err(("mount an image", err.into()))),
        };
        let merged = sys::overlay::read_only(&[image, nothing]).map(drop);
        Ok(merged.map_err(|err| ("put an overlay on it", err)))
    }

    fn begin_unpacking(
        &self,
        media: Compression,
        limits: &Limits,
    ) -> Result<Unpacking, LayerError> {
        let (area, file) = self.shelf.nursery.file()?;
        let image = file.try_clone().map_err(store("open a staging area"))?;
        let target = Target::Image { file: image, nothing: &self.shelf.nothing };
        let worker = Worker::start(&self.shelf.worker, target, media, limits)?;
        Ok(Unpacking { worker, area, file, shelf: Arc::clone(&self.shelf) })
    }

    fn mounted(&self) -> MutexGuard<'_, HashMap<ChainId, Arc<Mutex<Option<OwnedFd>>>>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a layer's mount is, or will be.
    fn place(&self, layer: &ChainId) -> Arc<Mutex<Option<OwnedFd>>> {
        let mut mounted = self.mounted();
        if mounted.len() >= MAX_MOUNTED && !mounted.contains_key(layer) {
            let other = mounted.keys().next().cloned();
            other.and_then(|other| mounted.remove(&other));
        }
        Arc::clone(mounted.entry(layer.clone()).or_default())
    }
}

impl Layers for Erofs {
    fn contains(&self, layer: &ChainId) -> bool {
        self.shelf.contains(FORM, layer)
    }

    fn begin(&self, media: Compression, limits: &Limits) -> Result<Box<dyn Staging>, LayerError> {
        Ok(Box::new(self.begin_unpacking(media, limits)?))
    }

    fn open(&self, layer: &ChainId) -> Result<OwnedFd, LayerError> {
        self.shelf.record(FORM, layer)?;
        let place = self.place(layer);
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let root = match place.take() {
            Some(root) => root,
            None => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let name = shelf::name(FORM, layer);
                let file = fs::openat(&self.shelf.dir, name, flags, Mode::empty())
                    .map_err(store("open a layer"))?;
                mount(&file).map_err(store("mount a layer"))?
            }
        };
        place.insert(root).try_clone().map_err(store("open a layer"))
    }

    fn hides_below(&self, layer: &ChainId) -> Result<bool, LayerError> {
        Ok(self.shelf.record(FORM, layer)?.hides_below)
    }

    fn remove(&self, layer: &ChainId) -> Result<(), LayerError> {
        // Should a power cut bring the name back, then with the whole layer: nothing has to be synced.
        self.shelf.forget(FORM, layer, |name| {
            fs::unlinkat(&self.shelf.dir, name, AtFlags::empty()).map_err(store("remove a layer"))
        })?;
        self.mounted().remove(layer);
        Ok(())
    }

    fn list(&self) -> Result<Vec<ChainId>, LayerError> {
        Ok(self.shelf.list(FORM))
    }

    fn usage(&self) -> Usage {
        self.shelf.usage()
    }
}

/// Whether a mount failed because it is not possible here, and not because of what is the matter right now.
fn is_final(err: &io::Error) -> bool {
    // No EROFS (ENODEV); none from a file, or not from a file of this disk (ENOTBLK, EINVAL, EOPNOTSUPP); no such system
    // call (ENOSYS) or no right to it (EPERM); no overlay on a mount that is attached nowhere (ESTALE, seen on 6.12).
    let cannot = [
        Errno::NODEV,
        Errno::NOTBLK,
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::NOSYS,
        Errno::PERM,
        Errno::STALE,
    ];
    Errno::from_io_error(err).is_some_and(|errno| cannot.contains(&errno))
}

/// Mounts the image in `file`, nowhere.
fn mount(file: impl AsFd) -> Result<OwnedFd, Errno> {
    let source = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    sys::mount::new("erofs", [("source", &source[..])], MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// A layer being written. The worker ends before its area is removed: fields are dropped in this order.
struct Unpacking {
    worker: Worker,
    area: Area,
    file: File,
    shelf: Arc<Shelf>,
}

impl Unpacking {
    fn finish_image(self) -> Result<Finished, LayerError> {
        let Self { worker, area, file, shelf } = self;
        let unpacked = worker.finish()?;
        let hides_below = unpacked.opaque.iter().any(Vec::is_empty);
        let about = fs::fstat(&file).map_err(store("look at a layer"))?;
        // In units of 512 bytes, whatever the file system.
        let record = Record::new(about.st_blocks.unsigned_abs() * 512, 1, hides_below);
        let diff_id = shelf::digest(&unpacked.diff_id);
        Ok(Finished { area, file, shelf, record, diff_id, omitted: unpacked.omitted })
    }
}

impl Staging for Unpacking {
    fn input(&mut self) -> Option<File> {
        self.worker.input()
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Staged>, LayerError> {
        Ok(Box::new(self.finish_image()?))
    }
}

/// A layer that waits for its name.
struct Finished {
    area: Area,
    file: File,
    shelf: Arc<Shelf>,
    record: Record,
    diff_id: Digest,
    omitted: Vec<Omitted>,
}

impl Staged for Finished {
    fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    fn omitted(&self) -> &[Omitted] {
        &self.omitted
    }

    /// Writes over the inode, `struct erofs_inode_extended`. Its place is the worker's word, as the whole image is.
    fn adopt(&mut self, omitted: &Omitted, like: &Like) -> Result<(), LayerError> {
        const MODE: u64 = 4;
        const OWNER: u64 = 24;
        let place = omitted.place;
        let mode = u16::try_from(0o040_000 | like.mode & 0o7777).unwrap_or(0o040_755);
        let owner = [
            &like.uid.to_le_bytes()[..],
            &like.gid.to_le_bytes(),
            &like.seconds.to_le_bytes(),
            &like.nanoseconds.to_le_bytes(),
        ];
        let write = || {
            self.file.write_all_at(&mode.to_le_bytes(), place.saturating_add(MODE))?;
            self.file.write_all_at(&owner.concat(), place.saturating_add(OWNER))
        };
        let is_inside = place.saturating_add(64) <= self.file.metadata().map_or(0, |of| of.len());
        let written = if is_inside { write() } else { Err(io::ErrorKind::InvalidData.into()) };
        written.map_err(store("set the attributes of a directory"))
    }

    fn commit(self: Box<Self>, as_layer: &ChainId) -> Result<(), LayerError> {
        let Self { area, file, shelf, record, .. } = *self;
        if shelf.contains(FORM, as_layer) {
            return Ok(());
        }
        let mut text = [MAGIC, &record.text()?].concat();
        text.resize(FREE, 0);
        file.write_all_at(&text, 0).map_err(store("write a layer's record"))?;
        file.sync_all().map_err(store("sync a layer"))?;
        shelf.settle(FORM, as_layer, area, record)
    }
}

/// Reads the record of the image with this name.
pub(super) fn read_record(dir: impl AsFd, name: &str) -> io::Result<Record> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(fs::openat(dir, name, flags, Mode::empty())?);
    let mut text = [0; FREE];
    file.read_exact_at(&mut text, 0)?;
    let text = text.strip_prefix(MAGIC).ok_or(io::ErrorKind::InvalidData)?;
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    Record::parse(&text[..end])
}
