//! A container's root file system: an overlay that is mounted detached and never shows in the host's mount table.
//!
//! Layers are named by descriptor (`/proc/self/fd/N`), so no path is resolved twice. The writable layer is mounted
//! `volatile`: its unmount does not flush the disk, which costs other runtimes seconds (it need not survive a power loss,
//! because a container does not). `redirect_dir` and `metacopy` are off: they make the kernel follow attributes that are
//! part of the layers' content.

use cri_spec::UserNamespace;
use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// The directories of a container's writable layer.
pub(crate) const UPPER: &str = "upper";
const WORK: &str = "work";

/// The merged view of `lowers` (topmost first) without a writable layer, to look into; nothing where there are none.
///
/// One layer is its own merged view.
pub(super) fn read_only(mut lowers: Vec<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match lowers.len() {
        0 => Ok(None),
        1 => Ok(lowers.pop()),
        _ => mount(&lowers, None).map(Some),
    }
}

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
        return mount(&[lower], Some((&upper, &work)));
    }
    mount(lowers, Some((&upper, &work)))
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
        [upper, work] => mount(&layers, Some((upper, work))),
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
    sys::aside::with_attached(&layers, &[], |_| mount(&layers, None))
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

/// Where an overlay is written to: upper and work directory.
type Writable<'a> = Option<(&'a OwnedFd, &'a OwnedFd)>;

fn mount(lowers: &[OwnedFd], writable: Writable<'_>) -> io::Result<OwnedFd> {
    match mount_by_option(lowers, writable) {
        // A kernel before 6.5 has no option for each layer. Some refuse it when it is set, others when all is put together,
        // as 6.1 does; what is wrong otherwise is wrong by page too.
        Err(Errno::INVAL) => mount_by_page(lowers, writable),
        result => Ok(result?),
    }
}

fn mount_by_option(lowers: &[OwnedFd], writable: Writable<'_>) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    for lower in lowers {
        fsconfig_set_string(context, "lowerdir+", by_descriptor(lower))?;
    }
    let writable = writable.map(|(upper, work)| (by_descriptor(upper), by_descriptor(work)));
    for (key, value) in options(writable) {
        match value {
            Some(value) => fsconfig_set_string(context, key, value)?,
            None => fsconfig_set_flag(context, key)?,
        }
    }
    fsconfig_create(context)?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn mount_by_page(lowers: &[OwnedFd], writable: Writable<'_>) -> io::Result<OwnedFd> {
    let mut directories: Vec<_> = lowers.iter().collect();
    directories.extend(writable.iter().flat_map(|(upper, work)| [*upper, *work]));
    sys::mount::overlay_by_page(&directories, |names| {
        let (layers, own) = names.split_at(lowers.len());
        let mut text = format!("lowerdir={}", layers.join(":"));
        for (key, value) in options(own.first().cloned().zip(own.last().cloned())) {
            text.push(',');
            text.push_str(key);
            if let Some(value) = value {
                text.push('=');
                text.push_str(&value);
            }
        }
        text
    })
}

/// Everything but the layers. An option without a value is a flag.
fn options(writable: Option<(String, String)>) -> Vec<(&'static str, Option<String>)> {
    let mut options = Vec::new();
    if let Some((upper, work)) = writable {
        options.push(("upperdir", Some(upper)));
        options.push(("workdir", Some(work)));
        options.push(("volatile", None));
        options.push(("index", Some("off".to_owned())));
    }
    options.push(("redirect_dir", Some("nofollow".to_owned())));
    options.push(("metacopy", Some("off".to_owned())));
    options.push(("xino", Some("auto".to_owned())));
    options
}

fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
