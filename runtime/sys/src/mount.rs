//! Mounts by descriptor: what rustix lacks of the mount API.

use crate::result::check;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    self, FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
};
use rustix::path::Arg;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// What [`set_attributes`] changes.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Attributes that are set (`MOUNT_ATTR_*`).
    pub set: MountAttrFlags,
    /// Attributes that are cleared first; to change the handling of access times, `MOUNT_ATTR__ATIME` must be here.
    pub clear: MountAttrFlags,
    /// The propagation type, where it changes.
    pub propagation: Option<Propagation>,
    /// Whether mounts below are changed too.
    pub recursive: bool,
}

impl Default for Change {
    fn default() -> Self {
        Self {
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
            propagation: None,
            recursive: false,
        }
    }
}

/// The propagation types of `mount_namespaces(7)` that we use.
#[derive(Clone, Copy, Debug)]
pub enum Propagation {
    /// `MS_PRIVATE`
    Private,
    /// `MS_SLAVE`
    Slave,
    /// `MS_SHARED`
    Shared,
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes the mount that `mount` is the root of (`mount_setattr(2)`, Linux 5.12).
///
/// # Errors
///
/// Those of `mount_setattr(2)`.
pub fn set_attributes(mount: impl AsFd, change: Change) -> io::Result<()> {
    let propagation = match change.propagation {
        None => 0,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Shared) => libc::MS_SHARED,
    };
    let attr = MountAttr {
        set: u64::from(change.set.bits()),
        clear: u64::from(change.clear.bits()),
        propagation,
        userns_fd: 0,
    };
    let recursive = if change.recursive { libc::AT_RECURSIVE } else { 0 };
    self::change(mount, recursive, attr)
}

fn change(mount: impl AsFd, flags: libc::c_int, attr: MountAttr) -> io::Result<()> {
    // SAFETY: the path is an empty C string, and `attr` is a `struct mount_attr` of the size that is given, which the
    // kernel only reads.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Shows the owners of a detached mount through `namespace`, a user namespace: whom the file system knows by an id inside
/// is the one with the id outside here (`MOUNT_ATTR_IDMAP`, Linux 5.12; overlays of such mounts: 5.19).
///
/// # Errors
///
/// Those of `mount_setattr(2)`: `EINVAL` for a file system that cannot do it, `EPERM` for a mount that is mapped already
/// or attached.
pub fn map_ids(mount: impl AsFd, namespace: impl AsFd) -> io::Result<()> {
    let userns_fd = u64::from(namespace.as_fd().as_raw_fd().cast_unsigned());
    change(mount, 0, MountAttr { set: libc::MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns_fd })
}

/// Makes a detached mount of a new file system. An option without a value is a flag.
///
/// # Errors
///
/// Those of `fsopen(2)`, `fsconfig(2)` and `fsmount(2)`.
pub fn new<'a>(
    kind: &str,
    options: impl IntoIterator<Item = (&'a str, &'a str)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            mount::fsconfig_set_flag(&context, key)?;
        } else {
            mount::fsconfig_set_string(&context, key, value)?;
        }
    }
    mount::fsconfig_create(&context)?;
    mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes a detached bind mount of what `at` (or `path` below it) is.
///
/// # Errors
///
/// Those of `open_tree(2)`; `EINVAL` where the mount is of another mount namespace.
pub fn bind(at: impl AsFd, path: impl Arg, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    mount::open_tree(at, path, flags)
}

/// Puts a detached mount onto what `target` is.
///
/// # Errors
///
/// Those of `move_mount(2)`.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    mount::move_mount(mount, "", target, "", flags)
}

/// Makes the private mount `mount` share propagation with `peer`, a mount of the same file system that may be of another
/// mount namespace (`MOVE_MOUNT_SET_GROUP` of `move_mount(2)`, Linux 5.15).
///
/// # Errors
///
/// Those of `move_mount(2)`; `EINVAL` where `peer` is not shared with anybody, or the kernel is older.
pub fn join_peers(mount: impl AsFd, peer: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
        | MoveMountFlags::from_bits_retain(MOVE_MOUNT_SET_GROUP);
    mount::move_mount(peer, "", mount, "", flags)
}

/// Of `<linux/mount.h>`, which rustix lacks.
const MOVE_MOUNT_SET_GROUP: u32 = 0x100;

/// Makes `root` the root of this mount namespace, and lets go of the old root and of all that is mounted below it.
///
/// # Errors
///
/// Those of `pivot_root(2)` and `umount2(2)`.
pub fn pivot(root: impl AsFd) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    // The old root ends up on top of the new one (pivot_root(2), "pivot_root(".", ".")"), and comes off again.
    rustix::process::pivot_root(".", ".")?;
    mount::unmount(".", mount::UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// A descriptor of the current root directory.
///
/// # Errors
///
/// Those of `open(2)`.
pub fn root() -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a detached overlay of any number of layers on kernels that have no option for each layer (before Linux 6.5),
/// where the mount API bounds the one for all of them to 255 bytes.
///
/// `directories` are the layers, topmost first; `options` gives the mount's options, of up to a page together, from the
/// names of those directories. The mount is made the old way, in a mount namespace that a thread of its own has for as
/// long as that takes, and cloned out of it. An overlay takes only what is mounted in the namespace that it is made in,
/// so the directories are found there anew, by the paths that they have now, and must be the same ones.
///
/// # Errors
///
/// Those of `unshare(2)`, `mount(2)` and `open_tree(2)`; `ESTALE` where a directory has been moved meanwhile.
pub fn overlay_by_page(
    directories: &[&OwnedFd],
    options: impl FnOnce(&[String]) -> String + Send,
) -> io::Result<OwnedFd> {
    use rustix::mount::{MountFlags, MountPropagationFlags};
    /// Any directory that every system has; what is mounted on it there shows nowhere else.
    const PLACE: &str = "/sys";

    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            // SAFETY: a new mount namespace and own root and working directories take nothing away from the other
            // threads; the calling thread, which alone sees them, ends right after.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount::mount_change("/", private)?;
            let found =
                directories.iter().map(|fd| find_again(fd)).collect::<io::Result<Vec<_>>>()?;
            let names: Vec<_> =
                found.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
            let options = std::ffi::CString::new(options(&names))?;
            mount::mount("berth", PLACE, "overlay", MountFlags::empty(), options.as_c_str())?;
            Ok(bind(CWD, PLACE, false)?)
        });
        visitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Opens what `directory` is by its path, in the mount namespace of the calling thread.
pub(crate) fn find_again(directory: &OwnedFd) -> io::Result<OwnedFd> {
    use rustix::fs::{AtFlags, Mode, OFlags};
    let own = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = rustix::fs::readlinkat(CWD, own, Vec::new())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let was = rustix::fs::statat(directory, "", AtFlags::EMPTY_PATH)?;
    let is = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH)?;
    if (was.st_dev, was.st_ino) == (is.st_dev, is.st_ino) {
        Ok(found)
    } else {
        Err(Errno::STALE.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{AtFlags, Mode, OFlags};

    #[test]
    fn privileged_an_overlay_of_more_layers_than_an_option_holds() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layers: Vec<OwnedFd> = (0..100)
            .map(|layer| {
                let path = dir.path().join(layer.to_string());
                std::fs::create_dir_all(path.join(format!("of-{layer}"))).unwrap();
                rustix::fs::open(&path, flags, Mode::empty()).unwrap()
            })
            .collect();
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let layers: Vec<_> = layers.iter().collect();
        let root =
            overlay_by_page(&layers, |names| format!("lowerdir={}", names.join(":"))).unwrap();
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
        for layer in [0, 50, 99] {
            rustix::fs::statat(&root, format!("of-{layer}"), AtFlags::empty()).unwrap();
        }
    }
}
