//! A daemon in memory, on a socket of its own.

mod images;
mod runtime;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use cri_api::berth::v1::berth_server::BerthServer;
use cri_api::runtime::v1::image_service_server::ImageServiceServer;
use cri_api::runtime::v1::runtime_service_server::RuntimeServiceServer;
use cri_api::runtime::v1::{ContainerConfig, ContainerState, Image, PodSandboxConfig};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// Runs until it is dropped.
pub(crate) struct Daemon {
    directory: tempfile::TempDir,
    pub(crate) node: Arc<Node>,
    runtime: tokio::runtime::Runtime,
}

/// What the daemon knows.
#[derive(Default)]
pub(crate) struct Node {
    state: Mutex<State>,
    /// Counts changes of containers, for those who wait for one.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) images: Vec<Image>,
    pub(crate) pods: BTreeMap<String, PodSandboxConfig>,
    pub(crate) containers: BTreeMap<String, Container>,
    /// Seconds of grace of each StopContainer.
    pub(crate) stops: Vec<i64>,
    /// How many more WaitContainer calls find nobody.
    pub(crate) away: u32,
    pub(crate) next_id: u64,
}

pub(crate) struct Container {
    pub(crate) pod: String,
    pub(crate) config: ContainerConfig,
    pub(crate) log_path: PathBuf,
    pub(crate) state: ContainerState,
    pub(crate) exit_code: i32,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Arc::new(Node::default());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(directory.path().join("berth.sock")).unwrap()
        };
        let server = Server::builder()
            .add_service(RuntimeServiceServer::from_arc(Arc::clone(&node)))
            .add_service(ImageServiceServer::from_arc(Arc::clone(&node)))
            .add_service(BerthServer::from_arc(Arc::clone(&node)))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        Self { directory, node, runtime }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.node.state.lock().unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("berth.sock")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.directory.path().join("logs")
    }

    /// A file with this content.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        let mut file = OpenOptions::new().create_new(true).write(true).open(&path).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn has_image(&self, name: &str) {
        self.state().images.push(image(name));
    }

    /// No pod, no container, no log is left.
    pub(crate) fn assert_empty(&self) {
        let state = self.state();
        assert!(state.pods.is_empty() && state.containers.is_empty(), "{:?}", state.pods);
        let logs: Vec<_> = fs::read_dir(self.logs()).map(Iterator::collect).unwrap_or_default();
        assert!(logs.is_empty(), "{logs:?}");
    }

    /// Waits for so many StopContainer calls.
    pub(crate) fn wait_for_stops(&self, count: usize) {
        let mut changes = self.node.changes.subscribe();
        let has_come = |_: &u64| self.state().stops.len() >= count;
        self.runtime.block_on(async { changes.wait_for(has_come).await.unwrap() });
    }
}

pub(crate) fn image(name: &str) -> Image {
    let (repository, _) = name.rsplit_once(':').unwrap();
    Image {
        id: format!("sha256:{}", "1a".repeat(32)),
        repo_tags: vec![name.into()],
        repo_digests: vec![format!("{repository}@sha256:{}", "2b".repeat(32))],
        size: 4_262_003,
        ..Default::default()
    }
}

fn open_log(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

/// One line of a CRI log.
fn write_log(path: &Path, stream: &str, text: &str) {
    writeln!(open_log(path), "2026-01-01T00:00:00.000000000Z {stream} F {text}").unwrap();
}
