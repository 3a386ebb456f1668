//! What the daemon and its service manager tell each other: sd_notify(3), the watchdog of systemd.service(5), and the
//! signal that asks for the configuration to be read again. Without a service manager nothing of it happens.

use crate::chain::chain;
use crate::config::{Config, ConfigError};
use crate::node::Node;
use sd_notify::NotifyState;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

/// How the configuration is read again, and what can change while the daemon runs.
pub(crate) struct Reload {
    /// As at the start: with the flags of the command line, and refused where a start would refuse it.
    read: Box<dyn Fn() -> Result<Config, ConfigError> + Send>,
    level: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send>,
}

impl Reload {
    pub(crate) fn new<S: 'static>(
        read: impl Fn() -> Result<Config, ConfigError> + Send + 'static,
        level: Handle<EnvFilter, S>,
    ) -> Self {
        let level = move |filter| level.reload(filter).map_err(|err| chain(&err));
        Self { read: Box::new(read), level: Box::new(level) }
    }

    /// Reads the configuration again and takes from it what can change. The rest keeps its value until a restart, and
    /// the log says so; a file that is wrong changes nothing.
    fn again(&self, running: &Config) {
        match self.apply(running) {
            Ok(keys) if keys.is_empty() => tracing::info!("configuration read again"),
            Ok(keys) => {
                tracing::warn!(?keys, "configuration read again; these keys take a restart")
            }
            Err(err) => tracing::error!(err, "configuration not taken; the old one stays"),
        }
    }

    fn apply(&self, running: &Config) -> Result<Vec<&'static str>, String> {
        let wrong = |err: ConfigError| chain(&err);
        let read = (self.read)().map_err(wrong)?;
        (self.level)(read.log.filter().map_err(wrong)?)?;
        Ok(running.unlike(&read))
    }
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

/// Reads the configuration again at each SIGHUP, as long as the daemon runs.
///
/// # Errors
///
/// When the signal cannot be waited for.
pub(crate) fn reload_on_hangup(reload: Reload, node: &Arc<Node>) -> std::io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    let node = Arc::downgrade(node);
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            let Some(node) = node.upgrade() else { return };
            tell(&[NotifyState::Reloading, monotonic()]);
            reload.again(&node.host.config);
            tell(&[NotifyState::Ready]);
        }
    });
    Ok(())
}

/// Says that the daemon serves, and from then on, in half the time that the watchdog allows, that it is alive: which it
/// is when its tasks run and a list can be read.
pub(crate) fn ready(node: &Arc<Node>) {
    tell(&[NotifyState::Ready]);
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    let node = Arc::downgrade(node);
    tokio::spawn(async move {
        let mut beats = tokio::time::interval(within / 2);
        loop {
            beats.tick().await;
            let Some(node) = node.upgrade() else { return };
            // Would wait for ever where a lock is never given back.
            node.sandboxes.table.list();
            node.containers.table.list();
            tell(&[NotifyState::Watchdog]);
        }
    });
}

pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// When a reload began, which systemd wants to know together with it.
fn monotonic() -> NotifyState<'static> {
    NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Reloading)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        tracing::warn!(%err, "tell the service manager");
    }
}
