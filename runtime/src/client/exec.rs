//! One more process in a running container.

use super::connection::Connection;
use super::{ExecError, Monitor, MonitorError};
use crate::id::ContainerId;
use crate::protocol::{self, Request, Response, WireError};
use plan::Process;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;
use sys::sealed;

/// What to run, and what it is connected to.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// What to run, and with what rights.
    pub process: Program<'a>,
    /// What it reads and writes.
    pub streams: ExecStreams,
}

/// What the process of an exec reads and writes.
#[derive(Debug)]
pub enum ExecStreams {
    /// The ends of pipes that the process itself gets. They are closed here once they are sent.
    Pipes {
        /// Its standard input; without one it reads end of file at once.
        stdin: Option<OwnedFd>,
        /// Its standard output.
        stdout: OwnedFd,
        /// Its standard error.
        stderr: OwnedFd,
    },
    /// The terminal that the process asks for, of the container's own devpts: see [`Exec::take_terminal`].
    Terminal,
}

/// A process, in the words of whoever runs it.
#[derive(Clone, Copy, Debug)]
pub enum Program<'a> {
    /// For the monitor itself.
    Plan(&'a Process),
    /// For the program of a driven container: OCI's process as JSON.
    Oci(&'a [u8]),
}

/// An exec that was started. Dropping it kills what still runs of it, with all that it started.
#[derive(Debug)]
pub struct Exec {
    connection: Connection,
    pid: i32,
    code: OnceLock<i32>,
    terminal: Option<OwnedFd>,
}

/// Entering a container takes milliseconds, more only on a machine that has far too much to do.
const EXEC_PATIENCE: Duration = Duration::from_secs(60);

impl Monitor {
    /// Runs one more process in a container, and returns when its program runs.
    ///
    /// # Errors
    ///
    /// [`ExecError::NotRunning`] where the container is unknown or does not run.
    pub fn exec(&self, container: &ContainerId, exec: ExecRequest<'_>) -> Result<Exec, ExecError> {
        let ExecRequest { process, streams } = exec;
        let process = match process {
            Program::Plan(process) => self.seal("process", process)?,
            Program::Oci(json) => sealed::create("process", json, sealed::Use::Data)
                .map_err(|source| MonitorError::Encode { pod: self.pod().clone(), source })?,
        };
        let (pipes, input) = match streams {
            ExecStreams::Pipes { stdin, stdout, stderr } => (Some([stdout, stderr]), stdin),
            ExecStreams::Terminal => (None, None),
        };
        let request = Request::Exec { container: container.clone(), stdin: input.is_some() };
        let pipes = pipes.iter().flatten().chain(&input);
        let all: Vec<BorrowedFd<'_>> =
            std::iter::once(&process).chain(pipes).map(AsFd::as_fd).collect();
        let connection = self.open(EXEC_PATIENCE)?;
        connection.ask(&request, &all)?;
        let (answer, mut descriptors) = connection.answer()?;
        let Response::ExecStarted { pid } = answer else {
            return Err(connection.other(answer).into());
        };
        rustix::io::ioctl_fionbio(&connection.socket, true)
            .map_err(|err| super::wire(self.pod(), err.into()))?;
        Ok(Exec { connection, pid, code: OnceLock::new(), terminal: descriptors.pop() })
    }
}

impl Exec {
    /// Its process number, in this PID namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The other side of its terminal, which does not block: what is written there is its input, what it says is read
    /// there, and it has a size. `None` where it has none, or it was taken.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Becomes readable when the exec has ended, or the monitor has. It does not block.
    #[must_use]
    pub fn wait_readiness(&self) -> BorrowedFd<'_> {
        self.connection.socket.as_fd()
    }

    /// The exit code, 128 + N where signal N ended it; `None` while it runs. Never waits.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Gone`] where the monitor is, and nobody will ever know.
    pub fn ended(&self) -> Result<Option<i32>, MonitorError> {
        if let Some(code) = self.code.get() {
            return Ok(Some(*code));
        }
        match self.connection.answer() {
            Ok((answer, _)) => match answer {
                Response::ExecEnded { code } => Ok(Some(*self.code.get_or_init(|| code))),
                Response::Hello { .. }
                | Response::Done
                | Response::Started { .. }
                | Response::ExecStarted { .. }
                | Response::Reports { .. }
                | Response::Exited { .. }
                | Response::Attached
                | Response::Detached { .. }
                | Response::LogFails { .. }
                | Response::Namespaces
                | Response::Failed(_) => Err(self.connection.other(answer)),
            },
            // The socket does not block: silence means that there is nothing to say yet.
            Err(MonitorError::Silent { .. }) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Kills the process and all that it started; how it ended is told as ever.
    ///
    /// # Errors
    ///
    /// Any failure to speak to the monitor, but not that the exec has ended.
    pub fn kill(&self) -> Result<(), MonitorError> {
        match protocol::send(&self.connection.socket, &Request::KillExec, &[]) {
            // The monitor closes the connection once it has told the exit code, which may still be unread here.
            Ok(()) | Err(WireError::Socket(Errno::PIPE | Errno::CONNRESET)) => Ok(()),
            Err(err) => Err(super::wire(&self.connection.pod, err)),
        }
    }
}
