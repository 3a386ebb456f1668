//! The directory of network configurations, and a thread that hears of changes to it: also when it appears, vanishes, or is
//! replaced by another one of its name.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::{Errno, retry_on_intr};

use super::config::List;
use super::error::CniError;

/// The network that new pods get, and what an operator should know of the other files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The first file, in the order of names, that can be used; or, while there are only files that cannot, the last one that
    /// could: somebody is writing, it seems.
    pub(super) list: Option<Arc<List>>,
    /// What is wrong with files that come before.
    pub(super) remarks: Vec<String>,
}

/// The configurations, kept up to date.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    found: Arc<Mutex<Found>>,
    end: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Directory {
    /// Reads the directory at `path`, whether it is there or not, and goes on doing so.
    pub(super) fn open(path: &Path) -> Result<Self, CniError> {
        let failed = |source| CniError::Watch { path: path.to_owned(), source };
        let (ended, end) = io::pipe().map_err(failed)?;
        let found: Arc<Mutex<Found>> = Arc::default();
        // Listens before it looks, so that nothing is missed in between.
        let ear = arm(path).map_err(failed)?;
        look(path, &found);
        let (watched, shared) = (path.to_owned(), Arc::clone(&found));
        let thread = thread::Builder::new()
            .name("cni-configuration".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                if let Err(err) = watch(&watched, ear, &ended.into(), &shared) {
                    tracing::error!(path = %watched.display(), %err, "network configurations are watched no longer");
                }
            })
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), found, end: Some(end), thread: Some(thread) })
    }

    pub(super) fn found(&self) -> Found {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing else of it.
            thread.join().ok();
        }
    }
}

fn watch(path: &Path, mut ear: OwnedFd, end: &OwnedFd, found: &Mutex<Found>) -> io::Result<()> {
    loop {
        let mut ready = [PollFd::new(&ear, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        retry_on_intr(|| poll(&mut ready, None))?;
        if !ready[1].revents().is_empty() {
            return Ok(());
        }
        // What was watched may be another directory by now, and what to watch may only have come: both begin anew.
        ear = arm(path)?;
        look(path, found);
    }
}

/// Watches the directory, and every directory on the way to it that is there.
fn arm(path: &Path) -> io::Result<OwnedFd> {
    let content = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF;
    // Of those on the way only the next step matters, but inotify cannot be told so.
    let way =
        WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    let ear = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    for (depth, directory) in path.ancestors().enumerate() {
        let flags = if depth == 0 { content } else { way };
        match inotify::add_watch(&ear, directory, flags | WatchFlags::ONLYDIR) {
            // One that is there and whose parents are, too: those farther up are only ever replaced with all below.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(ear)
}

/// Reads the directory into `found`.
fn look(path: &Path, found: &Mutex<Found>) {
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    let next = read(path, &found);
    if next != *found {
        let name = next.list.as_ref().map(|list| list.name.as_str());
        tracing::info!(network = name, remarks = ?next.remarks, "network configuration");
        *found = next;
    }
}

fn read(path: &Path, before: &Found) -> Found {
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| {
            let ending = file.extension().and_then(|ending| ending.to_str());
            matches!(ending, Some("conf" | "conflist" | "json"))
        })
        .collect();
    files.sort();
    let mut remarks = Vec::new();
    for file in files {
        let read = std::fs::read_to_string(&file).map_err(|err| err.to_string());
        match read.and_then(|text| List::parse(&text).map_err(|err| err.to_string())) {
            Ok(list) => return Found { list: Some(Arc::new(list)), remarks },
            Err(err) => remarks.push(format!("{}: {err}", file.display())),
        }
    }
    let list = if remarks.is_empty() { None } else { before.list.clone() };
    Found { list, remarks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn put(path: &Path, name: &str) {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"{name}","type":"bridge"}}"#);
        sys::durable::replace(path, text.as_bytes(), 0o600).unwrap();
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "another thread is waited for, and it tells nobody"
    )]
    fn until(directory: &Directory, name: Option<&str>) -> Found {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let found = directory.found();
            if found.list.as_ref().map(|list| list.name.as_str()) == name {
                return found;
            }
            assert!(Instant::now() < deadline, "{name:?} awaited, {found:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn the_directory_may_come_go_and_be_replaced() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("cni/net.d");
        let directory = Directory::open(&path).unwrap();
        until(&directory, None);
        std::fs::create_dir_all(&path).unwrap();
        put(&path.join("10-first.conf"), "first");
        until(&directory, Some("first"));
        std::fs::rename(top.path().join("cni"), top.path().join("elsewhere")).unwrap();
        until(&directory, None);
        std::fs::create_dir_all(top.path().join("other/net.d")).unwrap();
        put(&top.path().join("other/net.d/20-second.conflist"), "second");
        std::fs::rename(top.path().join("other"), top.path().join("cni")).unwrap();
        until(&directory, Some("second"));
        put(&path.join("05-zero.conflist"), "zero");
        until(&directory, Some("zero"));
        std::fs::remove_dir_all(top.path().join("cni")).unwrap();
        until(&directory, None);
        std::os::unix::fs::symlink(top.path().join("elsewhere"), top.path().join("cni")).unwrap();
        until(&directory, Some("first"));
    }

    #[test]
    fn the_first_file_that_can_be_used_counts_and_a_broken_one_does_not_end_it() {
        let top = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            sys::durable::replace(&top.path().join(name), text.as_bytes(), 0o600).unwrap();
        };
        put(&top.path().join("20-good.conflist"), "good");
        put(&top.path().join("30-later.conflist"), "later");
        put(&top.path().join("10-not.txt"), "not");
        write("10-broken.conflist", "{");
        let directory = Directory::open(top.path()).unwrap();
        let found = until(&directory, Some("good"));
        assert!(found.remarks[0].contains("10-broken.conflist"), "{found:?}");
        std::fs::remove_file(top.path().join("30-later.conflist")).unwrap();
        // Half-written: the one before goes on.
        write("20-good.conflist", "{ \"name\":");
        put(&top.path().join("00-signal.conf"), "signal");
        until(&directory, Some("signal"));
        std::fs::remove_file(top.path().join("00-signal.conf")).unwrap();
        let found = until(&directory, Some("signal"));
        assert!(found.list.is_some());
    }
}
