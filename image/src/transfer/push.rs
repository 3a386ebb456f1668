//! One image to a registry: layers that are not there yet, then the configuration, then the manifest.

use super::TransferError;
use super::packed::Sources;
use crate::digest::Digest;
use crate::pull::PullCause;
use crate::pull::request::{Credentials, LayerProgress, LayerState, Progress, ProgressSender};
use crate::record::{Image, Layer};
use crate::reference::Reference;
use crate::registry::{Place, Repository, Upload};
use crate::store::Store;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Times that one blob is sent before the push is given up.
const TRIES: usize = 3;

/// What is pushed, and as whom.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// The image.
    pub image: Arc<Image>,
    /// Where to; by tag.
    pub to: Reference,
    /// For that registry.
    pub credentials: Option<Credentials>,
}

struct Push<'a> {
    store: &'a Store,
    image: &'a Image,
    to: &'a Reference,
    target: Repository,
    sources: Sources,
}

impl Store {
    /// Pushes an image and gives the digest of its manifest. A layer the registry has in another repository is mounted, one
    /// that this node does not keep is asked of the registry it came from.
    ///
    /// # Errors
    ///
    /// [`TransferError::Push`].
    pub async fn push(
        &self,
        request: PushRequest,
        progress: ProgressSender,
    ) -> Result<Digest, TransferError> {
        let PushRequest { image, to, credentials } = &request;
        let failed = |source| TransferError::Push { reference: to.clone(), source };
        let opened = Repository::open(self.client(), to, credentials.clone()).await;
        let target = opened.map_err(PullCause::from).map_err(failed)?;
        // What is for this registry is not shown to another.
        let came_from = |name: &String| {
            name.parse::<Reference>().is_ok_and(|name| name.registry() == to.registry())
        };
        let is_home = image.digests.iter().any(came_from);
        let sources = Sources {
            blobs: Arc::clone(self.blobs()),
            client: Arc::clone(self.client()),
            credentials: credentials.clone().filter(|_| is_home),
        };
        let push = Push { store: self, image, to, target, sources };
        push.run(&progress).await.map_err(failed)?;
        Ok(image.manifest.clone())
    }
}

impl Push<'_> {
    async fn run(&self, progress: &ProgressSender) -> Result<(), PullCause> {
        let waiting = |layer: &Layer| LayerProgress {
            digest: layer.digest.to_string(),
            done: 0,
            total: layer.bytes,
            state: LayerState::Waiting,
        };
        progress.send_replace(Progress {
            resolved: Some(self.to.to_string()),
            layers: self.image.layers.iter().map(waiting).collect(),
        });
        for (index, layer) in self.image.layers.iter().enumerate() {
            self.layer(index, layer, progress).await?;
        }
        let config = self.store.document(self.image.config_digest()).await?;
        self.document(self.image.config_digest(), &config).await?;
        let manifest = self.store.document(&self.image.manifest).await?;
        let media_type = crate::archive::own_media_type(&manifest);
        let name = self.to.tag().unwrap_or(self.image.manifest.as_str());
        Ok(self.target.put_manifest(name, &media_type, manifest).await?)
    }

    async fn layer(
        &self,
        index: usize,
        layer: &Layer,
        progress: &ProgressSender,
    ) -> Result<(), PullCause> {
        let tell = |state, done| {
            progress.send_modify(|all| {
                all.layers[index].state = state;
                all.layers[index].done = done;
            });
        };
        if self.target.has_blob(&layer.digest).await? {
            tell(LayerState::Exists, layer.bytes);
            return Ok(());
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let from = self.neighbour();
            let place = match self.target.begin_upload(&layer.digest, from.as_deref()).await? {
                Place::Mounted => {
                    tell(LayerState::Exists, layer.bytes);
                    return Ok(());
                }
                Place::Upload(place) => place,
            };
            tell(LayerState::Downloading, 0);
            let (give, bytes) = mpsc::channel(4);
            let upload = Upload { digest: layer.digest.clone(), size: layer.bytes, bytes };
            let mut done = 0;
            let read = self.read(layer, give, |count| {
                done += count;
                tell(LayerState::Downloading, done);
            });
            let (sent, read) = tokio::join!(self.target.upload(place, upload), read);
            // Why there were not enough bytes says more than that there were not.
            match (read, sent) {
                (Err(err), _) => return Err(err),
                (Ok(()), Ok(())) => break,
                (Ok(()), Err(err)) if tries < TRIES && err.is_transient() => {}
                (Ok(()), Err(source)) => return Err(source.into()),
            }
        }
        tell(LayerState::Unpacked, layer.bytes);
        Ok(())
    }

    /// Hands a layer's bytes to the upload, for as long as that wants them.
    async fn read(
        &self,
        layer: &Layer,
        give: mpsc::Sender<Bytes>,
        mut count: impl FnMut(u64),
    ) -> Result<(), PullCause> {
        let mut packed = self.sources.open(self.image, layer).await?;
        let stall = self.store.client().stall();
        let mut last = None;
        while let Some(bytes) = packed.chunk().await? {
            // The last piece is held back until the digest is known to be right.
            if let Some(piece) = last.replace(bytes) {
                count(Bytes::len(&piece) as u64);
                match tokio::time::timeout(stall, give.send(piece)).await {
                    Ok(Ok(())) => {}
                    // The upload has ended, and says why.
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => return Err(self.target.stalled().into()),
                }
            }
        }
        if let Some(piece) = last {
            give.send(piece).await.ok();
        }
        Ok(())
    }

    /// Another repository of the same registry that has the image.
    fn neighbour(&self) -> Option<String> {
        let names = self.image.digests.iter().chain(&self.image.tags);
        let mut names = names.filter_map(|name| name.parse::<Reference>().ok());
        let is_other = |name: &Reference| {
            name.registry() == self.to.registry() && name.repository() != self.to.repository()
        };
        names.find(is_other).map(|name| name.repository().to_owned())
    }

    async fn document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), PullCause> {
        if self.target.has_blob(digest).await? {
            return Ok(());
        }
        let Place::Upload(place) = self.target.begin_upload(digest, None).await? else {
            return Ok(());
        };
        let (give, receive) = mpsc::channel(1);
        let size = bytes.len() as u64;
        // There is room for it.
        give.send(Bytes::copy_from_slice(bytes)).await.ok();
        let upload = Upload { digest: digest.clone(), size, bytes: receive };
        Ok(self.target.upload(place, upload).await?)
    }
}
