//! What monitors tell: ends of containers.

use super::{Container, ContainerError, Containers, Event, Exited};
use crate::chain::chain;
use crate::host::{now_ns, to_ns};
use runtime::exit::{self, Exit};
use std::sync::PoisonError;

impl Containers {
    /// Notes the end of a container in memory, at once. [`Self::settle`] does what takes time.
    pub(crate) fn ended(&self, container: &Container, exit: &Exit) {
        self.advance(container, Event::Exited(Exited::seen(exit, to_ns(exit.at))));
    }

    /// Records the end of a container and gives back what the kernel held for it.
    pub(crate) fn settle(&self, container: &Container) {
        // Listeners hear of it before they hear of what comes next, such as the end of the pod.
        drop(container.telling.lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(err) = self.write(container) {
            // The monitor's own record stays, and the next start of the daemon reads it.
            tracing::error!(container = ?container.id, err = chain(&err), "record exit");
            return;
        }
        self.clean_up(container);
    }

    /// Lets the monitor forget an ended container and removes its cgroup. What fails, the removal does again.
    pub(super) fn clean_up(&self, container: &Container) {
        container.gauge.close();
        if let Some(monitor) = self.monitor_of(container)
            && let Err(err) = monitor.forget(&container.id)
        {
            tracing::debug!(container = ?container.id, err = chain(&err), "forget");
        }
        let removed = self.cgroup_path(container).and_then(|path| {
            self.host.cgroups.remove(&path).map_err(|source| ContainerError::Cgroup {
                container: container.id.clone(),
                source,
            })
        });
        if let Err(err) = removed {
            tracing::warn!(container = ?container.id, err = chain(&err), "remove cgroup");
        }
    }

    /// The end of a container whose monitor has gone: what the monitor recorded, or that nobody knows. What may still
    /// run of it is killed, because nobody would ever report it again.
    pub(crate) fn orphaned(&self, container: &Container, why: &str) {
        if container.state().is_exited() {
            return;
        }
        let path = self.host.paths.exit_record(container.pod(), &container.id);
        match exit::read(&path) {
            Ok(Some(exit)) => self.ended(container, &exit),
            Ok(None) | Err(_) if container.state().is_running() => {
                self.advance(container, Event::Exited(Exited::unseen(now_ns(), why)));
            }
            // Never started: it stays as it was made, and its pod takes no more starts.
            Ok(None) | Err(_) => return,
        }
        self.settle(container);
    }
}
