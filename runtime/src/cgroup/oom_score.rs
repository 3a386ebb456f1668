//! The OOM score of everything in a cgroup.

use super::directory::{Directory, is_gone};
use super::end;
use super::error::CgroupError;
use super::group::Cgroup;
use crate::oom_score::set_as_low_as_granted;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;

impl Cgroup {
    /// Gives every process in it and below the score `oom_score_adj`, or the lowest above it that the kernel grants this
    /// process. A process that ends meanwhile is no error; one that is forked meanwhile has its parent's score.
    ///
    /// # Errors
    ///
    /// [`CgroupError::OomScore`] with what the kernel says.
    pub fn set_oom_score_adj(&self, score: i32) -> Result<(), CgroupError> {
        let failed = |source| CgroupError::OomScore { path: self.path().clone(), score, source };
        let Some(place) = end::tracking(self.labels()).and_then(|at| self.place_at(at)) else {
            return Ok(());
        };
        // The second time finds those that were forked by a process before its turn came.
        for _ in 0..2 {
            set_all(&place.directory, score).map_err(failed)?;
        }
        Ok(())
    }
}

fn set_all(cgroup: &Directory, score: i32) -> io::Result<()> {
    let mut held = Vec::new();
    for pid in processes(cgroup)? {
        let path = format!("/proc/{}", pid.as_raw_pid());
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(process) => held.push((pid, process)),
            Err(Errno::NOENT) => {}
            Err(err) => return Err(err.into()),
        }
    }
    // A number that is still here stands for the process that was opened, or for one that has ended: never for another.
    let still = processes(cgroup)?;
    for (_, process) in held.iter().filter(|(pid, _)| still.contains(pid)) {
        match set(process, score) {
            Err(err) if is_ended(&err) => {}
            result => result?,
        }
    }
    Ok(())
}

/// In the cgroup and in those below.
fn processes(cgroup: &Directory) -> io::Result<HashSet<Pid>> {
    let mut all: HashSet<Pid> = match cgroup.processes() {
        Err(err) if is_gone(&err) => return Ok(HashSet::new()),
        listed => listed?.into_iter().collect(),
    };
    for name in cgroup.children()? {
        match cgroup.child(&name) {
            Err(err) if is_gone(&err) => {}
            child => all.extend(processes(&child?)?),
        }
    }
    Ok(all)
}

fn set(process: &OwnedFd, score: i32) -> io::Result<()> {
    const FILE: &str = "oom_score_adj";
    let open = |access| rustix::fs::openat(process, FILE, access | OFlags::CLOEXEC, Mode::empty());
    let write = |score: i32| {
        rustix::io::write(open(OFlags::WRONLY)?, score.to_string().as_bytes())?;
        Ok(())
    };
    let now = || {
        let mut text = [0; 16];
        let length = rustix::io::read(open(OFlags::RDONLY)?, &mut text)?;
        let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    set_as_low_as_granted(score, write, now)
}

fn is_ended(err: &io::Error) -> bool {
    let errno = err.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::SRCH))
}
