//! The size of what a container has written: a walk over its upper directory, never oftener than it is worth.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A size holds for as long, and for as many times as the walk took: walks are at most a twentieth of the time.
const HOLDS: Duration = Duration::from_secs(10);
const TIMES: u32 = 20;
/// What is walked while the caller waits; larger layers are walked behind its back.
const AT_ONCE: usize = 5_000;
/// Deeper trees than any program makes; a walk keeps a descriptor for each level.
const DEEPEST: usize = 128;

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Blocks on the disk, in bytes.
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// The last size that was found.
#[derive(Debug, Default)]
pub(super) struct Sized {
    size: Option<Size>,
    until: Option<Instant>,
    is_walking: bool,
}

/// The size of the upper directory of the container's `directory`: the last one that was found, which may be seconds old.
/// None as long as there is none.
pub(super) fn size(known: &Arc<Mutex<Sized>>, directory: &Path) -> Option<Size> {
    {
        let mut known = lock(known);
        if known.is_walking || known.until.is_some_and(|until| Instant::now() < until) {
            return known.size;
        }
        known.is_walking = true;
    }
    let upper = directory.join(crate::container::UPPER);
    if lock(known).size.is_none() {
        let began = Instant::now();
        match walk(&upper, AT_ONCE) {
            Ok(Some(size)) => return found(known, Some(size), began),
            // Gone with its container, most likely.
            Err(_) => return found(known, None, began),
            Ok(None) => {}
        }
    }
    let (known, last) = (Arc::clone(known), lock(known).size);
    let work = move || {
        let began = Instant::now();
        let size = walk(&upper, usize::MAX).ok().flatten();
        found(&known, size, began);
    };
    // Where no thread is to be had, the next call tries again.
    if std::thread::Builder::new().name("layer-size".into()).spawn(work).is_err() {
        return last;
    }
    last
}

fn found(known: &Mutex<Sized>, size: Option<Size>, began: Instant) -> Option<Size> {
    let mut known = lock(known);
    known.size = size.or(known.size);
    known.until = Some(Instant::now() + HOLDS.max(began.elapsed() * TIMES));
    known.is_walking = false;
    known.size
}

fn lock(known: &Mutex<Sized>) -> MutexGuard<'_, Sized> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts everything in a directory; none where there is more than `most`. Links are never followed, and what vanishes
/// meanwhile is passed over.
fn walk(directory: &Path, most: usize) -> io::Result<Option<Size>> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = rustix::fs::openat(rustix::fs::CWD, directory, flags, Mode::empty())?;
    let mut counted = Counted { size: Size::default(), linked: HashSet::new(), left: most };
    let is_whole = counted.add(&top, 0)?;
    Ok(is_whole.then_some(counted.size))
}

struct Counted {
    size: Size,
    /// Files with several names, which count once.
    linked: HashSet<u64>,
    left: usize,
}

impl Counted {
    /// Says whether all could be counted.
    fn add(&mut self, directory: &OwnedFd, depth: usize) -> io::Result<bool> {
        for entry in Dir::read_from(directory)? {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(left) = self.left.checked_sub(1) else { return Ok(false) };
            self.left = left;
            let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_directory && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
                continue;
            }
            self.size.inodes += 1;
            self.size.bytes += u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
            if is_directory && depth < DEEPEST {
                let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let child = rustix::fs::openat(directory, name, flags, Mode::empty());
                if let Ok(child) = child
                    && !self.add(&child, depth + 1)?
                {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn everything_counts_once_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        sys::durable::replace(&top.join("a/file"), &[1; 10_000], 0o600).unwrap();
        std::fs::hard_link(top.join("a/file"), top.join("a/b/again")).unwrap();
        symlink("/", top.join("root")).unwrap();
        let size = walk(&top, 100).unwrap().unwrap();
        assert_eq!(size.inodes, 4, "two directories, a file, a link");
        assert!(size.bytes >= 10_000, "{size:?}");
        assert_eq!(walk(&top, 2).unwrap(), None, "more than may be walked");
        assert!(walk(&dir.path().join("none"), 2).is_err());
    }
}
