//! Execs, signals and limits of driven containers, by their runtime's program.

use super::Driven;
use super::run::{Order, Purpose};
use super::start::{console_name, pid_name};
use crate::container::State;
use crate::events::Key;
use crate::exec::{Exec, Request, exec_cgroup};
use crate::init::Stdio;
use crate::monitor::Monitor;
use crate::refuse::Explain;
use crate::start::is_child;
use plan::ExecCgroup;
use runtime::cgroup::Held;
use runtime::id::ContainerId;
use runtime::protocol::{Failure, Refusal, Response};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};

/// The process of an exec, once its program has named it.
enum Named {
    Lives(Pid, OwnedFd),
    Ended(Pid, i32),
}

/// The process group of an exec's process, where that is in a session of the exec's own: programs differ in who leads it.
fn group_of(process: Pid, first: Option<Pid>) -> Option<Pid> {
    let session = rustix::process::getsid(Some(process)).ok()?;
    let own = rustix::process::getsid(None).ok();
    let containers = first.and_then(|first| rustix::process::getsid(Some(first)).ok());
    if own == Some(session) || containers == Some(session) {
        return None;
    }
    rustix::process::getpgid(Some(process)).ok()
}

/// Whose exec it is, and where it goes.
struct Place {
    key: Key,
    container: Key,
    client: Key,
    cgroup: Option<(Held, String)>,
}

impl Monitor {
    /// The runtime of a container, where it is driven.
    pub(crate) fn driven(&self, id: &ContainerId) -> Option<Driven> {
        let container = self.containers.values().find(|container| container.id == *id)?;
        container.driving.as_ref().map(|driving| driving.driven.clone())
    }

    fn started(&self, id: &ContainerId) -> Result<Key, Failure> {
        let found = self.containers.iter().find(|(_, container)| container.id == *id);
        let (key, container) = found.ok_or(Failure::Unknown)?;
        let starting = container.driving.as_ref().is_some_and(|it| it.starting.is_some());
        match container.state {
            State::Alive { .. } if !starting => Ok(*key),
            State::Alive { .. } | State::Exited(_) => Err(Failure::NotRunning),
        }
    }

    /// Begins an exec. What runs is OCI's process as JSON, which goes to the program as it is.
    pub(crate) fn exec_driven(
        &mut self,
        driven: &Driven,
        request: &Request,
        client: Key,
    ) -> Result<Key, Failure> {
        let container = self.started(&request.container)?;
        let key = self.next_key();
        let cgroup = self.exec_cgroup(driven, container, key).map_err(Failure::Step)?;
        let left = cgroup.as_ref().map(|(_, name)| name.clone());
        let begun = self.begin_driven(driven, request, Place { key, container, client, cgroup });
        if let (Err(_), Some(name)) = (&begun, left) {
            self.leave_cgroup(container, name);
        }
        begun
    }

    fn begin_driven(
        &mut self,
        driven: &Driven,
        request: &Request,
        place: Place,
    ) -> Result<Key, Failure> {
        let Place { key, container, client, cgroup } = place;
        let mut order = Order::new(driven, "exec");
        order.options = vec!["--detach".into(), "--pid-file".into(), driven.path(&pid_name(key))];
        if let Some((held, name)) = &cgroup {
            let below = held
                .hierarchy_of_children()
                .map_or_else(|| format!("/{name}"), |hierarchy| format!("{hierarchy}:{name}"));
            order.options.extend(["--cgroup".into(), below]);
        }
        order.input = Some(("--process", request.process.as_fd()));
        let mut console = None;
        if let Some(pipes) = &request.pipes {
            let stdin = pipes.stdin.as_ref().unwrap_or(&self.world.null).as_fd();
            let (stdout, stderr) = (pipes.stdout.as_fd(), pipes.stderr.as_fd());
            order.stdio = Some(Stdio { stdin, stdout, stderr });
        } else {
            let name = console_name(key);
            let listener = driven.listen(&name).step("listen", "for the terminal");
            console = Some(listener.map_err(Failure::Step)?);
            order.options.extend(["--tty".into(), "--console-socket".into(), name]);
        }
        let started = self.run_program(key, order).and_then(|program| {
            let pidfd = program.pidfd.try_clone().step("copy", "pidfd")?;
            Ok((program, pidfd))
        });
        let (program, pidfd) = started.map_err(Failure::Step)?;
        let exec = Exec::by_program(container, cgroup, client, (program.pid, pidfd));
        self.execs.insert(key, exec);
        self.expect(key, program, Purpose::Exec { exec: key, console });
        Ok(key)
    }

    fn exec_cgroup(
        &self,
        driven: &Driven,
        container: Key,
        key: Key,
    ) -> Result<Option<(Held, String)>, Refusal> {
        let process = self.containers.get(&container).and_then(|it| it.process());
        let Some(cgroup) = process.and_then(|process| process.cgroup.as_ref()) else {
            return Ok(None);
        };
        let v1 = cgroup.held.hierarchy_of_children();
        match (driven.0.drive.exec_cgroup, v1) {
            (ExecCgroup::None, _) | (ExecCgroup::Path, Some(_)) => return Ok(None),
            // A hierarchy with a name and no controller cannot be told to a program.
            (ExecCgroup::ByController, Some(name)) if name.contains('=') => return Ok(None),
            (ExecCgroup::Path | ExecCgroup::ByController, _) => {}
        }
        let name = exec_cgroup(key);
        let held = cgroup.held.child(&name).step("make", "cgroup")?;
        Ok(Some((held, name)))
    }

    /// The program of an exec has ended: what it started runs, or has run; or nothing was started.
    pub(super) fn exec_program_ended(
        &mut self,
        run: Key,
        key: Key,
        outcome: Result<Option<OwnedFd>, Refusal>,
    ) {
        let named =
            outcome.and_then(|terminal| self.named_by(run, key).map(|named| (named, terminal)));
        let container = self.execs.get(&key).and_then(|exec| self.containers.get(&exec.container));
        let first = container.and_then(|container| container.process()).map(|first| first.pid);
        let Some(exec) = self.execs.get_mut(&key) else { return };
        exec.helper = None;
        let (pid, code, terminal) = match named {
            Ok((Named::Lives(pid, pidfd), terminal)) => {
                exec.group = group_of(pid, first);
                exec.process = Some((pid, pidfd));
                (pid, None, terminal)
            }
            Ok((Named::Ended(pid, code), terminal)) => (pid, Some(code), terminal),
            Err(refusal) => {
                // Where it was started all the same, nobody would know of it.
                exec.kill();
                exec.refusal = Some(refusal);
                return self.exec_child_ended(key, Pid::INIT, 255);
            }
        };
        exec.runs = true;
        match exec.client {
            Some(client) => {
                let with: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                let started = Response::ExecStarted { pid: pid.as_raw_pid() };
                self.answer_with(client, &started, &with);
            }
            // Given up meanwhile.
            None => exec.kill(),
        }
        if let Some(code) = code {
            self.exec_child_ended(key, pid, code);
        }
    }

    fn named_by(&mut self, run: Key, key: Key) -> Result<Named, Refusal> {
        let step = "take over";
        let container = self.execs.get(&key).map(|exec| exec.container);
        let container = container.and_then(|key| self.containers.get(&key));
        let driving = container.and_then(|container| container.driving.as_ref());
        let driven = driving.ok_or(Errno::SRCH).step(step, "the exec")?.driven.clone();
        let pid = driven.take_pid(&pid_name(run)).step(step, "process from pid file")?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) if is_child(&pidfd) => Ok(Named::Lives(pid, pidfd)),
            Ok(_) | Err(_) => {
                let number = format!("process {}", pid.as_raw_pid());
                let code = self.take_stray(pid).ok_or(Errno::SRCH).step(step, number)?;
                Ok(Named::Ended(pid, code))
            }
        }
    }

    /// Has the program send a signal: only it knows where the process of a sandboxed container is.
    pub(crate) fn signal_driven(
        &mut self,
        driven: &Driven,
        id: &ContainerId,
        signal: i32,
        client: Key,
    ) -> Result<(), Failure> {
        let container = self.started(id)?;
        let key = self.next_key();
        let mut order = Order::new(driven, "kill");
        order.last = Some(signal.to_string());
        let purpose = Purpose::Signal { container, signal, client };
        match self.run_program(key, order) {
            Ok(program) => self.expect(key, program, purpose),
            Err(refusal) => self.signalled(container, signal, client, Err(refusal)),
        }
        Ok(())
    }

    /// The program has sent the signal. One that could not does not keep a container from being stopped.
    pub(super) fn signalled(
        &mut self,
        container: Key,
        signal: i32,
        client: Key,
        outcome: Result<(), Refusal>,
    ) {
        let process = self.containers.get(&container).and_then(|it| it.process());
        let answer = match (outcome, process) {
            (Err(refusal), Some(process))
                if sys::rights::signal(&process.pidfd, signal).is_err() =>
            {
                Response::Failed(Failure::Step(refusal))
            }
            (Ok(()) | Err(_), _) => Response::Done,
        };
        self.answer(client, &answer);
    }

    /// Has the program of a container change its limits.
    pub(crate) fn update_driven(
        &mut self,
        id: &ContainerId,
        resources: &OwnedFd,
        client: Key,
    ) -> Result<(), Failure> {
        self.started(id)?;
        let driven = self.driven(id).ok_or(Failure::Malformed)?;
        let key = self.next_key();
        let mut order = Order::new(&driven, "update");
        order.input = Some(("--resources", resources.as_fd()));
        let program = self.run_program(key, order).map_err(Failure::Step)?;
        self.expect(key, program, Purpose::Update { client });
        Ok(())
    }
}
