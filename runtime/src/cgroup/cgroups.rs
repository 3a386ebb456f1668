//! All cgroups of the host: making, finding and removing them.

use super::descriptors::Label;
use super::directory::{Directory, Made, is_gone};
use super::end::{self, Brake};
use super::error::CgroupError;
use super::group::{Age, Cgroup, Place};
use super::hierarchy::{Mounted, Version, mounted};
use super::limits::Limits;
use super::path::CgroupPath;
use super::v2;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::Undo;

/// How long [`Cgroups::remove`] waits for processes to end, over all hierarchies.
const REMOVAL: Duration = Duration::from_secs(10);

/// The host's cgroup hierarchies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cgroups {
    version: Version,
    hierarchies: Arc<[Hierarchy]>,
}

#[derive(Debug)]
struct Hierarchy {
    label: Label,
    mount_point: PathBuf,
    root: Directory,
}

/// A controller that a parent would not give to its children.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) controller: &'static str,
    pub(super) source: io::Error,
}

impl Cgroups {
    /// Finds out what the host has mounted: v2 if `/sys/fs/cgroup` is it, otherwise every hierarchy of v1, also the named
    /// ones without controllers. A v2 tree beside v1 ("hybrid") is left alone, since it limits nothing.
    ///
    /// # Errors
    ///
    /// [`CgroupError::ReadMounts`], [`CgroupError::NotMounted`], and [`CgroupError::Directory`] if a mount point cannot be
    /// opened.
    pub fn detect() -> Result<Self, CgroupError> {
        let file = Path::new("/proc/self/mountinfo");
        let read = |source| CgroupError::ReadMounts { file: file.to_owned(), source };
        Self::over(mounted(&std::fs::read_to_string(file).map_err(read)?))
    }

    pub(super) fn over(mounted: Vec<Mounted>) -> Result<Self, CgroupError> {
        let open = |Mounted { label, mount_point }: Mounted| {
            let root = Directory::open(&mount_point).map_err(at("open", &mount_point))?;
            Ok(Hierarchy { label, mount_point, root })
        };
        let hierarchies =
            mounted.into_iter().map(open).collect::<Result<Arc<[_]>, CgroupError>>()?;
        let version = match hierarchies.first() {
            None => return Err(CgroupError::NotMounted),
            Some(first) if first.label.is_v2() => Version::V2,
            Some(_) => Version::V1,
        };
        Ok(Self { version, hierarchies })
    }

    /// Which generation the host uses.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The mount points of all hierarchies, in a stable order; on v2 one.
    #[must_use]
    pub fn hierarchies(&self) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.mount_point.clone()).collect()
    }

    /// Makes the cgroup `path` with its missing parents and puts `limits` in force. One that exists is taken over.
    ///
    /// On v2 the parents give all controllers that limits and statistics need to their children. That one of them cannot
    /// be had is an error only if a limit needs it.
    ///
    /// # Errors
    ///
    /// As for [`Cgroup::apply`], and [`CgroupError::Directory`], [`CgroupError::Read`] or [`CgroupError::Write`] with what
    /// the kernel said. What this call made is removed again.
    pub fn create(&self, path: &CgroupPath, limits: &Limits) -> Result<Cgroup, CgroupError> {
        limits.check()?;
        let mut undo = Undo::default();
        let mut denied = Vec::new();
        let mut age = Age::New;
        let mut places = Vec::with_capacity(self.hierarchies.len());
        for hierarchy in self.hierarchies.iter() {
            let (directory, made) = hierarchy.make(path, &mut denied, &mut undo)?;
            if made == Made::Before {
                age = Age::Existing;
            }
            places.push(hierarchy.place(path, directory));
        }
        let cgroup = Cgroup::new(path.clone(), places);
        // Of a new cgroup there is nothing to go back to, and one that was taken over stays limited.
        drop(cgroup.limit(limits, age, denied)?);
        undo.commit();
        Ok(cgroup)
    }

    /// Moves the processes of the cgroup `path` itself into its child `name`, so that it can have children with limits: v2
    /// wants processes in leaves only. On v1 there is nothing to be done.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`] with what the kernel said.
    pub fn move_down(&self, path: &CgroupPath, name: &str) -> Result<(), CgroupError> {
        for hierarchy in self.hierarchies.iter().filter(|hierarchy| hierarchy.label.is_v2()) {
            let place = hierarchy.directory(path);
            let cgroup = hierarchy.root.child(path.relative()).map_err(at("open", &place))?;
            cgroup.make_child(name).map_err(at("create child of", &place))?;
            let child = cgroup.child(name).map_err(at("open child of", &place))?;
            for process in cgroup.processes().map_err(at("list", &place))? {
                match child.write("cgroup.procs", &process.as_raw_pid().to_string()) {
                    Err(err) if err.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
                    moved => moved.map_err(at("move processes of", &place))?,
                }
            }
        }
        Ok(())
    }

    /// The cgroup `path`, or none if it is missing in any hierarchy.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`] if the kernel refuses to open it.
    pub fn open(&self, path: &CgroupPath) -> Result<Option<Cgroup>, CgroupError> {
        let mut places = Vec::with_capacity(self.hierarchies.len());
        for hierarchy in self.hierarchies.iter() {
            match hierarchy.root.child(path.relative()) {
                Err(err) if is_gone(&err) => return Ok(None),
                Err(err) => return Err(at("open", &hierarchy.directory(path))(err)),
                Ok(directory) => places.push(hierarchy.place(path, directory)),
            }
        }
        Ok(Some(Cgroup::new(path.clone(), places)))
    }

    /// Kills what runs in the cgroup `path` and removes it in every hierarchy, with everything below. Missing is fine.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Left`] if a process does not end within ten seconds (it sleeps uninterruptibly, say), or the kernel
    /// refuses: what could be removed is removed, the error names what is left, and the call can be repeated.
    pub fn remove(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVAL;
        let tracking = end::tracking(self.hierarchies.iter().map(|hierarchy| &hierarchy.label));
        let mut order: Vec<_> = self.hierarchies.iter().collect();
        // The hierarchy that can hold processes still goes first; after it the others are empty.
        order.swap(0, tracking.unwrap_or(0));
        let mut left = Vec::new();
        let mut reason = None;
        for hierarchy in order {
            if let Err(err) = hierarchy.remove(path, deadline) {
                left.push(hierarchy.directory(path));
                reason.get_or_insert(err);
            }
        }
        match reason {
            None => Ok(()),
            Some(source) => Err(CgroupError::Left { path: path.clone(), left, source }),
        }
    }

    /// The names of the cgroups right below `path` in any hierarchy, sorted; none if it is missing.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`] if the kernel refuses to list them.
    pub fn children(&self, path: &CgroupPath) -> Result<Vec<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for hierarchy in self.hierarchies.iter() {
            match hierarchy.root.child(path.relative()).and_then(|directory| directory.children()) {
                Err(err) if is_gone(&err) => {}
                listed => names.extend(listed.map_err(at("list", &hierarchy.directory(path)))?),
            }
        }
        Ok(names.into_iter().collect())
    }
}

impl Hierarchy {
    fn directory(&self, path: &CgroupPath) -> PathBuf {
        self.mount_point.join(path.relative())
    }

    fn place(&self, path: &CgroupPath, directory: Directory) -> Place {
        Place { label: self.label.clone(), path: self.directory(path), directory }
    }

    /// Makes `path` and its parents, and makes each of them fit to hold processes and children.
    fn make(
        &self,
        path: &CgroupPath,
        denied: &mut Vec<Denied>,
        undo: &mut Undo,
    ) -> Result<(Directory, Made), CgroupError> {
        let mut here = self.root.try_clone().map_err(at("open", &self.mount_point))?;
        let mut place = self.mount_point.clone();
        let mut made = Made::Before;
        for name in path.components() {
            if self.label.is_v2() {
                enable_controllers(&here, &place, denied)?;
            }
            place.push(name);
            made = here.make_child(name).map_err(at("create", &place))?;
            let child = here.child(name).map_err(at("open", &place))?;
            let parent = std::mem::replace(&mut here, child);
            self.inherit(&parent, &here, &place)?;
            if made == Made::Now {
                let name = name.to_owned();
                undo.push("remove cgroup", move || parent.remove_child(&name));
            }
        }
        Ok((here, made))
    }

    /// Copies to a new cgroup of v1 what it needs before a process can enter, or before limits count for all below.
    fn inherit(
        &self,
        parent: &Directory,
        child: &Directory,
        place: &Path,
    ) -> Result<(), CgroupError> {
        if self.label.has("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let read = |source| CgroupError::Read { directory: place.to_owned(), file, source };
                if child.read(file).map_err(read)?.trim_end().is_empty() {
                    let value = parent.read(file).map_err(read)?.trim_end().to_owned();
                    write(child, place, file, &value)?;
                }
            }
        }
        // Since Linux 5.11 it is always on.
        let flat = self.label.has("memory")
            && child.read("memory.use_hierarchy").is_ok_and(|value| value.trim_end() == "0");
        if flat { write(child, place, "memory.use_hierarchy", "1") } else { Ok(()) }
    }

    fn remove(&self, path: &CgroupPath, deadline: Instant) -> io::Result<()> {
        let brake = Brake::of(&self.label);
        match path.relative().rsplit_once('/') {
            None => end::remove(&self.root, path.relative(), brake, deadline),
            Some((parent, name)) => match self.root.child(parent) {
                Err(err) if is_gone(&err) => Ok(()),
                parent => end::remove(&parent?, name, brake, deadline),
            },
        }
    }
}

/// Lets the children of `cgroup` (v2) have every controller that it has itself.
///
/// A parent with processes of its own cannot give controllers away (the "no internal processes" rule); nor can one that
/// was not given them. Whether that matters is for the limits to say.
fn enable_controllers(
    cgroup: &Directory,
    place: &Path,
    denied: &mut Vec<Denied>,
) -> Result<(), CgroupError> {
    let read = |file: &'static str| {
        cgroup.read(file).map_err(|source| CgroupError::Read {
            directory: place.to_owned(),
            file,
            source,
        })
    };
    let enabled = read("cgroup.subtree_control")?;
    if v2::all_enabled(&enabled) {
        return Ok(());
    }
    let wanted = v2::to_enable(&read("cgroup.controllers")?, &enabled);
    if wanted.is_empty() {
        return Ok(());
    }
    // cpu, cpuset and pids alone would be given, but by turning the parent into the root of a threaded subtree, whose new
    // children no process can enter.
    let processes = cgroup.processes();
    let processes = processes.map_err(|source| CgroupError::Read {
        directory: place.to_owned(),
        file: "cgroup.procs",
        source,
    })?;
    if !processes.is_empty() && !is_root(cgroup) {
        denied.extend(
            wanted.into_iter().map(|controller| Denied { controller, source: Errno::BUSY.into() }),
        );
        return Ok(());
    }
    let all: Vec<_> = wanted.iter().map(|controller| format!("+{controller}")).collect();
    if cgroup.write("cgroup.subtree_control", &all.join(" ")).is_ok() {
        return Ok(());
    }
    // The kernel takes all of a line or nothing: the others shall not suffer from one.
    for (controller, text) in wanted.into_iter().zip(all) {
        if let Err(source) = cgroup.write("cgroup.subtree_control", &text) {
            denied.push(Denied { controller, source });
        }
    }
    Ok(())
}

/// Whether it is the root of the whole hierarchy, which may have processes and children with controllers.
fn is_root(cgroup: &Directory) -> bool {
    cgroup.open_file("cgroup.type", OFlags::PATH).is_err_and(|err| is_gone(&err))
}

fn write(
    cgroup: &Directory,
    place: &Path,
    file: &'static str,
    value: &str,
) -> Result<(), CgroupError> {
    cgroup.write(file, value).map_err(|source| CgroupError::Write {
        directory: place.to_owned(),
        file: file.into(),
        value: value.to_owned(),
        source,
    })
}

/// Adds step and directory to what the kernel said.
pub(super) fn at(step: &'static str, directory: &Path) -> impl Fn(io::Error) -> CgroupError {
    move |source| CgroupError::Directory { step, directory: directory.to_owned(), source }
}

#[cfg(test)]
mod tests;
