//! A container's root file system: an overlay that is mounted detached and never shows in the host's mount table
//! (`sys::overlay`). It need not survive a power loss, because a container does not.

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The directories of a container's writable layer.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// Makes the writable layer of a container at `dir`. Its root has owner and mode of the image's root.
pub(super) fn create(dir: &Path, lowers: &[OwnedFd]) -> io::Result<()> {
    let private = Mode::from_raw_mode(0o700);
    fs::mkdir(dir, private)?;
    fs::mkdir(dir.join(WORK), private)?;
    fs::mkdir(dir.join(UPPER), private)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let upper = fs::openat(CWD, dir.join(UPPER), flags, Mode::empty())?;
    let mode = match lowers.first() {
        Some(top) => {
            let like = fs::statat(top, "", AtFlags::EMPTY_PATH)?;
            let (uid, gid) = (fs::Uid::from_raw(like.st_uid), fs::Gid::from_raw(like.st_gid));
            fs::fchown(&upper, Some(uid), Some(gid))?;
            Mode::from_raw_mode(like.st_mode & 0o7777)
        }
        None => Mode::from_raw_mode(0o755),
    };
    Ok(fs::fchmod(&upper, mode)?)
}

/// Mounts the root of a container, detached.
pub(super) fn writable(dir: &Path, lowers: &[OwnedFd]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let upper = fs::openat(CWD, dir.join(UPPER), flags, Mode::empty())?;
    let work = fs::openat(CWD, dir.join(WORK), flags, Mode::empty())?;
    if lowers.is_empty() {
        // An overlay needs a lower layer; an image without layers gets an empty one.
        let empty = dir.join("empty");
        match fs::mkdir(&empty, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(err) => return Err(err.into()),
        }
        let lower = fs::openat(CWD, &empty, flags, Mode::empty())?;
        return sys::overlay::writable(&[lower], &upper, &work);
    }
    sys::overlay::writable(lowers, &upper, &work)
}
