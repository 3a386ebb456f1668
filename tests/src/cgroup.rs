//! The cgroups of a test, seen from outside, in both versions.

use std::fs;
use std::path::{Path, PathBuf};

/// The directory below which a test's daemon makes its cgroups, in every hierarchy.
#[derive(Clone, Debug)]
pub struct CgroupParent {
    name: String,
    hierarchies: Vec<PathBuf>,
}

impl CgroupParent {
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), hierarchies: hierarchies() }
    }

    /// A directory below the parent, seen in the same way.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self { name: format!("{}/{name}", self.name), hierarchies: self.hierarchies.clone() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the hierarchies are mounted.
    pub fn hierarchies(&self) -> &[PathBuf] {
        &self.hierarchies
    }

    /// As the configuration and `cgroup_parent` want it.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Every cgroup below the parent, over all hierarchies, as `controllers:path`.
    pub fn below(&self) -> Vec<String> {
        let mut found = Vec::new();
        for hierarchy in &self.hierarchies {
            let top = hierarchy.join(&self.name);
            let label = hierarchy.file_name().unwrap_or_default().to_string_lossy().into_owned();
            walk(&top, &mut |path| {
                let below = path.strip_prefix(&top).unwrap_or(path);
                found.push(format!("{label}:{}", below.display()));
            });
        }
        found.sort();
        found
    }

    /// The content of the file named `file` in the cgroup whose last component is, or holds,
    /// `id`; whichever hierarchy has it.
    pub fn read(&self, id: &str, file: &str) -> Option<String> {
        let mut content = None;
        for hierarchy in &self.hierarchies {
            walk(&hierarchy.join(&self.name), &mut |path| {
                let last = path.file_name().unwrap_or_default().to_string_lossy();
                if content.is_none() && last.contains(id) {
                    content = fs::read_to_string(path.join(file)).ok();
                }
            });
        }
        content.map(|text| text.trim_end().to_owned())
    }

    /// Makes cgroups below the parent, as a kubelet does for its pods.
    pub fn make(&self, path: &str) {
        for top in self.tops() {
            fs::create_dir_all(top.join(path)).expect("make a cgroup");
        }
    }

    /// Removes the cgroups of an ended container behind the daemon's back.
    pub fn remove_empty(&self, id: &str) {
        for top in self.tops() {
            let mut directories = Vec::new();
            walk(&top, &mut |path| directories.push(path.to_owned()));
            for path in directories.iter().rev().filter(|path| path.to_string_lossy().contains(id))
            {
                fs::remove_dir(path).ok(); // The daemon may have been quicker.
            }
        }
    }

    fn tops(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.join(&self.name))
    }
}

/// Whether the machine has cgroup v2 and nothing else.
pub fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Removes the parent and what is left below it.
pub(crate) fn remove_tree(parent: &CgroupParent) {
    for top in parent.tops() {
        let mut directories = Vec::new();
        walk(&top, &mut |path| directories.push(path.to_owned()));
        for directory in directories.iter().rev().chain([&top]) {
            fs::remove_dir(directory).ok(); // Not there in every hierarchy.
        }
    }
}

/// Visits every directory below `top`, parents first.
fn walk(top: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(top) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path());
            walk(&entry.path(), visit);
        }
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").expect("read mountinfo");
    let is_cgroup =
        |line: &&str| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup"));
    // The last mount at a place is the one that shows.
    let mut places = std::collections::BTreeMap::new();
    for line in text.lines() {
        places.insert(line.split(' ').nth(4).unwrap_or_default(), is_cgroup(&line));
    }
    let shown = places.into_iter().filter(|(_, is_cgroup)| *is_cgroup);
    shown.map(|(place, _)| PathBuf::from(place)).collect()
}
