//! One blob on its way into a file, where it outlives a cut connection, a failed pull and this process.
//!
//! ```text
//! registry ──bytes──► batch ──► <digest> in blobs/ingest, sha256 ──tells how far──► layer.rs, as often as it is wanted
//! ```
//!
//! What the file has from an earlier try is hashed first and told like bytes that arrive, and only what follows is asked
//! for. So whoever unpacks the layer reads one file from its start and needs not know where the bytes come from.

use super::error::PullCause;
use super::flight::Flights;
use super::origin::Origin;
use crate::blobs::{Blobs, Ingest};
use crate::digest::{Digest, Hasher};
use crate::registry::RegistryError;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use tokio::sync::watch;

/// Bytes are written, hashed and told in batches of at least this: what a kill can lose is two of them.
const BATCH: usize = 256 << 10;

/// The downloads under way: one for each blob, whoever asks.
pub(super) type Downloads = Flights<Digest, (), Arrived>;

/// How far a download is.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrived {
    /// Where the bytes are; absent until it is open.
    pub(super) file: Option<Arc<File>>,
    /// Of the file, from its start.
    pub(super) bytes: u64,
    /// Whether they are of more than one answer, which may not fit together.
    pub(super) is_pieced: bool,
}

/// One blob to fetch.
pub(super) struct Download {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) origin: Origin,
    pub(super) blobs: Arc<Blobs>,
    /// Whether the blob stays when it is whole, as one of the store.
    pub(super) keep: bool,
}

impl Download {
    /// Brings the whole blob into its file and checks its digest. A file with wrong bytes is removed.
    pub(super) async fn run(self, tell: watch::Sender<Arrived>) -> Result<(), PullCause> {
        let Self { digest, size, blobs, .. } = &self;
        let disk = |source| PullCause::Blob { digest: digest.clone(), source };
        let (opened, wanted, whole) = (Arc::clone(blobs), digest.clone(), *size);
        let ingest = blocking(move || opened.ingest(&wanted, whole)).await?.map_err(disk)?;
        let Ingest { file, bytes: kept, is_whole } = ingest;
        let mut sink = Sink { file, hasher: Hasher::new(digest.algorithm()), tell };
        let reader = Arc::clone(&sink.file);
        sink.tell.send_modify(|arrived| {
            arrived.file = Some(reader);
            arrived.is_pieced = kept > 0;
        });
        if kept > 0 {
            tracing::debug!(?digest, kept, "go on with a blob");
            sink = blocking(move || sink.take_over(kept)).await?.map_err(disk)?;
        }
        if kept < *size {
            sink = self.fetch(sink, kept).await?;
        }
        let Sink { hasher, .. } = sink;
        let got = hasher.finish();
        let (blobs, wanted, keep) = (Arc::clone(blobs), digest.clone(), self.keep);
        if got != *digest {
            blocking(move || blobs.remove(&wanted)).await?.map_err(disk)?;
            let source = RegistryError::Digest { want: digest.clone(), got };
            return Err(PullCause::Fetch { digest: digest.clone(), source });
        }
        if keep && !is_whole {
            blocking(move || blobs.settle(&wanted)).await?.map_err(disk)?;
        }
        Ok(())
    }

    async fn fetch(&self, mut sink: Sink, kept: u64) -> Result<Sink, PullCause> {
        let disk = |source| PullCause::Blob { digest: self.digest.clone(), source };
        let mut blob = self.origin.blob(&self.digest, self.size, kept);
        let mut batch: Vec<Bytes> = Vec::new();
        let mut waiting = 0;
        loop {
            let next = blob.chunk().await;
            // What came before an error is worth keeping.
            let is_last = !matches!(next, Ok(Some(_)));
            if let Ok(Some(bytes)) = &next {
                waiting += bytes.len();
                batch.push(bytes.clone());
            }
            if waiting >= BATCH || is_last && waiting > 0 {
                let full = std::mem::take(&mut batch);
                waiting = 0;
                let is_pieced = blob.was_resumed();
                sink = blocking(move || sink.write(&full, is_pieced)).await?.map_err(disk)?;
            }
            match next {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(sink),
                Err(err) => return Err(err),
            }
        }
    }
}

/// Where the bytes go. It moves to the thread that writes, and back.
struct Sink {
    file: Arc<File>,
    hasher: Hasher,
    tell: watch::Sender<Arrived>,
}

impl Sink {
    /// Hashes what is there already.
    fn take_over(mut self, kept: u64) -> io::Result<Self> {
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut left = kept;
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = file.read(&mut buffer[..most])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.hasher.update(&buffer[..count]);
            left -= count as u64;
            self.tell.send_modify(|arrived| arrived.bytes += count as u64);
        }
        Ok(self)
    }

    /// Adds bytes behind what is there.
    fn write(mut self, batch: &[Bytes], is_pieced: bool) -> io::Result<Self> {
        let mut count = 0;
        for bytes in batch {
            (&*self.file).write_all(bytes)?;
            self.hasher.update(bytes);
            count += bytes.len() as u64;
        }
        self.tell.send_modify(|arrived| {
            arrived.bytes += count;
            arrived.is_pieced |= is_pieced;
        });
        Ok(self)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PullCause> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PullCause::Lost)
}
