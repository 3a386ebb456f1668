//! What pods and containers need of the machine, opened once by the composition root.

use crate::apparmor;
use crate::chain::chain;
use crate::config::Config;
use crate::events::Hub;
use crate::filters::Filters;
use crate::handlers::Handlers;
use crate::metrics::Instruments;
use crate::store::Records;
use crate::systemd::Systemd;
use cri_spec::{Architecture, CgroupFacts, HostDevice, HostFacts};
use netns::Networks;
use runtime::cgroup::{CgroupPath, Cgroups, Version};
use runtime::id::{ContainerId, PodId};
use runtime::monitor::MonitorBinary;
use runtime::watch::Watch;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine, as pods and containers use it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    pub(crate) records: Arc<Records>,
    pub(crate) cgroups: Cgroups,
    /// Where pods go that name no cgroup parent of their own.
    pub(crate) cgroup_parent: CgroupPath,
    pub(crate) network: Arc<Networks>,
    /// Who makes the pods' cgroups, where that is not us.
    pub(crate) systemd: Option<Systemd>,
    pub(crate) monitor: MonitorBinary,
    pub(crate) watch: Watch,
    pub(crate) facts: HostFacts,
    /// Whether pods can have user namespaces, and mounts other owners: see [`crate::probe`].
    pub(crate) user_namespaces: bool,
    pub(crate) filters: Filters,
    pub(crate) handlers: Handlers,
    pub(crate) events: Hub,
    /// The daemon's own, which without CAP_SYS_RESOURCE is the lowest that others can get.
    pub(crate) oom_score_adj: i32,
    pub(crate) instruments: Instruments,
    /// Holds the cgroup parent for this daemon alone.
    pub(crate) _claim: OwnedFd,
    /// The limit of open files that containers get: what the daemon had before it raised its own.
    pub(crate) open_files: plan::Rlimit,
    /// Names this boot; the kernel makes another one at each.
    pub(crate) boot: String,
}

/// Where things are. Every name below is made of checked ids.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
}

impl Paths {
    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("state.db")
    }

    /// The pod CIDR that kubelet told.
    pub(crate) fn pod_cidr(&self) -> PathBuf {
        self.root.join("pod-cidr")
    }

    /// What is noted of attachments that network plugins have made.
    pub(crate) fn attachments(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// What of all pods does not outlive a reboot.
    pub(crate) fn runs(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// A pod's namespace pins, its monitor's socket, its containers' exit records.
    pub(crate) fn pod_run(&self, pod: &PodId) -> PathBuf {
        self.runs().join(pod.as_str())
    }

    pub(crate) fn exit_record(&self, pod: &PodId, container: &ContainerId) -> PathBuf {
        self.pod_run(pod).join(format!("{container}.exit"))
    }

    /// What another runtime's program reads of a container.
    pub(crate) fn bundle(&self, pod: &PodId, container: &ContainerId) -> PathBuf {
        self.pod_run(pod).join(crate::container::bundle_name(container))
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// A pod's hosts, hostname and resolv.conf.
    pub(crate) fn pod_files(&self, pod: &PodId) -> PathBuf {
        self.pods().join(pod.as_str())
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// A container's writable layer.
    pub(crate) fn container(&self, container: &ContainerId) -> PathBuf {
        self.containers().join(container.as_str())
    }
}

/// The one crossing from the asynchronous to the blocking world. A panic crosses back.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(err) => match err.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is cancelled only by the runtime's end, which ends whoever waits for it as well.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Nanoseconds since the epoch, as the CRI counts time.
pub(crate) fn now_ns() -> i64 {
    to_ns(SystemTime::now())
}

/// As [`now_ns`], of another moment; times before the epoch are 0.
pub(crate) fn to_ns(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The id of this boot (`random(4)`).
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The daemon's own `oom_score_adj`.
pub(crate) fn own_oom_score_adj() -> io::Result<i32> {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `RLIMIT_NOFILE`
const OPEN_FILES: u32 = 7;

/// Raises our own limit of open files to the most there can be, since every pod takes some, and gives the one before.
pub(crate) fn raise_open_files() -> io::Result<plan::Rlimit> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum })?;
    Ok(plan::Rlimit {
        resource: OPEN_FILES,
        soft: before.current.unwrap_or(u64::MAX),
        hard: before.maximum.unwrap_or(u64::MAX),
    })
}

/// Looks at the machine.
pub(crate) fn facts(cgroups: &Cgroups) -> io::Result<HostFacts> {
    let cgroup = match cgroups.version() {
        Version::V2 => CgroupFacts::V2,
        Version::V1 => CgroupFacts::V1 { hierarchies: cgroups.hierarchies() },
    };
    let apparmor = apparmor::is_on();
    let apparmor_default = if apparmor { default_profile() } else { None };
    let mut devices = Vec::new();
    list_devices(Path::new("/dev"), &mut devices);
    Ok(HostFacts {
        capabilities: own_capabilities()?,
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        cgroup,
        apparmor,
        apparmor_default,
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        devices,
        throttled_cpus: throttled_cpus(),
        architecture: ARCHITECTURE,
    })
}

/// Containers that ask for the default by name are refused without it; those that say nothing run unconfined.
fn default_profile() -> Option<String> {
    apparmor::load()
        .inspect_err(|err| tracing::error!(err = chain(err), "load AppArmor profile"))
        .ok()
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Architecture = Architecture::X86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Architecture = Architecture::Aarch64;

fn own_capabilities() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no CapEff in /proc/self/status"))
}

fn throttled_cpus() -> u32 {
    (0..)
        .take_while(|cpu| {
            Path::new(&format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle")).exists()
        })
        .map(|cpu| cpu + 1)
        .last()
        .unwrap_or(0)
}

/// Adds the device nodes below `dir`, but those that a container gets anew: terminals, shared memory, queues.
fn list_devices(dir: &Path, devices: &mut Vec<HostDevice>) {
    const OWN: [&str; 8] =
        ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];
    // A directory that cannot be read offers no devices.
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if OWN.iter().any(|own| name == **own) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list_devices(&path, devices),
            Ok(_) => devices.extend(device(&path, &path.to_string_lossy())),
            Err(_) => {}
        }
    }
}

/// The device at `path`, links followed; `named` is how the request calls it.
pub(crate) fn device(path: &Path, named: &str) -> Option<HostDevice> {
    let metadata = std::fs::metadata(path).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => plan::DeviceKind::Char,
        kind if kind.is_block_device() => plan::DeviceKind::Block,
        _ => return None,
    };
    let rdev = metadata.rdev();
    let mode = metadata.mode() & 0o7777;
    Some(HostDevice {
        path: named.to_owned(),
        kind,
        major: rustix::fs::major(rdev),
        minor: rustix::fs::minor(rdev),
        mode,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}
