//! Launch plans: what the daemon thinks, as data that the monitor executes.
//!
//! The daemon computes a plan with no side effect (`cri-spec`), opens what the plan refers to, and sends both to the
//! pod's monitor: the plan as bytes, the descriptors beside it. The monitor performs the steps in order and decides
//! nothing. So the order of the steps, which is the security argument of a container start, is data that tests read.
//!
//! ```text
//!   LaunchPlan { root, join, mounts, devices, links, masked, readonly, process }
//!                 │     │      └── Source::Tree(Fd) ─┐
//!                 └─────┴───────────────────────────┴──▶ descriptors[Fd.0], sent by SCM_RIGHTS
//! ```
//!
//! Every path in a plan is a path inside the container's root. It is resolved there once, with
//! `openat2(RESOLVE_IN_ROOT)`, and never as a path of the host.

pub mod drive;
mod mount;
mod process;
mod user;

pub use drive::{Drive, ExecCgroup};
pub use mount::{Attributes, COVERABLE, Device, DeviceKind, Link, Mount, Propagation, Source};
pub use process::{Capabilities, Identity, Instruction, Process, Rlimit, Seccomp, Terminal};
pub use user::{IdRange, UserNamespace};

use serde::{Deserialize, Serialize};

/// The version of the plan's encoding and of the monitor's protocol. How versions meet is told in `runtime::protocol`.
pub const VERSION: u16 = 2;

/// The oldest version that is still spoken. Version 1 was never released.
pub const OLDEST: u16 = 2;

/// The place of a descriptor among those that travel beside a plan, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd(pub u16);

/// Everything a monitor needs to know to start one container.
///
/// Since [`OLDEST`], a field is only added at the end of this struct, where an older monitor does not see it, and never in
/// the middle of a struct inside it; [`LaunchPlan::needs`] says what such a monitor must not miss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// The container's root file system: a detached mount.
    pub root: Fd,
    /// Whether the root is made read-only once everything inside it is in place.
    pub root_readonly: bool,
    /// How mounts made by the host after the start reach the container.
    pub root_propagation: Propagation,
    /// Existing namespaces to enter, in this order. A kind that is absent is the host's.
    pub join: Vec<Join>,
    /// Which processes the container sees.
    pub pids: PidNamespace,
    /// Whether the container gets a cgroup namespace of its own, rooted at its cgroup.
    pub cgroup_namespace: bool,
    /// Mounts, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// Device nodes, made below `/dev` after the mounts. `/dev` must be a tmpfs of this plan.
    pub devices: Vec<Device>,
    /// Symbolic links, made below `/dev` after the devices.
    pub links: Vec<Link>,
    /// Files and directories that are hidden: files below a null device, directories below an empty read-only tmpfs.
    pub masked: Vec<String>,
    /// Files and directories that are made read-only.
    pub readonly: Vec<String>,
    /// What runs in the container.
    pub process: Process,
    /// The pod's user namespace; the host's where there is none.
    pub user: Option<UserNamespace>,
}

impl LaunchPlan {
    /// The oldest version of a monitor that understands everything this plan asks for. A field that came after
    /// [`OLDEST`] and changes what a container may do counts here where it is set: an older monitor would start the
    /// container without it.
    #[must_use]
    pub fn needs(&self) -> u16 {
        OLDEST
    }
}

/// A namespace that exists already and is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The kind of the namespace that `fd` stands for.
    pub kind: NamespaceKind,
    /// A descriptor of the namespace (its pin).
    pub fd: Fd,
}

/// The kinds of namespaces that a sandbox pins and its containers enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Links, addresses, routes, firewall, abstract unix sockets (`network_namespaces(7)`).
    Network,
    /// System V IPC and POSIX message queues (`ipc_namespaces(7)`).
    Ipc,
    /// Host name and domain name (`uts_namespaces(7)`).
    Uts,
}

/// Which PID namespace a container's first process lives in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// A new one, in which it is process 1.
    Own,
    /// The monitor's, that is the host's.
    Host,
    /// The one that the pod's containers share. The monitor makes it, with a process 1 that reaps orphans. The
    /// container needs a cgroup: nothing else tells its processes from those of its neighbours.
    Pod,
    /// That of another container of the pod, by that one's name. It must run, and this one needs a cgroup, as with `Pod`.
    Of(String),
}
