//! Files and directories that a container must not see, or not change.

use super::Step;
use super::resolve::{self, Links};
use crate::refuse::Explain;
use crate::world;
use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::os::fd::{BorrowedFd, OwnedFd};
use sys::mount::{self, Change};

/// Covers files with the monitor's own null device, and directories with its own empty one, read-only. The image's
/// `/dev/null` could be anything (CVE-2025-31133).
pub(super) fn hide(paths: &[String], root: BorrowedFd<'_>) -> Step<()> {
    for path in paths {
        let Some(place) = find(root, path)? else { continue };
        let mode = rustix::fs::fstat(&place).step("mask", path)?.st_mode;
        let directory = FileType::from_raw_mode(mode) == FileType::Directory;
        let cover = if directory { world::EMPTY } else { world::NULL };
        cover_with(cover, directory, &place).step("mask", path)?;
    }
    Ok(())
}

fn cover_with(cover: &str, directory: bool, place: &OwnedFd) -> std::io::Result<()> {
    let cover = mount::bind(CWD, cover, false)?;
    if directory {
        let set = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
        mount::set_attributes(&cover, Change { set, ..Change::default() })?;
    }
    Ok(mount::attach(cover, place)?)
}

/// Covers each path with itself, read-only.
pub(super) fn protect(paths: &[String], root: BorrowedFd<'_>) -> Step<()> {
    for path in paths {
        let Some(place) = find(root, path)? else { continue };
        protect_one(&place).step("make read-only", path)?;
    }
    Ok(())
}

fn protect_one(place: &OwnedFd) -> std::io::Result<()> {
    let itself = mount::bind(place, "", true)?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
    mount::set_attributes(&itself, Change { set, recursive: true, ..Change::default() })?;
    Ok(mount::attach(itself, place)?)
}

/// What is not there needs no cover; any other failure would leave it without one.
fn find(root: BorrowedFd<'_>, path: &str) -> Step<Option<OwnedFd>> {
    match resolve::existing(root, path, Links::Followed) {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(Some).step("resolve", path),
    }
}
