//! What can go wrong with cgroups.

use super::device::BadDeviceRule;
use super::path::CgroupPath;
use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

/// Why a cgroup could not be made, limited, killed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host's mounts could not be read.
    #[error("read {file}", file = file.display())]
    ReadMounts {
        /// The mount table.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// The host has no cgroups at the usual place.
    #[error("neither cgroup v2 is mounted at /sys/fs/cgroup nor any controller of v1 below it")]
    NotMounted,

    /// A step on a cgroup's directory.
    #[error("{step} cgroup {directory}", directory = directory.display())]
    Directory {
        /// Such as "create".
        step: &'static str,
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },

    /// A control file could not be read, or holds something unexpected.
    #[error("read {file} of cgroup {directory}", directory = directory.display())]
    Read {
        /// The cgroup's directory.
        directory: PathBuf,
        /// The control file.
        file: &'static str,
        /// What the kernel said.
        source: io::Error,
    },

    /// The kernel refused a value.
    #[error("write {value:?} to {file} of cgroup {directory}", directory = directory.display())]
    Write {
        /// The cgroup's directory.
        directory: PathBuf,
        /// The control file.
        file: Cow<'static, str>,
        /// What was written.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// A limit was asked for whose controller this cgroup does not have.
    #[error("{file} of cgroup {path}: the {controller} controller is not available here")]
    MissingController {
        /// The cgroup.
        path: CgroupPath,
        /// The controller, such as "memory".
        controller: &'static str,
        /// The control file that sets the limit.
        file: Cow<'static, str>,
        /// Why the controller could not be enabled, where that was tried.
        source: Option<io::Error>,
    },

    /// A memory limit below what is in use; the kernel would kill processes to get there.
    #[error("memory limit of {limit_bytes} B for cgroup {path}: {used_bytes} B are in use")]
    MemoryInUse {
        /// The cgroup.
        path: CgroupPath,
        /// What was asked for.
        limit_bytes: u64,
        /// What it uses now.
        used_bytes: u64,
    },

    /// The OOM score of its processes could not be set.
    #[error("set oom_score_adj {score} in cgroup {path}")]
    OomScore {
        /// The cgroup.
        path: CgroupPath,
        /// What was asked for.
        score: i32,
        /// What the kernel said.
        source: io::Error,
    },

    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] BadLimits),

    /// The device rules could not be put in force.
    #[error("limit devices of cgroup {path}")]
    Devices {
        /// The cgroup.
        path: CgroupPath,
        /// Why not.
        source: sys::bpf::ProgramError,
    },

    /// Some of a cgroup is still there when the time to remove it is over.
    #[error("remove cgroup {path}: {} left", left.len())]
    Left {
        /// The cgroup.
        path: CgroupPath,
        /// The directories that are still there, one per hierarchy.
        left: Vec<PathBuf>,
        /// Why the first of them is: EBUSY for processes that do not end.
        source: io::Error,
    },
}

/// Limits that cannot be put in force by any kernel.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLimits {
    /// Memory and swap together cannot be less than memory.
    #[error(
        "limit of {swap_bytes} B for memory and swap together needs a memory limit at or below it, got {memory_bytes:?}"
    )]
    SwapBelowMemory {
        /// The memory limit, in bytes; none if it is not set, or unlimited.
        memory_bytes: Option<i64>,
        /// The limit of both, in bytes.
        swap_bytes: i64,
    },

    /// A file that belongs to no controller we know.
    #[error("{0:?} is no limit of cgroup v2")]
    NoLimit(String),

    /// Files of cgroup v2 on a host with v1.
    #[error("{0:?} is a limit of cgroup v2, and this host has v1")]
    OnlyV2(String),

    /// A device rule.
    #[error(transparent)]
    Device(#[from] BadDeviceRule),
}
