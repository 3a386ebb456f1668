//! One layer on its way: socket, hash, worker, check, commit, in one pass.
//!
//! ```text
//! registry ──bytes──► sha256, count ──pipe──► worker: inflate, sha256, unpack ──► staged
//!                                                 digest and diff id agree? ──► below is there? ──► commit
//! ```

use super::error::PullCause;
use super::flight::Seat;
use super::request::{LayerProgress, LayerState};
use crate::digest::{ChainId, Digest, Hasher};
use crate::document::manifest::LayerDescriptor;
use crate::document::media;
use crate::layer::{LayerError, Layers, Staged, Staging};
use crate::limits::Limits;
use crate::registry::{BlobStream, RegistryError, Repository};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, watch};

/// Progress is told each time so many bytes have come.
const TELL_EVERY: u64 = 256 << 10;

/// One layer to fetch.
pub(super) struct Job {
    pub(super) descriptor: LayerDescriptor,
    pub(super) diff_id: Digest,
    pub(super) chain_id: ChainId,
    pub(super) repository: Repository,
    /// The layer below, where that is on its way too. Held, so that it is not cancelled while this one needs it.
    pub(super) below: Option<Seat<(), LayerProgress>>,
    pub(super) bench: Bench,
}

/// What the work is done with.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub(super) layers: Arc<dyn Layers>,
    pub(super) limits: Limits,
    /// Layers that may be downloading and unpacking at a time.
    pub(super) downloads: Arc<Semaphore>,
    /// How long the worker may take no byte.
    pub(super) stall: Duration,
}

impl Job {
    /// Fetches, checks and commits the layer.
    pub(super) async fn run(self, progress: watch::Sender<LayerProgress>) -> Result<(), PullCause> {
        let permit = self.bench.downloads.acquire().await.map_err(|_| PullCause::Lost)?;
        progress.send_modify(|progress| progress.state = LayerState::Downloading);
        let ready = self.stage(&progress).await?;
        // Waiting for the layer below must not keep that very layer from its turn.
        drop(permit);
        if let Some(below) = &self.below {
            below.wait().await.map_err(PullCause::Shared)?;
        }
        let chain_id = self.chain_id.clone();
        let committed = tokio::task::spawn_blocking(move || ready.commit(&chain_id)).await;
        committed.map_err(|_| PullCause::Lost)?.map_err(|source| self.unpack(source))?;
        progress.send_modify(|progress| progress.state = LayerState::Unpacked);
        Ok(())
    }

    /// Unpacks the layer into a staging area, both digests checked. When parts of several answers do not make the
    /// layer, it is fetched once more from its first byte.
    async fn stage(&self, progress: &watch::Sender<LayerProgress>) -> Result<Ready, PullCause> {
        let (digest, size) = (&self.descriptor.digest, self.descriptor.size);
        let mut stream = BlobStream::new(self.repository.clone(), digest.clone(), size);
        match self.stage_once(&mut stream, progress).await {
            Err(err) if err.is_bad_range() || stream.was_resumed() && err.is_content() => {
                tracing::debug!(
                    ?digest,
                    err = &err as &dyn std::error::Error,
                    "fetch layer from its start"
                );
                let mut stream = BlobStream::new(self.repository.clone(), digest.clone(), size);
                self.stage_once(&mut stream, progress).await
            }
            result => result,
        }
    }

    async fn stage_once(
        &self,
        stream: &mut BlobStream,
        progress: &watch::Sender<LayerProgress>,
    ) -> Result<Ready, PullCause> {
        let (layers, limits) = (Arc::clone(&self.bench.layers), self.bench.limits.clone());
        let compression = self.descriptor.compression;
        let begun = tokio::task::spawn_blocking(move || {
            let mut staging = layers.begin(compression, &limits)?;
            let input = staging.input();
            Ok((Area(Some(staging)), input))
        });
        let begun = begun.await.map_err(|_| PullCause::Lost)?;
        let (area, input) = begun.map_err(|source| self.unpack(source))?;
        let input = input.ok_or_else(|| PullCause::Stuck(self.descriptor.digest.clone()))?;
        let input = pipe::Sender::from_file(input).map_err(|source| self.feed_error(source))?;
        let fed = self.feed(stream, input, progress).await?;
        let staged = tokio::task::spawn_blocking(move || area.finish()).await;
        let ready = staged.map_err(|_| PullCause::Lost)?.map_err(|source| self.unpack(source))?;
        // A worker that is content with half of the layer has not seen the layer.
        if !fed {
            return Err(PullCause::Stuck(self.descriptor.digest.clone()));
        }
        if *ready.diff_id() == self.diff_id {
            return Ok(ready);
        }
        let (want, got) = (self.diff_id.clone(), ready.diff_id().clone());
        Err(PullCause::DiffId { digest: self.descriptor.digest.clone(), want, got })
    }

    /// Sends all bytes to the worker and checks their digest. False when the worker closed its end before: it has
    /// something to say, or died.
    async fn feed(
        &self,
        stream: &mut BlobStream,
        mut input: pipe::Sender,
        progress: &watch::Sender<LayerProgress>,
    ) -> Result<bool, PullCause> {
        let want = &self.descriptor.digest;
        let fetch = |source| PullCause::Fetch { digest: want.clone(), source };
        let mut hasher = Hasher::new(want.algorithm());
        let (mut done, mut told) = (0, 0);
        let mut start = Vec::with_capacity(media::MAGIC_BYTES);
        while let Some(bytes) = stream.chunk().await.map_err(fetch)? {
            hasher.update(&bytes);
            if start.len() < media::MAGIC_BYTES {
                let missing = media::MAGIC_BYTES - start.len();
                start.extend(bytes.iter().take(missing));
                if start.len() == media::MAGIC_BYTES {
                    self.check_packing(&start)?;
                }
            }
            match tokio::time::timeout(self.bench.stall, input.write_all(&bytes)).await {
                Ok(Ok(())) => {}
                Ok(Err(err)) if err.kind() == ErrorKind::BrokenPipe => return Ok(false),
                Ok(Err(source)) => return Err(self.feed_error(source)),
                Err(_) => return Err(PullCause::Stuck(want.clone())),
            }
            done += bytes.len() as u64;
            if done - told >= TELL_EVERY {
                told = done;
                progress.send_modify(|progress| progress.done = done);
            }
        }
        progress.send_modify(|progress| progress.done = done);
        let got = hasher.finish();
        if got == *want {
            Ok(true)
        } else {
            Err(fetch(RegistryError::Digest { want: want.clone(), got }))
        }
    }

    fn check_packing(&self, start: &[u8]) -> Result<(), PullCause> {
        let (want, got) = (self.descriptor.compression, media::sniff(start));
        if want == got {
            return Ok(());
        }
        Err(PullCause::Packing { digest: self.descriptor.digest.clone(), want, got })
    }

    fn unpack(&self, source: LayerError) -> PullCause {
        PullCause::Unpack { digest: self.descriptor.digest.clone(), source }
    }

    fn feed_error(&self, source: std::io::Error) -> PullCause {
        PullCause::Feed { digest: self.descriptor.digest.clone(), source }
    }
}

/// A staging area that is given up on a blocking thread: a worker is killed and files are removed.
struct Area(Option<Box<dyn Staging>>);

/// A staged layer, given up in the same way.
struct Ready(Option<Box<dyn Staged>>);

impl Area {
    fn finish(mut self) -> Result<Ready, LayerError> {
        let staging = self.0.take().expect(TAKEN_ONCE);
        staging.finish().map(|staged| Ready(Some(staged)))
    }
}

impl Ready {
    fn diff_id(&self) -> &Digest {
        self.0.as_deref().expect(TAKEN_ONCE).diff_id()
    }

    fn commit(mut self, as_layer: &ChainId) -> Result<(), LayerError> {
        self.0.take().expect(TAKEN_ONCE).commit(as_layer)
    }
}

const TAKEN_ONCE: &str = "only the methods that consume the guard take what it holds";

impl Drop for Area {
    fn drop(&mut self) {
        give_up(self.0.take());
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        give_up(self.0.take());
    }
}

fn give_up<T: Send + 'static>(held: Option<T>) {
    let Some(held) = held else { return };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(held))),
        Err(_) => drop(held),
    }
}
