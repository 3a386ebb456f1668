//! Space set aside, so that a full disk does not keep anybody from freeing some: removing an image or a container is a
//! record too.

use rustix::fs::{CWD, FallocateFlags, Mode, OFlags};
use std::path::{Path, PathBuf};

/// Enough for the records of a thorough clean-up.
const BYTES: u64 = 4 << 20;

/// A file whose only use is to be removed.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub(super) fn beside(database: &Path) -> Self {
        Self { path: database.with_file_name("reserve") }
    }

    /// Makes the file where it is missing and there is room for it; where there is not, there is nothing to set aside.
    pub(super) fn put_back(&self) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(CWD, &self.path, flags, Mode::from_raw_mode(0o600))
        else {
            return;
        };
        if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES).is_err() {
            self.use_up();
        }
    }

    /// Gives the space to whoever needs it now; says whether there was any.
    pub(super) fn use_up(&self) -> bool {
        rustix::fs::unlinkat(CWD, &self.path, rustix::fs::AtFlags::empty()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_can_be_used_once_and_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::beside(&dir.path().join("state.db"));
        assert!(!reserve.use_up());
        reserve.put_back();
        reserve.put_back();
        assert_eq!(std::fs::metadata(dir.path().join("reserve")).unwrap().len(), BYTES);
        assert!(reserve.use_up());
        assert!(!reserve.use_up());
    }
}
