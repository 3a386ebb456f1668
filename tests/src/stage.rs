//! A private machine for one test: namespaces, a directory, a cgroup parent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::cgroup::{self, CgroupParent};
use crate::handler;
use crate::patience::until;
use crate::process::{self, succeed};

/// What the calling thread was put into. Its mount and network namespaces end with the last
/// process in them; the rest is taken down when this is dropped.
#[derive(Debug)]
pub struct Stage {
    directory: TempDir,
    pub cgroups: CgroupParent,
    netns: String,
}

impl Stage {
    /// Moves the calling thread into new mount and network namespaces. The network has loopback
    /// and an uplink with a default route that leads nowhere.
    ///
    /// # Panics
    ///
    /// When the caller is not root, or a program of `hack/setup` is missing.
    pub fn enter() -> Self {
        Self::enter_for(handler::wanted().as_deref())
    }

    /// As [`Stage::enter`], on a machine that suits that handler.
    ///
    /// # Panics
    ///
    /// As [`Stage::enter`].
    pub fn enter_for(handler: Option<&str>) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes namespaces, so it needs root");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("unshare namespaces");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("make mounts private");
        if handler.is_some() {
            handler::show_one_cgroup_version();
        }
        for line in [
            "link set lo up",
            "link add uplink type veth peer name beyond",
            "link set beyond up",
            "addr add 192.0.2.2/24 dev uplink",
            "link set uplink up",
            "route add default via 192.0.2.1",
        ] {
            succeed(Command::new("ip").args(line.split(' ')));
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("berth-test-{}-{number}", std::process::id());
        Self {
            directory: TempDir::with_prefix("berth-").expect("make a directory for the test"),
            cgroups: CgroupParent::named(&name),
            netns: namespace("/proc/thread-self/ns/net").expect("own network namespace"),
        }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn root(&self) -> PathBuf {
        self.directory().join("root")
    }

    pub fn state(&self) -> PathBuf {
        self.directory().join("state")
    }

    /// Processes that belong to this stage: in its network namespace, in its cgroups, or below
    /// one of those. The harness itself and what it waits for (a registry) do not count, but for
    /// `daemon`.
    pub fn processes(&self, daemon: Option<u32>) -> Vec<process::Seen> {
        process::reap_orphans();
        let all = process::all();
        let mut ours: Vec<u32> = all
            .iter()
            .map(|seen| seen.pid)
            .filter(|&pid| Some(pid) == daemon || self.is_ours(pid))
            .collect();
        loop {
            let below = all.iter().filter(|seen| {
                ours.contains(&seen.parent)
                    && !ours.contains(&seen.pid)
                    && !process::is_own(seen.pid)
            });
            let more: Vec<u32> = below.map(|seen| seen.pid).collect();
            if more.is_empty() {
                break;
            }
            ours.extend(more);
        }
        all.into_iter().filter(|seen| ours.contains(&seen.pid)).collect()
    }

    fn is_ours(&self, pid: u32) -> bool {
        if pid == std::process::id() || process::is_own(pid) {
            return false;
        }
        namespace(&format!("/proc/{pid}/ns/net")).as_ref() == Some(&self.netns)
            || fs::read_to_string(format!("/proc/{pid}/cgroup"))
                // A whole name: that of another test may begin with it.
                .is_ok_and(|text| text.split(['/', '\n']).any(|name| name == self.cgroups.name()))
    }
}

impl Drop for Stage {
    /// Also after a failed test, when everything may still run.
    fn drop(&mut self) {
        let kill = || {
            for seen in self.processes(None) {
                process::signal(seen.pid, process::Signal::SIGKILL);
            }
            self.processes(None).is_empty()
        };
        if std::thread::panicking() {
            crate::patience::eventually(|| kill().then_some(()));
        } else {
            until("processes of the test end", kill);
        }
        for mount in mounts_below(self.directory()).iter().rev() {
            umount2(mount, MntFlags::MNT_DETACH).ok(); // Left to the end of the namespace.
        }
        cgroup::remove_tree(&self.cgroups);
    }
}

/// The identity of a namespace, as the kernel prints it.
fn namespace(link: &str) -> Option<String> {
    Some(fs::read_link(link).ok()?.to_string_lossy().into_owned())
}

/// Mount points below a directory, as the calling thread sees them, in order of mounting.
pub fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    mount_points("thread-self").into_iter().filter(|path| path.starts_with(directory)).collect()
}

/// All mount points that a process (its directory in /proc) sees.
pub fn mount_points(process: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::Census;
    use crate::image::{Flavour, ImageBuilder};
    use crate::registry::Registry;

    #[test]
    fn privileged_a_stage_has_a_network_and_a_registry_and_goes_without_a_trace() {
        let directory = std::thread::spawn(|| {
            let stage = Stage::enter();
            let before = Census::take(&stage, None);
            assert!(before.of("links").contains(&"uplink".to_owned()), "{before:?}");
            let registry = Registry::start();
            let image = ImageBuilder::busybox().flavour(Flavour::Docker).build();
            let reference = registry.push("team/busybox", "1", &image);
            assert_eq!(reference, registry.reference("team/busybox:1"));
            assert_eq!(Census::take(&stage, None).difference(&before), "");
            stage.directory().to_owned()
        });
        assert!(!directory.join().unwrap().exists());
    }
}
