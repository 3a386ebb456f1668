//! RunPodSandbox.

use super::cgroup::Place;
use super::{
    Detail, Record, Sandbox, SandboxError, Sandboxes, SetupError, State, files, is_host,
    log_directory, namespace_options, network, room,
};
use crate::flight::Boarding;
use crate::host::{Host, blocking, now_ns};
use crate::metrics::Stage;
use cri_api::runtime::v1::ContainerEventType::{ContainerCreatedEvent, ContainerStartedEvent};
use cri_api::runtime::v1::{PodSandboxConfig, RunPodSandboxRequest};
use cri_spec::UserNamespace;
use netns::{Checked, PodNetwork};
use prost::Message;
use runtime::id::PodId;
use runtime::monitor::{Monitor, MonitorError, Setup};
use rustix::fs::{CWD, Mode, OFlags};
use std::io;
use std::path::Path;
use std::sync::Arc;
use sys::Undo;
use sys::pin::{self, Kind};

/// What makes two requests for a pod the same pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    namespace: String,
    name: String,
    uid: String,
    attempt: u32,
}

impl Key {
    pub(crate) fn of(config: &PodSandboxConfig) -> Option<Self> {
        let metadata = config.metadata.clone()?;
        Some(Self {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            attempt: metadata.attempt,
        })
    }
}

/// Everything about a request that can be refused, settled before anything is made.
struct Wish {
    config: PodSandboxConfig,
    handler: String,
    runner: String,
    kinds: Vec<Kind>,
    network: Option<Checked>,
    user: Option<UserNamespace>,
    sysctls: Vec<(String, String)>,
    hostname: String,
    cgroup: Place,
}

impl Sandboxes {
    /// Makes the pod that the request describes. A request like one still at work joins it.
    pub(crate) async fn run(
        self: &Arc<Self>,
        request: RunPodSandboxRequest,
    ) -> Result<PodId, Arc<SandboxError>> {
        let config = request.config.as_ref().ok_or_else(|| invalid("config is missing"))?;
        let key = Key::of(config).ok_or_else(|| Arc::new(invalid("metadata is missing")))?;
        let name = format!("{}/{}", key.namespace, key.name);
        let bytes = request.encode_to_vec();
        let this = Arc::clone(self);
        let work = {
            let key = key.clone();
            move || async move { blocking(move || this.run_now(&key, request)).await.map_err(Arc::new) }
        };
        match self.flights.join(key, bytes, work).await {
            Boarding::Landed(result) => result,
            Boarding::Taken => Err(Arc::new(SandboxError::Exists(name))),
            Boarding::Lost => Err(Arc::new(SandboxError::Lost(name))),
        }
    }

    /// A removed pod's name is free again, also for a result that nobody took.
    pub(super) fn forget_flight(&self, config: &PodSandboxConfig) {
        if let Some(key) = Key::of(config) {
            self.flights.forget(&key);
        }
    }

    fn run_now(
        self: &Arc<Self>,
        key: &Key,
        request: RunPodSandboxRequest,
    ) -> Result<PodId, SandboxError> {
        let taken = |sandbox: &Arc<Sandbox>| Key::of(&sandbox.config).as_ref() == Some(key);
        if let Some(same) = self.table.list().iter().find(|sandbox| taken(sandbox)) {
            return Err(SandboxError::Exists(format!(
                "{}/{} (attempt {}, id {})",
                key.namespace, key.name, key.attempt, same.id
            )));
        }
        let id = PodId::generate();
        let wish = self.check(&id, request)?;
        self.build(id, wish)
    }

    fn check(&self, id: &PodId, request: RunPodSandboxRequest) -> Result<Wish, SandboxError> {
        let config = request.config.unwrap_or_default();
        let metadata = config.metadata.clone().unwrap_or_default();
        for (field, value) in [("name", &metadata.name), ("namespace", &metadata.namespace)] {
            if value.contains(['/', '\0']) || value.len() > 253 {
                return Err(invalid(&format!("metadata.{field} is not a name: {value:?}")));
            }
        }
        if metadata.name.is_empty() {
            return Err(invalid("metadata.name is missing"));
        }
        let runner = self.host.handlers.resolve(&request.runtime_handler)?;
        let options = namespace_options(&config);
        let user = cri_spec::user_namespace(&config)?;
        if user.is_some() && !self.host.user_namespaces {
            return Err(SandboxError::Unsupported("a user namespace on this node".into()));
        }
        if user.is_some() && runner != crate::handlers::OWN {
            let what = format!("a user namespace with runtime handler {runner:?}");
            return Err(SandboxError::Unsupported(what));
        }
        let sysctls = cri_spec::sysctls(&config)?;
        let cgroup = Place::of(&self.host, id, &config)?;
        let network = if is_host(options.network) {
            None
        } else {
            let namespace = self.host.paths.pod_run(id).join(Kind::Network.name());
            let wish = network::wish(id, namespace, &cgroup.path.to_string(), &config)?;
            let failed = |source| SandboxError::Network { pod: id.clone(), source };
            Some(self.host.network.check(&wish).map_err(failed)?)
        };
        let mut kinds = Vec::new();
        if network.is_some() {
            kinds.extend([Kind::Network, Kind::Uts]);
        }
        if !is_host(options.ipc) {
            kinds.push(Kind::Ipc);
        }
        let hostname = hostname(&config)?;
        Ok(Wish {
            config,
            handler: request.runtime_handler,
            runner,
            kinds,
            network,
            user,
            sysctls,
            hostname,
            cgroup,
        })
    }

    fn build(self: &Arc<Self>, id: PodId, mut wish: Wish) -> Result<PodId, SandboxError> {
        let host = &self.host;
        let mut undo = Undo::default();
        for dir in [host.paths.pod_run(&id), host.paths.pod_files(&id)] {
            make_directory(&dir)?;
            undo.push("remove directory of pod", move || remove_directory(&dir));
        }
        let files = host.paths.pod_files(&id);
        room::make(&files).map_err(|source| SandboxError::Files {
            step: "make room for files",
            path: files.clone(),
            source,
        })?;
        undo.push("remove files of pod", move || room::remove(&files));
        let logs = &wish.config.log_directory;
        if !logs.is_empty() {
            log_directory::create(Path::new(logs))
                .map_err(|source| SandboxError::Log { pod: id.clone(), source })?;
        }

        let (network, monitor) = match wish.user {
            Some(user) => self.build_for(&id, &mut wish, user, &mut undo)?,
            None => {
                let run = host.paths.pod_run(&id);
                host.instruments
                    .stage(Stage::Namespaces, || pin::create(&run, &wish.kinds, || inside(&wish)))
                    .map_err(|source| SandboxError::Namespaces { pod: id.clone(), source })?;
                undo.push("unpin namespaces", move || pin::remove(&run));
                self.attach_and_supervise(&id, wish.network, &mut undo)?
            }
        };
        let address = network.as_ref().and_then(|attached| attached.addresses.first());
        files::write(&host.paths.pod_files(&id), &wish.config, &wish.hostname, address.copied())?;

        wish.cgroup.make(host, &id, &mut undo)?;

        let record = Record {
            id: id.clone(),
            config: wish.config,
            detail: Detail {
                state: State::Ready,
                boot: host.boot.clone(),
                created_at: now_ns(),
                handler: wish.handler,
                runner: wish.runner,
                network,
                cgroup: wish.cgroup.path.to_string(),
                owns_cgroup: wish.cgroup.is_ours,
                // It is alive: it has just answered. Where it died since, there is nothing to find again.
                monitor: monitor.mark().ok(),
                unit: wish.cgroup.unit(),
            },
        };
        let failed = |source| SandboxError::Record { pod: id.clone(), source };
        host.records.put_pod(&record).map_err(failed)?;
        let (this, known) = (Arc::clone(self), id.clone());
        undo.push("forget pod", move || {
            this.table.remove(known.as_str());
            this.host.records.delete_pod(known.as_str())
        });
        let sandbox = Arc::new(Sandbox::new(record, Some(monitor.clone())));
        self.table.insert(id.as_str(), Arc::clone(&sandbox));
        // The pod is known by now, so that a death of its monitor finds it.
        host.watch
            .add(&monitor)
            .map_err(|source| SandboxError::Monitor { pod: id.clone(), source })?;
        undo.commit();
        for event in [ContainerCreatedEvent, ContainerStartedEvent] {
            host.events.tell(event, id.as_str(), &sandbox);
        }
        Ok(id)
    }

    /// Namespaces, network and monitor of a pod with a user namespace. They belong to that, so the monitor makes them.
    fn build_for(
        &self,
        id: &PodId,
        wish: &mut Wish,
        user: UserNamespace,
        undo: &mut Undo,
    ) -> Result<(Option<netns::Attached>, Monitor), SandboxError> {
        let host = &self.host;
        let run = host.paths.pod_run(id);
        let failed = |source| SandboxError::Monitor { pod: id.clone(), source };
        let setup = Setup {
            shm_bytes: host.config.container.shm_size_mib << 20,
            shm_owner: (user.uids.outside, user.gids.outside),
        };
        let monitor = supervise(host, id, &setup).map_err(failed)?;
        let ends = monitor.clone();
        undo.push("end monitor", move || ends.shutdown());
        let kinds: Vec<_> = wish.kinds.iter().filter_map(|kind| of_plan(*kind)).collect();
        let made = monitor.namespaces(&[user.uids], &[user.gids], &kinds).map_err(failed)?;
        let kinds = std::iter::once(Kind::User).chain(wish.kinds.iter().copied());
        let namespaces: Vec<_> = kinds.zip(made).collect();
        let adopt = || pin::adopt(&run, &namespaces, || inside(wish));
        host.instruments
            .stage(Stage::Namespaces, adopt)
            .map_err(|source| SandboxError::Namespaces { pod: id.clone(), source })?;
        let pins = run.clone();
        undo.push("unpin namespaces", move || pin::remove(&pins));
        let network = wish.network.take().map(|plan| attach(host, id, &run, plan)).transpose()?;
        if let Some(attached) = network.clone() {
            let host = Arc::clone(host);
            undo.push("detach network", move || host.network.detach(&attached));
        }
        Ok((network, monitor))
    }

    /// Connects the pod's network and starts its monitor, each while the other works.
    fn attach_and_supervise(
        &self,
        id: &PodId,
        network: Option<Checked>,
        undo: &mut Undo,
    ) -> Result<(Option<netns::Attached>, Monitor), SandboxError> {
        let host = &self.host;
        let run = host.paths.pod_run(id);
        let setup =
            Setup { shm_bytes: host.config.container.shm_size_mib << 20, shm_owner: (0, 0) };
        let (monitor, attached) = std::thread::scope(|scope| {
            let monitor = scope.spawn(|| supervise(host, id, &setup));
            let attached = network.map(|plan| attach(host, id, &run, plan)).transpose();
            let monitor = monitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (monitor, attached)
        });
        if let Ok(monitor) = &monitor {
            let monitor = monitor.clone();
            undo.push("end monitor", move || monitor.shutdown());
        }
        let attached = attached?;
        if let Some(attached) = attached.clone() {
            let host = Arc::clone(host);
            undo.push("detach network", move || host.network.detach(&attached));
        }
        let monitor =
            monitor.map_err(|source| SandboxError::Monitor { pod: id.clone(), source })?;
        Ok((attached, monitor))
    }
}

/// The kinds that a monitor makes.
fn of_plan(kind: Kind) -> Option<plan::NamespaceKind> {
    match kind {
        Kind::Network => Some(plan::NamespaceKind::Network),
        Kind::Ipc => Some(plan::NamespaceKind::Ipc),
        Kind::Uts => Some(plan::NamespaceKind::Uts),
        Kind::User => None,
    }
}

fn supervise(host: &Host, id: &PodId, setup: &Setup) -> Result<Monitor, MonitorError> {
    let run = host.paths.pod_run(id);
    host.instruments.stage(Stage::Monitor, || Monitor::spawn(&host.monitor, id, &run, setup))
}

fn attach(
    host: &Host,
    id: &PodId,
    run: &Path,
    plan: Checked,
) -> Result<netns::Attached, SandboxError> {
    let netns = pin::open(run, Kind::Network)
        .and_then(|pinned| pinned.ok_or(io::ErrorKind::NotFound.into()))
        .map_err(|source| SandboxError::OpenNamespaces { pod: id.clone(), source })?;
    let attach = || host.network.attach(std::os::fd::AsFd::as_fd(&netns), plan);
    host.instruments
        .stage(Stage::Network, attach)
        .map_err(|source| SandboxError::Network { pod: id.clone(), source })
}

/// The work inside the pod's new namespaces.
fn inside(wish: &Wish) -> Result<(), SetupError> {
    if wish.kinds.contains(&Kind::Uts) {
        rustix::system::sethostname(wish.hostname.as_bytes())
            .map_err(|err| SetupError::Hostname(wish.hostname.clone(), err.into()))?;
    }
    if wish.kinds.contains(&Kind::Network) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::openat(CWD, "/proc/thread-self/ns/net", flags, Mode::empty())
            .map_err(|err| SetupError::Open(err.into()))?;
        netns::loopback_up(std::os::fd::AsFd::as_fd(&own)).map_err(SetupError::Loopback)?;
    }
    for (key, value) in &wish.sysctls {
        set_sysctl(key, value).map_err(|source| SetupError::Sysctl {
            key: key.clone(),
            value: value.clone(),
            source,
        })?;
    }
    Ok(())
}

/// The key is a path of those that `cri_spec::sysctls` lets through, so it cannot name anything but a sysctl.
fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{key}");
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// The host name of the pod: its own, or the node's where it names none. It ends up in files, so it must be one.
fn hostname(config: &PodSandboxConfig) -> Result<String, SandboxError> {
    if config.hostname.is_empty() {
        let node = rustix::system::uname();
        return Ok(node.nodename().to_string_lossy().into_owned());
    }
    let fits = config.hostname.len() <= 64
        && config
            .hostname
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if fits {
        Ok(config.hostname.clone())
    } else {
        Err(invalid(&format!("hostname {:?} is no host name", config.hostname)))
    }
}

pub(super) fn make_directory(path: &Path) -> Result<(), SandboxError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| {
        SandboxError::Files { step: "create directory", path: path.to_owned(), source }
    })
}

/// Removes a directory of ours with the files of ours in it. No container ever writes below it.
pub(super) fn remove_directory(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn invalid(what: &str) -> SandboxError {
    SandboxError::Invalid(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_that_are_none_are_refused() {
        for bad in ["a b", "a\nb", "a:b", "a/b"] {
            let config = PodSandboxConfig { hostname: bad.into(), ..Default::default() };
            assert!(hostname(&config).is_err(), "{bad:?}");
        }
    }
}
