//! Clients that follow a container while it runs.

use crate::container::{Container, State};
use crate::events::Key;
use crate::monitor::Monitor;
use crate::refuse::{Explain, refusal};
use crate::serve::Role;
use crate::streams::{Client, Cut};
use plan::Terminal;
use runtime::id::ContainerId;
use runtime::protocol::{Failure, Response};
use rustix::termios::Winsize;
use std::os::fd::{AsFd, OwnedFd};

/// The write ends that a client sent.
#[derive(Debug)]
pub(crate) struct Pipes {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Pipes {
    /// Gives each descriptor its meaning; `None` where their number is not right.
    pub(crate) fn new(stdout: bool, stderr: bool, descriptors: Vec<OwnedFd>) -> Option<Self> {
        if descriptors.len() != usize::from(stdout) + usize::from(stderr) {
            return None;
        }
        let mut descriptors = descriptors.into_iter();
        let mut next = |wanted: bool| if wanted { descriptors.next() } else { None };
        Some(Self { stdout: next(stdout), stderr: next(stderr) })
    }
}

impl Monitor {
    /// Attaches a client to a container that runs.
    pub(crate) fn attach(
        &mut self,
        client: Key,
        id: &ContainerId,
        stdin: bool,
        pipes: Pipes,
    ) -> Result<(), Failure> {
        let Pipes { stdout, stderr } = pipes;
        for pipe in stdout.iter().chain(&stderr) {
            rustix::io::ioctl_fionbio(pipe, true).step("use", "pipe").map_err(Failure::Step)?;
        }
        let (key, container) = self.running(id)?;
        let input = container.streams.attach(Client { connection: client, stdout, stderr }, stdin);
        self.set_role(client, Role::Attached(key));
        let with: Vec<_> = input.iter().map(AsFd::as_fd).collect();
        self.answer_with(client, &Response::Attached, &with);
        Ok(())
    }

    /// The client of a connection is gone.
    pub(crate) fn client_left(&mut self, key: Key, client: Key) {
        if let Some(container) = self.containers.get_mut(&key) {
            container.streams.leave(client);
        }
        self.tell_of_streams(key);
    }

    /// The client of a connection writes no more.
    pub(crate) fn end_input(&mut self, key: Key, client: Key) {
        if let Some(container) = self.containers.get_mut(&key) {
            container.streams.end_input(client);
        }
        self.tell_of_streams(key);
    }

    pub(crate) fn resize(
        &mut self,
        client: Key,
        id: &ContainerId,
        size: Terminal,
    ) -> Result<(), Failure> {
        let (_, container) = self.running(id)?;
        let none = || Failure::Step(refusal("resize", "a container without a terminal", 0));
        let terminal = container.streams.terminal().ok_or_else(none)?;
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .step("resize", "terminal")
            .map_err(Failure::Step)?;
        self.answer(client, &Response::Done);
        Ok(())
    }

    /// Tells those who were cut off, and who watches that a log cannot be written.
    pub(crate) fn tell_of_streams(&mut self, key: Key) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let cut = container.streams.take_cut();
        let fails = container.streams.log.take_failure();
        let id = fails.map(|errno| (container.id.clone(), errno));
        if let Some((container, errno)) = id {
            self.tell(&Response::LogFails { container, errno: errno.raw_os_error() });
        }
        for Cut { connection, why } in cut {
            self.answer(connection, &Response::Detached { why });
            self.connections.remove(&connection);
        }
    }

    fn running(&mut self, id: &ContainerId) -> Result<(Key, &mut Container), Failure> {
        let found = self.containers.iter_mut().find(|(_, container)| container.id == *id);
        let (key, container) = found.ok_or(Failure::Unknown)?;
        match container.state {
            State::Alive { init: None, .. } => Ok((*key, container)),
            State::Alive { .. } | State::Exited(_) => Err(Failure::NotRunning),
        }
    }
}
