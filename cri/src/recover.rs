//! What a starting daemon does with what it finds: the kernel first, then the records, then memory.
//!
//! ```text
//!   records ──▶ pods whose monitor answers:  adopted, with what it says of their containers
//!          └──▶ pods whose monitor does not: not ready; ends from the exit records, or unknown
//!   what nobody owns (directories, pins, monitors, links, port entries, cgroups): swept
//! ```
//!
//! One object that cannot be read or reached costs that object and never the start.

use crate::chain::chain;
use crate::container::{Container, Event, State};
use crate::host::{Host, to_ns};
use crate::node::Node;
use crate::sandbox::{Record, Sandbox};
use crate::store::StoreError;
use runtime::id::PodId;
use runtime::monitor::{Monitor, Reported};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// Pods are reconnected side by side, so that a monitor that does not answer holds up only its own.
const LANES: usize = 8;

impl Node {
    /// Takes over what an earlier daemon left, and sweeps what nobody owns.
    pub(crate) fn recover(self: &Arc<Self>) -> Result<(), StoreError> {
        self.images.recover()?;
        let pods = self.load_pods()?;
        self.load_containers()?;
        let lane = pods.len().div_ceil(LANES).max(1);
        thread::scope(|scope| {
            for lane in pods.chunks(lane) {
                scope.spawn(|| lane.iter().for_each(|pod| self.take_over(pod)));
            }
        });
        self.sweep();
        self.containers.collect();
        Ok(())
    }

    fn load_pods(&self) -> Result<Vec<Arc<Sandbox>>, StoreError> {
        let mut pods = Vec::new();
        for record in self.host.records.pods()? {
            match record {
                Ok(record) => pods.push(self.load_pod(record)),
                Err(broken) => tracing::error!(err = chain(&broken), "skipped"),
            }
        }
        Ok(pods)
    }

    fn load_pod(&self, record: Record) -> Arc<Sandbox> {
        let sandbox = Arc::new(Sandbox::new(record, None));
        self.sandboxes.table.insert(sandbox.id.as_str(), Arc::clone(&sandbox));
        sandbox
    }

    fn load_containers(&self) -> Result<(), StoreError> {
        for record in self.host.records.containers()? {
            match record {
                Ok(record) => {
                    let container = Arc::new(Container::new(record));
                    self.containers.table.insert(container.id.as_str(), Arc::clone(&container));
                }
                Err(broken) => tracing::error!(err = chain(&broken), "skipped"),
            }
        }
        Ok(())
    }

    fn take_over(&self, sandbox: &Arc<Sandbox>) {
        let detail = sandbox.detail();
        if detail.boot != self.host.boot {
            // Nothing of an earlier boot is in the kernel. Addresses of pods that are gone are free.
            if let Err(err) = self.sandboxes.mark_rebooted(sandbox) {
                tracing::error!(pod = ?sandbox.id, err = chain(&err), "record pod");
            }
            for container in self.containers.of_pod(&sandbox.id) {
                self.containers.orphaned(&container, "the node was restarted while it ran");
            }
            return;
        }
        if let Some(attached) = &detail.network {
            self.host.network.adopt(attached);
        }
        if !sandbox.is_ready() {
            return;
        }
        match Monitor::connect(&sandbox.id, &self.host.paths.pod_run(&sandbox.id)) {
            Ok(monitor) => self.adopt(sandbox, monitor),
            Err(err) => {
                tracing::error!(pod = ?sandbox.id, err = chain(&err), "reach monitor");
                self.abandon(sandbox, "the pod's monitor did not answer after a restart of berthd");
            }
        }
    }

    fn adopt(&self, sandbox: &Arc<Sandbox>, monitor: Monitor) {
        let reports = match monitor.report() {
            Ok(reports) => reports,
            Err(err) => {
                tracing::error!(pod = ?sandbox.id, err = chain(&err), "ask monitor");
                return self.abandon(
                    sandbox,
                    "the pod's monitor did not answer after a restart of berthd",
                );
            }
        };
        sandbox.set_monitor(Some(monitor.clone()));
        let mut known = BTreeSet::new();
        for report in reports {
            known.insert(report.container.clone());
            let Some(container) = self.containers.table.get(report.container.as_str()) else {
                tracing::warn!(container = ?report.container, "runs and is recorded nowhere; killed");
                if let Err(err) = monitor.kill(&report.container) {
                    tracing::error!(container = ?report.container, err = chain(&err), "kill");
                }
                continue;
            };
            match report.state {
                Reported::Running { pid, since } => {
                    self.containers.advance(&container, Event::Started { pid, at: to_ns(since) });
                }
                Reported::Exited(exit) => {
                    self.containers.ended(&container, &exit);
                    self.containers.settle(&container);
                }
            }
        }
        for container in self.containers.of_pod(&sandbox.id) {
            let lost = !known.contains(&container.id) && container.state() != State::Created;
            if lost {
                self.containers.orphaned(&container, "the pod's monitor does not know it");
            }
        }
        if let Err(err) = self.host.watch.add(&monitor) {
            tracing::error!(pod = ?sandbox.id, err = chain(&err), "watch monitor");
        }
    }

    /// Removes what no record claims: the leavings of a daemon that died in the middle of something.
    fn sweep(&self) {
        let host = &self.host;
        let owners: BTreeSet<String> =
            self.sandboxes.table.list().iter().map(|pod| pod.id.to_string()).collect();
        for name in strangers(&host.paths.runs(), &owners) {
            self.sweep_run(&name);
        }
        for name in strangers(&host.paths.pods(), &owners) {
            swept("pod's files", crate::container::remove_tree(&host.paths.pods().join(&name)));
        }
        let containers: BTreeSet<String> =
            self.containers.table.list().iter().map(|one| one.id.to_string()).collect();
        for name in strangers(&host.paths.containers(), &containers) {
            let path = host.paths.containers().join(&name);
            swept("writable layer", crate::container::remove_tree(&path));
        }
        let attached: BTreeSet<String> = self
            .sandboxes
            .table
            .list()
            .iter()
            .filter(|pod| pod.detail().network.is_some())
            .map(|pod| pod.id.to_string())
            .collect();
        match host.network.sweep(&attached) {
            Ok(removed) => removed.iter().for_each(|name| tracing::info!(name, "swept link")),
            Err(err) => tracing::error!(err = chain(&err), "sweep network"),
        }
        if let Err(err) = sweep_cgroups(host, &owners) {
            tracing::error!(err, "sweep cgroups");
        }
    }

    /// The run directory of a pod that was never recorded, or no longer is: its monitor, its pins.
    fn sweep_run(&self, name: &OsString) {
        let path = self.host.paths.runs().join(name);
        if let Some(pod) = name.to_str().and_then(|name| name.parse::<PodId>().ok())
            && let Ok(monitor) = Monitor::connect(&pod, &path)
            && let Err(err) = monitor.shutdown()
        {
            tracing::error!(?pod, err = chain(&err), "end monitor that nobody owns");
        }
        swept("namespace pins", sys::pin::remove(&path));
        swept("run directory", crate::container::remove_tree(&path));
    }
}

fn swept(what: &'static str, result: std::io::Result<()>) {
    match result {
        Ok(()) => tracing::info!(what, "swept"),
        Err(err) => tracing::error!(what, %err, "sweep"),
    }
}

/// The names in `dir` that are not in `owners`.
fn strangers(dir: &Path, owners: &BTreeSet<String>) -> Vec<OsString> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name());
    names.filter(|name| name.to_str().is_none_or(|name| !owners.contains(name))).collect()
}

/// Removes cgroups of pods that nobody owns, below our own parent only: kubelet sweeps its own.
fn sweep_cgroups(host: &Host, owners: &BTreeSet<String>) -> Result<(), String> {
    let parent: runtime::cgroup::CgroupPath =
        host.config.cgroup.parent.parse().map_err(|err| chain(&err))?;
    for name in host.cgroups.children(&parent).map_err(|err| chain(&err))? {
        if name.parse::<PodId>().is_ok() && !owners.contains(&name) {
            let path = parent.join(&name).map_err(|err| chain(&err))?;
            host.cgroups.remove(&path).map_err(|err| chain(&err))?;
            tracing::info!(name, "swept cgroup");
        }
    }
    Ok(())
}
