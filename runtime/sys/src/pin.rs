//! Namespaces that outlive every process in them: each is pinned by a bind mount on a file.
//!
//! A namespace lives as long as a process is in it, a descriptor refers to it, or a mount shows it. Sandboxes use the
//! mount: it survives the daemon, it can be named on a command line (`nsenter --net=…`), and CNI plugins ask for a path.

use crate::clone::SingleThreaded;
use crate::result::check;
use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{UnshareFlags, move_into_link_name_space};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

/// The kinds of namespaces that can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `network_namespaces(7)`
    Network,
    /// `ipc_namespaces(7)`
    Ipc,
    /// `uts_namespaces(7)`
    Uts,
    /// `user_namespaces(7)`. A process of many threads can neither make nor enter one: it is pinned by [`adopt`] only.
    User,
}

impl Kind {
    /// The name of the namespace's file below `/proc/<pid>/ns`, and of its pin.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Network => "net",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::User => "user",
        }
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Kind::Network => UnshareFlags::NEWNET,
            Kind::Ipc => UnshareFlags::NEWIPC,
            Kind::Uts => UnshareFlags::NEWUTS,
            Kind::User => UnshareFlags::NEWUSER,
        }
    }
}

/// Why namespaces could not be made or pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError<E: std::error::Error + 'static> {
    /// The kernel refused the namespaces.
    #[error("create namespaces {kinds:?}")]
    Unshare {
        /// What was asked for.
        kinds: Vec<Kind>,
        /// Why not.
        source: io::Error,
    },
    /// One that somebody else has made could not be entered.
    #[error("enter namespace {kind:?}")]
    Enter {
        /// Which.
        kind: Kind,
        /// Why not.
        source: io::Error,
    },
    /// The file or the bind mount that pins one.
    #[error("pin namespace at {}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The work inside the new namespaces.
    #[error("set up namespaces")]
    Inside(#[source] E),
}

/// Makes new namespaces of `kinds`, runs `inside` in them, and pins each at `dir/<its name>`.
///
/// The work happens on a thread of its own, which enters the new namespaces and ends there, so that no other thread is
/// ever in them. `inside` sees the sysctls of the new namespaces below `/proc/sys`.
///
/// # Errors
///
/// As [`PinError`] says; no pin is left behind then.
pub fn create<E>(
    dir: &Path,
    kinds: &[Kind],
    inside: impl FnOnce() -> Result<(), E> + Send,
) -> Result<(), PinError<E>>
where
    E: std::error::Error + Send + 'static,
{
    if kinds.is_empty() {
        return inside().map_err(PinError::Inside);
    }
    thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let flags = kinds.iter().fold(UnshareFlags::empty(), |all, kind| all | kind.flag());
            unshare(flags).map_err(|source| PinError::Unshare { kinds: kinds.to_vec(), source })?;
            inside().map_err(PinError::Inside)?;
            let own = |kind: Kind| format!("/proc/thread-self/ns/{}", kind.name());
            pin_all(dir, kinds.iter().map(|kind| (*kind, own(*kind))))
        });
        visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `inside` in `namespaces` that somebody else has made, and pins them as [`create`] does. A user namespace among
/// them is pinned and not entered: the work is done with the rights of the caller, who needs them in that one too.
///
/// # Errors
///
/// As [`PinError`] says; no pin is left behind then.
pub fn adopt<E>(
    dir: &Path,
    namespaces: &[(Kind, OwnedFd)],
    inside: impl FnOnce() -> Result<(), E> + Send,
) -> Result<(), PinError<E>>
where
    E: std::error::Error + Send + 'static,
{
    thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            for (kind, fd) in namespaces.iter().filter(|(kind, _)| *kind != Kind::User) {
                move_into_link_name_space(fd.as_fd(), None)
                    .map_err(|err| PinError::Enter { kind: *kind, source: err.into() })?;
            }
            inside().map_err(PinError::Inside)?;
            let own = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
            pin_all(dir, namespaces.iter().map(|(kind, fd)| (*kind, own(fd))))
        });
        visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves this process, which must have one thread only, into new namespaces of `kinds`.
///
/// # Errors
///
/// Those of `unshare(2)`.
pub fn make(kinds: &[Kind], _proof: &SingleThreaded) -> io::Result<()> {
    unshare(kinds.iter().fold(UnshareFlags::empty(), |all, kind| all | kind.flag()))
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: none of the flags that `Kind` can give (network, IPC, UTS, user) takes memory or descriptors away from other
    // threads; they change only what the calling thread sees, and the kernel refuses the last where there are others.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

fn pin_all<E: std::error::Error>(
    dir: &Path,
    namespaces: impl Iterator<Item = (Kind, String)>,
) -> Result<(), PinError<E>> {
    for (kind, from) in namespaces {
        let path = dir.join(kind.name());
        if let Err(source) = pin(&from, &path) {
            // The failure to report is the one above.
            remove(dir).ok();
            return Err(PinError::Pin { path, source });
        }
    }
    Ok(())
}

fn pin(from: &str, path: &Path) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(CWD, path, flags, Mode::RUSR)?;
    Ok(mount_bind(from, path)?)
}

/// Opens the namespace of `kind` pinned in `dir`; none where it was never pinned there.
///
/// # Errors
///
/// Any failure but a missing file; a file that is there without a namespace on it (after a reboot, when mounts are gone
/// and a persistent directory is not) counts as missing.
pub fn open(dir: &Path, kind: Kind) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(CWD, dir.join(kind.name()), flags, Mode::empty()) {
        Ok(fd) if fs::fstatfs(&fd)?.f_type == NSFS_MAGIC => Ok(Some(fd)),
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// The user namespace that a namespace belongs to (`ioctl_ns(2)`, `NS_GET_USERNS`).
///
/// # Errors
///
/// Those of `ioctl_ns(2)`: `EPERM` where it is none of the caller's, or of those that came of it.
pub fn owner(namespace: impl AsFd) -> io::Result<OwnedFd> {
    /// `_IO(0xb7, 0x1)` of `<linux/nsfs.h>`
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: the request takes no argument and gives a new descriptor.
    let fd = check(unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_USERNS as _) })?;
    // SAFETY: the kernel has just made it for this call, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `<linux/magic.h>`
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Takes down every pin in `dir`; the namespaces end with their last process. What is not there is no error.
///
/// # Errors
///
/// The first failure, after all were tried.
pub fn remove(dir: &Path) -> io::Result<()> {
    let mut first = Ok(());
    for kind in [Kind::Network, Kind::Ipc, Kind::Uts, Kind::User] {
        let path = dir.join(kind.name());
        let gone = unpin(&path);
        if first.is_ok() {
            first = gone;
        }
    }
    first
}

fn unpin(path: &Path) -> io::Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Once more: an earlier daemon may have pinned over a pin.
            Ok(()) => {}
            // Not a mount point, or not there at all.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(err) => return Err(err.into()),
        }
    }
    match fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn privileged_pinned_namespaces_are_new_and_go_away() {
        let dir = tempfile::tempdir().unwrap();
        let ours = std::fs::read_link("/proc/self/ns/uts").unwrap();
        create::<Infallible>(dir.path(), &[Kind::Network, Kind::Uts], || {
            assert_ne!(std::fs::read_link("/proc/thread-self/ns/uts").unwrap(), ours);
            Ok(())
        })
        .unwrap();
        assert_eq!(std::fs::read_link("/proc/self/ns/uts").unwrap(), ours);
        assert!(open(dir.path(), Kind::Network).unwrap().is_some());
        assert!(open(dir.path(), Kind::Ipc).unwrap().is_none());
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn privileged_a_failure_inside_leaves_no_pin() {
        let dir = tempfile::tempdir().unwrap();
        let err = create(dir.path(), &[Kind::Uts], || Err(io::Error::other("no"))).unwrap_err();
        assert!(matches!(err, PinError::Inside(_)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
