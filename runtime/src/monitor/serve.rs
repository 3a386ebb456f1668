//! Requests and their answers. A client that does not read its answers loses its connection; nobody waits for it.

use crate::container::{Container, State};
use crate::events::Key;
use crate::monitor::Monitor;
use crate::refuse::Explain;
use crate::{attach, exec, start};
use runtime::exit::Exit;
use runtime::id::ContainerId;
use runtime::protocol::{
    self, Failure, MAX_DESCRIPTORS, REPORTS_A_MESSAGE, Received, Request, Response, WireError,
};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A client.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// Of the protocol, as its client speaks it.
    version: u16,
    /// Descriptors that came ahead of their request.
    ahead: Vec<OwnedFd>,
    role: Role,
}

/// What a connection is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// One request, or none yet.
    Plain,
    /// An exec, which ends with it.
    Exec(Key),
    /// To follow this container.
    Attached(Key),
    /// To be told of every exit.
    Watcher,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, version: plan::VERSION, ahead: Vec::new(), role: Role::Plain }
    }
}

impl Monitor {
    /// Serves what a client asks for; without a word from it, its connection ends here.
    pub(crate) fn hear_client(&mut self, key: Key) {
        loop {
            let Some(connection) = self.connections.get_mut(&key) else { return };
            match protocol::receive(&connection.socket, &mut self.buffer) {
                Ok(Received { message: Request::Descriptors, descriptors, .. }) => {
                    connection.ahead.extend(descriptors);
                    if connection.ahead.len() > MAX_DESCRIPTORS {
                        self.answer(key, &Response::Failed(Failure::TooMuch));
                        return self.leave_client(key);
                    }
                }
                Ok(Received { version, message, descriptors }) => {
                    connection.version = version;
                    let mut all = std::mem::take(&mut connection.ahead);
                    all.extend(descriptors);
                    if let Err(failure) = self.request(key, message, all) {
                        self.answer(key, &Response::Failed(failure));
                    }
                }
                Err(WireError::Socket(Errno::AGAIN)) => return,
                Err(WireError::Malformed(_) | WireError::Version(_)) => {
                    self.answer(key, &Response::Failed(Failure::Malformed));
                    return self.leave_client(key);
                }
                Err(WireError::Socket(_) | WireError::Closed) => return self.leave_client(key),
            }
        }
    }

    fn request(&mut self, key: Key, request: Request, with: Vec<OwnedFd>) -> Result<(), Failure> {
        match request {
            Request::Hello => self.hello(key),
            // Taken by the caller.
            Request::Descriptors => Err(Failure::Malformed),
            Request::Start { container, log, cgroup } => {
                let request = start::Request::new(container, log, cgroup, with);
                self.start(request.ok_or(Failure::Malformed)?, key)
            }
            Request::Signal { container, signal } => self.signal(key, &container, signal),
            Request::Kill { container } => self.kill(key, &container),
            Request::Exec { container, stdin } => {
                let request =
                    exec::Request::new(container, stdin, with).ok_or(Failure::Malformed)?;
                let exec = self.exec(&request, key)?;
                self.set_role(key, Role::Exec(exec));
                Ok(())
            }
            Request::KillExec => self.kill_exec(key),
            Request::ReopenLog { container } => self.reopen_log(key, &container, with),
            Request::Forget { container } => self.forget(key, &container),
            Request::Report => {
                self.report(key);
                Ok(())
            }
            Request::Watch => {
                self.watch(key);
                Ok(())
            }
            Request::Namespaces { uids, gids, kinds } => {
                let made = self.make_namespaces(&uids, &gids, &kinds).map_err(Failure::Step)?;
                let made: Vec<_> = made.iter().map(AsFd::as_fd).collect();
                self.answer_with(key, &Response::Namespaces, &made);
                Ok(())
            }
            Request::Shutdown => {
                self.end();
                Ok(())
            }
            Request::Attach { container, stdin, stdout, stderr } => {
                let pipes = attach::Pipes::new(stdout, stderr, with).ok_or(Failure::Malformed)?;
                self.attach(key, &container, stdin, pipes)
            }
            Request::EndInput => {
                let Some(Role::Attached(container)) = self.role(key) else {
                    return Err(Failure::Malformed);
                };
                self.end_input(container, key);
                Ok(())
            }
            Request::Resize { container, size } => self.resize(key, &container, size),
            Request::Drive { container, log, cgroup } => {
                let request = start::Request::new(container, log, cgroup, with);
                self.drive(request.ok_or(Failure::Malformed)?, key)
            }
            Request::UpdateDriven { container } => {
                let [resources] = <[OwnedFd; 1]>::try_from(with).map_err(|_| Failure::Malformed)?;
                self.update_driven(&container, &resources, key)
            }
        }
    }

    fn hello(&mut self, key: Key) -> Result<(), Failure> {
        let own = pidfd_open(getpid(), PidfdFlags::empty())
            .step("open", "own pidfd")
            .map_err(Failure::Step)?;
        self.answer_with(key, &Response::Hello { pid: getpid().as_raw_pid() }, &[own.as_fd()]);
        Ok(())
    }

    fn signal(&mut self, key: Key, id: &ContainerId, signal: i32) -> Result<(), Failure> {
        if let Some(driven) = self.driven(id) {
            return self.signal_driven(&driven, id, signal, key);
        }
        let process = self.named(id)?.process().ok_or(Failure::NotRunning)?;
        match sys::rights::signal(&process.pidfd, signal) {
            // It has ended, and its record is about to be written.
            Err(err) if err.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
            sent => sent.step("send signal", signal.to_string()).map_err(Failure::Step)?,
        }
        self.answer(key, &Response::Done);
        Ok(())
    }

    fn kill(&mut self, key: Key, id: &ContainerId) -> Result<(), Failure> {
        let process = self.named(id)?.process().ok_or(Failure::NotRunning)?;
        process.kill().step("kill", "cgroup").map_err(Failure::Step)?;
        self.answer(key, &Response::Done);
        Ok(())
    }

    fn kill_exec(&mut self, key: Key) -> Result<(), Failure> {
        let Some(Role::Exec(exec)) = self.role(key) else { return Err(Failure::Malformed) };
        if let Some(exec) = self.execs.get(&exec) {
            exec.kill();
        }
        Ok(())
    }

    fn reopen_log(
        &mut self,
        key: Key,
        id: &ContainerId,
        with: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let [log] = <[OwnedFd; 1]>::try_from(with).map_err(|_| Failure::Malformed)?;
        let container =
            self.containers.values_mut().find(|it| it.id == *id).ok_or(Failure::Unknown)?;
        container.process().ok_or(Failure::NotRunning)?;
        container.streams.log.reopen(log);
        self.answer(key, &Response::Done);
        Ok(())
    }

    fn forget(&mut self, key: Key, id: &ContainerId) -> Result<(), Failure> {
        if self.named(id).is_err() && self.runs.tell_when_deleted(id, key) {
            // Forgotten already, but not by its program.
            return Ok(());
        }
        match self.named(id)?.state {
            State::Alive { .. } => return Err(Failure::Running),
            State::Exited(_) => {}
        }
        self.containers.retain(|_, container| container.id != *id);
        if !self.runs.tell_when_deleted(id, key) {
            self.answer(key, &Response::Done);
        }
        Ok(())
    }

    fn report(&mut self, key: Key) {
        let all: Vec<_> = self.containers.values().map(Container::report).collect();
        let mut chunks = all.chunks(REPORTS_A_MESSAGE).peekable();
        if chunks.peek().is_none() {
            self.answer(key, &Response::Reports { reports: Vec::new(), last: true });
        }
        while let Some(chunk) = chunks.next() {
            let last = chunks.peek().is_none();
            self.answer(key, &Response::Reports { reports: chunk.to_vec(), last });
        }
    }

    /// What has ended so far is told at once, so that nothing is missed between a report and this.
    fn watch(&mut self, key: Key) {
        self.answer(key, &Response::Done);
        let exits: Vec<Response> = self
            .containers
            .values()
            .filter_map(|container| match &container.state {
                State::Exited(exit) => {
                    Some(Response::Exited { container: container.id.clone(), exit: exit.clone() })
                }
                State::Alive { .. } => None,
            })
            .collect();
        for exit in &exits {
            self.answer(key, exit);
        }
        self.set_role(key, Role::Watcher);
    }

    pub(crate) fn tell_watchers(&mut self, container: &ContainerId, exit: &Exit) {
        self.tell(&Response::Exited { container: container.clone(), exit: exit.clone() });
    }

    /// Tells every watcher.
    pub(crate) fn tell(&mut self, event: &Response) {
        let watchers = self.connections.iter().filter(|(_, it)| it.role == Role::Watcher);
        for key in watchers.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.answer(key, event);
        }
    }

    pub(crate) fn answer(&mut self, key: Key, response: &Response) {
        self.answer_with(key, response, &[]);
    }

    pub(crate) fn answer_with(&mut self, key: Key, response: &Response, with: &[BorrowedFd<'_>]) {
        let Some(connection) = self.connections.get(&key) else { return };
        if protocol::send(&connection.socket, response, with).is_err() {
            self.leave_client(key);
        }
    }

    fn leave_client(&mut self, key: Key) {
        match self.connections.remove(&key).map(|connection| connection.role) {
            Some(Role::Exec(exec)) => self.abandon_exec(exec),
            Some(Role::Attached(container)) => self.client_left(container, key),
            Some(Role::Plain | Role::Watcher) | None => {}
        }
    }

    /// What the client of a connection speaks; one that has just left spoke as we do.
    pub(crate) fn version_of(&self, key: Key) -> u16 {
        self.connections.get(&key).map_or(plan::VERSION, |connection| connection.version)
    }

    fn role(&self, key: Key) -> Option<Role> {
        self.connections.get(&key).map(|connection| connection.role)
    }

    pub(crate) fn set_role(&mut self, key: Key, role: Role) {
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.role = role;
        }
    }

    pub(crate) fn named(&self, id: &ContainerId) -> Result<&Container, Failure> {
        self.containers.values().find(|container| container.id == *id).ok_or(Failure::Unknown)
    }
}
