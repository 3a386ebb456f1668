//! Following a container that runs, and writing to it.

use super::connection::Connection;
use super::{Monitor, MonitorError, PATIENCE};
use crate::id::ContainerId;
use crate::protocol::{self, Detached, Request, Response, WireError};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What of a container is asked for. The pipes are closed here once they are sent.
///
/// Nobody waits for their reader: when one is full, the client is cut off ([`Detached::TooSlow`]), so they should be large
/// (`F_SETPIPE_SZ`).
#[derive(Debug)]
pub struct AttachRequest {
    /// Whether its input is wanted.
    pub stdin: bool,
    /// The write end of a pipe for its output from now on; a terminal is all output.
    pub stdout: Option<OwnedFd>,
    /// The write end of a pipe for its errors.
    pub stderr: Option<OwnedFd>,
}

/// A client that is attached. Dropping it detaches it, and that is the end of the input of a container that takes input
/// from one client only.
#[derive(Debug)]
pub struct Attachment {
    connection: Connection,
    input: Option<OwnedFd>,
}

impl Monitor {
    /// Attaches to a running container.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Refused`] where it does not run.
    pub fn attach(
        &self,
        container: &ContainerId,
        what: AttachRequest,
    ) -> Result<Attachment, MonitorError> {
        let AttachRequest { stdin, stdout, stderr } = what;
        let request = Request::Attach {
            container: container.clone(),
            stdin,
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
        };
        let pipes: Vec<BorrowedFd<'_>> = stdout.iter().chain(&stderr).map(AsFd::as_fd).collect();
        let connection = self.open(PATIENCE)?;
        connection.ask(&request, &pipes)?;
        let (answer, mut descriptors) = connection.answer()?;
        let Response::Attached = answer else { return Err(connection.other(answer)) };
        rustix::io::ioctl_fionbio(&connection.socket, true)
            .map_err(|err| super::wire(self.pod(), err.into()))?;
        Ok(Attachment { connection, input: descriptors.pop() })
    }
}

impl Attachment {
    /// What leads to the container's input; it does not block. `None` where it was not asked for, the container reads
    /// none, its only writer has been, or it was taken.
    pub fn take_input(&mut self) -> Option<OwnedFd> {
        self.input.take()
    }

    /// Becomes readable when the client is not attached any more, or the monitor has ended. It does not block.
    #[must_use]
    pub fn wait_readiness(&self) -> BorrowedFd<'_> {
        self.connection.socket.as_fd()
    }

    /// Why it is not attached any more; `None` while it is. Never waits.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Gone`] where the monitor is.
    pub fn ended(&self) -> Result<Option<Detached>, MonitorError> {
        match self.connection.answer() {
            Ok((Response::Detached { why }, _)) => Ok(Some(why)),
            Ok((other, _)) => Err(self.connection.other(other)),
            // The socket does not block: silence means that there is nothing to say yet.
            Err(MonitorError::Silent { .. }) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Says that no more input comes. What was taken of [`Self::take_input`] has to be closed as well.
    ///
    /// # Errors
    ///
    /// Any failure to speak to the monitor, but not that the client is not attached any more.
    pub fn end_input(&self) -> Result<(), MonitorError> {
        match protocol::send(&self.connection.socket, &Request::EndInput, &[]) {
            Ok(()) | Err(WireError::Socket(Errno::PIPE | Errno::CONNRESET)) => Ok(()),
            Err(err) => Err(super::wire(&self.connection.pod, err)),
        }
    }
}
