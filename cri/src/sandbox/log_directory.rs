//! Where containers log: below the directory that the pod names, reached by descriptors.
//!
//! The directory itself is kubelet's word; what is below it is built from single components, none of which may be a
//! link, so that a log file is never a file elsewhere (CVE-2025-0750, CVE-2026-53489).

use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Why a log file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogPathError {
    #[error("log path {} is not a plain path below the pod's log directory", .0.display())]
    NotBelow(PathBuf),
    #[error("log directory {} is not an absolute path", .0.display())]
    NotAbsolute(PathBuf),
    #[error("open log directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("open log file {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("log file {} is there and no regular file", .0.display())]
    NotAFile(PathBuf),
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// Makes the log directory of a pod, with its parents, where it is missing.
pub(super) fn create(path: &Path) -> Result<(), LogPathError> {
    use std::os::unix::fs::DirBuilderExt;
    if !path.is_absolute() {
        return Err(LogPathError::NotAbsolute(path.to_owned()));
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|source| LogPathError::Directory { path: path.to_owned(), source })
}

/// Whether `relative` can be a log path at all.
pub(crate) fn check(relative: &str) -> Result<(), LogPathError> {
    let path = Path::new(relative);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if relative.is_empty() || !plain || relative.ends_with('/') || relative.contains('\0') {
        return Err(LogPathError::NotBelow(path.to_owned()));
    }
    Ok(())
}

/// Opens a container's log file for appending, and makes it and the directories on the way where they are missing.
pub(crate) fn open(directory: &Path, relative: &str) -> Result<OwnedFd, LogPathError> {
    check(relative)?;
    let whole = directory.join(relative);
    let top = fs::openat(CWD, directory, DIRECTORY, Mode::empty()).map_err(|err| {
        LogPathError::Directory { path: directory.to_owned(), source: err.into() }
    })?;
    let failed = |err: Errno| LogPathError::File { path: whole.clone(), source: err.into() };
    let relative = Path::new(relative);
    let mut parent = top;
    for part in relative.parent().into_iter().flat_map(Path::components) {
        match fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(err) => return Err(failed(err)),
        }
        parent = step(&parent, Path::new(part.as_os_str()), DIRECTORY).map_err(failed)?;
    }
    let name = Path::new(relative.file_name().unwrap_or_default());
    regular(&parent, name).map_err(failed)?.ok_or(LogPathError::NotAFile(whole))
}

/// Opens the regular file `name`, or makes it; `None` where it is something else. To open a device or a pipe is an act
/// already (it rewinds a tape, arms a watchdog, takes a terminal), so what is there is looked at first.
fn regular(parent: &OwnedFd, name: &Path) -> Result<Option<OwnedFd>, Errno> {
    let (append, fresh) = (OFlags::WRONLY | OFlags::APPEND, OFlags::CREATE | OFlags::EXCL);
    let there = match step(parent, name, append | fresh | OFlags::CLOEXEC) {
        Err(Errno::EXIST) => step(parent, name, OFlags::PATH | OFlags::CLOEXEC)?,
        made => return made.map(Some),
    };
    let kind = FileType::from_raw_mode(fs::fstat(&there)?.st_mode);
    if kind != FileType::RegularFile {
        return Ok(None);
    }
    // The descriptor itself, opened for more: its name may stand for something else by now.
    let itself = format!("/proc/self/fd/{}", there.as_raw_fd());
    fs::openat(CWD, itself, append | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).map(Some)
}

fn step(parent: &OwnedFd, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mode =
        if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o640) } else { Mode::empty() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(parent, name, flags | OFlags::NOFOLLOW, mode, resolve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_paths_stay_below_the_pods_directory() {
        for (name, path, fine) in [
            ("a file", "app.log", true),
            ("below a directory", "app/0.log", true),
            ("empty", "", false),
            ("upwards", "../app.log", false),
            ("upwards inside", "a/../../b", false),
            ("absolute", "/etc/passwd", false),
            ("a directory", "app/", false),
        ] {
            assert_eq!(check(path).is_ok(), fine, "{name}");
        }
    }

    #[test]
    fn links_and_pipes_in_the_way_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, outside) = (dir.path().join("logs"), dir.path().join("outside"));
        create(&logs).unwrap();
        std::fs::create_dir(&outside).unwrap();
        open(&logs, "app/0.log").unwrap();
        std::os::unix::fs::symlink(&outside, logs.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.join("f"), logs.join("file.log")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        fs::mknodat(CWD, logs.join("pipe"), FileType::Fifo, mode, 0).unwrap();
        std::fs::create_dir(logs.join("directory")).unwrap();
        for path in ["link/0.log", "file.log", "pipe", "directory"] {
            assert!(open(&logs, path).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
