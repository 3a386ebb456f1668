//! Pulling images.
//!
//! ```text
//! name ──► manifest for this platform ──► configuration ──► chain ids ──► layers (layer.rs), in parallel
//!             resolve.rs                                                    one flight for each chain id
//! ```
//!
//! A whole pull is a flight too: equal requests join. Both kinds of work run in tasks of their own and end when nobody
//! waits for them any more (flight.rs). A layer that is in the store already is not asked for.

mod download;
mod error;
mod flight;
mod layer;
mod origin;
pub mod request;
mod resolve;
mod turns;

pub use crate::document::DocumentError;
pub use crate::document::json::BadJson;
pub use crate::registry::{BadIdentity, HostsError, RegistryError};
pub use error::{PullCause, PullError, PullFault};

pub use crate::archive::ArchiveError;
pub use crate::policy::PolicyError;

use crate::archive::{Archive, Listed};
use crate::blobs::Blobs;
use crate::digest::ChainId;
use crate::leases::{Content, Leases, Lingering};
use crate::limits::Limits;
use crate::policy::{self, Policy};
use crate::record::{Artifact, Image, Layer};
use crate::reference::Reference;
use crate::registry::{Client, Repository};
use flight::{Flights, Seat};
use layer::{Bench, Job};
use origin::Origin;
use request::{LayerProgress, LayerState, Progress, ProgressSender, PullRequest, Pulled};
use resolve::{Plan, Source};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinSet;
use turns::{PullNumber, Turns};

/// Pulls images into the stores it is given.
#[derive(Debug)]
pub(crate) struct Puller {
    blobs: Arc<Blobs>,
    client: Arc<Client>,
    leases: Arc<Leases>,
    lingering: Arc<Lingering>,
    bench: Bench,
    layers: Flights<ChainId, (), LayerProgress>,
    pulls: Flights<PullRequest, Pulled, Progress>,
    next: AtomicU64,
    policy: Option<PathBuf>,
}

/// What a [`Puller`] works with.
#[derive(Debug)]
pub(crate) struct Stores {
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) layers: Arc<dyn crate::layer::Layers>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) lingering: Arc<Lingering>,
}

/// How a [`Puller`] works.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    /// Layers under way at a time, over all pulls; at least one.
    pub(crate) max_downloads: usize,
    /// Whether layers stay packed beside unpacked.
    pub(crate) keep_packed: bool,
    /// The file with the policy of signatures.
    pub(crate) policy: Option<PathBuf>,
}

impl Puller {
    pub(crate) fn new(stores: Stores, client: Arc<Client>, rules: Rules) -> Self {
        let Stores { blobs, layers, leases, lingering } = stores;
        let bench = Bench {
            blobs: Arc::clone(&blobs),
            layers,
            limits: rules.limits,
            downloads: Arc::default(),
            turns: Arc::new(Turns::new(rules.max_downloads)),
            stall: client.stall(),
            keep_packed: rules.keep_packed,
        };
        Self {
            blobs,
            leases,
            lingering,
            client,
            bench,
            layers: Flights::default(),
            pulls: Flights::default(),
            next: AtomicU64::new(0),
            policy: rules.policy,
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

    /// Takes one image over from an archive. Dropping the future gives it up.
    pub(crate) async fn load(
        &self,
        archive: &Arc<Archive>,
        listed: &Listed,
        progress: ProgressSender,
    ) -> Result<Pulled, PullCause> {
        if let Some(policy) = self.policy().await? {
            policy.of_archive()?;
        }
        let top = archive.manifest(&listed.top, self.bench.limits.document_bytes)?;
        let origin = Origin::Archive(Arc::clone(archive));
        let plan = self.plan(&origin, top).await?;
        let names = Names {
            tags: listed.names.iter().filter_map(Reference::tagged).collect(),
            // Whether any registry has it under this digest, nobody knows.
            digests: Vec::new(),
        };
        self.bring(origin, plan, names, progress).await
    }

    async fn work(
        &self,
        request: PullRequest,
        progress: watch::Sender<Progress>,
    ) -> Result<Pulled, PullCause> {
        let PullRequest { reference, auth } = &request;
        // What is rejected by its name is not even asked for.
        let policy = self.policy().await?;
        let asked = policy.map_or_else(|| Ok(Vec::new()), |policy| policy.of(reference))?;
        let repository = Repository::open(&self.client, reference, auth.clone()).await?;
        let top = repository.resolve(reference, self.bench.limits.document_bytes).await?;
        let origin = Origin::Registry(repository.clone());
        let plan = self.plan(&origin, top).await?;
        let mut digests = vec![&plan.resolved, &plan.manifest_digest];
        digests.dedup();
        policy::signatures(&repository, reference, &asked, &digests).await?;
        let name = reference.at(&plan.resolved);
        progress.send_modify(|progress| progress.resolved = Some(name.clone()));
        let names = Names { tags: reference.tagged().into_iter().collect(), digests: vec![name] };
        self.bring(origin, plan, names, progress).await
    }

    /// The policy as it is now.
    async fn policy(&self) -> Result<Option<Policy>, PullCause> {
        let Some(path) = self.policy.clone() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || Policy::read(&path)).await;
        Ok(Some(read.map_err(|_| PullCause::Lost)??))
    }

    async fn plan(
        &self,
        origin: &Origin,
        top: crate::registry::Fetched,
    ) -> Result<Plan, PullCause> {
        let limits = &self.bench.limits;
        let source = Source { blobs: &self.blobs, leases: &self.leases, origin, limits };
        source.resolve(top).await
    }

    /// Brings all that an image is made of into the store.
    async fn bring(
        &self,
        origin: Origin,
        plan: Plan,
        names: Names,
        progress: watch::Sender<Progress>,
    ) -> Result<Pulled, PullCause> {
        let layers = plan.chain.iter().cloned().map(Content::Layer);
        let packed = plan.manifest.layers.iter().map(|layer| Content::Blob(layer.digest.clone()));
        let documents = plan.documents().map(|(digest, _)| Content::Blob(digest.clone()));
        // Before looking what is there, so that it still is when the pull ends.
        let lease = self.leases.acquire(layers.chain(packed).chain(documents).collect()).await;
        // What a pull that is cut off has got stays for a while, for the next try.
        let head_start = self.lingering.unless_ended(&lease);
        // Both to their ends: a document written after the failure of a layer would be nobody's.
        let (layers, documents) =
            tokio::join!(self.fetch_layers(&plan, &origin, &progress), self.keep_documents(&plan));
        let done = layers.and(documents);
        if done.as_ref().map_or_else(PullCause::is_final, |()| true) {
            head_start.end();
        }
        done?;
        let image = record(plan, names);
        Ok(Pulled { image, lease })
    }

    async fn fetch_layers(
        &self,
        plan: &Plan,
        origin: &Origin,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), PullCause> {
        let (layers, chain) = (Arc::clone(&self.bench.layers), plan.chain.clone());
        let present = move || chain.iter().map(|layer| layers.contains(layer)).collect::<Vec<_>>();
        let present = tokio::task::spawn_blocking(present).await.map_err(|_| PullCause::Lost)?;
        self.check_space(plan, &present)?;
        let pull = self.next.fetch_add(1, Ordering::Relaxed);
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
                let below = seats.last().map(|(_, seat)| seat.clone());
                let job = self.job(plan, index, (origin, pull), below);
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

    fn job(
        &self,
        plan: &Plan,
        index: usize,
        (origin, pull): (&Origin, PullNumber),
        below: Option<Seat<(), LayerProgress>>,
    ) -> Job {
        let descriptor = plan.manifest.layers[index].clone();
        let is_made_up = descriptor.frame.is_some();
        Job {
            descriptor,
            diff_id: (!is_made_up).then(|| plan.config.diff_ids[index].clone()),
            chain_id: plan.chain[index].clone(),
            under: plan.chain[..index].to_vec(),
            origin: origin.clone(),
            pull,
            below,
            bench: self.bench.clone(),
        }
    }

    /// A disk that has no place even for the packed layers is refused before a byte is fetched.
    fn check_space(&self, plan: &Plan, present: &[bool]) -> Result<(), PullCause> {
        let layers = plan.manifest.layers.iter().zip(present);
        let missing = layers.filter(|(_, is_here)| !**is_here).map(|(layer, _)| layer.size);
        let needed = missing.fold(0, u64::saturating_add);
        // Where the file system does not tell, writing will.
        let free = self.blobs.free_bytes().unwrap_or(u64::MAX);
        match needed > free {
            true => Err(PullCause::NoSpace { needed, free }),
            false => Ok(()),
        }
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

/// The names that an image gets.
struct Names {
    tags: Vec<String>,
    digests: Vec<String>,
}

fn record(plan: Plan, names: Names) -> Image {
    let documents: usize = plan.documents().map(|(_, bytes)| bytes.len()).sum();
    let Plan { manifest_digest, manifest, config, chain, .. } = plan;
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
    let config_digest = manifest.config.digest;
    Image {
        id: match &manifest.artifact {
            // Most artifacts have the same, empty configuration.
            Some(_) => manifest_digest.clone(),
            None => config_digest.clone(),
        },
        artifact: manifest.artifact.map(|kind| Artifact { kind, config: config_digest }),
        manifest: manifest_digest,
        tags: names.tags,
        digests: names.digests,
        bytes: layers.iter().map(|layer| layer.bytes).fold(documents as u64, u64::saturating_add),
        layers,
        config: config.config,
        annotations: manifest.annotations,
        pulled_at: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
    }
}
