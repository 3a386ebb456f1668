//! Waiting for a log file to change.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Watches the directory of a file, so that rotation shows too.
#[derive(Debug)]
pub(super) struct Watch {
    events: AsyncFd<OwnedFd>,
}

impl Watch {
    pub(super) fn new(file: &Path) -> io::Result<Self> {
        // A log path may be a link, as those of /var/log/containers are.
        let file = file.canonicalize()?;
        let directory = file.parent().unwrap_or(Path::new("/"));
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let kinds = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&events, directory, kinds)?;
        #[expect(
            deprecated,
            reason = "sound for an OwnedFd, which cannot change its descriptor; the successor is unsafe"
        )]
        let events = AsyncFd::new(events)?;
        Ok(Self { events })
    }

    /// Returns when something has changed since the last call.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.events.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(ready.get_inner(), &mut buffer);
        loop {
            match reader.next() {
                Ok(_) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}
