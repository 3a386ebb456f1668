//! The file system part of a launch plan.

use crate::Fd;
use serde::{Deserialize, Serialize};

/// One mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it goes, an absolute path inside the container's root. What is missing is created: directories with mode
    /// 0755, and for a source that is no directory an empty file.
    pub target: String,
    /// What is mounted.
    pub source: Source,
    /// The attributes of the mount itself, set before it is attached.
    pub attributes: Attributes,
    /// The propagation type of the mount, set before it is attached.
    pub propagation: Propagation,
}

/// The only paths at or below `/proc` that a mount may cover: files that lxcfs makes true for a container and that no
/// program sets anything by. Whatever else is covered there takes labels, profiles or settings away from the process
/// that writes them (CVE-2019-16884, CVE-2025-52881). runc allows the same. Whoever makes a plan refuses other targets
/// early, and whoever executes one refuses them again.
pub const COVERABLE: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

/// What a [`Mount`] shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A new procfs of the container's PID namespace.
    Proc,
    /// A new sysfs of the container's network namespace.
    Sysfs,
    /// A new, empty tmpfs with these mount options (`size=65536k`, `mode=755`), each as key and value.
    Tmpfs(Vec<(String, String)>),
    /// A new instance of devpts.
    Devpts(Vec<(String, String)>),
    /// The message queues of the container's IPC namespace.
    Mqueue,
    /// The cgroup v2 hierarchy as the container's cgroup namespace shows it.
    Cgroup2,
    /// The pod's own `/dev/shm`, which the monitor keeps.
    PodShm,
    /// A detached mount that travels with the plan (`open_tree(2)` with `OPEN_TREE_CLONE`): volumes, the files of the
    /// sandbox, the host's devices.
    Tree(Fd),
}

/// Attributes of a mount (`mount_setattr(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// No writes through this mount.
    pub readonly: bool,
    /// `readonly` holds for every mount below this one too (KEP-3857).
    pub recursive_readonly: bool,
    /// No set-user-id bits and no file capabilities.
    pub nosuid: bool,
    /// No access to devices.
    pub nodev: bool,
    /// No execution.
    pub noexec: bool,
    /// Never update access times.
    pub noatime: bool,
    /// Update access times only relative to change times (the kernel's default).
    pub relatime: bool,
}

/// How mount events travel to and from a mount (`mount_namespaces(7)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// From the host into the container (and for all mounts below).
    Slave,
    /// Both ways (and for all mounts below).
    Shared,
}

/// A device node below `/dev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// An absolute path inside the container's root, below `/dev`.
    pub path: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits, such as 0o666; not cut by any umask.
    pub mode: u32,
    /// Owner, as the host counts users, also where the container has a user namespace.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
}

/// The kinds of device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe; the numbers are ignored.
    Fifo,
}

/// A symbolic link below `/dev`, such as `/dev/fd` to `/proc/self/fd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// An absolute path inside the container's root, below `/dev`.
    pub path: String,
    /// The text of the link, never resolved by us.
    pub target: String,
}
