//! The directory of all layers, whatever form they have: what is there, what it takes, and how a layer gets its name.
//!
//! ```text
//!   <root>/layers/                 0700
//!       <chain id, hex>/           a layer as directories
//!       <chain id, hex>.erofs      a layer as an image
//!       nothing/                   always empty: the root of workers that write an image
//!       staging/<random>           layers in the making, and in removal
//! ```
//!
//! A layer that has its name is whole: content, record and name reach the disk in this order.

use super::area::{self, Area, Nursery, store};
use super::wire::Form;
use super::{LayerError, Usage};
use crate::digest::{ChainId, Digest};
use rustix::fs::{self, CWD};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) dir: OwnedFd,
    pub(super) nursery: Arc<Nursery>,
    pub(super) worker: PathBuf,
    pub(super) nothing: PathBuf,
    layers: Mutex<Known>,
    /// Held while a layer gets or loses its name, and never to look one up.
    naming: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    layers: HashMap<(Form, ChainId), Record>,
    usage: Usage,
}

/// What is noted with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    /// The root of the layer is opaque.
    pub(super) hides_below: bool,
}

const RECORD_VERSION: u32 = 1;

const STAGING: &str = "staging";
const NOTHING: &str = "nothing";

/// The end of an image's name.
const IMAGE: &str = ".erofs";

impl Record {
    pub(super) fn new(bytes: u64, inodes: u64, hides_below: bool) -> Self {
        Self { version: RECORD_VERSION, bytes, inodes, hides_below }
    }

    /// Reads back what [`text`](Self::text) gave.
    pub(super) fn parse(text: &[u8]) -> io::Result<Self> {
        let record: Self = serde_json::from_slice(text)?;
        if record.version == RECORD_VERSION {
            Ok(record)
        } else {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    pub(super) fn text(&self) -> Result<Vec<u8>, LayerError> {
        serde_json::to_vec(self).map_err(io::Error::from).map_err(store("write a layer's record"))
    }
}

impl Shelf {
    /// Opens the store below `root`, making it if need be. `worker` is the path of `berth-unpack`; `read_record` reads
    /// what is noted with the layer of that form and name in the directory.
    ///
    /// What an earlier process left half-done is removed on a thread of its own.
    pub(super) fn open(
        root: &Path,
        worker: &Path,
        read_record: impl Fn(Form, &OwnedFd, &str) -> io::Result<Record>,
    ) -> Result<Self, LayerError> {
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
        let make = |name: &str| {
            area::private_directory(&dir, Path::new(name)).map_err(store("make the store"))
        };
        let staging = make(STAGING)?;
        make(NOTHING)?;
        let nursery = Arc::new(Nursery::new(staging, path.join(STAGING)));
        let left_over = nursery.names()?;
        let nothing = path.join(NOTHING);
        let (layers, naming) = (Mutex::default(), Mutex::default());
        let mut shelf = Self { dir, nursery, worker, nothing, layers, naming };
        let broken = shelf.load(read_record)?;
        sweep(&shelf.nursery, left_over.into_iter().chain(broken).collect())?;
        Ok(shelf)
    }

    /// Reads all records. A layer without one never had its name on disk while it was whole; it is moved away, and a
    /// pull brings it back.
    fn load(
        &mut self,
        read_record: impl Fn(Form, &OwnedFd, &str) -> io::Result<Record>,
    ) -> Result<Vec<OsString>, LayerError> {
        let mut broken = Vec::new();
        let known = self.layers.get_mut().unwrap_or_else(PoisonError::into_inner);
        for name in area::names(&self.dir).map_err(store("list layers"))? {
            if name == STAGING || name == NOTHING {
                continue;
            }
            let Some((name, key)) = name.to_str().and_then(|name| Some((name, from_name(name)?)))
            else {
                tracing::warn!(?name, "not a layer, left alone");
                continue;
            };
            match read_record(key.0, &self.dir, name) {
                Ok(record) => known.add(key, record),
                Err(err) => {
                    tracing::warn!(name, %err, "layer without a record, removed");
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

    pub(super) fn contains(&self, form: Form, layer: &ChainId) -> bool {
        self.known().layers.contains_key(&(form, layer.clone()))
    }

    pub(super) fn record(&self, form: Form, layer: &ChainId) -> Result<Record, LayerError> {
        let record = self.known().layers.get(&(form, layer.clone())).copied();
        record.ok_or_else(|| LayerError::Missing(layer.clone()))
    }

    pub(super) fn list(&self, form: Form) -> Vec<ChainId> {
        let known = self.known();
        known.layers.keys().filter(|key| key.0 == form).map(|key| key.1.clone()).collect()
    }

    /// What all layers take, of either form.
    pub(super) fn usage(&self) -> Usage {
        self.known().usage
    }

    /// Gives a whole layer, whose content and record are on disk, its name. An equal one that is there already is fine.
    pub(super) fn settle(
        &self,
        form: Form,
        layer: &ChainId,
        mut area: Area,
        record: Record,
    ) -> Result<(), LayerError> {
        let _naming = self.naming();
        let is_new = area.settle(&self.dir, &name(form, layer))?;
        if !is_new {
            return match self.contains(form, layer) {
                true => Ok(()),
                // Somebody else put something in our directory.
                false => Err(store("give a layer its place")(rustix::io::Errno::EXIST)),
            };
        }
        fs::fsync(&self.dir).map_err(store("sync a layer's name"))?;
        self.known().add((form, layer.clone()), record);
        Ok(())
    }

    /// Takes a layer off the list with `take`, and gives what that gave; nothing where there is no such layer.
    pub(super) fn forget<T>(
        &self,
        form: Form,
        layer: &ChainId,
        take: impl FnOnce(&str) -> Result<T, LayerError>,
    ) -> Result<Option<T>, LayerError> {
        let _naming = self.naming();
        if !self.contains(form, layer) {
            return Ok(None);
        }
        let taken = take(&name(form, layer))?;
        self.known().remove(&(form, layer.clone()));
        Ok(Some(taken))
    }
}

impl Known {
    fn add(&mut self, key: (Form, ChainId), record: Record) {
        if let Some(old) = self.layers.insert(key, record) {
            self.subtract(old);
        }
        self.usage.bytes = self.usage.bytes.saturating_add(record.bytes);
        self.usage.inodes = self.usage.inodes.saturating_add(record.inodes);
    }

    fn remove(&mut self, key: &(Form, ChainId)) {
        if let Some(old) = self.layers.remove(key) {
            self.subtract(old);
        }
    }

    fn subtract(&mut self, old: Record) {
        self.usage.bytes = self.usage.bytes.saturating_sub(old.bytes);
        self.usage.inodes = self.usage.inodes.saturating_sub(old.inodes);
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

/// The name of a layer's directory or file.
pub(super) fn name(form: Form, layer: &ChainId) -> String {
    let hex = layer.digest().hex();
    match form {
        Form::Directories => hex.to_owned(),
        Form::Erofs => format!("{hex}{IMAGE}"),
    }
}

/// The layer with this name.
fn from_name(name: &str) -> Option<(Form, ChainId)> {
    let (form, hex) = match name.strip_suffix(IMAGE) {
        Some(hex) => (Form::Erofs, hex),
        None => (Form::Directories, name),
    };
    let layer =
        ["sha256", "sha512"].iter().find_map(|algorithm| format!("{algorithm}:{hex}").parse().ok());
    Some((form, layer?))
}

/// A worker's hash of the stream.
pub(super) fn digest(hash: &[u8; 32]) -> Digest {
    let mut text = String::from("sha256:");
    for byte in hash {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text.parse().expect("64 hex digits are a digest")
}
