//! Pulling images.
//!
//! ```text
//! name ──► manifest for this platform ──► configuration ──► chain ids ──► layers (layer.rs), in parallel
//!             resolve.rs                                                    one flight for each chain id
//! ```
//!
//! A whole pull is a flight too: equal requests join. Both kinds of work run in tasks of their own and end when nobody
//! waits for them any more (flight.rs). A layer that is in the store already is not asked for.

mod error;
mod flight;
mod layer;
pub mod request;
mod resolve;

pub use crate::document::DocumentError;
pub use crate::document::json::BadJson;
pub use crate::registry::RegistryError;
pub use error::{PullCause, PullError, PullFault};

use crate::blobs::Blobs;
use crate::digest::ChainId;
use crate::leases::{Content, Leases};
use crate::limits::Limits;
use crate::record::{Image, Layer};
use crate::registry::{Client, Repository};
use flight::{Flights, Seat};
use layer::{Bench, Job};
use request::{LayerProgress, LayerState, Progress, ProgressSender, PullRequest, Pulled};
use resolve::{Plan, Source};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Pulls images into the stores it is given.
#[derive(Debug)]
pub(crate) struct Puller {
    blobs: Arc<Blobs>,
    client: Arc<Client>,
    leases: Arc<Leases>,
    bench: Bench,
    layers: Flights<ChainId, (), LayerProgress>,
    pulls: Flights<PullRequest, Pulled, Progress>,
}

/// What a [`Puller`] works with.
#[derive(Debug)]
pub(crate) struct Stores {
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) layers: Arc<dyn crate::layer::Layers>,
    pub(crate) leases: Arc<Leases>,
}

impl Puller {
    /// `max_downloads`: layers under way at a time, over all pulls; at least one.
    pub(crate) fn new(
        stores: Stores,
        client: Client,
        limits: Limits,
        max_downloads: usize,
    ) -> Self {
        let Stores { blobs, layers, leases } = stores;
        let downloads = Arc::new(Semaphore::new(max_downloads.max(1)));
        let stall = client.stall();
        Self {
            blobs,
            leases,
            client: Arc::new(client),
            bench: Bench { layers, limits, downloads, stall },
            layers: Flights::default(),
            pulls: Flights::default(),
        }
    }

    /// Pulls an image, or joins an equal pull under way. Dropping the future gives the pull up, unless others wait for
    /// it too.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        request: PullRequest,
        progress: ProgressSender,
    ) -> Result<Pulled, PullError> {
        let reference = request.reference.clone();
        let seat = self.pulls.join(request.clone(), Progress::default(), |tell| {
            let puller = Arc::clone(self);
            async move { puller.work(request, tell).await }
        });
        let outcome = seat.follow(|state| drop(progress.send_replace(state.clone()))).await;
        outcome.map_err(|cause| PullError::new(reference, cause))
    }

    async fn work(
        &self,
        request: PullRequest,
        progress: watch::Sender<Progress>,
    ) -> Result<Pulled, PullCause> {
        let repository = Repository::new(&self.client, &request)?;
        let source = Source {
            blobs: &self.blobs,
            leases: &self.leases,
            repository: &repository,
            limits: &self.bench.limits,
        };
        let plan = source.resolve(&request.reference).await?;
        progress
            .send_modify(|progress| progress.resolved = Some(request.reference.at(&plan.resolved)));
        let pieces = plan.chain.iter().cloned().map(Content::Layer);
        let pieces =
            pieces.chain(plan.documents().map(|(digest, _)| Content::Blob(digest.clone())));
        // Before looking what is there, so that it still is when the pull ends.
        let lease = self.leases.acquire(pieces.collect()).await;
        tokio::try_join!(
            self.fetch_layers(&plan, &repository, &progress),
            self.keep_documents(&plan)
        )?;
        let image = record(&request, plan);
        Ok(Pulled { image, lease })
    }

    async fn fetch_layers(
        &self,
        plan: &Plan,
        repository: &Repository,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), PullCause> {
        let (layers, chain) = (Arc::clone(&self.bench.layers), plan.chain.clone());
        let present = move || chain.iter().map(|layer| layers.contains(layer)).collect::<Vec<_>>();
        let present = tokio::task::spawn_blocking(present).await.map_err(|_| PullCause::Lost)?;
        let mut states = Vec::new();
        let mut seats: Vec<(usize, Seat<(), LayerProgress>)> = Vec::new();
        for (index, is_here) in present.into_iter().enumerate() {
            let descriptor = &plan.manifest.layers[index];
            let (done, state) = if is_here {
                (descriptor.size, LayerState::Exists)
            } else {
                (0, LayerState::Waiting)
            };
            let state = LayerProgress {
                digest: descriptor.digest.to_string(),
                done,
                total: descriptor.size,
                state,
            };
            states.push(state.clone());
            if !is_here {
                let job = Job {
                    descriptor: descriptor.clone(),
                    diff_id: plan.config.diff_ids[index].clone(),
                    chain_id: plan.chain[index].clone(),
                    repository: repository.clone(),
                    below: seats.last().map(|(_, seat)| seat.clone()),
                    bench: self.bench.clone(),
                };
                seats.push((
                    index,
                    self.layers.join(job.chain_id.clone(), state, |tell| job.run(tell)),
                ));
            }
        }
        progress.send_modify(|progress| progress.layers = states);
        let mut waiting = JoinSet::new();
        for (index, seat) in seats {
            let progress = progress.clone();
            waiting.spawn(async move {
                seat.follow(|state| progress.send_modify(|all| all.layers[index] = state.clone()))
                    .await
            });
        }
        // The first failure ends the pull; dropping the set gives up the other seats.
        while let Some(done) = waiting.join_next().await {
            done.map_err(|_| PullCause::Lost)?.map_err(PullCause::Shared)?;
        }
        Ok(())
    }

    /// Writes manifest and configuration, unless they are there.
    async fn keep_documents(&self, plan: &Plan) -> Result<(), PullCause> {
        let documents: Vec<_> =
            plan.documents().map(|(digest, bytes)| (digest.clone(), Arc::clone(bytes))).collect();
        let blobs = Arc::clone(&self.blobs);
        let keep = move || {
            for (digest, bytes) in documents {
                if !blobs.contains(&digest) {
                    blobs
                        .put(&digest, &bytes)
                        .map_err(|source| PullCause::Blob { digest, source })?;
                }
            }
            Ok(())
        };
        tokio::task::spawn_blocking(keep).await.map_err(|_| PullCause::Lost)?
    }
}

fn record(request: &PullRequest, plan: Plan) -> Image {
    let reference = &request.reference;
    let documents: usize = plan.documents().map(|(_, bytes)| bytes.len()).sum();
    let Plan { resolved, manifest_digest, manifest, config, chain, .. } = plan;
    let layers: Vec<Layer> = manifest
        .layers
        .into_iter()
        .zip(config.diff_ids)
        .zip(chain)
        .map(|((descriptor, diff_id), chain_id)| Layer {
            digest: descriptor.digest,
            diff_id,
            chain_id,
            bytes: descriptor.size,
        })
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Image {
        id: manifest.config.digest,
        manifest: manifest_digest,
        tags: reference.tagged().into_iter().collect(),
        digests: vec![reference.at(&resolved)],
        bytes: layers.iter().map(|layer| layer.bytes).fold(documents as u64, u64::saturating_add),
        layers,
        config: config.config,
        annotations: manifest.annotations,
        pulled_at: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
    }
}
