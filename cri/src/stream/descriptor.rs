//! Pipes and terminals as something to wait for.

use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// A pipe's end, or our side of a terminal.
#[derive(Debug)]
pub(super) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// From here on the open file does not block, for nobody who shares it.
    #[allow(
        deprecated,
        reason = "what makes it unsound is a descriptor that changes; an OwnedFd's does not"
    )]
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        AsyncFd::new(fd).map(Self)
    }

    /// Waits for bytes; 0 at the end.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match rustix::io::read(self.0.get_ref(), &mut *buffer) {
                Ok(count) => return Ok(count),
                // How a terminal says that its other side is closed.
                Err(Errno::IO) => return Ok(0),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// Writes all of it, as fast as it is taken.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match rustix::io::write(self.0.get_ref(), bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }

    pub(super) fn get(&self) -> &OwnedFd {
        self.0.get_ref()
    }
}
