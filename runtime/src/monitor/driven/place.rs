//! The mount namespace that a runtime's `create` runs in: a copy of the host's, in which the container's root is
//! attached to the bundle. It ends with the program, and the host's table of mounts never shows the root.

use crate::init::Step;
use crate::refuse::Explain;
use plan::drive;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::mount::{self, Change, Propagation};

/// What is attached to a bundle.
#[derive(Debug)]
pub(super) struct Places<'a> {
    /// A detached mount.
    pub(super) root: BorrowedFd<'a>,
    /// Process 1 of the PID namespace that the container is to live in.
    pub(super) pids: Option<Pid>,
}

/// Leaves the host's mount namespace, in which this process is, for a copy with `places` and the pod's `shm` attached.
///
/// The copy shares propagation with the host's, so that a volume can show mounts both ways. Only the mount that the
/// bundle lies on does not while things are attached, or they would show on the host.
pub(super) fn furnish(bundle: &str, places: &Places<'_>, shm: &OwnedFd) -> Step<()> {
    let bundle = Path::new(bundle);
    let below = mount_below(bundle).step("find mount below", bundle.to_string_lossy())?;
    let peer = directory(&below).step("open", below.to_string_lossy())?;
    sys::rights::own_mount_namespace().step("make namespace", "mount")?;
    let own = directory(&below).step("open", below.to_string_lossy())?;
    let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
    mount::set_attributes(&own, private).step("make private", below.to_string_lossy())?;
    put(places.root, &bundle.join(drive::ROOT))?;
    put(shm, &bundle.join(drive::SHM))?;
    if let Some(pid) = places.pids {
        // The number is this process's sibling's, which nobody waits for before the loop of their parent goes on.
        let namespace = format!("/proc/{}/ns/pid", pid.as_raw_pid());
        let pin = mount::bind(CWD, &namespace, false).step("bind", namespace)?;
        put(&pin, &bundle.join(drive::PIDS))?;
    }
    // EINVAL where the host's is private, or the kernel older than 5.15: then it stays private here.
    mount::join_peers(&own, &peer).ok();
    Ok(())
}

fn put(mount: impl std::os::fd::AsFd, at: &Path) -> Step<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, at, flags, Mode::empty());
    place.and_then(|place| mount::attach(mount, place)).step("attach", at.to_string_lossy())
}

fn directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Where the mount that `path` lies on is mounted. `path` has no symbolic links in it.
fn mount_below(path: &Path) -> Result<PathBuf, Errno> {
    for path in path.ancestors() {
        let is = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        if is.stx_attributes.bits() & STATX_ATTR_MOUNT_ROOT != 0 {
            return Ok(path.to_owned());
        }
    }
    Err(Errno::NOENT)
}

/// Of `<linux/stat.h>` (Linux 5.8).
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_below_a_path_is_found() {
        for (path, want) in [("/proc/self", "/proc"), ("/proc", "/proc"), ("/", "/")] {
            assert_eq!(mount_below(Path::new(path)).unwrap(), Path::new(want), "{path}");
        }
        assert!(mount_below(Path::new("/nonexistent/x")).is_err());
    }
}
