//! Overlays of layers that are named by descriptor (`/proc/self/fd/N`), so that no path is resolved twice.
//!
//! The mounts are detached. `redirect_dir` and `metacopy` are off: they make the kernel follow attributes that are part of
//! the layers' content. `xino` is on: layers may be file systems of their own, and without it their files would show
//! another device than their directories.

use crate::mount::overlay_by_page;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The merged view of `lowers` (topmost first) without a writable layer, to look into; nothing where there are none.
///
/// One layer is its own merged view.
///
/// # Errors
///
/// Those of the mount API.
pub fn merged(mut lowers: Vec<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match lowers.len() {
        0 => Ok(None),
        1 => Ok(lowers.pop()),
        _ => read_only(&lowers).map(Some),
    }
}

/// An overlay of two or more `lowers`, topmost first, that cannot be written to.
///
/// # Errors
///
/// Those of the mount API.
pub fn read_only(lowers: &[OwnedFd]) -> io::Result<OwnedFd> {
    mount(lowers, None)
}

/// An overlay of `lowers`, topmost first, that is written to in `upper`, with the empty directory `work` beside it.
///
/// It is `volatile`: its unmount does not flush the disk, which costs other runtimes seconds, and its upper layer does not
/// survive a power loss.
///
/// # Errors
///
/// Those of the mount API.
pub fn writable(lowers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> io::Result<OwnedFd> {
    mount(lowers, Some((upper, work)))
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
    overlay_by_page(&directories, |names| {
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
    options.push(("xino", Some("on".to_owned())));
    options
}

fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
