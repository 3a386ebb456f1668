//! What a monitor can be asked.

use super::connection::Connection;
use super::{Monitor, MonitorError, PATIENCE, StartError};
use crate::cgroup;
use crate::id::ContainerId;
use crate::protocol::{Failure, Report, Request, Response, SOCKET};
use plan::{IdRange, LaunchPlan, NamespaceKind, Terminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};
use sys::{sealed, seqpacket};

/// Everything a container's start takes. The descriptors are closed here once they are sent.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What to do.
    pub plan: &'a LaunchPlan,
    /// What the plan's `Fd`s stand for.
    pub descriptors: Vec<OwnedFd>,
    /// The container's cgroup; without one its processes stay in the monitor's.
    pub cgroup: Option<cgroup::Descriptors>,
    /// The CRI log file, opened to append; without one the output is thrown away.
    pub log: Option<OwnedFd>,
    /// From [`crate::exit::create`].
    pub exit_record: OwnedFd,
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its first process, in this PID namespace.
    pub pid: i32,
    /// Since when.
    pub at: SystemTime,
}

/// The longest start: volumes can be slow, and a slow start is no failure.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(120);
/// The longest kill: whoever asks has another way, by the cgroup.
const KILL_PATIENCE: Duration = Duration::from_secs(3);
/// The longest end: everything is killed at once, but the kernel may have to free a lot of memory.
const END_PATIENCE: Duration = Duration::from_secs(30);

impl Monitor {
    /// Starts a container, and returns when its program runs.
    ///
    /// # Errors
    ///
    /// [`StartError::Refused`] where a step of the plan could not be done.
    pub fn start(
        &self,
        container: &ContainerId,
        launch: Launch<'_>,
    ) -> Result<Started, StartError> {
        let Launch { plan, descriptors, cgroup, log, exit_record } = launch;
        self.require(plan.needs())?;
        let plan = self.seal("plan", plan)?;
        let (labels, directories) = match cgroup {
            Some(cgroup) => {
                let (labels, directories) = cgroup.into_parts();
                (Some(labels), directories)
            }
            None => (None, Vec::new()),
        };
        let request =
            Request::Start { container: container.clone(), log: log.is_some(), cgroup: labels };
        let all: Vec<BorrowedFd<'_>> = [&plan, &exit_record]
            .into_iter()
            .chain(&log)
            .chain(&directories)
            .chain(&descriptors)
            .map(AsFd::as_fd)
            .collect();
        let connection = self.open(START_PATIENCE)?;
        connection.ask(&request, &all)?;
        let answer = connection.answer()?.0;
        let Response::Started { pid, at } = answer else {
            return Err(connection.other(answer).into());
        };
        Ok(Started { pid, at })
    }

    /// Sends a signal to a container's first process; one that has ended, or was forgotten after it, is no error.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Refused`] where the kernel knows no such signal.
    pub fn signal(&self, container: &ContainerId, signal: i32) -> Result<(), MonitorError> {
        let sent = self.call(&Request::Signal { container: container.clone(), signal }, &[]);
        or_gone(or_gone(sent, &Failure::NotRunning), &Failure::Unknown)
    }

    /// Kills every process of a container; one that has ended, or was forgotten after it, is no error.
    ///
    /// # Errors
    ///
    /// Any of [`MonitorError`] but those of the start.
    pub fn kill(&self, container: &ContainerId) -> Result<(), MonitorError> {
        let killed =
            self.call_within(KILL_PATIENCE, &Request::Kill { container: container.clone() }, &[]);
        or_gone(or_gone(killed, &Failure::NotRunning), &Failure::Unknown)
    }

    /// Makes a running container log to `log` from its next record on.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Refused`] where it does not run.
    pub fn reopen_log(&self, container: &ContainerId, log: OwnedFd) -> Result<(), MonitorError> {
        self.call(&Request::ReopenLog { container: container.clone() }, &[log.as_fd()])
    }

    /// Gives a running container's terminal another size.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Refused`] where it does not run, or has no terminal.
    pub fn resize(&self, container: &ContainerId, size: Terminal) -> Result<(), MonitorError> {
        self.call(&Request::Resize { container: container.clone(), size }, &[])
    }

    /// Lets the monitor forget a container that has ended; one it does not know is no error.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Refused`] where it runs.
    pub fn forget(&self, container: &ContainerId) -> Result<(), MonitorError> {
        let forgotten = self.call(&Request::Forget { container: container.clone() }, &[]);
        or_gone(forgotten, &Failure::Unknown)
    }

    /// Makes a user namespace with these ids, and namespaces that it owns: the user namespace first, then the others in
    /// their order. They live as long as the descriptors, or what is pinned of them.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Refused`] where the kernel has no user namespaces or takes no such ids.
    pub fn namespaces(
        &self,
        uids: &[IdRange],
        gids: &[IdRange],
        kinds: &[NamespaceKind],
    ) -> Result<Vec<OwnedFd>, MonitorError> {
        let request =
            Request::Namespaces { uids: uids.into(), gids: gids.into(), kinds: kinds.into() };
        let connection = self.open(PATIENCE)?;
        connection.ask(&request, &[])?;
        match connection.answer()? {
            (Response::Namespaces, made) if made.len() == 1 + kinds.len() => Ok(made),
            (answer, _) => Err(connection.other(answer)),
        }
    }

    /// What the monitor knows of every container that it was not told to forget.
    ///
    /// # Errors
    ///
    /// Any of [`MonitorError`] but those of the start.
    pub fn report(&self) -> Result<Vec<Report>, MonitorError> {
        let connection = self.open(PATIENCE)?;
        connection.ask(&Request::Report, &[])?;
        let mut all = Vec::new();
        loop {
            let answer = connection.answer()?.0;
            let Response::Reports { reports, last } = answer else {
                return Err(connection.other(answer));
            };
            all.extend(reports);
            if last {
                return Ok(all);
            }
        }
    }

    /// Kills what still runs, ends the monitor and waits until it is gone; one that is gone already is no error.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Silent`] where it lives even after SIGKILL. One that did not end by itself is killed, and only its
    /// containers' cgroups lead to what they left.
    pub fn shutdown(&self) -> Result<(), MonitorError> {
        let asked = self
            .open(PATIENCE)
            .and_then(|connection| connection.ask(&Request::Shutdown, &[]).map(|()| connection));
        let patience = if asked.is_ok() { END_PATIENCE } else { Duration::ZERO };
        let ended = self.ended(patience)?;
        if !ended {
            // It may end in this very moment.
            sys::rights::signal(self.pidfd(), rustix::process::Signal::KILL.as_raw()).ok();
            self.ended(PATIENCE)?;
        }
        self.reap();
        // Gone already where this is repeated.
        rustix::fs::unlinkat(&self.0.dir, SOCKET, rustix::fs::AtFlags::empty()).ok();
        if self.has_ended() {
            if !ended {
                tracing::warn!(pod = ?self.pod(), "monitor did not answer and was killed");
            }
            Ok(())
        } else {
            Err(MonitorError::Silent { pod: self.pod().clone() })
        }
    }

    /// Whether its process has ended. Never blocks; where nobody can tell, it counts as alive.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended(Duration::ZERO).unwrap_or(false)
    }

    fn ended(&self, patience: Duration) -> Result<bool, MonitorError> {
        seqpacket::wait(&[self.pidfd()], patience)
            .map(|ready| ready == [true])
            .map_err(|err| super::wire(self.pod(), err.into()))
    }

    pub(crate) fn open(&self, patience: Duration) -> Result<Connection, MonitorError> {
        Connection::open(self.pod(), &self.0.dir, patience)
    }

    pub(super) fn seal<T: serde::Serialize>(
        &self,
        name: &str,
        value: &T,
    ) -> Result<OwnedFd, MonitorError> {
        postcard::to_allocvec(value)
            .map_err(std::io::Error::other)
            .and_then(|bytes| sealed::create(name, bytes.as_slice(), sealed::Use::Data))
            .map_err(|source| MonitorError::Encode { pod: self.pod().clone(), source })
    }

    pub(super) fn call(
        &self,
        request: &Request,
        with: &[BorrowedFd<'_>],
    ) -> Result<(), MonitorError> {
        self.call_within(PATIENCE, request, with)
    }

    fn call_within(
        &self,
        patience: Duration,
        request: &Request,
        with: &[BorrowedFd<'_>],
    ) -> Result<(), MonitorError> {
        let connection = self.open(patience)?;
        connection.ask(request, with)?;
        connection.done()
    }
}

pub(super) fn or_gone(
    result: Result<(), MonitorError>,
    gone: &Failure,
) -> Result<(), MonitorError> {
    match result {
        Err(MonitorError::Refused { failure, .. }) if failure == *gone => Ok(()),
        other => other,
    }
}
