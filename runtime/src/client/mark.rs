//! A process that is known again later, when nobody holds a descriptor of it any more.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use sys::seqpacket;

/// A process of this boot: its number, and when it started, because numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pid: i32,
    /// Clock ticks since the boot (`starttime` of `proc_pid_stat(5)`).
    started: u64,
}

/// The longest end of a process that nothing holds in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);

impl Mark {
    /// The mark of a living process.
    ///
    /// # Errors
    ///
    /// It has ended, or `/proc` cannot be read.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = started(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, started })
    }

    /// Kills that process and no other, and waits for its end. Says whether it was there.
    ///
    /// # Errors
    ///
    /// It does not end, or may not be killed.
    pub fn kill(&self) -> io::Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(false) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(false),
            result => result?,
        };
        // With the descriptor in hand the number cannot come to mean another process.
        match Self::of(self.pid) {
            Ok(now) if now == *self => {}
            Ok(_) => return Ok(false),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(err) if err.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(false),
            Err(err) => return Err(err),
        }
        sys::rights::signal(&pidfd, Signal::KILL.as_raw())?;
        if seqpacket::wait(&[pidfd.as_fd()], PATIENCE)? == [true] {
            Ok(true)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

/// The second field, a name, can hold anything.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_the_process_that_was_marked_is_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        let mark = Mark::of(pid).unwrap();
        let earlier = Mark { started: mark.started - 1, ..mark };
        assert!(!earlier.kill().unwrap(), "another process of that number");
        assert!(child.try_wait().unwrap().is_none());
        assert!(mark.kill().unwrap());
        child.wait().unwrap();
        assert!(!mark.kill().unwrap(), "it has ended");
    }

    #[test]
    fn a_name_does_not_mislead() {
        let stat = "7 (a) b 1 (c) S 1 7 7 0 -1 4194560 99 0 0 0 0 0 0 0 20 0 1 0 4711 1 2";
        assert_eq!(started(stat), Some(4711));
        assert_eq!(started("7 (a) S 1"), None);
    }
}
