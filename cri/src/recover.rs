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
use crate::container::{Container, Event};
use crate::host::{blocking, to_ns};
use crate::node::Node;
use crate::sandbox::{Record, Sandbox, owner_of_cgroup, room};
use crate::store::StoreError;
use netns::PodNetwork;
use runtime::id::{ContainerId, PodId};
use runtime::monitor::{Monitor, MonitorError, Report, Reported};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Pods are reconnected side by side, so that a monitor that does not answer holds up only its own.
const LANES: usize = 64;

/// What an earlier daemon left and nobody owns.
#[derive(Debug)]
pub(crate) struct Leavings {
    runs: Vec<OsString>,
    files: Vec<OsString>,
    layers: Vec<OsString>,
    /// What other runtimes' programs keep of containers.
    driven: Vec<PathBuf>,
    cgroups: Vec<String>,
}

impl Node {
    /// Takes over what an earlier daemon left, and says what nobody owns, for [`Self::sweep`].
    pub(crate) fn recover(self: &Arc<Self>) -> Result<Leavings, StoreError> {
        self.images.recover()?;
        let (pods, broken_pods) = self.load_pods()?;
        let broken_containers = self.load_containers()?;
        let containers = self.containers.table.list();
        self.images.keep_unfinished(containers.iter().flat_map(|one| one.images().cloned()));
        let lane = pods.len().div_ceil(LANES).max(1);
        let runtime = tokio::runtime::Handle::current();
        thread::scope(|scope| {
            for lane in pods.chunks(lane) {
                let runtime = runtime.clone();
                scope.spawn(move || {
                    let _inside = runtime.enter();
                    lane.iter().for_each(|pod| self.take_over(pod));
                });
            }
        });
        self.end_forsaken();
        Ok(self.leavings(broken_pods, broken_containers))
    }

    /// The pods, and the ids of those whose record cannot be read. Those are left alone, whatever runs in them.
    fn load_pods(&self) -> Result<(Vec<Arc<Sandbox>>, BTreeSet<String>), StoreError> {
        let (mut pods, mut unreadable) = (Vec::new(), BTreeSet::new());
        for record in self.host.records.pods()? {
            match record {
                Ok(record) => pods.push(self.load_pod(record)),
                Err(broken) => {
                    tracing::error!(err = chain(&broken), "skipped");
                    unreadable.insert(broken.id);
                }
            }
        }
        Ok((pods, unreadable))
    }

    fn load_pod(&self, record: Record) -> Arc<Sandbox> {
        let sandbox = Arc::new(Sandbox::new(record, None));
        self.sandboxes.table.insert(sandbox.id.as_str(), Arc::clone(&sandbox));
        sandbox
    }

    fn load_containers(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut unreadable = BTreeSet::new();
        for record in self.host.records.containers()? {
            match record {
                Ok(record) => {
                    let container = Arc::new(Container::new(record));
                    self.containers.table.insert(container.id.as_str(), Arc::clone(&container));
                }
                Err(broken) => {
                    tracing::error!(err = chain(&broken), "skipped");
                    unreadable.insert(broken.id);
                }
            }
        }
        Ok(unreadable)
    }

    /// Ends containers that are recorded as running and whose pod has no monitor: a daemon died between the pod's
    /// record and theirs. Pods whose monitor is only slow to answer are not meant.
    fn end_forsaken(&self) {
        for container in self.containers.table.list() {
            let pod = self.sandboxes.table.get(container.pod().as_str());
            if pod.is_none_or(|pod| !pod.is_ready()) {
                self.containers.orphaned(&container, "nobody is left who saw its end");
            }
        }
    }

    fn take_over(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let detail = sandbox.detail();
        if detail.boot != self.host.boot {
            // Nothing of an earlier boot is in the kernel. Addresses of pods that are gone are free.
            for container in self.containers.of_pod(&sandbox.id) {
                self.containers.orphaned(&container, "the node was restarted while it ran");
            }
            if let Err(err) = self.sandboxes.mark_rebooted(sandbox) {
                tracing::error!(pod = ?sandbox.id, err = chain(&err), "record pod");
            }
            return;
        }
        if let Some(attached) = &detail.network {
            self.host.network.adopt(attached);
        }
        if !sandbox.is_ready() {
            return;
        }
        if let Err(err) = self.reach(sandbox) {
            if err.is_final() {
                tracing::error!(pod = ?sandbox.id, err = chain(&err), "reach monitor");
                return;
            }
            tracing::error!(pod = ?sandbox.id, err = chain(&err), "reach monitor; tried again");
            let (this, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
            tokio::spawn(async move { this.reach_later(sandbox).await });
        }
    }

    /// Connects a pod to its monitor. Only a monitor that is gone for certain costs the pod its readiness: a slow one
    /// may have a disk that hangs, and its containers run.
    fn reach(&self, sandbox: &Sandbox) -> Result<(), MonitorError> {
        let connected = Monitor::connect(&sandbox.id, &self.host.paths.pod_run(&sandbox.id))
            .and_then(|monitor| monitor.report().map(|reports| (monitor, reports)));
        match connected {
            Ok((monitor, reports)) => {
                self.adopt(sandbox, &monitor, reports);
                Ok(())
            }
            Err(MonitorError::Gone { .. }) => {
                tracing::error!(pod = ?sandbox.id, "monitor is gone; the pod is not ready any more");
                end_unreachable(sandbox);
                self.abandon(sandbox, "the pod's monitor was gone when berthd started");
                Ok(())
            }
            Err(err) => Err(err),
        }
    }

    /// Tries [`Self::reach`] until it works, can never work, or the pod is stopped.
    async fn reach_later(self: Arc<Self>, sandbox: Arc<Sandbox>) {
        let mut pause = Duration::from_secs(1);
        loop {
            tokio::time::sleep(pause).await;
            let _guard = Arc::clone(&sandbox.lock).lock_owned().await;
            if !sandbox.is_ready() {
                return;
            }
            let (this, pod) = (Arc::clone(&self), Arc::clone(&sandbox));
            match blocking(move || this.reach(&pod)).await {
                Ok(()) => return,
                Err(err) => {
                    tracing::warn!(pod = ?sandbox.id, err = chain(&err), "reach monitor");
                    if err.is_final() {
                        return;
                    }
                }
            }
            pause = (pause * 2).min(Duration::from_secs(60));
        }
    }

    fn adopt(&self, sandbox: &Sandbox, monitor: &Monitor, reports: Vec<Report>) {
        sandbox.set_monitor(Some(monitor.clone()));
        let mut known = BTreeSet::new();
        for report in reports {
            known.insert(report.container.clone());
            if report.lost_log_bytes > 0 {
                let (container, bytes) = (&report.container, report.lost_log_bytes);
                tracing::warn!(?container, bytes, "log could not be written and is not whole");
            }
            let Some(container) = self.containers.table.get(report.container.as_str()) else {
                tracing::warn!(container = ?report.container, "runs and is recorded nowhere; killed");
                if let Err(err) = monitor.kill(&report.container) {
                    tracing::error!(container = ?report.container, err = chain(&err), "kill");
                }
                continue;
            };
            match report.state {
                Reported::Running { pid, since } => {
                    let started = Event::Started { pid, at: to_ns(since) };
                    if let Err(err) = self.containers.apply(&container, started) {
                        tracing::error!(container = ?container.id, err = chain(&err), "record");
                    }
                }
                Reported::Exited(exit) => {
                    self.containers.ended(&container, &exit);
                    self.containers.settle(&container);
                }
            }
        }
        for container in self.containers.of_pod(&sandbox.id) {
            if !known.contains(&container.id) {
                self.containers.orphaned(&container, "the pod's monitor does not know it");
            }
        }
        self.watch(monitor);
    }

    /// What no record claims: the leavings of a daemon that died in the middle of something. Looked for before anything
    /// new is made.
    fn leavings(
        &self,
        broken_pods: BTreeSet<String>,
        broken_containers: BTreeSet<String>,
    ) -> Leavings {
        let host = &self.host;
        let mut owners = broken_pods;
        let mut attached = owners.clone();
        for pod in self.sandboxes.table.list() {
            if pod.detail().network.is_some() {
                attached.insert(pod.id.to_string());
            }
            owners.insert(pod.id.to_string());
        }
        let mut containers = broken_containers;
        containers.extend(self.containers.table.list().iter().map(|one| one.id.to_string()));
        // At once, because it goes by what is attached now.
        match host.network.sweep(&attached) {
            Ok(removed) => removed.iter().for_each(|name| tracing::info!(name, "swept link")),
            Err(err) => tracing::error!(err = chain(&err), "sweep network"),
        }
        let cgroups = host.cgroups.children(&host.cgroup_parent).unwrap_or_else(|err| {
            tracing::error!(err = chain(&err), "list cgroups");
            Vec::new()
        });
        Leavings {
            runs: strangers(&host.paths.runs(), &owners),
            files: strangers(&host.paths.pods(), &owners),
            layers: strangers(&host.paths.containers(), &containers),
            driven: host
                .handlers
                .own_roots()
                .flat_map(|root| {
                    let names = strangers(root, &containers).into_iter();
                    names
                        .filter(|name| is_of_another(name, &containers))
                        .map(|name| root.join(name))
                })
                .collect(),
            cgroups: cgroups
                .into_iter()
                // Pods that name our own parent as theirs have their containers' cgroups there, beside those of pods.
                .filter(|name| {
                    owner_of_cgroup(name).is_some_and(|pod| {
                        !owners.contains(pod.as_str()) && !containers.contains(pod.as_str())
                    })
                })
                .collect(),
        }
    }

    /// Removes what nobody owns. May take as long as it takes: nothing waits for it.
    pub(crate) fn sweep(&self, leavings: &Leavings) {
        let paths = &self.host.paths;
        leavings.runs.iter().for_each(|name| self.sweep_run(name));
        for name in &leavings.files {
            let files = paths.pods().join(name);
            let gone = room::remove(&files).and_then(|()| crate::container::remove_tree(&files));
            swept("pod's files", gone);
        }
        for name in &leavings.cgroups {
            match self.remove_pod_cgroup(name) {
                Ok(()) => tracing::info!(name, "swept cgroup"),
                Err(err) => tracing::error!(name, err, "sweep cgroup"),
            }
        }
        for name in &leavings.layers {
            swept("writable layer", crate::container::remove_tree(&paths.containers().join(name)));
        }
        for path in &leavings.driven {
            swept("state of a handler's program", crate::container::remove_tree(path));
        }
        self.containers.collect();
    }

    /// Says which pods have lost their network while no daemon was there. What can be put back has been.
    pub(crate) fn verify_networks(&self) {
        for pod in self.sandboxes.table.list().iter().filter(|pod| pod.is_ready()) {
            if let Some(attached) = pod.detail().network
                && let Err(err) = self.host.network.verify(&attached)
            {
                tracing::error!(pod = ?pod.id, err = chain(&err), "the pod's network is not what it was");
            }
        }
    }

    /// Below our own parent only: kubelet sweeps its own.
    fn remove_pod_cgroup(&self, name: &str) -> Result<(), String> {
        let path = self.host.cgroup_parent.join(name).map_err(|err| chain(&err))?;
        if let Some(systemd) = self.host.systemd.as_ref().filter(|_| name.ends_with(".service")) {
            systemd.stop(name).map_err(|err| chain(&err))?;
        }
        self.host.cgroups.remove(&path).map_err(|err| chain(&err))
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

/// Ends a monitor that lives although nobody listens for it: its socket was removed with the run directory, and with that
/// the only way to what it supervises.
fn end_unreachable(sandbox: &Sandbox) {
    match sandbox.detail().monitor.map(|mark| mark.kill()) {
        None | Some(Ok(false)) => {}
        Some(Ok(true)) => {
            tracing::error!(pod = ?sandbox.id, "monitor without a socket was ended");
        }
        Some(Err(err)) => tracing::error!(pod = ?sandbox.id, %err, "end monitor without a socket"),
    }
}

/// Whether a program keeps this for a container that is not among `containers`: its name begins with the container's id.
/// What else a program has beside them, such as sockets and caches, is its own.
fn is_of_another(name: &OsStr, containers: &BTreeSet<String>) -> bool {
    let id = name.to_str().and_then(|name| name.get(..64));
    id.is_some_and(|id| id.parse::<ContainerId>().is_ok() && !containers.contains(id))
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
