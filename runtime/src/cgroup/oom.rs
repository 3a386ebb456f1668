//! Counting the kills of the out-of-memory killer, through descriptors opened before the first process runs.

use super::directory::{Directory, is_gone};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Watches one cgroup for OOM kills.
///
/// The count is read through a descriptor that was opened at the start, so it can be read once more when the container
/// has ended; it must be read before the cgroup is removed.
#[derive(Debug)]
pub struct OomWatch {
    /// Readable when something happened since the last [`kills`](Self::kills).
    readiness: Readiness,
    /// `memory.events` (v2) or `memory.oom_control` (v1).
    counts: OwnedFd,
}

#[derive(Debug)]
enum Readiness {
    /// An epoll that waits for POLLPRI on `memory.events`. A control file counts as readable at any time, so it cannot
    /// be handed to a loop that waits for input.
    Priority(OwnedFd),
    /// The eventfd that the kernel signals (`cgroup.event_control`).
    Signalled(OwnedFd),
}

impl OomWatch {
    /// None where the memory controller is not enabled for this cgroup.
    pub(super) fn v2(cgroup: &Directory) -> io::Result<Option<Self>> {
        let counts = match cgroup.open_file("memory.events", OFlags::RDONLY) {
            Err(err) if is_gone(&err) => return Ok(None),
            opened => opened?,
        };
        let changes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&changes, &counts, EventData::new_u64(0), EventFlags::PRI)?;
        let watch = Self { readiness: Readiness::Priority(changes), counts };
        // The kernel reports the state before the first read as a change.
        watch.kills()?;
        Ok(Some(watch))
    }

    /// Kernel documentation, `cgroup-v1/memory.rst`, section 10.
    pub(super) fn v1(cgroup: &Directory) -> io::Result<Self> {
        let counts = cgroup.open_file("memory.oom_control", OFlags::RDONLY)?;
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let request = format!("{} {}", signal.as_raw_fd(), counts.as_raw_fd());
        cgroup.write("cgroup.event_control", &request)?;
        Ok(Self { readiness: Readiness::Signalled(signal), counts })
    }

    /// Becomes readable (`EPOLLIN`) when the kernel reports memory trouble in the cgroup: not only kills, and on v1
    /// shortly before the kill. [`kills`](Self::kills) takes the readiness back.
    ///
    /// Once the cgroup is removed it stays readable: stop watching when the container has ended.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.readiness {
            Readiness::Priority(changes) => changes.as_fd(),
            Readiness::Signalled(signal) => signal.as_fd(),
        }
    }

    /// How many processes of this cgroup the OOM killer has killed so far; on v2 with those of the cgroups below.
    ///
    /// # Errors
    ///
    /// ENODEV once the cgroup is removed.
    pub fn kills(&self) -> io::Result<u64> {
        if let Readiness::Signalled(signal) = &self.readiness {
            match rustix::io::read(signal, &mut [0_u8; 8]) {
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // Both files are far shorter; the line is among the first.
        let mut text = [0_u8; 1024];
        let length = rustix::io::pread(&self.counts, &mut text, 0)?;
        count(&text[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The value of the `oom_kill` line.
fn count(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_from_the_right_line() {
        let v2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        let v1 = "oom_kill_disable 0\nunder_oom 1\noom_kill 7\n";
        let cases = [
            ("memory.events", v2, Some(2)),
            ("memory.oom_control", v1, Some(7)),
            ("before Linux 4.13", "oom_kill_disable 0\nunder_oom 0\n", None),
            ("not a number", "oom_kill x\n", None),
        ];
        for (name, text, want) in cases {
            assert_eq!(count(text.as_bytes()), want, "{name}");
        }
    }
}
