//! Hearing of what others take away, and putting it back: the bridge with the pods' links on it, rules and elements.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};

use super::{Inner, kernel};
use crate::config::Forward;
use crate::error::NetworkError;
use crate::firewall::Concern;
use crate::netlink::{Error, Socket};
use crate::{route, setting};

/// The thread that listens; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    end: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread listens to.
struct Ears {
    links: Socket,
    rules: Socket,
    end: OwnedFd,
}

/// What was heard.
#[derive(Default)]
struct Heard {
    bridge_gone: bool,
    rules: Concern,
}

impl Watch {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Self, Error> {
        let failed = |step| move |source| Error::Socket { step, source };
        let (ended, end) = io::pipe().map_err(failed("make a pipe"))?;
        let ears = Ears {
            links: Socket::link_events()?,
            rules: Socket::firewall_events()?,
            end: ended.into(),
        };
        let inner = Arc::downgrade(inner);
        let thread = thread::Builder::new()
            .name("network-watch".into())
            .stack_size(256 * 1024)
            .spawn(move || listen(ears, &inner))
            .map_err(failed("start a thread"))?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing else of it.
            thread.join().ok();
        }
    }
}

fn listen(mut ears: Ears, inner: &Weak<Inner>) {
    loop {
        let ready = match ears.wait() {
            Ok(ready) => ready,
            Err(err) => return tracing::error!(%err, "the network is watched no longer"),
        };
        let [links, rules, over] = ready;
        let Some(inner) = inner.upgrade().filter(|_| !over) else { return };
        let heard = ears.hear(&inner, links, rules);
        inner.answer(&heard);
    }
}

impl Ears {
    fn wait(&self) -> io::Result<[bool; 3]> {
        let mut ready = [self.links.as_fd(), self.rules.as_fd(), self.end.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        retry_on_intr(|| poll(&mut ready, None))?;
        Ok(ready.map(|fd| !fd.revents().is_empty()))
    }

    /// All that has been told until now, so that a flush of the whole firewall is answered once.
    fn hear(&mut self, inner: &Inner, links: bool, rules: bool) -> Heard {
        let mut heard = Heard::default();
        if links {
            let index = inner.index();
            let told = drain(&mut self.links, |event| {
                heard.bridge_gone |= route::gone(event) == Some(index);
            });
            // More events than the socket can hold: anything may have happened.
            heard.bridge_gone |= !told;
        }
        if rules {
            let told = drain(&mut self.rules, |event| {
                heard.rules = heard.rules.and(inner.firewall.concern(event));
            });
            if !told {
                heard.rules = Concern { ours: true, others: true };
            }
        }
        heard
    }
}

/// Hands every event that is there to `each`. False if some were lost.
fn drain(socket: &mut Socket, mut each: impl FnMut(&crate::netlink::Message<'_>)) -> bool {
    loop {
        let heard = socket.heard(|event| {
            each(event);
            false
        });
        match heard {
            Ok(_) => {}
            Err(Error::Socket { source, .. })
                if source.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) =>
            {
                return true;
            }
            Err(_) => return false,
        }
    }
}

impl Inner {
    fn answer(&self, heard: &Heard) {
        let repaired = if heard.bridge_gone {
            tracing::warn!(
                bridge = self.config.name,
                "the bridge or events were lost; looked after"
            );
            self.repair()
        } else if heard.rules.ours {
            self.restore_rules()
        } else {
            Ok(())
        };
        if let Err(err) = repaired {
            tracing::error!(error = &err as &dyn std::error::Error, "put the pod network back");
        }
        if heard.rules.others && self.config.forward == Forward::Accept {
            self.settle_forwarding();
        }
    }

    /// Puts rules and elements back that others took away. Until they are there, nothing comes in by 127.0.0.0/8.
    fn restore_rules(&self) -> Result<(), NetworkError> {
        let closed = setting::set(&format!("ipv4/conf/{}/route_localnet", self.config.name), "0");
        self.ensure_rules()?;
        tracing::warn!(table = self.config.table, "somebody removed rules of ours; they are back");
        closed?;
        self.settle_loopback(&self.ledger())
    }

    /// Makes whatever is missing of the bridge and its rules, and puts the pods' links on it.
    pub(super) fn repair(&self) -> Result<(), NetworkError> {
        self.establish()?;
        let failed = || kernel("put links back on bridge", &self.config.name);
        let mut socket = Socket::route().map_err(failed())?;
        let links = route::list_links(&mut socket).map_err(failed())?;
        let owners: Vec<(String, String)> =
            self.ledger().pods().map(|pod| (pod.owner.clone(), pod.host_link.clone())).collect();
        let mut result = Ok(());
        for (owner, name) in owners {
            let link = links.iter().find(|link| link.name == name);
            if link.is_none_or(|link| link.master == Some(self.index())) {
                continue; // Not there yet, not any more, or where it belongs.
            }
            let requests = [
                route::set_master(&name, self.index()),
                route::prepare_port(&name, &self.note(&owner), self.ipv6),
                route::bring_up(&name),
            ];
            match socket.change(&requests) {
                Err(err) if !err.is(Errno::NODEV) => result = result.and(Err(err)),
                Ok(()) | Err(_) => {}
            }
        }
        result.map_err(failed())?;
        self.settle_loopback(&self.ledger())
    }
}
