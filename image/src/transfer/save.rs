//! Images to an archive, which is made while it is read.

use super::TransferError;
use super::packed::Sources;
use crate::archive::own_media_type;
use crate::archive::write::{ArchiveFormat, Export, Piece, plan};
use crate::digest::Digest;
use crate::pull::PullCause;
use crate::pull::request::Credentials;
use crate::store::Store;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// An archive on its way: its size is known before its bytes are there.
#[derive(Debug)]
pub struct Saving {
    /// Bytes of the whole archive.
    pub total: u64,
    /// In order. An error is the last.
    pub bytes: mpsc::Receiver<Result<Bytes, TransferError>>,
}

impl Store {
    /// Begins to write an archive of images. Dropping the receiver ends it. The caller keeps the images from being
    /// collected.
    ///
    /// # Errors
    ///
    /// [`TransferError::Save`] when a manifest or configuration cannot be read.
    pub async fn save(
        &self,
        exports: Vec<Export>,
        format: ArchiveFormat,
        credentials: Option<Credentials>,
    ) -> Result<Saving, TransferError> {
        let mut documents: HashMap<Digest, Vec<u8>> = HashMap::new();
        for Export { image, .. } in &exports {
            for digest in [image.config_digest(), &image.manifest] {
                let read = self.document(digest).await;
                let read =
                    read.map_err(|source| TransferError::Save { id: image.id.clone(), source })?;
                documents.insert(digest.clone(), read);
            }
        }
        let size = |digest: &Digest| documents.get(digest).map_or(0, |bytes| bytes.len() as u64);
        let media_type = |image: &crate::record::Image| {
            documents.get(&image.manifest).map(|bytes| own_media_type(bytes)).unwrap_or_default()
        };
        let pieces = plan(&exports, format, size, media_type);
        let total = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Bytes(bytes) => bytes.len() as u64,
                Piece::Document(digest) => size(digest),
                Piece::Layer { image, layer } => exports[*image].image.layers[*layer].bytes,
            })
            .sum();
        let sources = Sources {
            blobs: Arc::clone(self.blobs()),
            client: Arc::clone(self.client()),
            credentials,
        };
        let (give, bytes) = mpsc::channel(4);
        tokio::spawn(async move {
            let writer = Writer { sources, exports, documents, give };
            writer.run(pieces).await;
        });
        Ok(Saving { total, bytes })
    }
}

struct Writer {
    sources: Sources,
    exports: Vec<Export>,
    documents: HashMap<Digest, Vec<u8>>,
    give: mpsc::Sender<Result<Bytes, TransferError>>,
}

/// Nobody reads the archive any more.
struct Left;

impl Writer {
    async fn run(self, pieces: Vec<Piece>) {
        for piece in pieces {
            let written = match piece {
                Piece::Bytes(bytes) => self.give(bytes.into()).await,
                Piece::Document(digest) => {
                    let bytes = self.documents.get(&digest).cloned().unwrap_or_default();
                    self.give(bytes.into()).await
                }
                Piece::Layer { image, layer } => self.layer(image, layer).await,
            };
            if written.is_err() {
                return;
            }
        }
    }

    async fn layer(&self, image: usize, layer: usize) -> Result<(), Left> {
        let image = &self.exports[image].image;
        let result = self.copy(image, &image.layers[layer]).await;
        match result {
            Ok(done) => done,
            Err(source) => {
                let failed = TransferError::Save { id: image.id.clone(), source };
                self.give.send(Err(failed)).await.ok();
                Err(Left)
            }
        }
    }

    async fn copy(
        &self,
        image: &crate::record::Image,
        layer: &crate::record::Layer,
    ) -> Result<Result<(), Left>, PullCause> {
        let mut packed = self.sources.open(image, layer).await?;
        while let Some(bytes) = packed.chunk().await? {
            if self.give(bytes).await.is_err() {
                return Ok(Err(Left));
            }
        }
        Ok(Ok(()))
    }

    async fn give(&self, bytes: Bytes) -> Result<(), Left> {
        self.give.send(Ok(bytes)).await.map_err(|_| Left)
    }
}
