//! The monitor's view of a container's cgroup.

use super::descriptors::{Descriptors, Label};
use super::directory::Directory;
use super::end::{self, Brake};
use super::oom::OomWatch;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long [`Held::remove_child`] waits for the processes that it killed.
const END_OF_CHILD: Duration = Duration::from_secs(2);

/// A container's cgroup, or an exec's below it, known by descriptors only.
///
/// Nothing here resolves a path of the host, so it all works after the holder has left the host's root.
#[derive(Debug)]
pub struct Held {
    /// One per hierarchy.
    entries: Vec<(Label, Directory)>,
    /// The hierarchy that says which processes belong to this cgroup, and in which children are made.
    tracking: usize,
}

impl Held {
    /// Takes over what the daemon sent.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if there is no descriptor at all.
    pub fn from_descriptors(descriptors: Descriptors) -> io::Result<Self> {
        let entries = descriptors.entries;
        let tracking = end::tracking(entries.iter().map(|(label, _)| label));
        tracking
            .map(|tracking| Self { entries, tracking })
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The directory for `CLONE_INTO_CGROUP` (`clone3(2)`, Linux 5.7) on v2; on v1, where a process has to enter each
    /// hierarchy by itself, none: use [`enter`](Self::enter).
    #[must_use]
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        let (label, directory) = &self.entries[self.tracking];
        label.is_v2().then(|| directory.as_fd())
    }

    /// Moves process `pid` (as the caller numbers it) with all its threads into this cgroup, in every hierarchy.
    ///
    /// # Errors
    ///
    /// What the kernel says to a write to `cgroup.procs`: ESRCH if the process is gone, ENOSPC for a cpuset without
    /// processors or memory nodes. The process may then be in some of the hierarchies.
    pub fn enter(&self, pid: i32) -> io::Result<()> {
        let pid = pid.to_string();
        self.entries.iter().try_for_each(|(_, directory)| directory.write("cgroup.procs", &pid))
    }

    /// Makes the cgroup `name` below this one, for an exec, or takes it over if it exists.
    ///
    /// Only the hierarchy that is used to kill gets a new directory; in the others (v1) the child is this cgroup
    /// itself, so all limits are shared.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `name` is not a plain name; otherwise what the kernel says to `mkdir(2)`, such as EAGAIN for
    /// `cgroup.max.descendants`.
    pub fn child(&self, name: &str) -> io::Result<Held> {
        let own = &self.entries[self.tracking].1;
        own.make_child(plain(name)?)?;
        let mut entries = Vec::with_capacity(self.entries.len());
        for (place, (label, directory)) in self.entries.iter().enumerate() {
            let directory =
                if place == self.tracking { own.child(name)? } else { directory.try_clone()? };
            entries.push((label.clone(), directory));
        }
        Ok(Self { entries, tracking: self.tracking })
    }

    /// The v1 hierarchy in which [`child`](Self::child) makes cgroups, by its controllers; none on v2.
    #[must_use]
    pub fn hierarchy_of_children(&self) -> Option<&str> {
        let (label, _) = &self.entries[self.tracking];
        (!label.is_v2()).then_some(label.0.as_str())
    }

    /// Sends SIGKILL to every process in this cgroup and below it; none can escape by forking.
    ///
    /// Does not wait for their end. That the cgroup is gone, or empty, is fine.
    ///
    /// # Errors
    ///
    /// `TimedOut` if the processes could not be held still while they were killed, so that some may be left (v1, or
    /// Linux before 5.14, with a task that sleeps uninterruptibly); otherwise what the kernel says.
    pub fn kill(&self) -> io::Result<()> {
        let (label, directory) = &self.entries[self.tracking];
        end::kill(directory, Brake::of(label))
    }

    /// Kills what still runs in the child `name` and removes it with everything below; missing already is fine.
    ///
    /// Returns as soon as the processes have ended, in the usual case at once.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `name` is not a plain name, EBUSY if a process in it did not end within two seconds.
    pub fn remove_child(&self, name: &str) -> io::Result<()> {
        let (label, directory) = &self.entries[self.tracking];
        end::remove(directory, plain(name)?, Brake::of(label), Instant::now() + END_OF_CHILD)
    }

    /// Starts watching for OOM kills in this cgroup; none if it has no memory controller.
    ///
    /// # Errors
    ///
    /// What the kernel says to opening the files.
    pub fn oom(&self) -> io::Result<Option<OomWatch>> {
        let memory = self.entries.iter().find(|(label, _)| label.is_v2() || label.has("memory"));
        match memory {
            Some((label, directory)) if label.is_v2() => OomWatch::v2(directory),
            Some((_, directory)) => OomWatch::v1(directory).map(Some),
            None => Ok(None),
        }
    }
}

/// `name` if it is the name of one directory entry.
fn plain(name: &str) -> io::Result<&str> {
    match name {
        "" | "." | ".." => Err(Errno::INVAL.into()),
        name if name.contains(['/', '\n', '\0']) => Err(Errno::INVAL.into()),
        name => Ok(name),
    }
}
