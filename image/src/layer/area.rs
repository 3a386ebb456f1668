//! Staging areas: directories and files with random names that are removed unless somebody takes them over.

use super::LayerError;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directory of all staging areas.
#[derive(Debug)]
pub(super) struct Nursery {
    fd: OwnedFd,
    path: PathBuf,
}

/// One area, removed when dropped.
#[derive(Debug)]
#[must_use = "the area is removed when this is dropped"]
pub(super) struct Area {
    nursery: Arc<Nursery>,
    name: OsString,
    /// Opened when the area was made: an error of writing back what was written since shows when this is synced.
    fd: OwnedFd,
}

/// The part of an area, and of a layer, that is its tree.
pub(super) const TREE: &str = "diff";

/// For `map_err` on a call to the kernel.
pub(super) fn store<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> LayerError {
    move |source| LayerError::Store { step, source: source.into() }
}

/// Opens a directory of the store itself.
pub(super) fn directory(
    dir: impl AsFd,
    name: impl rustix::path::Arg,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::empty())
}

/// Names in a directory, without `.` and `..`.
pub(super) fn names(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

impl Nursery {
    pub(super) fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// An area with an empty tree in it.
    pub(super) fn area(self: &Arc<Self>) -> Result<Area, LayerError> {
        let name = random_name().map_err(store("name a staging area"))?;
        fs::mkdirat(&self.fd, &name, Mode::RWXU).map_err(store("make a staging area"))?;
        let fd = directory(&self.fd, &name).map_err(store("open a staging area"))?;
        let area = Area { nursery: Arc::clone(self), name, fd };
        fs::mkdirat(&area.fd, TREE, Mode::RWXU).map_err(store("make a staging area"))?;
        Ok(area)
    }

    /// An area that is one empty file, and a second descriptor of it.
    pub(super) fn file(self: &Arc<Self>) -> Result<(Area, File), LayerError> {
        let name = random_name().map_err(store("name a staging area"))?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = fs::openat(&self.fd, &name, flags, mode).map_err(store("make a staging area"))?;
        let area = Area { nursery: Arc::clone(self), name, fd };
        let file = area.fd.try_clone().map_err(store("open a staging area"))?;
        Ok((area, File::from(file)))
    }

    /// Takes `name` out of `dir`, to be removed here, and gives its new name.
    pub(super) fn take(&self, dir: impl AsFd, name: &str) -> Result<OsString, LayerError> {
        let new = random_name().map_err(store("name a staging area"))?;
        fs::renameat(dir, name, &self.fd, &new).map_err(store("move a layer away"))?;
        Ok(new)
    }

    /// Removes what has the name `name` here.
    pub(super) fn remove(&self, name: &OsStr) -> Result<(), LayerError> {
        sys::tree::remove(&self.fd, name, &mut || {}).map_err(store("remove a tree"))
    }

    /// All that is here.
    pub(super) fn names(&self) -> Result<Vec<OsString>, LayerError> {
        names(&self.fd).map_err(store("list staging areas"))
    }
}

impl Area {
    /// Where the tree is.
    pub(super) fn tree_path(&self) -> PathBuf {
        self.path().join(TREE)
    }

    pub(super) fn tree(&self) -> Result<OwnedFd, LayerError> {
        directory(&self.fd, TREE).map_err(store("open a staging area"))
    }

    pub(super) fn path(&self) -> PathBuf {
        self.nursery.path.join(Path::new(&self.name))
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Moves the area to where `name` in `dir` is free; false where it is not.
    pub(super) fn settle(&mut self, dir: impl AsFd, name: &str) -> Result<bool, LayerError> {
        let flags = fs::RenameFlags::NOREPLACE;
        match fs::renameat_with(&self.nursery.fd, &self.name, dir, name, flags) {
            Ok(()) => {
                // Nothing has this name any more.
                self.name = OsString::new();
                Ok(true)
            }
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(err) => Err(store("give a layer its place")(err)),
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        if self.name.is_empty() {
            return;
        }
        if let Err(err) = self.nursery.remove(&self.name) {
            tracing::warn!(area = %self.path().display(), %err, "staging area left behind");
        }
    }
}

fn random_name() -> rustix::io::Result<OsString> {
    let mut bytes = [0; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    let mut name = String::with_capacity(32);
    for byte in bytes {
        write!(name, "{byte:02x}").expect("writing to a string cannot fail");
    }
    Ok(name.into())
}

/// Makes the directory `name` in `dir` if need be, for root alone, and opens it.
pub(super) fn private_directory(dir: impl AsFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    match fs::mkdirat(&dir, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(err) => return Err(err),
    }
    let fd = directory(&dir, name)?;
    // It may have been made by somebody less careful.
    fs::fchmod(&fd, Mode::RWXU)?;
    Ok(fd)
}

/// Whether `name` is there at all.
pub(super) fn exists(dir: impl AsFd, name: &str) -> bool {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}
