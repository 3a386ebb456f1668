//! StopContainer: ask, wait, kill. Whoever hangs up changes nothing of it.

use super::{Container, ContainerError, Containers, State, signal};
use crate::chain::chain;
use crate::host::blocking;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Longer than any node lives, and short enough to be added to any clock.
const LONGEST_GRACE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How long a monitor that did not answer may take to tell of an end all the same.
const NEWS_PATIENCE: Duration = Duration::from_secs(2);

/// How long the kernel may take to end what was killed. Only a process that hangs in the kernel takes longer.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Containers {
    /// As [`Self::stop`], for a container that a client names. One that is not there is stopped.
    pub(crate) async fn stop_named(
        self: &Arc<Self>,
        id: &str,
        grace: Duration,
    ) -> Result<(), ContainerError> {
        match self.resolve(id) {
            Ok(container) => self.stop(container, grace).await,
            Err(ContainerError::NotFound(_)) => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// Ends a container within `grace`: its stop signal first, SIGKILL to everything in it after. On return it has
    /// exited. One that does not run is left as it is.
    ///
    /// A second stop sends no second signal, and may only make the time shorter.
    pub(crate) async fn stop(
        self: &Arc<Self>,
        container: Arc<Container>,
        grace: Duration,
    ) -> Result<(), ContainerError> {
        if !container.state().is_running() {
            return Ok(());
        }
        let deadline = Instant::now() + grace.min(LONGEST_GRACE);
        let mut first = false;
        container.kill_at.send_if_modified(|kill_at| {
            first = kill_at.is_none();
            let sooner = kill_at.is_none_or(|present| deadline < present);
            if sooner {
                *kill_at = Some(deadline);
            }
            sooner
        });
        if first {
            // The kill is nobody's call: it happens also when every caller has gone, or when the signal fails.
            tokio::spawn(Arc::clone(self).kill_in_time(Arc::clone(&container)));
            if !grace.is_zero()
                && let Err(err) = self.signal(&container).await
            {
                tracing::warn!(container = ?container.id, err = chain(&err), "signal");
            }
        }
        let mut state = container.follow();
        let patience = deadline + KILL_PATIENCE;
        match timeout_at(patience, state.wait_for(|state| !state.is_running())).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ContainerError::StillRunning { container: container.id.clone() }),
        }
    }

    /// Ends what a start that goes on has made so far, so that it fails soon: a stop or a removal waits for the pod's lock,
    /// which the start holds, and a volume may take its time. Does nothing where none goes on.
    pub(crate) async fn break_off_start(self: &Arc<Self>, container: &Arc<Container>) {
        if container.state() != State::Created || !container.claimed.load(Ordering::Acquire) {
            return;
        }
        let (this, container) = (Arc::clone(self), Arc::clone(container));
        blocking(move || {
            let killed = this.monitor_of(&container).map(|monitor| monitor.kill(&container.id));
            if let Some(Err(err)) = killed {
                tracing::warn!(container = ?container.id, err = chain(&err), "break off start");
            }
        })
        .await;
    }

    async fn signal(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), ContainerError> {
        let (this, container) = (Arc::clone(self), Arc::clone(container));
        let number = signal::number(&container.made.stop_signal).unwrap_or(15);
        blocking(move || match this.monitor_of(&container) {
            Some(monitor) => monitor.signal(&container.id, number).map_err(|source| {
                ContainerError::Monitor { container: container.id.clone(), source }
            }),
            // Without its monitor nobody can signal it; the kill below goes by the cgroup.
            None => Ok(()),
        })
        .await
    }

    /// Waits until the container ends or its time is up, whatever that time becomes meanwhile.
    async fn kill_in_time(self: Arc<Self>, container: Arc<Container>) {
        let mut state = container.follow();
        let mut kill_at = container.kill_at.subscribe();
        loop {
            let Some(deadline) = *kill_at.borrow_and_update() else { return };
            tokio::select! {
                _ = state.wait_for(|state| !state.is_running()) => return,
                changed = kill_at.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        let killed = blocking(move || {
            let result = self.kill_now(&container);
            (container, result)
        });
        if let (container, Err(err)) = killed.await {
            tracing::warn!(container = ?container.id, err = chain(&err), "kill");
            // The next stop tries again.
            container.kill_at.send_replace(None);
        }
    }

    /// SIGKILL to everything in the container, by its monitor or, where that has gone, by its cgroup.
    fn kill_now(&self, container: &Container) -> Result<(), ContainerError> {
        if let Some(monitor) = self.monitor_of(container) {
            match monitor.kill(&container.id) {
                Ok(()) => return Ok(()),
                Err(err) => {
                    tracing::warn!(container = ?container.id, err = chain(&err), "kill by monitor");
                }
            }
        }
        let path = self.cgroup_path(container)?;
        let failed = |source| ContainerError::Cgroup { container: container.id.clone(), source };
        if let Some(cgroup) = self.host.cgroups.open(&path).map_err(failed)? {
            cgroup.kill().map_err(failed)?;
        }
        // A monitor that was only busy tells of the end now; one that does not speak never will.
        let mut state = container.follow();
        let told = async { timeout(NEWS_PATIENCE, state.wait_for(State::is_exited)).await.is_ok() };
        if !tokio::runtime::Handle::current().block_on(told) {
            self.orphaned(container, "it was killed, and its monitor did not answer");
        }
        Ok(())
    }

    pub(super) fn monitor_of(&self, container: &Container) -> Option<runtime::monitor::Monitor> {
        self.sandboxes.table.get(container.pod().as_str())?.monitor()
    }
}
