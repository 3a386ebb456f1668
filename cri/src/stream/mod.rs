//! The streaming server: what Exec, Attach and PortForward hand out an address of.
//!
//! ```text
//!   call ─▶ tickets ─▶ URL ─▶ client ─▶ listen ─▶ http (upgrade, negotiate) ─▶ wires (SPDY or WebSocket)
//!                                                                               │
//!          exec ◀── monitor ── pipes, terminal ── copy ── session ◀─────────────┤
//!          attach ◀─┘                                                           │
//!          forward ── sockets in the pod's network namespace ◀──────────────────┘
//! ```
//!
//! An address works once, for a minute. The server is on loopback unless the configuration says otherwise: kubelet carries
//! the bytes between it and its own clients. A session ends when its client is gone, when what it is about ends, or when
//! nothing was said for the idle limit; with it goes all that it holds, an exec with everything that it started.

mod attach;
mod copy;
mod descriptor;
mod exec;
mod forward;
mod http;
mod listen;
mod negotiate;
mod session;
mod tickets;
mod wires;

pub(crate) use listen::{ListenError, Listener, serve};
pub(crate) use tickets::{TooMany, Wanted};

use crate::container::ContainerError;
use crate::node::Node;
use tickets::{Errand, Tickets};

/// The streaming server, as the calls that hand out its addresses see it.
#[derive(Debug)]
pub(crate) struct Streaming {
    base: String,
    tickets: Tickets,
}

impl Streaming {
    /// `base` is the beginning of every address, such as `http://127.0.0.1:4711`.
    pub(crate) fn new(base: String) -> Self {
        Self { base, tickets: Tickets::default() }
    }

    /// An address at which the errand can be run once.
    fn url(&self, errand: Errand) -> Result<String, TooMany> {
        let path = errand.path();
        let ticket = self.tickets.issue(errand)?;
        Ok(format!("{}/{path}/{ticket}", self.base))
    }
}

impl Node {
    /// Where a client can run a command in a running container.
    pub(crate) fn exec_url(
        &self,
        id: &str,
        command: Vec<String>,
        wanted: Wanted,
    ) -> Result<String, ContainerError> {
        let container = self.containers.to_stream(id, wanted)?;
        // What cannot be run is refused now, while the caller can be told by a code.
        self.host.filters.exec(&container.spec(), &command, wanted.tty)?;
        Ok(self.streaming.url(Errand::Exec { container, command, wanted })?)
    }

    /// Where a client can follow a running container.
    pub(crate) fn attach_url(&self, id: &str, wanted: Wanted) -> Result<String, ContainerError> {
        let container = self.containers.to_stream(id, wanted)?;
        Ok(self.streaming.url(Errand::Attach { container, wanted })?)
    }

    /// Where a client can connect to ports of a pod. `ports` are all that a client of WebSocket can have.
    pub(crate) fn forward_url(&self, id: &str, ports: &[i32]) -> Result<String, ContainerError> {
        const MOST_PORTS: usize = 127;
        let sandbox = self.sandboxes.resolve(id)?;
        if !sandbox.is_ready() {
            return Err(ContainerError::PodNotReady(sandbox.id.clone()));
        }
        let number = |port: &i32| {
            let port = u16::try_from(*port).ok().filter(|port| *port != 0);
            port.ok_or_else(|| ContainerError::Invalid("a port is between 1 and 65535".into()))
        };
        let ports = ports.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        if ports.len() > MOST_PORTS {
            return Err(ContainerError::Invalid(format!("at most {MOST_PORTS} ports")));
        }
        Ok(self.streaming.url(Errand::Forward { sandbox, ports })?)
    }
}
