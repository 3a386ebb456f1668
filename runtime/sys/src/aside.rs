//! A mount namespace that a thread of its own has for a moment: for what the kernel does with attached mounts only.
//!
//! Until Linux 6.15 an overlay takes no detached mount as a layer, and nothing below a detached mount can be bound. Layers
//! whose owners are shown in another way are detached mounts, and so is an image that is shown in part. Nobody else sees
//! what is attached here, and nothing of it stays.

use crate::mount::{self, Change, Propagation, attach};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::io;
use std::os::fd::OwnedFd;

/// Any directory that every system has; what is mounted on it there shows nowhere else.
const PLACE: &str = "/sys";

/// Attaches `mounts`, which are detached, in a private copy of this mount namespace, and runs `work` there. It gets
/// `directories` found anew: in the copy, by the paths that they have now.
///
/// # Errors
///
/// Those of `unshare(2)`, the mount API and `work`; `ESTALE` where a directory has been moved meanwhile.
pub fn with_attached<T: Send>(
    mounts: &[OwnedFd],
    directories: &[&OwnedFd],
    work: impl FnOnce(&[OwnedFd]) -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            crate::rights::own_mount_namespace()?;
            let host = mount::root()?;
            let propagation = Some(Propagation::Private);
            mount::set_attributes(
                &host,
                Change { propagation, recursive: true, ..Change::default() },
            )?;
            let found = directories
                .iter()
                .map(|fd| mount::find_again(fd))
                .collect::<io::Result<Vec<_>>>()?;
            place(mounts)?;
            work(&found)
        });
        visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Attaches each to a directory of its own.
fn place(mounts: &[OwnedFd]) -> Result<(), Errno> {
    let own = mount::new("tmpfs", [("mode", "0755")], MountAttrFlags::empty())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    attach(&own, rustix::fs::openat(CWD, PLACE, flags, Mode::empty())?)?;
    for (number, mount) in mounts.iter().enumerate() {
        let name = number.to_string();
        rustix::fs::mkdirat(&own, &name, Mode::RWXU)?;
        attach(mount, rustix::fs::openat(&own, &name, flags, Mode::empty())?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::bind;
    use std::fs::read_to_string;

    #[test]
    fn privileged_what_is_attached_aside_shows_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("inner")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &std::path::Path| rustix::fs::openat(CWD, path, flags, Mode::empty());
        let outer = open(dir.path()).unwrap();
        let inner = open(&dir.path().join("inner")).unwrap();
        let before = read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = [bind(&outer, "", false).unwrap()];
        let part = with_attached(&mounts, &[&inner], |found| {
            assert!(read_to_string("/proc/thread-self/mountinfo")?.contains(" /sys/0 "));
            assert_eq!(found.len(), 1);
            Ok(bind(&mounts[0], "inner", false)?)
        })
        .unwrap();
        let (was, is) = (rustix::fs::fstat(&inner).unwrap(), rustix::fs::fstat(&part).unwrap());
        assert_eq!(was.st_ino, is.st_ino);
        assert_eq!(read_to_string("/proc/self/mountinfo").unwrap(), before);
    }
}
