//! Images in a tar archive: `docker save`, an OCI layout, or what [`write`] makes of an image.
//!
//! ```text
//! spool ──► index (names and places, nothing unpacked) ──► oci.rs or docker.rs ──► images: manifest, names
//!                                                                                        │
//!                                      pull/: the same checks as for a registry ◄────────┘
//! ```
//!
//! The archive is a stranger's: names in it are looked up and never become paths, and everything read into memory has
//! a bound. Its layers take the way of every layer, through digests and the confined worker.

mod docker;
mod index;
mod oci;
pub(crate) mod write;

use crate::digest::{Digest, Hasher};
use crate::document::json::BadJson;
use crate::limits::Limits;
use crate::reference::Reference;
use crate::registry::Fetched;
use bytes::Bytes;
use index::{Index, Span};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a blob given at a time.
const CHUNK: u64 = 256 << 10;

/// An archive on disk, indexed.
#[derive(Debug)]
pub(crate) struct Archive {
    file: Arc<File>,
    /// Manifests and indexes, with their media types; made up for archives of Docker's old form.
    documents: HashMap<Digest, (Vec<u8>, String)>,
    /// Everything that is there under its digest.
    blobs: HashMap<Digest, Span>,
    images: Vec<Listed>,
}

/// One image of an archive.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// A manifest or an index.
    pub(crate) top: Digest,
    /// May be none.
    pub(crate) names: Vec<Reference>,
}

/// The bytes of one blob.
#[derive(Debug)]
pub(crate) struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file system.
    #[error("read the archive")]
    Read(#[source] io::Error),
    /// Not a tar archive, or one that ends too early.
    #[error("the archive is no tar archive at byte {0}")]
    NotTar(u64),
    /// More of something than an archive may have.
    #[error("the archive has more than {limit} {what}")]
    TooMany {
        /// The things counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// Neither `index.json` nor `manifest.json`.
    #[error("the archive has neither index.json nor manifest.json: it is no image")]
    NoImage,
    /// Something that the archive names is not in it.
    #[error("the archive lacks {0}")]
    Missing(String),
    /// A document of the archive itself.
    #[error("read {what} of the archive")]
    Json {
        /// Which.
        what: String,
        /// What is wrong with it.
        source: BadJson,
    },
    /// Content under a digest that is not its own.
    #[error("{digest} of the archive has other content")]
    Digest {
        /// Which.
        digest: Digest,
    },
}

impl ArchiveError {
    /// Whether it is this node's disk, and not the archive.
    pub(crate) fn is_disk(&self) -> bool {
        matches!(self, Self::Read(_))
    }
}

impl Archive {
    /// Looks through the archive in `file`. `base` is the name for images that have only a tag. Blocks.
    pub(crate) fn open(
        file: File,
        base: Option<&Reference>,
        limits: &Limits,
    ) -> Result<Self, ArchiveError> {
        let index = Index::read(&file)?;
        let mut archive = Self {
            file: Arc::new(file),
            documents: HashMap::new(),
            blobs: HashMap::new(),
            images: Vec::new(),
        };
        if index.has("index.json") {
            oci::read(&mut archive, &index, base, limits)?;
        } else if index.has("manifest.json") {
            docker::read(&mut archive, &index, limits)?;
        } else {
            return Err(ArchiveError::NoImage);
        }
        Ok(archive)
    }

    /// The images in it, in its order.
    pub(crate) fn images(&self) -> &[Listed] {
        &self.images
    }

    /// The manifest or index `digest`.
    pub(crate) fn manifest(&self, digest: &Digest, limit: u64) -> Result<Fetched, ArchiveError> {
        if let Some((bytes, media_type)) = self.documents.get(digest) {
            let (bytes, media_type) = (bytes.clone(), media_type.clone());
            return Ok(Fetched { bytes, digest: digest.clone(), media_type });
        }
        let span = self.span(digest)?;
        let bytes = self.read(span, limit, digest.as_str())?;
        check(digest, &bytes)?;
        Ok(Fetched { media_type: own_media_type(&bytes), bytes, digest: digest.clone() })
    }

    /// A small blob of `size` bytes, its digest checked.
    pub(crate) fn document(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let span = self.span(digest)?;
        let bytes = self.read(span, size, digest.as_str())?;
        check(digest, &bytes)?;
        Ok(bytes)
    }

    /// A blob of `size` bytes, behind the first `offset` ones.
    pub(crate) fn blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> Result<Part, ArchiveError> {
        let span = self.span(digest)?;
        if span.size != size || offset > size {
            return Err(ArchiveError::Digest { digest: digest.clone() });
        }
        let file = Arc::clone(&self.file);
        Ok(Part { file, at: span.offset + offset, end: span.offset + size })
    }

    fn span(&self, digest: &Digest) -> Result<Span, ArchiveError> {
        self.blobs.get(digest).copied().ok_or_else(|| ArchiveError::Missing(digest.to_string()))
    }

    fn read(&self, span: Span, limit: u64, what: &str) -> Result<Vec<u8>, ArchiveError> {
        read(&self.file, span, limit, what)
    }
}

impl Part {
    /// All of a file of this size.
    pub(crate) fn whole(file: File, size: u64) -> Self {
        Self { file: Arc::new(file), at: 0, end: size }
    }

    /// The next bytes; nothing at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        if self.at == self.end {
            return Ok(None);
        }
        let (file, at) = (Arc::clone(&self.file), self.at);
        let count = (self.end - at).min(CHUNK);
        let read = move || {
            let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
            file.read_exact_at(&mut bytes, at).map(|()| bytes)
        };
        let read = tokio::task::spawn_blocking(read).await;
        let bytes = read.map_err(|err| ArchiveError::Read(io::Error::other(err)))?;
        self.at += count;
        Ok(Some(bytes.map_err(ArchiveError::Read)?.into()))
    }
}

/// The bytes of a part that must be small.
fn read(file: &File, span: Span, limit: u64, what: &str) -> Result<Vec<u8>, ArchiveError> {
    if span.size > limit {
        let what = if what.is_empty() { "bytes" } else { "bytes in a document" };
        return Err(ArchiveError::TooMany { what, limit });
    }
    let mut bytes = vec![0; usize::try_from(span.size).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, span.offset).map_err(ArchiveError::Read)?;
    Ok(bytes)
}

fn check(digest: &Digest, bytes: &[u8]) -> Result<(), ArchiveError> {
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(bytes);
    match hasher.finish() == *digest {
        true => Ok(()),
        false => Err(ArchiveError::Digest { digest: digest.clone() }),
    }
}

/// The digest of a part, read through once.
fn digest_of(file: &File, span: Span) -> Result<Digest, ArchiveError> {
    let mut hasher = Hasher::new(crate::digest::Algorithm::Sha256);
    let mut at = span.offset;
    let end = span.offset + span.size;
    let mut buffer = vec![0; 1 << 20];
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..count], at).map_err(ArchiveError::Read)?;
        hasher.update(&buffer[..count]);
        at += count as u64;
    }
    Ok(hasher.finish())
}

/// What a document says it is; an index where it has manifests and says nothing.
pub(crate) fn own_media_type(bytes: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let own = value.get("mediaType").and_then(serde_json::Value::as_str);
    let guess = match value.get("manifests") {
        Some(_) => crate::document::media::OCI_INDEX,
        None => crate::document::media::OCI_MANIFEST,
    };
    own.unwrap_or(guess).to_owned()
}

/// Writes what `from` gives into `to`, decompressing gzip; at most `limit` bytes. Blocks.
///
/// # Errors
///
/// [`ArchiveError::Read`], and [`ArchiveError::TooMany`] beyond the limit.
pub(crate) fn unzip(from: &File, mut to: &File, limit: u64) -> Result<(), ArchiveError> {
    let reader = flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(128 << 10, from));
    let copied = io::copy(&mut reader.take(limit + 1), &mut to).map_err(ArchiveError::Read)?;
    match copied > limit {
        true => Err(ArchiveError::TooMany { what: "uncompressed bytes", limit }),
        false => Ok(()),
    }
}

/// Annotations of a descriptor, as far as they are text.
fn annotations(value: &serde_json::Value) -> BTreeMap<String, String> {
    let map = value.get("annotations").and_then(serde_json::Value::as_object);
    let text = |(key, value): (&String, &serde_json::Value)| {
        Some((key.clone(), value.as_str()?.to_owned()))
    };
    map.into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests;
