//! One layer on its way: file, worker, check, commit, while it is still being downloaded.
//!
//! ```text
//! download.rs ──file grows──► splice ──pipe──► worker: inflate, sha256, unpack ──► staged
//!       └──digest agrees?                          diff id agrees? ──► below is there? ──► commit ──► the file goes
//! ```

use super::download::{Arrived, Download, Downloads};
use super::error::PullCause;
use super::flight::Seat;
use super::origin::Origin;
use super::request::{LayerProgress, LayerState};
use super::turns::{PullNumber, Turns};
use crate::blobs::Blobs;
use crate::digest::{ChainId, Digest};
use crate::document::manifest::LayerDescriptor;
use crate::document::media;
use crate::layer::{LayerError, Layers, Staged, Staging, inherit};
use crate::limits::Limits;
use rustix::pipe::{SpliceFlags, splice};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// Bytes moved to the worker at a time, as many as its pipe takes.
const AT_A_TIME: u64 = 1 << 20;

/// Times that a layer is fetched from its start because what was pieced together is not it.
const FROM_THE_START: usize = 1;

/// One layer to fetch.
pub(super) struct Job {
    pub(super) descriptor: LayerDescriptor,
    /// As the image names it; absent for a layer that this node makes up around a file.
    pub(super) diff_id: Option<Digest>,
    pub(super) chain_id: ChainId,
    /// All layers below, lowest first.
    pub(super) under: Vec<ChainId>,
    pub(super) origin: Origin,
    pub(super) pull: PullNumber,
    /// The layer below, where that is on its way too. Held, so that it is not cancelled while this one needs it.
    pub(super) below: Option<Seat<(), LayerProgress>>,
    pub(super) bench: Bench,
}

/// What the work is done with.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub(super) blobs: Arc<Blobs>,
    pub(super) layers: Arc<dyn Layers>,
    pub(super) limits: Limits,
    pub(super) downloads: Arc<Downloads>,
    /// Layers that may be downloading and unpacking at a time.
    pub(super) turns: Arc<Turns>,
    /// How long the worker may take no byte.
    pub(super) stall: Duration,
    /// Whether the packed layers stay beside the unpacked ones.
    pub(super) keep_packed: bool,
}

impl Job {
    /// Fetches, checks and commits the layer.
    pub(super) async fn run(self, progress: watch::Sender<LayerProgress>) -> Result<(), PullCause> {
        let turn = self.bench.turns.take(self.pull).await;
        progress.send_modify(|progress| progress.state = LayerState::Downloading);
        let ready = self.stage(&progress).await?;
        // Waiting for the layer below must not keep that very layer from its turn.
        drop(turn);
        if let Some(below) = &self.below {
            below.wait().await.map_err(PullCause::Shared)?;
        }
        let (chain_id, digest) = (self.chain_id.clone(), self.descriptor.digest.clone());
        let (layers, under) = (Arc::clone(&self.bench.layers), self.under.clone());
        let blobs = Arc::clone(&self.bench.blobs);
        let commit = move || {
            ready.commit(&*layers, &under, &chain_id)?;
            // Only now: a kill before would have cost the whole download.
            if let Err(err) = blobs.end_ingest(&digest) {
                tracing::warn!(?digest, %err, "file of a layer left behind");
            }
            Ok(())
        };
        let committed = tokio::task::spawn_blocking(commit).await;
        committed.map_err(|_| PullCause::Lost)?.map_err(|source| self.unpack(source))?;
        progress.send_modify(|progress| progress.state = LayerState::Unpacked);
        Ok(())
    }

    /// Unpacks the layer into a staging area, both digests checked.
    async fn stage(&self, progress: &watch::Sender<LayerProgress>) -> Result<Ready, PullCause> {
        let mut restarts = 0;
        loop {
            let seat = self.download();
            let arrived = seat.progress();
            let err = match self.stage_once(&seat, progress).await {
                Ok(ready) => return Ok(ready),
                Err(err) => err,
            };
            let is_pieced = arrived.borrow().is_pieced;
            // The worker may notice before all bytes are here; whether they are right, only their digest tells.
            let were_wrong =
                err.is_bad_range() || is_pieced && err.is_content() && seat.wait().await.is_err();
            // Somebody else's credentials may open less than ours.
            let is_theirs = seat.was_joined() && err.is_about_access();
            if restarts == FROM_THE_START || !(were_wrong || is_theirs) {
                return Err(err);
            }
            restarts += 1;
            let digest = &self.descriptor.digest;
            tracing::debug!(
                ?digest,
                err = &err as &dyn std::error::Error,
                "fetch layer from its start"
            );
            drop(seat);
            if were_wrong {
                self.forget_bytes().await?;
            }
        }
    }

    /// A seat in the download of this layer's blob.
    fn download(&self) -> Seat<(), Arrived> {
        let LayerDescriptor { digest, size, .. } = &self.descriptor;
        let download = Download {
            digest: digest.clone(),
            size: *size,
            origin: self.origin.clone(),
            blobs: Arc::clone(&self.bench.blobs),
            keep: self.bench.keep_packed || self.origin.is_only_source(),
        };
        let key = digest.clone();
        self.bench.downloads.join(key, Arrived::default(), |tell| download.run(tell))
    }

    async fn forget_bytes(&self) -> Result<(), PullCause> {
        let (blobs, digest) = (Arc::clone(&self.bench.blobs), self.descriptor.digest.clone());
        let disk = |source| PullCause::Blob { digest: self.descriptor.digest.clone(), source };
        let removed = tokio::task::spawn_blocking(move || blobs.end_ingest(&digest)).await;
        removed.map_err(|_| PullCause::Lost)?.map_err(disk)
    }

    async fn stage_once(
        &self,
        seat: &Seat<(), Arrived>,
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
        let pipe = pipe::Sender::from_file(input).map_err(|source| self.feed_error(source))?;
        let fed = self.feed(seat, pipe, progress).await?;
        let staged = tokio::task::spawn_blocking(move || area.finish()).await;
        let ready = staged.map_err(|_| PullCause::Lost)?.map_err(|source| self.unpack(source))?;
        // A worker that is content with half of the layer has not seen the layer.
        if !fed {
            return Err(PullCause::Stuck(self.descriptor.digest.clone()));
        }
        match &self.diff_id {
            Some(want) if ready.diff_id() != want => {
                let (want, got) = (want.clone(), ready.diff_id().clone());
                Err(PullCause::DiffId { digest: self.descriptor.digest.clone(), want, got })
            }
            Some(_) | None => Ok(ready),
        }
    }

    /// Gives all bytes to the worker as they arrive, and waits for their digest. False when the worker closed its end
    /// before: it has something to say, or died.
    async fn feed(
        &self,
        seat: &Seat<(), Arrived>,
        pipe: pipe::Sender,
        progress: &watch::Sender<LayerProgress>,
    ) -> Result<bool, PullCause> {
        let LayerDescriptor { size, frame, .. } = &self.descriptor;
        if let Some(frame) = frame
            && !self.write(&pipe, &frame.head).await?
        {
            return Ok(false);
        }
        let mut arrived = seat.progress();
        let mut offset = 0;
        while offset < *size {
            let Arrived { file, bytes, .. } = arrived.borrow_and_update().clone();
            progress
                .send_if_modified(|progress| std::mem::replace(&mut progress.done, bytes) != bytes);
            let has_start = bytes >= (media::MAGIC_BYTES as u64).min(*size);
            match file {
                Some(file) if bytes > offset && has_start => {
                    if offset == 0 {
                        self.check_packing(&file)?;
                    }
                    if !self.pour(&file, offset..bytes, &pipe).await? {
                        return Ok(false);
                    }
                    offset = bytes;
                }
                Some(_) | None => {
                    tokio::select! {
                        Ok(()) = arrived.changed() => {}
                        outcome = seat.wait() => self.ended(outcome, &arrived)?,
                    }
                }
            }
        }
        if let Some(frame) = frame
            && !self.write(&pipe, &frame.tail).await?
        {
            return Ok(false);
        }
        drop(pipe);
        progress.send_modify(|progress| progress.done = *size);
        seat.wait().await.map_err(PullCause::Shared)?;
        Ok(true)
    }

    /// The download has ended while bytes were waited for: well, if they have come meanwhile.
    fn ended(
        &self,
        outcome: super::flight::Outcome<()>,
        arrived: &watch::Receiver<Arrived>,
    ) -> Result<(), PullCause> {
        outcome.map_err(PullCause::Shared)?;
        match arrived.borrow().bytes == self.descriptor.size {
            true => Ok(()),
            false => Err(PullCause::Lost),
        }
    }

    /// Moves a part of the file into the pipe, without a copy here. False when nobody reads it any more.
    async fn pour(
        &self,
        file: &File,
        part: std::ops::Range<u64>,
        pipe: &pipe::Sender,
    ) -> Result<bool, PullCause> {
        let mut at = part.start;
        while at < part.end {
            let most = usize::try_from((part.end - at).min(AT_A_TIME)).unwrap_or(usize::MAX);
            let moved = self.when_ready(pipe, |pipe| {
                let flags = SpliceFlags::NONBLOCK;
                Ok(splice(file, Some(&mut at.clone()), pipe, None, most, flags)?)
            });
            match moved.await? {
                None => return Ok(false),
                Some(0) => return Err(self.feed_error(ErrorKind::UnexpectedEof.into())),
                Some(count) => at += count as u64,
            }
        }
        Ok(true)
    }

    /// Writes bytes of ours into the pipe. False when nobody reads it any more.
    async fn write(&self, pipe: &pipe::Sender, mut bytes: &[u8]) -> Result<bool, PullCause> {
        while !bytes.is_empty() {
            match self.when_ready(pipe, |pipe| Ok(rustix::io::write(pipe, bytes)?)).await? {
                None => return Ok(false),
                Some(count) => bytes = &bytes[count..],
            }
        }
        Ok(true)
    }

    /// Waits until the pipe takes bytes. Nothing when its other end is closed.
    async fn when_ready(
        &self,
        pipe: &pipe::Sender,
        mut give: impl FnMut(&pipe::Sender) -> io::Result<usize>,
    ) -> Result<Option<usize>, PullCause> {
        loop {
            let ready = tokio::time::timeout(self.bench.stall, pipe.writable()).await;
            let ready = ready.map_err(|_| PullCause::Stuck(self.descriptor.digest.clone()))?;
            ready.map_err(|source| self.feed_error(source))?;
            match pipe.try_io(|| give(pipe)) {
                Ok(count) => return Ok(Some(count)),
                Err(err) if err.kind() == ErrorKind::BrokenPipe => return Ok(None),
                Err(err)
                    if matches!(err.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(source) => return Err(self.feed_error(source)),
            }
        }
    }

    /// The first bytes must be what the media type says. A file that is framed here may be anything.
    fn check_packing(&self, file: &File) -> Result<(), PullCause> {
        let LayerDescriptor { digest, size, compression: want, frame } = &self.descriptor;
        if *size < media::MAGIC_BYTES as u64 || frame.is_some() {
            return Ok(());
        }
        let mut start = [0; media::MAGIC_BYTES];
        let disk = |source| PullCause::Blob { digest: digest.clone(), source };
        file.read_exact_at(&mut start, 0).map_err(disk)?;
        let got = media::sniff(&start);
        if *want == got {
            return Ok(());
        }
        Err(PullCause::Packing { digest: digest.clone(), want: *want, got })
    }

    fn unpack(&self, source: LayerError) -> PullCause {
        PullCause::Unpack { digest: self.descriptor.digest.clone(), source }
    }

    fn feed_error(&self, source: io::Error) -> PullCause {
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

    /// Commits the layer; those `under` it have been.
    fn commit(
        mut self,
        layers: &dyn Layers,
        under: &[ChainId],
        as_layer: &ChainId,
    ) -> Result<(), LayerError> {
        let mut staged = self.0.take().expect(TAKEN_ONCE);
        inherit(&mut *staged, layers, under)?;
        staged.commit(as_layer)
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
