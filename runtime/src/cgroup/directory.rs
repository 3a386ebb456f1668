//! One open cgroup directory; every operation starts at its descriptor, so none needs a path of the host.

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// `relative` may have several components; a symbolic link at its end is refused.
    pub(super) fn child(&self, relative: &str) -> io::Result<Self> {
        let flags = DIRECTORY.union(OFlags::NOFOLLOW);
        Ok(Self(fs::openat(&self.0, relative, flags, Mode::empty())?))
    }

    pub(super) fn make_child(&self, name: &str) -> io::Result<Made> {
        match fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                // Whatever our umask: the root of a user namespace looks its own cgroup up on the way down to it.
                let open = self
                    .child(name)
                    .and_then(|child| Ok(fs::fchmod(&child.0, Mode::from_raw_mode(0o755))?));
                if open.is_err() {
                    // The failure to report is the one above.
                    self.remove_child(name).ok();
                }
                open?;
                Ok(Made::Now)
            }
            Err(Errno::EXIST) => Ok(Made::Before),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the empty child `name`; that it is missing already is what was wanted.
    pub(super) fn remove_child(&self, name: &str) -> io::Result<()> {
        match fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn children(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if entry.file_type() == FileType::Directory && !matches!(name, "." | "..") {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    pub(super) fn open_file(&self, file: &str, access: OFlags) -> io::Result<OwnedFd> {
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(fs::openat(&self.0, file, flags, Mode::empty())?)
    }

    pub(super) fn read(&self, file: &str) -> io::Result<String> {
        let mut text = String::new();
        File::from(self.open_file(file, OFlags::RDONLY)?).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes `value` in one call, as the kernel's control files want it.
    pub(super) fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let file = self.open_file(file, OFlags::WRONLY)?;
        rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes()))?;
        Ok(())
    }

    /// The processes in this cgroup itself, as this process's PID namespace numbers them.
    ///
    /// Those it cannot name are listed by the kernel as 0 and left out here: 0 would mean the caller's own group to
    /// `kill(2)`.
    pub(super) fn processes(&self) -> io::Result<Vec<Pid>> {
        let text = match self.read("cgroup.procs") {
            // A threaded cgroup of v2 lists threads only; the number of one stands for its process in `kill(2)`.
            Err(err) if err.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                self.read("cgroup.threads")?
            }
            listed => listed?,
        };
        let pids = text.lines().filter_map(|line| line.parse::<i32>().ok());
        Ok(pids.filter(|pid| *pid > 0).filter_map(Pid::from_raw).collect())
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// Whether `make_child` found the directory or made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Now,
    Before,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Directory {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl From<Directory> for OwnedFd {
    fn from(directory: Directory) -> Self {
        directory.0
    }
}

/// Whether the error says that the file, the directory or its cgroup is gone.
///
/// An open file of a removed cgroup answers ENODEV.
pub(super) fn is_gone(err: &io::Error) -> bool {
    matches!(err.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::NODEV))
}

/// Whether the error says that a cgroup has processes or children and so cannot be removed.
pub(super) fn is_busy(err: &io::Error) -> bool {
    let errno = err.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::BUSY | Errno::NOTEMPTY))
}
