//! Exec and Attach: the descriptors that a client's streams are copied to and from.

use super::{Container, ContainerError, Containers};
use crate::handlers::Runner;
use crate::host::blocking;
use crate::stream::Wanted;
use remote::message::Size;
use runtime::monitor::{
    AttachRequest, Attachment, Detached, Exec, ExecRequest, ExecStreams, MonitorError, Program,
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// An exec that runs, and our ends of its streams.
#[derive(Debug)]
pub(crate) enum Running {
    Pipes(Pipes),
    Terminal { exec: Exec, terminal: OwnedFd },
}

/// An exec without a terminal.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) exec: Exec,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A client that is attached to a container, and our ends of its streams.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) attachment: Attachment,
    pub(crate) input: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// What an attached client's pipe holds, which is how far the container can be ahead of it: the most that is allowed to
/// every user (`/proc/sys/fs/pipe-max-size`).
const AHEAD: usize = 1 << 20;

impl Containers {
    /// The container, if it runs and the streams make sense.
    pub(crate) fn to_stream(
        &self,
        id: &str,
        wanted: Wanted,
    ) -> Result<Arc<Container>, ContainerError> {
        let container = self.resolve(id)?;
        if !container.state().is_running() {
            return Err(container.wrong_state("running"));
        }
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(ContainerError::Invalid(
                "one of stdin, stdout and stderr must be asked for".into(),
            ));
        }
        if wanted.tty && wanted.stderr {
            return Err(ContainerError::Invalid("a terminal has no stderr of its own".into()));
        }
        Ok(container)
    }

    /// Starts a command in a container.
    pub(crate) async fn begin_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        command: &[String],
        stdin: bool,
        tty: bool,
    ) -> Result<Running, ContainerError> {
        let (this, container, command) =
            (Arc::clone(self), Arc::clone(container), command.to_vec());
        blocking(move || {
            if tty {
                this.exec_on_terminal(&container, &command)
            } else {
                this.exec_on_pipes(&container, &command, stdin).map(Running::Pipes)
            }
        })
        .await
    }

    fn exec_on_terminal(
        &self,
        container: &Container,
        command: &[String],
    ) -> Result<Running, ContainerError> {
        let mut exec = self.exec(container, command, ExecStreams::Terminal)?;
        let terminal = exec.take_terminal().ok_or_else(|| ContainerError::Exec {
            container: container.id.clone(),
            message: "open terminal: it did not come".into(),
        })?;
        Ok(Running::Terminal { exec, terminal })
    }

    pub(super) fn exec_on_pipes(
        &self,
        container: &Container,
        command: &[String],
        stdin: bool,
    ) -> Result<Pipes, ContainerError> {
        let pipe = || container.pipe();
        let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
        let (theirs, ours) =
            if stdin { pipe().map(|(r, w)| (Some(r), Some(w)))? } else { (None, None) };
        let streams = ExecStreams::Pipes { stdin: theirs, stdout: out, stderr: err };
        let exec = self.exec(container, command, streams)?;
        Ok(Pipes { exec, stdin: ours, stdout, stderr })
    }

    /// Has the monitor run a command, in the words of whoever runs the container.
    fn exec(
        &self,
        container: &Container,
        command: &[String],
        streams: ExecStreams,
    ) -> Result<Exec, ContainerError> {
        let not_running = || container.wrong_state("running");
        let sandbox = self.sandboxes.table.get(container.pod().as_str()).ok_or_else(not_running)?;
        let monitor = sandbox.monitor().ok_or_else(not_running)?;
        let tty = matches!(streams, ExecStreams::Terminal);
        let (plan, oci);
        let process = match self.runner(&sandbox)? {
            Runner::Own => {
                let mut process = self.host.filters.exec(&container.spec(), command, tty)?;
                self.limit_open_files(&mut process);
                plan = process;
                Program::Plan(&plan)
            }
            Runner::Other(_) => {
                oci = self.driven_exec(container, command, tty)?;
                Program::Oci(&oci)
            }
        };
        let request = ExecRequest { process, streams };
        monitor.exec(&container.id, request).map_err(|err| container.no_exec(err))
    }

    /// Attaches a client to a container that runs.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        container: &Arc<Container>,
        wanted: Wanted,
    ) -> Result<Attached, ContainerError> {
        let (this, container) = (Arc::clone(self), Arc::clone(container));
        blocking(move || {
            let monitor =
                this.monitor_of(&container).ok_or_else(|| container.wrong_state("running"))?;
            let pipe = |wanted: bool| {
                if !wanted {
                    return Ok::<_, ContainerError>((None, None));
                }
                let (ours, theirs) = container.pipe()?;
                // Where the user has no more room for pipes it is a small one.
                fcntl_setpipe_size(&theirs, AHEAD).ok();
                Ok((Some(ours), Some(theirs)))
            };
            let (stdout, out) = pipe(wanted.stdout)?;
            let (stderr, err) = pipe(wanted.stderr)?;
            let request = AttachRequest { stdin: wanted.stdin, stdout: out, stderr: err };
            let failed =
                |source| ContainerError::Monitor { container: container.id.clone(), source };
            let mut attachment = monitor.attach(&container.id, request).map_err(failed)?;
            let input = attachment.take_input();
            Ok(Attached { attachment, input, stdout, stderr })
        })
        .await
    }

    /// Gives a container's terminal another size. What has none keeps it.
    pub(crate) async fn resize(self: Arc<Self>, container: Arc<Container>, size: Size) {
        blocking(move || {
            let size = plan::Terminal { rows: size.height, columns: size.width };
            let monitor = self.monitor_of(&container);
            if let Some(Err(err)) = monitor.map(|monitor| monitor.resize(&container.id, size)) {
                tracing::debug!(%err, "resize");
            }
        })
        .await;
    }
}

impl Container {
    fn pipe(&self) -> Result<(OwnedFd, OwnedFd), ContainerError> {
        pipe_with(PipeFlags::CLOEXEC).map_err(|err| ContainerError::ExecIo {
            container: self.id.clone(),
            step: "make pipes",
            source: err.into(),
        })
    }
}

/// Waits for the end of an exec. Gives its exit code.
pub(crate) async fn exec_ended(exec: &Exec) -> io::Result<i32> {
    when_readable(exec.wait_readiness(), || exec.ended()).await
}

/// Waits until a client is not attached any more.
pub(crate) async fn detached(attachment: &Attachment) -> io::Result<Detached> {
    when_readable(attachment.wait_readiness(), || attachment.ended()).await
}

#[allow(
    deprecated,
    reason = "what makes it unsound is a descriptor that changes; an OwnedFd's does not"
)]
async fn when_readable<T>(
    what: BorrowedFd<'_>,
    ask: impl Fn() -> Result<Option<T>, MonitorError>,
) -> io::Result<T> {
    let readiness = AsyncFd::new(what.as_fd().try_clone_to_owned()?)?;
    loop {
        let mut ready = readiness.readable().await?;
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => ready.clear_ready(),
            Err(err) => return Err(io::Error::other(err)),
        }
    }
}
