//! A layer's bytes as a registry has them: from disk where they are kept, else from where the image came from.

use crate::archive::Part;
use crate::blobs::Blobs;
use crate::digest::{Digest, Hasher};
use crate::pull::PullCause;
use crate::pull::request::Credentials;
use crate::record::{Image, Layer};
use crate::reference::Reference;
use crate::registry::{BlobStream, Client, RegistryError, Repository};
use bytes::Bytes;
use std::sync::Arc;

/// Where packed layers are looked for.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) blobs: Arc<Blobs>,
    pub(super) client: Arc<Client>,
    /// For the registry the image came from.
    pub(super) credentials: Option<Credentials>,
}

/// The bytes of one layer. Its digest is checked at the end.
pub(super) struct Packed {
    from: From,
    want: Digest,
    /// Nothing once the end was told.
    hasher: Option<Hasher>,
}

enum From {
    Disk(Part),
    Registry { first: Option<Bytes>, stream: Box<BlobStream> },
}

impl Sources {
    /// # Errors
    ///
    /// [`PullCause::NotKept`] when nobody has it, else what the last registry said.
    pub(super) async fn open(&self, image: &Image, layer: &Layer) -> Result<Packed, PullCause> {
        let packed = |from| Packed {
            from,
            want: layer.digest.clone(),
            hasher: Some(Hasher::new(layer.digest.algorithm())),
        };
        let disk = |source| PullCause::Blob { digest: layer.digest.clone(), source };
        if let Some(file) = self.blobs.open_blob(&layer.digest).map_err(disk)? {
            return Ok(packed(From::Disk(Part::whole(file, layer.bytes))));
        }
        let mut failed = PullCause::NotKept(layer.digest.clone());
        for name in &image.digests {
            let Ok(reference) = name.parse::<Reference>() else { continue };
            match self.ask(&reference, layer).await {
                Ok((first, stream)) => {
                    return Ok(packed(From::Registry { first, stream: Box::new(stream) }));
                }
                Err(source) => {
                    failed = PullCause::Fetch { digest: layer.digest.clone(), source };
                }
            }
        }
        Err(failed)
    }

    async fn ask(
        &self,
        reference: &Reference,
        layer: &Layer,
    ) -> Result<(Option<Bytes>, BlobStream), RegistryError> {
        let repository = Repository::open(&self.client, reference, self.credentials.clone());
        let mut stream = BlobStream::new(repository.await?, layer.digest.clone(), layer.bytes);
        let first = stream.chunk().await?;
        Ok((first, stream))
    }
}

impl Packed {
    /// The next bytes; nothing at the end, when they have proved to be the right ones.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, PullCause> {
        let fetch = |source| PullCause::Fetch { digest: self.want.clone(), source };
        let next = match &mut self.from {
            From::Disk(part) => part.chunk().await?,
            From::Registry { first, stream } => match first.take() {
                Some(bytes) => Some(bytes),
                None => stream.chunk().await.map_err(fetch)?,
            },
        };
        match (&next, &mut self.hasher) {
            (Some(bytes), Some(hasher)) => hasher.update(bytes),
            (None, hasher) => {
                let got = hasher.take().map(Hasher::finish);
                if let Some(got) = got.filter(|got| *got != self.want) {
                    let source = RegistryError::Digest { want: self.want.clone(), got };
                    return Err(PullCause::Fetch { digest: self.want.clone(), source });
                }
            }
            (Some(_), None) => {}
        }
        Ok(next)
    }
}
