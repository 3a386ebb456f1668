//! Layers as directories, for overlayfs to mount: for kernels that cannot mount an image from a file.
//!
//! ```text
//!   <chain id, hex>/diff/             the tree; whiteouts are devices 0:0, opaque directories have the attribute
//!   <chain id, hex>/record            its size, written before the layer gets its name
//! ```

use super::area::{self, Area, TREE, store};
use super::inherit::Like;
use super::shelf::{self, Record, Shelf};
use super::wire::{Form, Omitted, Unpacked};
use super::worker::{Target, Worker};
use super::{Compression, LayerError, Layers, Staged, Staging, Usage};
use crate::digest::{ChainId, Digest};
use crate::limits::Limits;
use rustix::fs::{self, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The layers that are directories.
#[derive(Debug)]
pub(super) struct Overlay {
    shelf: Arc<Shelf>,
}

const FORM: Form = Form::Directories;

const RECORD: &str = "record";

/// A record is never longer; in bytes.
const MAX_RECORD: u64 = 4096;

impl Overlay {
    pub(super) fn new(shelf: Arc<Shelf>) -> Self {
        Self { shelf }
    }
}

impl Layers for Overlay {
    fn contains(&self, layer: &ChainId) -> bool {
        self.shelf.contains(FORM, layer)
    }

    fn begin(&self, media: Compression, limits: &Limits) -> Result<Box<dyn Staging>, LayerError> {
        let area = self.shelf.nursery.area()?;
        let tree = area.tree_path();
        let worker = Worker::start(&self.shelf.worker, Target::Directory(&tree), media, limits)?;
        Ok(Box::new(Unpacking { worker, area, shelf: Arc::clone(&self.shelf) }))
    }

    fn open(&self, layer: &ChainId) -> Result<OwnedFd, LayerError> {
        self.shelf.record(FORM, layer)?;
        let path = format!("{}/{TREE}", shelf::name(FORM, layer));
        sys::tree::open_below(&self.shelf.dir, path.as_bytes(), OFlags::PATH)
            .map_err(store("open a layer"))
    }

    fn hides_below(&self, layer: &ChainId) -> Result<bool, LayerError> {
        Ok(self.shelf.record(FORM, layer)?.hides_below)
    }

    fn remove(&self, layer: &ChainId) -> Result<(), LayerError> {
        let Shelf { nursery, dir, .. } = &*self.shelf;
        let doomed = self.shelf.forget(FORM, layer, |name| {
            let doomed = nursery.take(dir, name)?;
            // Before a file of it is gone: a crash must not bring back the name of half a layer.
            fs::fsync(dir).map_err(store("sync the removal of a layer"))?;
            Ok(doomed)
        })?;
        doomed.map_or(Ok(()), |doomed| nursery.remove(&doomed))
    }

    fn list(&self) -> Result<Vec<ChainId>, LayerError> {
        Ok(self.shelf.list(FORM))
    }

    fn usage(&self) -> Usage {
        self.shelf.usage()
    }
}

/// A layer being unpacked. The worker ends before its area is removed: fields are dropped in this order.
struct Unpacking {
    worker: Worker,
    area: Area,
    shelf: Arc<Shelf>,
}

impl Staging for Unpacking {
    fn input(&mut self) -> Option<File> {
        self.worker.input()
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Staged>, LayerError> {
        let Self { worker, area, shelf } = *self;
        let unpacked = worker.finish()?;
        let hides_below = mark_opaque(&area, &unpacked)?;
        let record = Record::new(unpacked.bytes, unpacked.inodes, hides_below);
        let diff_id = shelf::digest(&unpacked.diff_id);
        Ok(Box::new(Finished { area, shelf, record, diff_id, omitted: unpacked.omitted }))
    }
}

/// Gives the directories that the worker named the attribute that only this process may set. True where the root is one.
///
/// The names are the worker's word: each is resolved below the tree, through no link and no mount, so the worst that a
/// lie can do is to hide something in a layer that is the liar's anyway.
fn mark_opaque(area: &Area, unpacked: &Unpacked) -> Result<bool, LayerError> {
    let tree = area.tree()?;
    let mut hides_below = false;
    for path in &unpacked.opaque {
        if path.is_empty() {
            hides_below = true;
            continue;
        }
        let dir = sys::tree::open_below(&tree, path, OFlags::RDONLY)
            .map_err(store("open an opaque directory"))?;
        fs::fsetxattr(&dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .map_err(store("mark an opaque directory"))?;
    }
    Ok(hides_below)
}

/// A layer that waits for its name.
struct Finished {
    area: Area,
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

    fn adopt(&mut self, omitted: &Omitted, like: &Like) -> Result<(), LayerError> {
        // As with opaque directories, the path is the worker's word.
        let dir = sys::tree::open_below(self.area.tree()?, &omitted.path, OFlags::RDONLY)
            .map_err(store("open a directory"))?;
        let (uid, gid) = (Uid::from_raw(like.uid), Gid::from_raw(like.gid));
        let time = Timespec { tv_sec: like.seconds, tv_nsec: like.nanoseconds.into() };
        fs::fchown(&dir, Some(uid), Some(gid))
            .and_then(|()| fs::fchmod(&dir, Mode::from_raw_mode(like.mode)))
            .and_then(|()| {
                fs::futimens(&dir, &Timestamps { last_access: time, last_modification: time })
            })
            .map_err(store("set the attributes of a directory"))
    }

    fn commit(self: Box<Self>, as_layer: &ChainId) -> Result<(), LayerError> {
        let Self { area, shelf, record, .. } = *self;
        if shelf.contains(FORM, as_layer) {
            return Ok(());
        }
        // One call for all files: one by one, each would wait for the journal. It reports what went wrong with writing
        // back anything since the area was made.
        fs::syncfs(area.descriptor()).map_err(store("sync a layer"))?;
        sys::durable::replace(&area.path().join(RECORD), &record.text()?, 0o600)
            .map_err(store("write a layer's record"))?;
        shelf.settle(FORM, as_layer, area, record)
    }
}

/// Reads the record of the layer with this name.
pub(super) fn read_record(dir: impl AsFd, name: &str) -> io::Result<Record> {
    let layer = area::directory(dir, name)?;
    if !area::exists(&layer, TREE) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(fs::openat(&layer, RECORD, flags, fs::Mode::empty())?);
    let mut text = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut text)?;
    Record::parse(&text)
}
