//! Containers that the program of another OCI runtime makes.

use crate::LaunchPlan;
use serde::{Deserialize, Serialize};

/// How a monitor has another runtime's program start a container, and look after it.
///
/// All of it is the daemon's own: the program and its options come from the configuration of the node, the paths are
/// made of checked ids. Nothing here is a request's or an image's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// The runtime's name in messages, such as `runc`.
    pub name: String,
    /// The program, an absolute path of the host.
    pub program: String,
    /// Options that go before each command, beside those that the monitor itself gives.
    pub options: Vec<String>,
    /// Where the program keeps its state, an absolute path of the host (`--root`).
    pub state: String,
    /// The container's bundle, an absolute path of the host without symbolic links. It holds `config.json` and empty
    /// places for what the monitor puts there for the runtime alone to see: [`ROOT`], [`SHM`] and [`PIDS`].
    pub bundle: String,
    /// How long one run of the program may take, in milliseconds; it is killed then.
    pub patience_ms: u64,
    /// How the program's `exec` can be told a cgroup below the container's.
    pub exec_cgroup: ExecCgroup,
    /// What of the plan the monitor itself needs: the root, the namespaces that the pod's process 1 joins, the PID
    /// namespace, terminal, input and OOM score. The rest is empty: the bundle's `config.json` says it to the runtime.
    pub plan: LaunchPlan,
}

/// What of a bundle is the container's root.
pub const ROOT: &str = "rootfs";
/// What of a bundle is the pod's `/dev/shm`.
pub const SHM: &str = "shm";
/// What of a bundle is the PID namespace that containers of the pod share.
pub const PIDS: &str = "pids";

/// How a runtime's `exec` takes a cgroup below the container's, in which an exec can be killed whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecCgroup {
    /// It does not. Then only the exec's process group is killed.
    None,
    /// `--cgroup PATH`, for cgroup v2.
    Path,
    /// `--cgroup CONTROLLER:PATH`, for cgroup v1.
    ByController,
}
