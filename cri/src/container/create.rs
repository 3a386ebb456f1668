//! CreateContainer.

use super::{
    Container, ContainerError, Containers, Detail, Key, Record, State, cdi, identity, rootfs,
    signal, volumes,
};
use crate::apparmor;
use crate::flight::Boarding;
use crate::handlers::Runner;
use crate::host::{blocking, device, now_ns};
use crate::images::Hold;
use crate::sandbox::{Sandbox, files, is_host, log_directory, namespace_options};
use cri_api::runtime::v1::{
    ContainerConfig, ContainerEventType, CreateContainerRequest, LinuxContainerSecurityContext,
    NamespaceMode, Signal,
};
use cri_spec::{HostDevice, HostFacts, ImageDefaults, Input, NamespacePins, UserNamespace};
use oci_spec::runtime::Spec;
use prost::Message;
use runtime::id::ContainerId;
use std::borrow::Cow;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use sys::Undo;

/// Each mount is a descriptor that travels to the monitor; no pod spec comes near this.
const MOST_MOUNTS: usize = 1024;

/// The most of a seccomp profile that is read.
const MOST_PROFILE_BYTES: u64 = 1 << 20;

impl Containers {
    /// Makes the container that the request describes. A request like one still at work joins it.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: CreateContainerRequest,
    ) -> Result<ContainerId, Arc<ContainerError>> {
        let sandbox =
            self.sandboxes.resolve(&request.pod_sandbox_id).map_err(|err| Arc::new(err.into()))?;
        let metadata = request.config.as_ref().and_then(|config| config.metadata.clone());
        let metadata = metadata.ok_or_else(|| invalid("metadata is missing"))?;
        let key =
            Key { pod: sandbox.id.clone(), name: metadata.name.clone(), attempt: metadata.attempt };
        let bytes = request.encode_to_vec();
        let this = Arc::clone(self);
        let work = {
            let key = key.clone();
            move || async move { this.create_now(sandbox, key, request).await.map_err(Arc::new) }
        };
        match self.flights.join(key, bytes, work).await {
            Boarding::Landed(result) => result,
            Boarding::Taken => Err(Arc::new(ContainerError::Exists(metadata.name))),
            Boarding::Lost => Err(Arc::new(ContainerError::Lost(metadata.name))),
        }
    }

    /// A removed container's name is free again, also for a result that nobody took.
    pub(super) fn forget_flight(&self, container: &Container) {
        if let Some(metadata) = &container.config.metadata {
            self.flights.forget(&Key {
                pod: container.pod().clone(),
                name: metadata.name.clone(),
                attempt: metadata.attempt,
            });
        }
    }

    async fn create_now(
        self: &Arc<Self>,
        sandbox: Arc<Sandbox>,
        key: Key,
        request: CreateContainerRequest,
    ) -> Result<ContainerId, ContainerError> {
        self.refuse_taken(&sandbox, &key)?;
        // Volumes may be on file systems that hang; nobody else has to wait for that.
        let (this, pod) = (Arc::clone(self), Arc::clone(&sandbox));
        let ready = blocking(move || this.prepare(&pod, request)).await?;
        let guard = Arc::clone(&sandbox.lock).lock_owned().await;
        let this = Arc::clone(self);
        blocking(move || {
            this.refuse_taken(&sandbox, &key)?;
            let made = this.acquire(ready);
            drop(guard);
            made
        })
        .await
    }

    fn refuse_taken(&self, sandbox: &Sandbox, key: &Key) -> Result<(), ContainerError> {
        if !sandbox.is_ready() {
            return Err(ContainerError::PodNotReady(sandbox.id.clone()));
        }
        let same = self.of_pod(&sandbox.id).into_iter().find(|container| container.is(key));
        if let Some(same) = same {
            return Err(ContainerError::Exists(format!(
                "{} (attempt {}, id {})",
                key.name, key.attempt, same.id
            )));
        }
        Ok(())
    }

    /// Everything about a request that can be refused, and what its container will be.
    fn prepare(
        &self,
        sandbox: &Sandbox,
        request: CreateContainerRequest,
    ) -> Result<Ready, ContainerError> {
        let config = request.config.unwrap_or_default();
        if config.mounts.len() > MOST_MOUNTS {
            let count = config.mounts.len();
            return Err(ContainerError::Invalid(format!("{count} mounts, at most {MOST_MOUNTS}")));
        }
        let log = log_path(sandbox, &config)?;
        let stop_signal = stop_signal(&config);
        let (image, hold) = self.image(&config)?;
        let lowers = || {
            self.images
                .lowers(&image)
                .map_err(|source| ContainerError::Layers { image: image.id.clone(), source })
        };
        let context = security_context(&config);
        let user = identity::resolve(&context, &image.config.user, lowers()?)?;

        let id = ContainerId::generate();
        let cgroup = format!("{}/{id}", sandbox.detail().cgroup.trim_end_matches('/'));
        let volumes = self.image_volumes(&config)?;
        let target = self.target(sandbox, &config)?;
        let spec = self.spec(&Parts {
            sandbox,
            config: &config,
            image: &image,
            user: &user,
            cgroup: &cgroup,
            volumes: &volumes,
            target: target.as_ref(),
        })?;
        refuse_missing_profile(&spec)?;
        // Also refuses what no plan could be made of, now rather than at the start.
        let launch = self.host.filters.launch(&spec, &self.host.facts)?;
        self.refuse_undrivable(sandbox, &launch)?;
        volumes::refuse_propagation(&config)?;
        self.refuse_image_volumes(&config, &volumes)?;
        // The one thing that a create makes and nobody takes back, as with other runtimes: so the last.
        make_missing_sources(&config)?;

        let detail = Detail {
            pod: sandbox.id.clone(),
            created_at: now_ns(),
            stop_signal: stop_signal
                .or_else(|| {
                    image.config.stop_signal.clone().filter(|s| signal::number(s).is_some())
                })
                .unwrap_or_else(|| signal::DEFAULT.to_owned()),
            image: (*image).clone(),
            volumes: volumes.iter().map(|volume| (*volume.image).clone()).collect(),
            cgroup,
            log,
            spec: Arc::new(spec),
            state: State::Created,
        };
        let holds = volumes.into_iter().map(|volume| volume.hold).chain([hold]).collect();
        let record = Record { id, detail, config };
        Ok(Ready {
            record,
            lowers: lowers()?,
            user: cri_spec::user_namespace(&sandbox.config)?,
            _holds: holds,
        })
    }

    fn acquire(&self, ready: Ready) -> Result<ContainerId, ContainerError> {
        let Ready { record, lowers, user, .. } = &ready;
        let id = record.id.clone();
        let mut undo = Undo::default();
        let dir = self.host.paths.container(&id);
        rootfs::create(&dir, lowers, *user).map_err(|source| ContainerError::Files {
            step: "create writable layer",
            path: dir.clone(),
            source,
        })?;
        undo.push("remove writable layer", move || super::remove::remove_tree(&dir));
        self.host
            .records
            .put_container(record)
            .map_err(|source| ContainerError::Record { container: id.clone(), source })?;
        let container = Arc::new(Container::new(record.clone()));
        self.table.insert(id.as_str(), Arc::clone(&container));
        undo.commit();
        self.tell(ContainerEventType::ContainerCreatedEvent, &container);
        Ok(id)
    }

    fn image(&self, config: &ContainerConfig) -> Result<(Arc<image::Image>, Hold), ContainerError> {
        let name = config.image.as_ref().map_or("", |image| image.image.as_str());
        if name.is_empty() {
            return Err(ContainerError::Invalid("image.image is missing".into()));
        }
        self.images.hold(name)?.ok_or_else(|| ContainerError::NoImage(name.to_owned()))
    }

    /// The images that the request's mounts name; one that is not here is refused by the translation.
    fn image_volumes(&self, config: &ContainerConfig) -> Result<Vec<ImageVolume>, ContainerError> {
        let names = config.mounts.iter().filter_map(|mount| mount.image.as_ref());
        let mut found: Vec<ImageVolume> = Vec::new();
        for name in names.map(|image| image.image.clone()).filter(|name| !name.is_empty()) {
            let known = found.iter().any(|volume| volume.name == name);
            if let (false, Some((image, hold))) = (known, self.images.hold(&name)?) {
                found.push(ImageVolume { name, image, hold });
            }
        }
        Ok(found)
    }

    /// Refuses images that could not be mounted, and paths that are not in them, now rather than at the start.
    fn refuse_image_volumes(
        &self,
        config: &ContainerConfig,
        volumes: &[ImageVolume],
    ) -> Result<(), ContainerError> {
        for mount in &config.mounts {
            let name = mount.image.as_ref().map_or("", |image| &image.image);
            if let Some(volume) = volumes.iter().find(|volume| volume.name == name) {
                volumes::open_image(&self.images, &volume.image, &mount.image_sub_path, None)?;
            }
        }
        Ok(())
    }

    /// The container whose PID namespace the request names: of the same pod, and running.
    fn target(
        &self,
        sandbox: &Sandbox,
        config: &ContainerConfig,
    ) -> Result<Option<ContainerId>, ContainerError> {
        let options = security_context(config).namespace_options.unwrap_or_default();
        if options.pid != i32::from(NamespaceMode::Target) {
            return Ok(None);
        }
        let named = options.target_id;
        let refused = |why| Err(ContainerError::Target(named.clone(), why));
        if named.is_empty() {
            return refused("target_id is missing");
        }
        match self.table.resolve("container", &named)? {
            None => refused("there is no such container"),
            Some(target) if *target.pod() != sandbox.id => refused("it is of another pod"),
            Some(target) if !target.state().is_running() => refused("it is not running"),
            Some(target) => Ok(Some(target.id.clone())),
        }
    }

    fn spec(&self, of: &Parts<'_>) -> Result<Spec, ContainerError> {
        let Parts { sandbox, config, image, user, cgroup, volumes, target } = *of;
        let options = namespace_options(&sandbox.config);
        let run = self.host.paths.pod_run(&sandbox.id);
        let pin = |own: bool, kind: sys::pin::Kind| own.then(|| run.join(kind.name()));
        let own_network = !is_host(options.network);
        let namespaces = NamespacePins {
            net: pin(own_network, sys::pin::Kind::Network),
            ipc: pin(!is_host(options.ipc), sys::pin::Kind::Ipc),
            uts: pin(own_network, sys::pin::Kind::Uts),
            user: pin(cri_spec::user_namespace(&sandbox.config)?.is_some(), sys::pin::Kind::User),
        };
        let images =
            volumes.iter().map(|volume| (volume.name.clone(), volume.image.id.to_string()));
        let facts = match self.runner(sandbox)? {
            Runner::Other(handler) if !handler.host_devices => {
                Cow::Owned(HostFacts { devices: Vec::new(), ..self.host.facts.clone() })
            }
            Runner::Own | Runner::Other(_) => Cow::Borrowed(&self.host.facts),
        };
        let profile = match cri_spec::localhost_profile(config)? {
            Some(path) => Some(read_profile(Path::new(&path))?),
            None => None,
        };
        let cdi = cdi::edits(&self.host.config.container.cdi_spec_dirs, config)?;
        Ok(cri_spec::container(&Input {
            pod: &sandbox.config,
            container: config,
            image: &defaults(&image.config),
            identity: user,
            files: &files::paths(&self.host.paths.pod_files(&sandbox.id)),
            namespaces: &namespaces,
            target: target.map(ContainerId::as_str),
            images: &images.collect(),
            cgroup,
            devices: &devices(config)?,
            cdi: &cdi,
            localhost_seccomp: profile.as_deref(),
            host: &facts,
        })?)
    }
}

/// A container that only has to be made.
struct Ready {
    record: Record,
    lowers: Vec<OwnedFd>,
    user: Option<UserNamespace>,
    /// Keep the layers until the container itself does.
    _holds: Vec<Hold>,
}

/// An image that a mount of the request shows.
struct ImageVolume {
    /// What the mount calls it.
    name: String,
    image: Arc<image::Image>,
    hold: Hold,
}

/// What a container is made of.
struct Parts<'a> {
    sandbox: &'a Sandbox,
    config: &'a ContainerConfig,
    image: &'a image::Image,
    user: &'a cri_spec::Identity,
    cgroup: &'a str,
    volumes: &'a [ImageVolume],
    target: Option<&'a ContainerId>,
}

fn defaults(config: &image::Config) -> ImageDefaults {
    ImageDefaults {
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        working_dir: config.working_dir.clone(),
        volumes: config.volumes.clone(),
    }
}

pub(super) fn security_context(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

/// The log file below the pod's log directory; nothing where one of the two is not named.
fn log_path(sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<String>, ContainerError> {
    if config.log_path.is_empty() || sandbox.config.log_directory.is_empty() {
        return Ok(None);
    }
    log_directory::check(&config.log_path).map_err(ContainerError::LogPath)?;
    Ok(Some(config.log_path.clone()))
}

fn stop_signal(config: &ContainerConfig) -> Option<String> {
    let asked = config.stop_signal();
    let name = asked.as_str_name();
    (asked != Signal::RuntimeDefault && signal::number(name).is_some()).then(|| name.to_owned())
}

/// Refuses an AppArmor profile that nobody has loaded, now rather than at the start.
fn refuse_missing_profile(spec: &Spec) -> Result<(), ContainerError> {
    let profile = spec.process().as_ref().and_then(|process| process.apparmor_profile().as_deref());
    match profile.map(|name| (name, apparmor::is_loaded(name))) {
        Some((name, Ok(false))) => {
            let text = format!("AppArmor profile {name:?} is not loaded on this host");
            Err(ContainerError::Invalid(text))
        }
        // Where the list cannot be read, the kernel answers at the start.
        None | Some((_, Ok(true) | Err(_))) => Ok(()),
    }
}

/// A volume whose source is not there becomes an empty directory, as with other runtimes.
fn make_missing_sources(config: &ContainerConfig) -> Result<(), ContainerError> {
    for mount in config.mounts.iter().filter(|mount| mount.image.is_none()) {
        let path = Path::new(&mount.host_path);
        if !path.is_absolute() {
            continue; // refused by the translation, which names the field
        }
        match std::fs::metadata(path) {
            Ok(_) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => make_source(path)?,
            Err(source) => {
                let path = path.to_owned();
                return Err(ContainerError::Files { step: "look at volume", path, source });
            }
        }
    }
    Ok(())
}

fn make_source(path: &Path) -> Result<(), ContainerError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|source| {
        ContainerError::Files { step: "create volume", path: path.to_owned(), source }
    })
}

/// What is behind the host paths that the request's devices name.
fn devices(config: &ContainerConfig) -> Result<Vec<HostDevice>, ContainerError> {
    let mut found = Vec::new();
    for asked in &config.devices {
        let path = Path::new(&asked.host_path);
        let failed = |source| ContainerError::Files {
            step: "look at device",
            path: path.to_owned(),
            source,
        };
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            for entry in std::fs::read_dir(path).map_err(failed)? {
                let entry = entry.map_err(failed)?.path();
                found.extend(device(&entry, &entry.to_string_lossy()));
            }
        } else {
            found.extend(device(path, &asked.host_path));
        }
    }
    Ok(found)
}

fn read_profile(path: &Path) -> Result<Vec<u8>, ContainerError> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |source| ContainerError::Profile { path: path.to_owned(), source };
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MOST_PROFILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST_PROFILE_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "more than 1 MiB")));
    }
    Ok(bytes)
}

fn invalid(what: &str) -> Arc<ContainerError> {
    Arc::new(ContainerError::Invalid(what.to_owned()))
}
