//! A small file system for a pod's files: containers may add to their `/etc/hosts`, and what they add must not fill the
//! node's disk (CVE-2020-8557 is kubelet's part of that). It lives in memory, which is the container's own to pay for.

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};
use std::io;
use std::path::Path;

/// Room for all three files together; a list of hosts to block, the largest that people keep, has some 100 KiB.
const SIZE: &str = "1m";
/// The directory, the files, and some more.
const FILES: &str = "8";

/// Puts it onto the empty directory `dir`.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    let closed = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = [("size", SIZE), ("nr_inodes", FILES), ("mode", "0700")];
    let mount = sys::mount::new("tmpfs", options, closed)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
    Ok(sys::mount::attach(mount, place)?)
}

/// Takes it down; one that is not there is no error.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn privileged_what_is_written_there_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path()).unwrap();
        let mut file = std::fs::File::create_new(dir.path().join("hosts")).unwrap();
        let written = file.write_all(&vec![0; 2 << 20]);
        drop(file);
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
