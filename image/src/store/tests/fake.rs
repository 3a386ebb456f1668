//! A layer store in memory, with threads for workers.

use crate::digest::{Algorithm, ChainId, Digest, Hasher};
use crate::layer::wire::Omitted;
use crate::layer::{Compression, LayerError, Layers, Like, Staged, Staging, Usage};
use crate::limits::Limits;
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

#[derive(Debug, Default)]
pub(super) struct FakeLayers {
    layers: Arc<Mutex<BTreeMap<ChainId, Vec<u8>>>>,
    /// In the order of their commits.
    committed: Arc<Mutex<Vec<ChainId>>>,
    live: Arc<AtomicUsize>,
    begun: AtomicUsize,
    /// Layers that hide what is below.
    pub(super) hiding: Mutex<BTreeSet<ChainId>>,
    /// Fail like this instead of committing, when set.
    pub(super) full: Arc<Mutex<bool>>,
}

impl FakeLayers {
    /// Staging areas that somebody still holds.
    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Staging areas that were ever begun.
    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub(super) fn committed(&self) -> Vec<ChainId> {
        self.committed.lock().unwrap().clone()
    }

    /// The uncompressed bytes of a layer.
    pub(super) fn content(&self, layer: &ChainId) -> Option<Vec<u8>> {
        self.layers.lock().unwrap().get(layer).cloned()
    }
}

/// Counts an area for as long as it lives.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct FakeStaging {
    input: Option<File>,
    worker: JoinHandle<io::Result<Vec<u8>>>,
    done: FakeDone,
}

struct FakeDone {
    layers: Arc<Mutex<BTreeMap<ChainId, Vec<u8>>>>,
    committed: Arc<Mutex<Vec<ChainId>>>,
    full: Arc<Mutex<bool>>,
    _alive: Alive,
}

struct FakeStaged {
    diff_id: Digest,
    content: Vec<u8>,
    done: FakeDone,
}

impl Layers for FakeLayers {
    fn contains(&self, layer: &ChainId) -> bool {
        self.layers.lock().unwrap().contains_key(layer)
    }

    fn begin(&self, media: Compression, _limits: &Limits) -> Result<Box<dyn Staging>, LayerError> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let read = File::from(read);
        let worker = std::thread::spawn(move || {
            let mut content = Vec::new();
            match media {
                Compression::Plain => (&read).read_to_end(&mut content)?,
                Compression::Gzip => {
                    flate2::read::MultiGzDecoder::new(read).read_to_end(&mut content)?
                }
                Compression::Zstd => return Err(io::ErrorKind::Unsupported.into()),
            };
            Ok(content)
        });
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.live.fetch_add(1, Ordering::SeqCst);
        let done = FakeDone {
            layers: Arc::clone(&self.layers),
            committed: Arc::clone(&self.committed),
            full: Arc::clone(&self.full),
            _alive: Alive(Arc::clone(&self.live)),
        };
        Ok(Box::new(FakeStaging { input: Some(File::from(write)), worker, done }))
    }

    fn open(&self, layer: &ChainId) -> Result<OwnedFd, LayerError> {
        let there = self.contains(layer).then(|| File::open("/").unwrap().into());
        there.ok_or_else(|| LayerError::Missing(layer.clone()))
    }

    fn hides_below(&self, layer: &ChainId) -> Result<bool, LayerError> {
        Ok(self.hiding.lock().unwrap().contains(layer))
    }

    fn remove(&self, layer: &ChainId) -> Result<(), LayerError> {
        self.layers.lock().unwrap().remove(layer);
        Ok(())
    }

    fn list(&self) -> Result<Vec<ChainId>, LayerError> {
        Ok(self.layers.lock().unwrap().keys().cloned().collect())
    }

    fn usage(&self) -> Usage {
        let layers = self.layers.lock().unwrap();
        let bytes = layers.values().map(|content| content.len() as u64).sum();
        Usage { bytes, inodes: layers.len() as u64 }
    }
}

impl Staging for FakeStaging {
    fn input(&mut self) -> Option<File> {
        self.input.take()
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Staged>, LayerError> {
        let Self { input, worker, done } = *self;
        drop(input);
        let content = worker.join().unwrap().map_err(|err| LayerError::Content(err.to_string()))?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&content);
        Ok(Box::new(FakeStaged { diff_id: hasher.finish(), content, done }))
    }
}

impl Staged for FakeStaged {
    fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    fn omitted(&self) -> &[Omitted] {
        &[]
    }

    fn adopt(&mut self, _: &Omitted, _: &Like) -> Result<(), LayerError> {
        Ok(())
    }

    fn commit(self: Box<Self>, as_layer: &ChainId) -> Result<(), LayerError> {
        if *self.done.full.lock().unwrap() {
            let source = io::Error::from(rustix::io::Errno::NOSPC);
            return Err(LayerError::Store { step: "commit", source });
        }
        self.done.layers.lock().unwrap().insert(as_layer.clone(), self.content);
        self.done.committed.lock().unwrap().push(as_layer.clone());
        Ok(())
    }
}
