//! A cgroup for a container of a test, on whatever version this machine has.

use super::{Container, Pod};
use runtime::cgroup::{CgroupPath, Cgroups, Limits};
use std::path::PathBuf;

/// A cgroup of a test, with all below it.
pub struct Stage {
    cgroups: Cgroups,
    pub path: CgroupPath,
}

impl Stage {
    pub fn new(name: &str) -> Self {
        let path = format!("/berth-test-{}-{name}", std::process::id());
        Self { cgroups: Cgroups::detect().unwrap(), path: path.parse().unwrap() }
    }

    pub fn container<'a>(&self, pod: &'a Pod, limits: &Limits) -> Container<'a> {
        let mut container = pod.container();
        container.cgroup = Some(self.cgroups.create(&self.path, limits).unwrap());
        container
    }

    /// Its directories, in all hierarchies.
    pub fn directories(&self) -> Vec<PathBuf> {
        let below = self.path.to_string();
        let below = below.trim_start_matches('/');
        self.cgroups.hierarchies().iter().map(|mount| mount.join(below)).collect()
    }

    /// The processes in it, in the first hierarchy; not those of execs.
    pub fn processes(&self) -> Vec<i32> {
        let tasks = std::fs::read_to_string(self.directories()[0].join("cgroup.procs")).unwrap();
        tasks.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Names of the cgroups below, in all hierarchies.
    pub fn children(&self) -> Vec<String> {
        self.cgroups.children(&self.path).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let removed = self.cgroups.remove(&self.path);
        if !std::thread::panicking() {
            removed.unwrap();
            assert!(self.directories().iter().all(|directory| !directory.exists()));
        }
    }
}
