//! A container's root file system: an overlay that is mounted detached and never shows in the host's mount table
//! (`sys::overlay`). It need not survive a power loss, because a container does not.

use cri_spec::UserNamespace;
use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The directories of a container's writable layer.
pub(crate) const UPPER: &str = "upper";
const WORK: &str = "work";

/// Makes the writable layer of a container at `dir`. Its root has owner and mode of the image's root.
///
/// In a pod with a user namespace `user` that is its user of that number, as the host counts.
pub(super) fn create(
    dir: &Path,
    lowers: &[OwnedFd],
    user: Option<UserNamespace>,
) -> io::Result<()> {
    let private = Mode::from_raw_mode(0o700);
    fs::mkdir(dir, private)?;
    fs::mkdir(dir.join(WORK), private)?;
    fs::mkdir(dir.join(UPPER), private)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let upper = fs::openat(CWD, dir.join(UPPER), flags, Mode::empty())?;
    let (mut uid, mut gid, mut mode) = (0, 0, 0o755);
    if let Some(top) = lowers.first() {
        let like = fs::statat(top, "", AtFlags::EMPTY_PATH)?;
        (uid, gid, mode) = (like.st_uid, like.st_gid, like.st_mode & 0o7777);
    }
    if let Some(user) = user {
        let outside = |range: plan::IdRange, id| range.to_outside(id).ok_or(Errno::OVERFLOW);
        (uid, gid) = (outside(user.uids, uid)?, outside(user.gids, gid)?);
    }
    fs::fchown(&upper, Some(fs::Uid::from_raw(uid)), Some(fs::Gid::from_raw(gid)))?;
    Ok(fs::fchmod(&upper, Mode::from_raw_mode(mode))?)
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

/// As [`writable`], for the root of a user namespace: owners in the layers are its users. The writable layer holds the
/// numbers that these have on the host, since the overlay also makes files of its own there, which belong to us.
pub(super) fn writable_for(dir: &Path, lowers: &[OwnedFd], user: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let upper = fs::openat(CWD, dir.join(UPPER), flags, Mode::empty())?;
    let work = fs::openat(CWD, dir.join(WORK), flags, Mode::empty())?;
    let mut layers = layers(lowers, Some(user))?;
    if layers.is_empty() {
        layers.push(empty()?);
    }
    sys::aside::with_attached(&layers, &[&upper, &work], |found| match found {
        [upper, work] => sys::overlay::writable(&layers, upper, work),
        _ => Err(Errno::BADF.into()),
    })
}

/// The merged view of `lowers` as a volume, detached; its owners are users of the namespace `user` where there is one.
pub(crate) fn volume(lowers: &[OwnedFd], user: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let mut layers = layers(lowers, user)?;
    // An overlay that cannot be written to needs two layers at least.
    while layers.len() < 2 {
        layers.push(empty()?);
    }
    sys::aside::with_attached(&layers, &[], |_| sys::overlay::read_only(&layers))
}

fn layers(lowers: &[OwnedFd], user: Option<&OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let shown = |lower: &OwnedFd| {
        let layer = sys::mount::bind(lower, "", false)?;
        user.map_or(Ok(()), |user| sys::mount::map_ids(&layer, user))?;
        Ok(layer)
    };
    lowers.iter().map(shown).collect()
}

fn empty() -> io::Result<OwnedFd> {
    Ok(sys::mount::new("tmpfs", [("mode", "0755")], MountAttrFlags::empty())?)
}
