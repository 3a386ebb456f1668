//! Directory trees whose content strangers made: reached and removed by descriptor, never through a symbolic link.

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// A path handed to the kernel in one piece, in bytes: below `PATH_MAX` with the NUL.
const PIECE: usize = 4000;

/// Opens the directory at `path` below `root`, with `flags` beside those that any directory is opened with.
///
/// `path` is relative, of any length, without empty components, `.` and `..`; empty is `root` itself. A symbolic link, a
/// mount or anything that is no directory on the way is an error.
///
/// # Errors
///
/// What openat2(2) says: `ELOOP` for a link, `EXDEV` for a way out.
pub fn open_below(root: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let open = |dir: BorrowedFd<'_>, piece: &[u8], flags| {
        let piece = if piece.is_empty() { b"." } else { piece };
        fs::openat2(dir, OsStr::from_bytes(piece), flags, Mode::empty(), resolve)
    };
    let mut rest = path;
    let mut at: Option<OwnedFd> = None;
    loop {
        let dir = at.as_ref().map_or_else(|| root.as_fd(), AsFd::as_fd);
        if rest.len() <= PIECE {
            return Ok(open(dir, rest, flags)?);
        }
        let cut = rest[..PIECE].iter().rposition(|&byte| byte == b'/').ok_or(Errno::NAMETOOLONG)?;
        let next = open(dir, &rest[..cut], flags | OFlags::PATH)?;
        rest = &rest[cut + 1..];
        at = Some(next);
    }
}

/// Removes `name` in `dir` with everything in it, calling `each` after each removal. A missing one is fine.
///
/// Directories are entered by descriptor and never through a symbolic link (CVE-2022-21658), however deep, with a
/// constant number of descriptors. For trees that nothing else changes meanwhile.
///
/// # Errors
///
/// The first thing that cannot be removed; what was removed until then is gone.
pub fn remove(dir: impl AsFd, name: &OsStr, each: &mut dyn FnMut()) -> io::Result<()> {
    match fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) => {
            each();
            return Ok(());
        }
        Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, POSIX EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(err) => return Err(err.into()),
    }
    let mut stack = vec![Level::enter(open_child(&dir, name)?, each)?];
    while let Some(level) = stack.last_mut() {
        if let Some(child) = level.directories.last() {
            let child = open_child(level.fd.as_ref().ok_or(Errno::BADF)?, child)?;
            if stack.len() >= MAX_OPEN {
                let depth = stack.len();
                stack[depth - MAX_OPEN].fd = None;
            }
            stack.push(Level::enter(child, each)?);
            continue;
        }
        let Some(done) = stack.pop() else { break };
        let Some(parent) = stack.last_mut() else { break };
        let fd = match parent.fd.take() {
            Some(fd) => fd,
            None => parent.reopen_from(done.fd.ok_or(Errno::BADF)?)?,
        };
        if let Some(child) = parent.directories.pop() {
            fs::unlinkat(&fd, child, AtFlags::REMOVEDIR)?;
            each();
        }
        parent.fd = Some(fd);
    }
    fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?;
    each();
    Ok(())
}

/// Levels of a tree whose descriptors are kept while it is removed.
const MAX_OPEN: usize = 16;

/// A directory that is being removed.
struct Level {
    /// None while deeper levels need it more; found again as their `..`.
    fd: Option<OwnedFd>,
    device: u64,
    inode: u64,
    /// What is still in it.
    directories: Vec<CString>,
}

impl Level {
    /// Removes all but the directories in `fd`.
    fn enter(fd: OwnedFd, each: &mut dyn FnMut()) -> io::Result<Self> {
        let stat = fs::fstat(&fd)?;
        let mut directories = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Where the file system does not tell the type, removing it does.
            let known = entry.file_type() == FileType::Directory;
            let is_directory = known
                || match fs::unlinkat(&fd, name, AtFlags::empty()) {
                    Ok(()) => {
                        each();
                        false
                    }
                    Err(Errno::ISDIR | Errno::PERM) => true,
                    Err(err) => return Err(err.into()),
                };
            if is_directory {
                directories.push(name.to_owned());
            }
        }
        Ok(Self { fd: Some(fd), device: stat.st_dev, inode: stat.st_ino, directories })
    }

    /// This directory, which must be the one above `child`.
    fn reopen_from(&self, child: OwnedFd) -> io::Result<OwnedFd> {
        let fd = open_child(child, "..")?;
        let stat = fs::fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) != (self.device, self.inode) {
            return Err(Errno::STALE.into());
        }
        Ok(fd)
    }
}

fn open_child(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(dir, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::path::Path;

    fn directory(path: &Path) -> File {
        File::open(path).unwrap()
    }

    #[test]
    fn a_tree_is_removed_and_what_its_links_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, tree) = (dir.path().join("kept"), dir.path().join("tree"));
        for name in ["kept/a", "tree/a/b/c", "tree/d"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["kept/a/file", "tree/file", "tree/a/b/file"] {
            File::create_new(dir.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(&kept, tree.join("a/out")).unwrap();
        std::os::unix::fs::symlink("../../kept", tree.join("a/up")).unwrap();
        let mut removed = 0;
        remove(directory(dir.path()), OsStr::new("tree"), &mut || removed += 1).unwrap();
        assert_eq!(removed, 9);
        assert!(!tree.exists());
        assert!(kept.join("a/file").exists());
        remove(directory(dir.path()), OsStr::new("tree"), &mut || panic!("nothing is there"))
            .unwrap();
    }

    #[test]
    fn a_link_in_place_of_the_tree_is_removed_itself() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("kept")).unwrap();
        std::os::unix::fs::symlink("kept", dir.path().join("link")).unwrap();
        remove(directory(dir.path()), OsStr::new("link"), &mut || {}).unwrap();
        assert!(dir.path().join("kept").exists());
        assert!(!dir.path().join("link").exists());
    }

    #[test]
    fn trees_deeper_than_a_path_can_name_are_removed_and_opened() {
        let dir = tempfile::tempdir().unwrap();
        let name = "n".repeat(200);
        let mut at = OwnedFd::from(directory(dir.path()));
        for _ in 0..100 {
            fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            let next = open_child(&at, &name).unwrap();
            drop(fs::openat(&at, "file", OFlags::CREATE, Mode::RWXU).unwrap());
            at = next;
        }
        let path = vec![name.as_bytes(); 100].join(&b'/');
        let deepest = open_below(directory(dir.path()), &path, OFlags::PATH).unwrap();
        assert_eq!(fs::fstat(&deepest).unwrap().st_ino, fs::fstat(&at).unwrap().st_ino);
        drop((at, deepest));
        remove(directory(dir.path()), OsStr::new(&name), &mut || {}).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the file beside it");
    }

    #[test]
    fn no_link_leads_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let cases: [(&str, &str, Option<Errno>); 6] = [
            ("the root", "", None),
            ("a directory", "a/b", None),
            ("a link at the end", "link", Some(Errno::LOOP)),
            ("a link on the way", "link/b", Some(Errno::LOOP)),
            ("up", "a/../..", Some(Errno::XDEV)),
            ("missing", "a/c", Some(Errno::NOENT)),
        ];
        for (name, path, want) in cases {
            let got = open_below(directory(dir.path()), path.as_bytes(), OFlags::PATH);
            let error = got.err().and_then(|err| err.raw_os_error());
            assert_eq!(error, want.map(Errno::raw_os_error), "{name}");
        }
    }
}
