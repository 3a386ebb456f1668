//! Pulls against registries that are honest, broken or hostile, into layers in memory.

mod debian;
mod fake;
mod hostile;
mod pulls;
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
    _root: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self::trusting(Trust::default())
    }

    fn trusting(trust: Trust) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layers = Arc::<FakeLayers>::default();
        let config = StoreConfig {
            root: root.path().to_owned(),
            unpack: PathBuf::new(),
            insecure_registries: Vec::new(),
            max_downloads: 3,
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
        let client = Client::new(Vec::new(), patience, trust);
        let store = Store::with(config, Arc::clone(&layers) as Arc<dyn Layers>, client).unwrap();
        Self { store, layers, _root: root }
    }

    async fn pull(&self, name: &str) -> Result<Pulled, PullError> {
        self.pull_as(name, None).await
    }

    async fn pull_as(&self, name: &str, auth: Option<Auth>) -> Result<Pulled, PullError> {
        let request = PullRequest { reference: name.parse().unwrap(), auth };
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
