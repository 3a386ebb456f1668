//! Pulls against registries that are honest, broken or hostile, into layers in memory.

mod debian;
mod fake;
mod hostile;
mod hosts;
mod pulls;
mod resume;
mod scripted;

use super::*;
use crate::document::media;
use crate::pull::PullFault;
use crate::pull::request::{Auth, Progress};
use fake::FakeLayers;
use scripted::{Registry, Shelf};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A store in a temporary directory with a client that does not wait long.
struct Bed {
    store: Store,
    layers: Arc<FakeLayers>,
    root: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self::trusting(Trust::default())
    }

    fn trusting(trust: Trust) -> Self {
        Self::on(tempfile::tempdir().unwrap(), Arc::default(), trust, Duration::ZERO)
    }

    /// A bed where what is cut off stays for the next try.
    fn patient() -> Self {
        let keep = Duration::from_secs(600);
        Self::on(tempfile::tempdir().unwrap(), Arc::default(), Trust::default(), keep)
    }

    /// The same directory, as another process finds it.
    fn restarted(self) -> Self {
        let Self { root, layers, .. } = self;
        Self::on(root, layers, Trust::default(), Duration::from_secs(600))
    }

    fn on(
        root: tempfile::TempDir,
        layers: Arc<FakeLayers>,
        trust: Trust,
        keep_unfinished: Duration,
    ) -> Self {
        Self::with(root, layers, (Registries::default(), trust), keep_unfinished)
    }

    fn with(
        root: tempfile::TempDir,
        layers: Arc<FakeLayers>,
        (registries, trust): (Registries, Trust),
        keep_unfinished: Duration,
    ) -> Self {
        let config = StoreConfig {
            root: root.path().to_owned(),
            unpack: PathBuf::new(),
            layers: Choice::default(),
            insecure_registries: Vec::new(),
            registry_config: None,
            max_downloads: 3,
            keep_packed: false,
            policy: None,
            keep_unfinished,
            limits: Limits::default(),
        };
        let patience = Patience {
            connect: Duration::from_secs(2),
            stall: Duration::from_millis(700),
            backoff: Duration::from_millis(2),
            backoff_cap: Duration::from_millis(50),
            tries: 3,
            resumes: 5,
        };
        let client = Client::new(registries, patience, trust);
        let store = Store::with(config, Arc::clone(&layers) as Arc<dyn Layers>, client).unwrap();
        Self { store, layers, root }
    }

    async fn pull(&self, name: &str) -> Result<Pulled, PullError> {
        self.pull_as(name, None).await
    }

    async fn pull_as(&self, name: &str, auth: Option<Auth>) -> Result<Pulled, PullError> {
        let request = PullRequest { reference: name.parse().unwrap(), auth: auth.map(Into::into) };
        self.store.pull(request, progress()).await
    }

    /// What kind of failure the pull is; nothing of it may be left.
    async fn fault(&self, name: &str) -> PullFault {
        let err = self.pull(name).await.expect_err("the pull went through");
        self.idle().await;
        assert_eq!(self.layers.committed(), [], "{}", chain(&err));
        err.fault()
    }

    /// Waits until no staging area is left, as areas are given up in the background.
    async fn idle(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while self.layers.live() > 0 {
            assert!(tokio::time::Instant::now() < deadline, "a staging area is left behind");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn progress() -> ProgressSender {
    ProgressSender::new(Progress::default())
}

/// The error with its causes.
fn chain(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(err), |err| err.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn name(address: SocketAddr) -> String {
    format!("{address}/test/app:1")
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

/// An image whose layers are not even tar: the layers in memory do not mind.
#[derive(Clone)]
struct Recipe {
    layers: Vec<Vec<u8>>,
    media_type: &'static str,
    manifest: Value,
    config: Value,
}

impl Recipe {
    fn new(layers: &[&[u8]]) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let layers: Vec<Vec<u8>> = layers.iter().map(|layer| layer.to_vec()).collect();
        let descriptors: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
        Self {
            layers,
            media_type: media::OCI_MANIFEST,
            manifest: json!({ "schemaVersion": 2, "layers": descriptors, "annotations": { "a": "b" } }),
            config: json!({
                "os": "linux",
                "config": { "Env": ["A=1"], "Cmd": ["/bin/true"] },
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            }),
        }
    }

    /// One layer of so many bytes that do not repeat.
    fn large(bytes: usize) -> Self {
        Self::new(&[&noise(bytes)])
    }

    /// Puts it on a shelf; gives the manifest's bytes.
    fn shelve(&self, shelf: &mut Shelf) -> Vec<u8> {
        for layer in &self.layers {
            shelf.blob(layer);
        }
        let config = self.config.to_string().into_bytes();
        shelf.blob(&config);
        let mut manifest = self.manifest.clone();
        if manifest.get("config").is_none() {
            manifest["config"] = descriptor(CONFIG, &config);
        }
        let manifest = manifest.to_string().into_bytes();
        shelf.manifest("1", self.media_type, &manifest);
        manifest
    }

    fn shelf(&self) -> Shelf {
        let mut shelf = Shelf::default();
        self.shelve(&mut shelf);
        shelf
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(bytes)
    .collect()
}
