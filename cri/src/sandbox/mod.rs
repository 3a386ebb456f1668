//! Pod sandboxes: the namespaces, the network, the monitor and the files that a pod's containers share.
//!
//! ```text
//!   run:   refuse ─▶ directories ─▶ namespaces pinned ─▶ { network ∥ monitor } ─▶ files ─▶ cgroup ─▶ record
//!   stop:  monitor ended ─▶ network given back ─▶ pins removed ─▶ cgroup removed ─▶ record: not ready
//! ```
//!
//! On the way up each step pushes its undo; on the way down each step may be repeated, and what fails is left for the
//! next stop.

mod cgroup;
pub(crate) mod files;
pub(crate) mod log_directory;
mod network;
mod resources;
pub(crate) mod room;
mod run;
pub(crate) mod status;
mod stop;

use crate::flight::Flights;
use crate::handlers::UnknownHandler;
use crate::host::Host;
use crate::stats::Gauge;
use crate::store::StoreError;
use crate::systemd::SystemdError;
use crate::table::{Ambiguous, Table};
use cri_api::runtime::v1::{ContainerEventType, NamespaceMode, PodSandboxConfig};
use netns::{Attached, NetworkError};
use runtime::cgroup::BadCgroupPath;
use runtime::id::PodId;
use runtime::monitor::{Mark, Monitor, MonitorError};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use cgroup::{owner as owner_of_cgroup, slice_path};
pub(crate) use log_directory::LogPathError;
use resources::Allowance;
pub(crate) use run::Key;

/// Whether containers can be started in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Ready,
    NotReady,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::NotReady => "notready",
        }
    }
}

/// What of a pod is recorded.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: PodId,
    pub(crate) detail: Detail,
    pub(crate) config: PodSandboxConfig,
}

/// The part of a pod's record that is ours rather than the client's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Detail {
    pub(crate) state: State,
    /// The boot in which the pod was made; in another one nothing of it is left in the kernel.
    pub(crate) boot: String,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    /// As the pod asked for it.
    pub(crate) handler: String,
    /// Who runs its containers, whatever becomes of the node's default.
    #[serde(default = "own_runner")]
    pub(crate) runner: String,
    /// The pod's lease, until it is given back.
    pub(crate) network: Option<Attached>,
    /// The cgroup that its containers' cgroups go into.
    pub(crate) cgroup: String,
    /// Whether that cgroup is ours to remove, rather than kubelet's.
    pub(crate) owns_cgroup: bool,
    /// The pod's monitor, to be found where it cannot be reached: it does not answer, or somebody has emptied the run
    /// directory.
    #[serde(default)]
    pub(crate) monitor: Option<Mark>,
    /// The unit of systemd that the cgroup belongs to.
    #[serde(default)]
    pub(crate) unit: Option<String>,
}

/// Pods that were recorded before there were others.
fn own_runner() -> String {
    crate::handlers::OWN.to_owned()
}

/// A pod in memory.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: PodId,
    pub(crate) config: PodSandboxConfig,
    detail: Mutex<Detail>,
    monitor: Mutex<Option<Monitor>>,
    allowance: Mutex<Allowance>,
    /// Its statistics, read before and held open.
    pub(crate) gauge: Gauge,
    /// Held by whatever changes the pod or makes, starts or removes a container in it. Reads never take it.
    pub(crate) lock: Arc<tokio::sync::Mutex<()>>,
}

/// All pods of the node.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    host: Arc<Host>,
    pub(crate) table: Table<Sandbox>,
    flights: Arc<Flights<Key, Result<PodId, Arc<SandboxError>>>>,
}

/// Why something could not be done with a pod.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("pod {0} not found")]
    NotFound(String),
    #[error(transparent)]
    Ambiguous(#[from] Ambiguous),
    #[error("pod sandbox config: {0}")]
    Invalid(String),
    #[error("pod sandbox config: {0} is not supported")]
    Unsupported(String),
    #[error("pod sandbox config")]
    Handler(#[from] UnknownHandler),
    #[error("pod {0} exists already")]
    Exists(String),
    #[error("run pod {0}: the operation ended without a result")]
    Lost(String),
    #[error("pod sandbox config")]
    Spec(#[from] cri_spec::SpecError),
    #[error("pod sandbox config: cgroup parent")]
    CgroupParent(#[source] BadCgroupPath),
    #[error("{step} {}", path.display())]
    Files { step: &'static str, path: PathBuf, source: io::Error },
    #[error("log directory of pod {pod}")]
    Log { pod: PodId, source: LogPathError },
    #[error("namespaces of pod {pod}")]
    Namespaces { pod: PodId, source: sys::pin::PinError<SetupError> },
    #[error("open namespaces of pod {pod}")]
    OpenNamespaces { pod: PodId, source: io::Error },
    #[error("unpin namespaces of pod {pod}")]
    Unpin { pod: PodId, source: io::Error },
    #[error("network of pod {pod}")]
    Network { pod: PodId, source: NetworkError },
    #[error("monitor of pod {pod}")]
    Monitor { pod: PodId, source: MonitorError },
    #[error("end the monitor of pod {pod}")]
    EndMonitor { pod: PodId, source: io::Error },
    #[error("cgroup of pod {pod}")]
    Cgroup { pod: PodId, source: runtime::cgroup::CgroupError },
    #[error("cgroup of pod {pod}")]
    Systemd { pod: PodId, source: SystemdError },
    #[error("record pod {pod}")]
    Record { pod: PodId, source: StoreError },
}

/// Why the inside of new namespaces could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("set host name {0:?}")]
    Hostname(String, #[source] io::Error),
    #[error("set sysctl {key} to {value:?}")]
    Sysctl { key: String, value: String, source: io::Error },
    #[error("open the new network namespace")]
    Open(#[source] io::Error),
    #[error("bring up loopback")]
    Loopback(#[source] NetworkError),
}

impl Sandbox {
    pub(crate) fn new(record: Record, monitor: Option<Monitor>) -> Self {
        Self {
            id: record.id,
            allowance: Mutex::new(Allowance::of(&record.config)),
            config: record.config,
            detail: Mutex::new(record.detail),
            monitor: Mutex::new(monitor),
            gauge: Gauge::default(),
            lock: Arc::default(),
        }
    }

    pub(crate) fn detail(&self) -> Detail {
        self.lock_detail().clone()
    }

    /// Whether its network namespace is its own, and not the node's.
    pub(crate) fn has_own_network(&self) -> bool {
        !is_host(namespace_options(&self.config).network)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.lock_detail().state == State::Ready
    }

    /// The pod's monitor, while it has one.
    pub(crate) fn monitor(&self) -> Option<Monitor> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_monitor(&self, monitor: Option<Monitor>) {
        *self.monitor.lock().unwrap_or_else(PoisonError::into_inner) = monitor;
    }

    fn lock_detail(&self) -> MutexGuard<'_, Detail> {
        self.detail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is recorded: on disk first, in memory once that is done.
    fn change(&self, host: &Host, change: impl FnOnce(&mut Detail)) -> Result<(), SandboxError> {
        let mut detail = self.detail();
        change(&mut detail);
        let config = self.config_now();
        let record = Record { id: self.id.clone(), config, detail: detail.clone() };
        host.records
            .put_pod(&record)
            .map_err(|source| SandboxError::Record { pod: self.id.clone(), source })?;
        let ends = detail.state == State::NotReady;
        let ended = std::mem::replace(&mut *self.lock_detail(), detail).state == State::Ready;
        if ends && ended {
            host.events.tell(ContainerEventType::ContainerStoppedEvent, self.id.as_str(), self);
        }
        Ok(())
    }
}

impl Sandboxes {
    pub(crate) fn new(host: Arc<Host>) -> Self {
        Self { host, table: Table::default(), flights: Arc::default() }
    }

    /// The pod that a client means by a full or shortened id.
    pub(crate) fn resolve(&self, id: &str) -> Result<Arc<Sandbox>, SandboxError> {
        self.table
            .resolve("pod", id)?
            .ok_or_else(|| SandboxError::NotFound(id.chars().take(64).collect()))
    }

    /// Notes that a pod can hold no more containers, because its monitor has gone.
    pub(crate) fn mark_not_ready(&self, sandbox: &Sandbox) -> Result<(), SandboxError> {
        sandbox.change(&self.host, |detail| detail.state = State::NotReady)
    }

    /// As [`Self::mark_not_ready`], after a reboot took namespaces and network away: the lease goes too.
    pub(crate) fn mark_rebooted(&self, sandbox: &Sandbox) -> Result<(), SandboxError> {
        sandbox.change(&self.host, |detail| {
            detail.state = State::NotReady;
            detail.network = None;
            detail.monitor = None;
            detail.boot.clone_from(&self.host.boot);
        })
    }
}

/// Whether a pod's namespace of some kind is the host's.
pub(crate) fn is_host(mode: i32) -> bool {
    mode == NamespaceMode::Node as i32
}

/// The namespace modes that a pod asks for; where it says nothing, its own.
pub(crate) fn namespace_options(
    config: &PodSandboxConfig,
) -> cri_api::runtime::v1::NamespaceOption {
    config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.clone())
        .unwrap_or_default()
}
