//! What a translation starts from. Everything that is not in these structs does not influence it.

use crate::cdi::CdiEdits;
use cri_api::runtime::v1;
use plan::DeviceKind;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything that decides what a container becomes.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The pod as it was asked for.
    pub pod: &'a v1::PodSandboxConfig,
    /// The container as it was asked for.
    pub container: &'a v1::ContainerConfig,
    /// What the image says where the request is silent.
    pub image: &'a ImageDefaults,
    /// Who the container runs as; names are resolved already.
    pub identity: &'a Identity,
    /// The pod's files that every container of it gets to see.
    pub files: &'a SandboxFiles,
    /// The pod's namespaces.
    pub namespaces: &'a NamespacePins,
    /// The container whose PID namespace the request names (`TARGET`), where it is one of the pod and runs.
    pub target: Option<&'a str>,
    /// The ids of the images that the request's mounts name, by the names they go by there.
    pub images: &'a BTreeMap<String, String>,
    /// The container's cgroup, an absolute path below the root of each hierarchy.
    pub cgroup: &'a str,
    /// The devices behind the host paths that the request's `devices` name: for each path the device itself, or for
    /// a directory the devices below it.
    pub devices: &'a [HostDevice],
    /// What the devices named by `CDI_devices` and by annotations change.
    pub cdi: &'a CdiEdits,
    /// The content of the file that [`localhost_profile`](crate::localhost_profile) names.
    pub localhost_seccomp: Option<&'a [u8]>,
    /// The machine.
    pub host: &'a HostFacts,
}

/// The defaults that an image brings. They are written by whoever made the image and configure the workload only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// Environment as `KEY=VALUE`; entries without `=` are dropped.
    pub env: Vec<String>,
    /// The program with its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entry point.
    pub cmd: Vec<String>,
    /// The working directory; empty where the image has none.
    pub working_dir: String,
    /// Directories that the image declares as volumes.
    pub volumes: Vec<String>,
}

/// The user of a container, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id; never `u32::MAX`, which the kernel reads as "leave it".
    pub uid: u32,
    /// Primary group id; never `u32::MAX`.
    pub gid: u32,
    /// Supplementary groups; the primary group may be among them.
    pub groups: Vec<u32>,
    /// The user's home directory, which becomes `HOME` where nothing else sets it; empty leaves it unset.
    pub home: String,
}

/// The files that the daemon writes once for a pod, as paths of the host. `None` keeps the image's own file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxFiles {
    /// `/etc/hosts`
    pub hosts: Option<PathBuf>,
    /// `/etc/hostname`
    pub hostname: Option<PathBuf>,
    /// `/etc/resolv.conf`
    pub resolv_conf: Option<PathBuf>,
}

/// Where the pod's namespaces are pinned, as paths of the host. `None` is the host's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespacePins {
    /// The network namespace.
    pub net: Option<PathBuf>,
    /// The IPC namespace.
    pub ipc: Option<PathBuf>,
    /// The UTS namespace.
    pub uts: Option<PathBuf>,
    /// The user namespace that the others belong to.
    pub user: Option<PathBuf>,
}

/// What a translation has to know about the machine. It changes with a reboot at most, so the daemon reads it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The capabilities that the daemon itself has, bit N for capability N: nothing can be granted beyond them.
    pub capabilities: u64,
    /// The host's name, for containers that share the host's UTS namespace.
    pub hostname: String,
    /// How cgroups are mounted.
    pub cgroup: CgroupFacts,
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// The loaded AppArmor profile that `RuntimeDefault` stands for; `None` runs such containers unconfined.
    pub apparmor_default: Option<String>,
    /// Whether SELinux is enabled.
    pub selinux: bool,
    /// The device nodes below the host's `/dev`, for privileged containers.
    pub devices: Vec<HostDevice>,
    /// How many processors show `/sys/devices/system/cpu/cpu*/thermal_throttle`, from 0 on. Other tenants' load can
    /// be read from it, so it is masked.
    pub throttled_cpus: u32,
    /// The processor's architecture.
    pub architecture: Architecture,
}

/// Which cgroup version containers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupFacts {
    /// The unified hierarchy at `/sys/fs/cgroup`.
    V2,
    /// One hierarchy for each group of controllers.
    V1 {
        /// Where they are mounted, such as `/sys/fs/cgroup/cpu,cpuacct`.
        hierarchies: Vec<PathBuf>,
    },
}

/// One device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Its path on the host, as the request names it (that is, with symbolic links in it).
    pub path: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits, such as 0o660.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The processor architectures that Berth runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}
