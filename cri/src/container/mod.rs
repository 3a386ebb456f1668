//! Containers: made of an image and a request, started by their pod's monitor, watched until they are removed.
//!
//! ```text
//!   create:  refuse ─▶ user ─▶ spec ─▶ plan (all pure but the user) ─▶ directories ─▶ record
//!   start:   root, namespaces, volumes, log, cgroup opened ─▶ one request to the monitor ─▶ record
//!   exit:    the monitor records it ─▶ event ─▶ record ─▶ cgroup removed
//! ```
//!
//! A created container holds nothing in the kernel. So between create and start there is nothing that could be lost.

mod accounts;
mod budget;
mod cdi;
mod create;
mod driven;
pub(crate) mod events;
mod exec;
mod identity;
pub(crate) mod limits;
mod remove;
mod rootfs;
mod signal;
mod start;
mod state;
pub(crate) mod status;
mod stop;
mod streams;
mod update;
mod volumes;

use crate::flight::Flights;
use crate::handlers::UnknownHandler;
use crate::host::Host;
use crate::images::Images;
use crate::sandbox::{LogPathError, SandboxError, Sandboxes};
use crate::stats::Gauge;
use crate::store::StoreError;
use crate::table::{Ambiguous, Table};
use cri_api::runtime::v1::{ContainerConfig, ContainerEventType};
use oci_spec::runtime::Spec;
use runtime::cgroup::BadCgroupPath;
use runtime::id::{ContainerId, PodId};
use runtime::monitor::MonitorError;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use cdi::CdiError;
pub(crate) use driven::bundle_name;
pub(crate) use exec::ExecSync;
pub(crate) use identity::IdentityError;
pub(crate) use remove::remove_tree;
pub(crate) use rootfs::UPPER;
pub(crate) use rootfs::volume as merged;
use update::Allowance;

pub(crate) use state::{Event, Exited, Reason, State};
pub(crate) use streams::{Attached, Pipes, Running, detached, exec_ended};

/// What of a container is recorded.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: ContainerId,
    pub(crate) detail: Detail,
    pub(crate) config: ContainerConfig,
}

/// The part of a container's record that is ours rather than the client's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Detail {
    pub(crate) pod: PodId,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    pub(crate) image: image::Image,
    /// Images that it has as volumes.
    #[serde(default)]
    pub(crate) volumes: Vec<image::Image>,
    /// The cgroup, a path below the root of each hierarchy.
    pub(crate) cgroup: String,
    /// The signal that asks it to end, by its name.
    pub(crate) stop_signal: String,
    /// The log file, below the pod's log directory.
    pub(crate) log: Option<String>,
    #[serde(with = "update::shared")]
    pub(crate) spec: Arc<Spec>,
    pub(crate) state: State,
}

/// A container in memory.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) config: ContainerConfig,
    /// Everything but the state and what updates change, which are below.
    made: Detail,
    allowance: Mutex<Allowance>,
    state: watch::Sender<State>,
    /// When everything in the container is killed, once a stop has been asked for.
    kill_at: watch::Sender<Option<Instant>>,
    /// Held while the state is written, so that an older one never follows a newer one to the disk, nor any of them the
    /// removal: that is when this is true.
    removed: Mutex<bool>,
    /// Held while the state moves on and listeners are told, so that nobody hears of an end before its beginning.
    telling: Mutex<()>,
    /// Whether somebody has begun to start it: only one ever does.
    claimed: AtomicBool,
    /// Its statistics, read before and held open.
    pub(crate) gauge: Gauge,
}

/// What makes two requests for a container the same container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    pod: PodId,
    name: String,
    attempt: u32,
}

/// All containers of the node.
#[derive(Debug)]
pub(crate) struct Containers {
    host: Arc<Host>,
    sandboxes: Arc<Sandboxes>,
    images: Arc<Images>,
    pub(crate) table: Arc<Table<Container>>,
    flights: Arc<Flights<Key, Result<ContainerId, Arc<ContainerError>>>>,
    exec_memory: budget::Budget,
}

/// Why something could not be done with a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerError {
    #[error("container {0} not found")]
    NotFound(String),
    #[error(transparent)]
    Ambiguous(#[from] Ambiguous),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Handler(#[from] UnknownHandler),
    #[error("{what} are not supported by runtime handler {handler:?}")]
    Undrivable { what: &'static str, handler: String },
    #[error("container config: {0}")]
    Invalid(String),
    #[error("CDI devices")]
    Cdi(#[from] CdiError),
    #[error("limits of container")]
    Limits(#[from] limits::BadSpecLimit),
    #[error("container config")]
    Spec(#[from] cri_spec::SpecError),
    #[error("container config: seccomp profile {}", path.display())]
    Profile { path: PathBuf, source: io::Error },
    #[error("container config: log_path")]
    LogPath(#[source] LogPathError),
    #[error("container {0} exists already")]
    Exists(String),
    #[error("create container {0}: the operation ended without a result")]
    Lost(String),
    #[error("pod {0} is not ready")]
    PodNotReady(PodId),
    #[error("image {0:?} is not here; pull it first")]
    NoImage(String),
    /// Kubelet goes by the first word.
    #[error("ImageVolumeMountFailed: image {image} at {sub_path:?}")]
    ImageVolume { image: image::Digest, sub_path: String, source: io::Error },
    #[error("container config: {0}")]
    Unsupported(String),
    #[error("map ids of a mount in pod {pod}")]
    MapIds { pod: PodId, source: MonitorError },
    #[error("container config: PID namespace of container {0:?}: {1}")]
    Target(String, &'static str),
    #[error(transparent)]
    AmbiguousImage(#[from] image::Ambiguous),
    #[error("user of container")]
    Identity(#[from] IdentityError),
    #[error("layers of image {image}")]
    Layers { image: image::Digest, source: image::layer::LayerError },
    #[error("{step} {}", path.display())]
    Files { step: &'static str, path: PathBuf, source: io::Error },
    #[error("root of container {container}: {step}")]
    Root { container: ContainerId, step: &'static str, source: io::Error },
    #[error("container {container} is {state}, not {wanted}")]
    WrongState { container: ContainerId, state: &'static str, wanted: &'static str },
    #[error("log of container {container}")]
    Log { container: ContainerId, source: LogPathError },
    #[error("cgroup of container {container}")]
    Cgroup { container: ContainerId, source: runtime::cgroup::CgroupError },
    #[error("cgroup of container {container}")]
    CgroupPath { container: ContainerId, source: BadCgroupPath },
    /// The cause is in the text, because it is also the message in the container's status.
    #[error("start container {container}: {message}")]
    Start { container: ContainerId, message: String },
    #[error("container {container}: monitor")]
    Monitor { container: ContainerId, source: MonitorError },
    #[error("exec in container {container}: {message}")]
    Exec { container: ContainerId, message: String },
    #[error("exec in container {container} did not end within {seconds} s and was killed")]
    ExecTimeout { container: ContainerId, seconds: i64 },
    #[error(
        "exec in container {container}: too many execs with large outputs run at once; try again"
    )]
    ExecMemory { container: ContainerId },
    #[error("exec in container {container}: {step}")]
    ExecIo { container: ContainerId, step: &'static str, source: io::Error },
    #[error(transparent)]
    Streams(#[from] crate::stream::TooMany),
    #[error("container {container} did not end after SIGKILL")]
    StillRunning { container: ContainerId },
    #[error("record container {container}")]
    Record { container: ContainerId, source: StoreError },
}

impl Container {
    pub(crate) fn new(record: Record) -> Self {
        let state = watch::Sender::new(record.detail.state.clone());
        let allowance = Mutex::new(Allowance::of(&record));
        Self {
            allowance,
            id: record.id,
            config: record.config,
            made: record.detail,
            state,
            kill_at: watch::Sender::new(None),
            removed: Mutex::default(),
            telling: Mutex::default(),
            claimed: AtomicBool::new(false),
            gauge: Gauge::default(),
        }
    }

    pub(crate) fn pod(&self) -> &PodId {
        &self.made.pod
    }

    pub(crate) fn image(&self) -> &image::Image {
        &self.made.image
    }

    /// Its own image, and those that it has as volumes.
    pub(crate) fn images(&self) -> impl Iterator<Item = &image::Image> {
        std::iter::once(&self.made.image).chain(&self.made.volumes)
    }

    pub(crate) fn cgroup(&self) -> &str {
        &self.made.cgroup
    }

    /// The spec with all updates in it.
    pub(crate) fn spec(&self) -> Arc<Spec> {
        self.allowance().spec
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Follows the state; the first value is the present one.
    pub(crate) fn follow(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn is(&self, key: &Key) -> bool {
        self.config.metadata.as_ref().is_some_and(|metadata| {
            self.made.pod == key.pod && metadata.name == key.name && metadata.attempt == key.attempt
        })
    }

    fn wrong_state(&self, wanted: &'static str) -> ContainerError {
        let (state, _) = self.state().columns();
        ContainerError::WrongState { container: self.id.clone(), state, wanted }
    }
}

impl Containers {
    pub(crate) fn new(host: Arc<Host>, sandboxes: Arc<Sandboxes>, images: Arc<Images>) -> Self {
        let table = Arc::clone(&host.events.containers);
        Self {
            host,
            sandboxes,
            images,
            table,
            flights: Arc::default(),
            exec_memory: budget::Budget::default(),
        }
    }

    /// The container that a client means by a full or shortened id.
    pub(crate) fn resolve(&self, id: &str) -> Result<Arc<Container>, ContainerError> {
        self.table
            .resolve("container", id)?
            .ok_or_else(|| ContainerError::NotFound(id.chars().take(64).collect()))
    }

    pub(crate) fn of_pod(&self, pod: &PodId) -> Vec<Arc<Container>> {
        self.table.list().into_iter().filter(|container| container.pod() == pod).collect()
    }

    /// Moves a container on: in memory at once, because it has happened, and on disk.
    ///
    /// # Errors
    ///
    /// The record could not be written. Memory is right all the same, and after a restart the monitor's record is.
    pub(crate) fn apply(&self, container: &Container, event: Event) -> Result<(), ContainerError> {
        if self.advance(container, event) { self.write(container) } else { Ok(()) }
    }

    /// The part of [`Self::apply`] that cannot fail; says whether anything changed.
    pub(crate) fn advance(&self, container: &Container, event: Event) -> bool {
        let _telling = container.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut step = None;
        let changed = container.state.send_if_modified(|state| match state.after(event) {
            Some(next) => {
                if let (false, State::Exited(exited)) = (state.is_exited(), &next) {
                    self.host.instruments.exited(exited.reason.as_str());
                }
                step = Some((state.clone(), next.clone()));
                *state = next;
                true
            }
            None => false,
        });
        if let Some((before, after)) = step
            && let Some(sandbox) = self.sandboxes.table.get(container.pod().as_str())
        {
            self.host.events.tell_step(&before, &after, container.id.as_str(), &sandbox);
        }
        changed
    }

    /// Tells who listens of a container that came or went.
    fn tell(&self, event: ContainerEventType, container: &Container) {
        let _telling = container.telling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sandbox) = self.sandboxes.table.get(container.pod().as_str()) {
            self.host.events.tell(event, container.id.as_str(), &sandbox);
        }
    }

    fn write(&self, container: &Container) -> Result<(), ContainerError> {
        let removed = container.removed.lock().unwrap_or_else(PoisonError::into_inner);
        if *removed {
            return Ok(());
        }
        let record = container.record();
        self.host
            .records
            .put_container(&record)
            .map_err(|source| ContainerError::Record { container: container.id.clone(), source })
    }
}
