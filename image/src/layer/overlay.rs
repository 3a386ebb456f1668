//! Layers as directories, for overlayfs to mount.
//!
//! ```text
//!   <root>/layers/                        0700, like everything up to the trees
//!       <chain id, hex>/diff/             the tree; whiteouts are devices 0:0, opaque directories have the attribute
//!       <chain id, hex>/record            its size, written before the layer gets its name
//!       staging/<random>/                 layers in the making, and in removal
//! ```
//!
//! A layer that has its name is whole: content, record, name and the directory with the name reach the disk in this order.
//!
//! A directory that an archive does not describe, but needs for something below it, is made as root's, 0755, of 1970; on
//! top of a layer that has it overlayfs shows those attributes. A directory below what an earlier layer has as a symbolic
//! link hides the link. Both are what a layer says when it is unpacked on its own, and what lets layers be unpacked at the
//! same time.

use super::area::{self, Area, Nursery, TREE, store};
use super::wire::Unpacked;
use super::worker::Worker;
use super::{Compression, LayerError, Layers, Staged, Staging, Usage};
use crate::digest::{ChainId, Digest};
use crate::limits::Limits;
use rustix::fs::{self, CWD, OFlags, XattrFlags};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The store of layers as directories. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Overlay {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The directory of all layers.
    dir: OwnedFd,
    nursery: Arc<Nursery>,
    worker: PathBuf,
    layers: Mutex<Known>,
    /// Held while a layer gets or loses its name, and never to look one up.
    naming: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    layers: HashMap<ChainId, Record>,
    usage: Usage,
}

/// What a layer's file `record` holds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    bytes: u64,
    inodes: u64,
    /// The root of the layer is opaque.
    hides_below: bool,
}

const RECORD: &str = "record";
const RECORD_VERSION: u32 = 1;

/// A record is never longer; in bytes.
const MAX_RECORD: u64 = 4096;

const STAGING: &str = "staging";

impl Overlay {
    /// Opens the store below `root`, making it if need be. `worker` is the path of `berth-unpack`.
    ///
    /// What an earlier process left half-done is removed on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`LayerError::Store`] when the directories cannot be made or read, [`LayerError::Worker`] when there is no worker.
    pub fn open(root: &Path, worker: &Path) -> Result<Self, LayerError> {
        let step = || format!("look at {}", worker.display());
        let is_file = std::fs::metadata(worker).map(|about| about.is_file());
        match is_file {
            Ok(true) => {}
            Ok(false) => {
                return Err(LayerError::Worker {
                    step: step(),
                    source: io::ErrorKind::InvalidInput.into(),
                });
            }
            Err(source) => return Err(LayerError::Worker { step: step(), source }),
        }
        // Never looked up in PATH.
        let worker = std::path::absolute(worker).map_err(store("find the worker"))?;
        let path = std::path::absolute(root).map_err(store("find the store"))?.join("layers");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(store("make the store"))?;
        let dir = area::private_directory(CWD, &path).map_err(store("make the store"))?;
        let staging =
            area::private_directory(&dir, Path::new(STAGING)).map_err(store("make the store"))?;
        let nursery = Arc::new(Nursery::new(staging, path.join(STAGING)));
        let left_over = nursery.names()?;
        let mut shared =
            Shared { dir, nursery, worker, layers: Mutex::default(), naming: Mutex::default() };
        let broken = shared.load()?;
        sweep(&shared.nursery, left_over.into_iter().chain(broken).collect())?;
        Ok(Self { shared: Arc::new(shared) })
    }
}

/// Removes `names` while others get on with their work.
fn sweep(nursery: &Arc<Nursery>, names: Vec<OsString>) -> Result<(), LayerError> {
    if names.is_empty() {
        return Ok(());
    }
    let nursery = Arc::clone(nursery);
    let run = move || {
        for name in names {
            if let Err(err) = nursery.remove(&name) {
                tracing::warn!(area = ?name, %err, "staging area left behind");
            }
        }
    };
    std::thread::Builder::new().name("layer-sweep".into()).spawn(run).map_err(store("sweep"))?;
    Ok(())
}

impl Shared {
    /// Reads all records. A layer without one never had its name on disk while it was whole; it is moved away, and a
    /// pull brings it back.
    fn load(&mut self) -> Result<Vec<OsString>, LayerError> {
        let mut broken = Vec::new();
        let known = self.layers.get_mut().unwrap_or_else(PoisonError::into_inner);
        for name in area::names(&self.dir).map_err(store("list layers"))? {
            if name == STAGING {
                continue;
            }
            let Some((name, layer)) = name.to_str().and_then(|name| Some((name, from_name(name)?)))
            else {
                tracing::warn!(?name, "not a layer, left alone");
                continue;
            };
            match read_record(&self.dir, name) {
                Ok(record) => known.add(layer, record),
                Err(err) => {
                    tracing::warn!(%layer, %err, "layer without a record, removed");
                    broken.push(self.nursery.take(&self.dir, name)?);
                }
            }
        }
        Ok(broken)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change to it is a single step, so a panic leaves nothing half-done.
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn naming(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, layer: &ChainId) -> Result<Record, LayerError> {
        self.known().layers.get(layer).copied().ok_or_else(|| LayerError::Missing(layer.clone()))
    }
}

impl Known {
    fn add(&mut self, layer: ChainId, record: Record) {
        if let Some(old) = self.layers.insert(layer, record) {
            self.subtract(old);
        }
        self.usage.bytes = self.usage.bytes.saturating_add(record.bytes);
        self.usage.inodes = self.usage.inodes.saturating_add(record.inodes);
    }

    fn remove(&mut self, layer: &ChainId) {
        if let Some(old) = self.layers.remove(layer) {
            self.subtract(old);
        }
    }

    fn subtract(&mut self, old: Record) {
        self.usage.bytes = self.usage.bytes.saturating_sub(old.bytes);
        self.usage.inodes = self.usage.inodes.saturating_sub(old.inodes);
    }
}

impl Layers for Overlay {
    fn contains(&self, layer: &ChainId) -> bool {
        self.shared.known().layers.contains_key(layer)
    }

    fn begin(&self, media: Compression, limits: &Limits) -> Result<Box<dyn Staging>, LayerError> {
        let area = self.shared.nursery.area()?;
        let worker = Worker::start(&self.shared.worker, &area.tree_path(), media, limits)?;
        Ok(Box::new(Unpacking { worker, area, shared: Arc::clone(&self.shared) }))
    }

    fn open(&self, layer: &ChainId) -> Result<OwnedFd, LayerError> {
        self.shared.record(layer)?;
        let path = format!("{}/{TREE}", layer.digest().hex());
        sys::tree::open_below(&self.shared.dir, path.as_bytes(), OFlags::PATH)
            .map_err(store("open a layer"))
    }

    fn hides_below(&self, layer: &ChainId) -> Result<bool, LayerError> {
        Ok(self.shared.record(layer)?.hides_below)
    }

    fn remove(&self, layer: &ChainId) -> Result<(), LayerError> {
        let shared = &self.shared;
        let doomed = {
            let _naming = shared.naming();
            if !self.contains(layer) {
                return Ok(());
            }
            let doomed = shared.nursery.take(&shared.dir, layer.digest().hex())?;
            shared.known().remove(layer);
            // Before a file of it is gone: a crash must not bring back the name of half a layer.
            fs::fsync(&shared.dir).map_err(store("sync the removal of a layer"))?;
            doomed
        };
        shared.nursery.remove(&doomed)
    }

    fn list(&self) -> Result<Vec<ChainId>, LayerError> {
        Ok(self.shared.known().layers.keys().cloned().collect())
    }

    fn usage(&self) -> Usage {
        self.shared.known().usage
    }
}

/// A layer being unpacked. The worker ends before its area is removed: fields are dropped in this order.
struct Unpacking {
    worker: Worker,
    area: Area,
    shared: Arc<Shared>,
}

impl Staging for Unpacking {
    fn input(&mut self) -> Option<File> {
        self.worker.input()
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Staged>, LayerError> {
        let Self { worker, area, shared } = *self;
        let unpacked = worker.finish()?;
        let hides_below = mark_opaque(&area, &unpacked)?;
        if unpacked.skipped_attributes > 0 {
            tracing::debug!(
                count = unpacked.skipped_attributes,
                "extended attributes left out of a layer"
            );
        }
        let record = Record {
            version: RECORD_VERSION,
            bytes: unpacked.bytes,
            inodes: unpacked.inodes,
            hides_below,
        };
        Ok(Box::new(Finished { area, shared, record, diff_id: digest(&unpacked.diff_id) }))
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
    shared: Arc<Shared>,
    record: Record,
    diff_id: Digest,
}

impl Staged for Finished {
    fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    fn commit(self: Box<Self>, as_layer: &ChainId) -> Result<(), LayerError> {
        let Self { mut area, shared, record, .. } = *self;
        if shared.known().layers.contains_key(as_layer) {
            return Ok(());
        }
        // One call for all files: one by one, each would wait for the journal. It reports what went wrong with writing
        // back anything since the area was made.
        fs::syncfs(area.descriptor()).map_err(store("sync a layer"))?;
        let text = serde_json::to_vec(&record)
            .map_err(io::Error::from)
            .map_err(store("write a layer's record"))?;
        sys::durable::replace(&area.path().join(RECORD), &text, 0o600)
            .map_err(store("write a layer's record"))?;
        let _naming = shared.naming();
        let is_new = area.settle(&shared.dir, as_layer.digest().hex())?;
        if !is_new {
            return match shared.known().layers.contains_key(as_layer) {
                true => Ok(()),
                // Somebody else put something in our directory.
                false => Err(store("give a layer its place")(rustix::io::Errno::EXIST)),
            };
        }
        fs::fsync(&shared.dir).map_err(store("sync a layer's name"))?;
        shared.known().add(as_layer.clone(), record);
        Ok(())
    }
}

fn read_record(dir: impl AsFd, name: &str) -> io::Result<Record> {
    let layer = area::directory(dir, name)?;
    if !area::exists(&layer, TREE) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(fs::openat(&layer, RECORD, flags, fs::Mode::empty())?);
    let mut text = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut text)?;
    let record: Record = serde_json::from_slice(&text)?;
    if record.version == RECORD_VERSION {
        Ok(record)
    } else {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The layer whose directory has this name.
fn from_name(hex: &str) -> Option<ChainId> {
    ["sha256", "sha512"].iter().find_map(|algorithm| format!("{algorithm}:{hex}").parse().ok())
}

fn digest(hash: &[u8; 32]) -> Digest {
    let mut text = String::from("sha256:");
    for byte in hash {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text.parse().expect("64 hex digits are a digest")
}
