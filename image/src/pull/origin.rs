//! Where an image comes from: a registry, or an archive that somebody hands in.

use super::error::PullCause;
use crate::archive::{Archive, Part};
use crate::digest::Digest;
use crate::registry::{BlobStream, Fetched, Repository};
use bytes::Bytes;
use std::sync::Arc;

/// A source of documents and blobs. Clones are the same source.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Registry(Repository),
    Archive(Arc<Archive>),
}

/// The bytes of one blob.
#[derive(Debug)]
pub(super) enum Blob {
    Registry { stream: Box<BlobStream>, digest: Digest },
    Archive { part: Result<Part, PullCause> },
}

impl Origin {
    /// The manifest or index `digest`.
    pub(super) async fn manifest(&self, digest: &Digest, limit: u64) -> Result<Fetched, PullCause> {
        match self {
            Self::Registry(repository) => Ok(repository.manifest(digest, limit).await?),
            Self::Archive(archive) => Ok(archive.manifest(digest, limit)?),
        }
    }

    /// The bytes of a blob behind the first `offset` ones.
    pub(super) fn blob(&self, digest: &Digest, size: u64, offset: u64) -> Blob {
        match self {
            Self::Registry(repository) => Blob::Registry {
                stream: Box::new(BlobStream::behind(
                    repository.clone(),
                    digest.clone(),
                    size,
                    offset,
                )),
                digest: digest.clone(),
            },
            Self::Archive(archive) => {
                Blob::Archive { part: archive.blob(digest, size, offset).map_err(Into::into) }
            }
        }
    }

    /// The whole of a small blob, its digest checked.
    pub(super) async fn small(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, PullCause> {
        match self {
            Self::Registry(repository) => {
                let stream = BlobStream::new(repository.clone(), digest.clone(), size);
                Ok(stream.read_all().await?)
            }
            Self::Archive(archive) => Ok(archive.document(digest, size)?),
        }
    }

    /// Whether layers are kept as they came: nobody could be asked for those of an archive again.
    pub(super) fn is_only_source(&self) -> bool {
        matches!(self, Self::Archive(_))
    }
}

impl Blob {
    /// The next bytes; nothing at the end, after exactly the size given.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, PullCause> {
        match self {
            Self::Registry { stream, digest } => stream
                .chunk()
                .await
                .map_err(|source| PullCause::Fetch { digest: digest.clone(), source }),
            Self::Archive { part: Ok(part) } => Ok(part.chunk().await?),
            Self::Archive { part } => {
                Err(std::mem::replace(part, Err(PullCause::Lost)).err().unwrap_or(PullCause::Lost))
            }
        }
    }

    /// Whether the bytes came from more than one answer.
    pub(super) fn was_resumed(&self) -> bool {
        match self {
            Self::Registry { stream, .. } => stream.was_resumed(),
            Self::Archive { .. } => false,
        }
    }
}
