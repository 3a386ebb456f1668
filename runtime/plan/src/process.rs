//! The process part of a launch plan, used for a container's first process and for an exec alike.

use serde::{Deserialize, Serialize};

/// A process to run in a container, and with what rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; never empty. A program without a slash is looked up in `PATH` of `env`, inside the root.
    pub args: Vec<String>,
    /// The whole environment, as `KEY=VALUE`.
    pub env: Vec<String>,
    /// The working directory, an absolute path inside the root. It is created with mode 0755 where it is missing.
    pub cwd: String,
    /// Whose rights it has.
    pub identity: Identity,
    /// Its capability sets.
    pub capabilities: Capabilities,
    /// Whether an `execve` can give it more rights than it has (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
    /// Resource limits; what is absent is inherited.
    pub rlimits: Vec<Rlimit>,
    /// `/proc/self/oom_score_adj`, -1000 to 1000. Lowering it below the monitor's own value needs CAP_SYS_RESOURCE;
    /// without that it is set to the lowest value that the kernel grants.
    pub oom_score_adj: Option<i32>,
    /// Its system call filter, already compiled.
    pub seccomp: Option<Seccomp>,
    /// The AppArmor profile it changes to at `execve`.
    pub apparmor: Option<String>,
    /// The SELinux label it gets at `execve`.
    pub selinux: Option<String>,
    /// A pseudo terminal instead of pipes.
    pub terminal: Option<Terminal>,
    /// Whether its standard input stays open for attach; otherwise it reads end of file at once.
    pub stdin: bool,
    /// Whether standard input ends when the first attached client leaves.
    pub stdin_once: bool,
}

/// User and groups of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups, given to `setgroups(2)` as they are; the primary one is the first.
    pub groups: Vec<u32>,
    /// File mode creation mask; 0o022 where absent.
    pub umask: Option<u32>,
}

/// Capability sets as bit masks: bit N is capability N of `<linux/capability.h>`.
///
/// The inheritable set is always empty but for what the ambient set needs (CVE-2022-24769).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The most that any program started in the container can get.
    pub bounding: u64,
    /// What the process may use.
    pub permitted: u64,
    /// What is in force.
    pub effective: u64,
    /// What passes through `execve` of an unprivileged user's program.
    pub ambient: u64,
}

/// One resource limit (`setrlimit(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The kernel's number of the resource, such as 7 for `RLIMIT_NOFILE`.
    pub resource: u32,
    /// The limit in force; `u64::MAX` is none.
    pub soft: u64,
    /// The ceiling of `soft`; `u64::MAX` is none.
    pub hard: u64,
}

/// A compiled system call filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// The classic BPF program (`struct sock_filter`), at most 4,096 instructions.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` of `seccomp(2)`.
    pub flags: u32,
}

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip where a comparison holds.
    pub jt: u8,
    /// Instructions to skip where it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// The first size of a terminal, in characters; 0 leaves it to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}
