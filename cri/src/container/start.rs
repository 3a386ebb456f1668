//! StartContainer: everything that the launch plan refers to is opened, and one request to the monitor does the rest.

use super::{Container, ContainerError, Containers, Event, Exited, Reason, rootfs, state};
use crate::chain::chain;
use crate::host::{blocking, now_ns, to_ns};
use crate::sandbox::{Sandbox, log_directory};
use cri_spec::Open;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use runtime::cgroup::{Cgroup, CgroupPath, DeviceRule, Limits};
use runtime::exit;
use runtime::monitor::{Launch, StartError, Started};
use rustix::fs::{CWD, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

impl Containers {
    /// Starts a created container.
    ///
    /// A start that fails ends the container: its status says `StartError`, 128, and why.
    pub(crate) async fn start(self: &Arc<Self>, id: &str) -> Result<(), ContainerError> {
        let container = self.resolve(id)?;
        let sandbox = self.sandboxes.resolve(container.pod().as_str())?;
        let guard = Arc::clone(&sandbox.lock).lock_owned().await;
        let this = Arc::clone(self);
        blocking(move || {
            let started = this.start_now(&sandbox, &container);
            drop(guard);
            started
        })
        .await
    }

    fn start_now(&self, sandbox: &Sandbox, container: &Container) -> Result<(), ContainerError> {
        if container.state() != super::State::Created {
            return Err(container.wrong_state("created"));
        }
        match self.launch(sandbox, container) {
            Ok(started) => {
                let at = to_ns(started.at);
                self.apply(container, Event::Started { pid: started.pid, at })
            }
            Err(err) => {
                let exited = Exited {
                    started_at: None,
                    finished_at: now_ns(),
                    code: state::START_ERROR,
                    reason: Reason::StartError,
                    message: chain(&err),
                };
                self.apply(container, Event::Exited(exited))?;
                self.clean_up(container);
                Err(err)
            }
        }
    }

    fn launch(&self, sandbox: &Sandbox, container: &Container) -> Result<Started, ContainerError> {
        let id = &container.id;
        let monitor =
            sandbox.monitor().ok_or_else(|| ContainerError::PodNotReady(sandbox.id.clone()))?;
        let launch = self.host.filters.launch(container.spec(), &self.host.facts)?;
        let cgroup = self.cgroup_of(container)?;
        let failed = |source| ContainerError::Cgroup { container: id.clone(), source };
        let held = cgroup.descriptors().map_err(failed)?;
        let descriptors = launch
            .open
            .iter()
            .map(|what| self.open(container, what))
            .collect::<Result<Vec<_>, _>>()?;
        let log = self.open_log(sandbox, container)?;
        let path = self.host.paths.exit_record(&sandbox.id, id);
        let exit_record = exit::create(&path).map_err(|source| ContainerError::Files {
            step: "create exit record",
            path,
            source,
        })?;
        let request =
            Launch { plan: &launch.plan, descriptors, cgroup: Some(held), log, exit_record };
        monitor.start(id, request).map_err(|err| match err {
            StartError::Refused { step, message } => ContainerError::Start {
                container: id.clone(),
                message: format!("{step}: {message}"),
            },
            StartError::Monitor(source) => {
                ContainerError::Monitor { container: id.clone(), source }
            }
        })
    }

    fn cgroup_of(&self, container: &Container) -> Result<Cgroup, ContainerError> {
        let failed = |source| ContainerError::Cgroup { container: container.id.clone(), source };
        let path = self.cgroup_path(container)?;
        let resources =
            container.spec().linux().as_ref().and_then(|linux| linux.resources().clone());
        let limits = match resources {
            Some(resources) => limits(&resources)?,
            None => Limits::default(),
        };
        self.host.cgroups.create(&path, &limits).map_err(failed)
    }

    pub(super) fn cgroup_path(&self, container: &Container) -> Result<CgroupPath, ContainerError> {
        container.cgroup().parse().map_err(|err| ContainerError::CgroupPath {
            container: container.id.clone(),
            source: err,
        })
    }

    fn open(&self, container: &Container, what: &Open) -> Result<OwnedFd, ContainerError> {
        match what {
            Open::Root => {
                let failed = |step, source| ContainerError::Root {
                    container: container.id.clone(),
                    step,
                    source,
                };
                let lowers = self.images.lowers(container.image()).map_err(|source| {
                    ContainerError::Layers { image: container.image().id.clone(), source }
                })?;
                rootfs::writable(&self.host.paths.container(&container.id), &lowers)
                    .map_err(|source| failed("mount", source))
            }
            Open::Namespace(path) => open_namespace(path).map_err(|source| ContainerError::Files {
                step: "open namespace",
                path: path.clone(),
                source,
            }),
            Open::Tree { path, recursive } => {
                sys::mount::bind(CWD, path, *recursive).map_err(|err| ContainerError::Files {
                    step: "open volume",
                    path: path.clone(),
                    source: err.into(),
                })
            }
        }
    }

    /// The log file of a container, opened anew; nothing where it has none.
    pub(super) fn open_log(
        &self,
        sandbox: &Sandbox,
        container: &Container,
    ) -> Result<Option<OwnedFd>, ContainerError> {
        let Some(log) = &container.made.log else { return Ok(None) };
        log_directory::open(Path::new(&sandbox.config.log_directory), log)
            .map(Some)
            .map_err(|source| ContainerError::Log { container: container.id.clone(), source })
    }
}

fn open_namespace(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The limits of the spec in the cgroups' own terms. The spec is ours, made of a checked request.
fn limits(resources: &LinuxResources) -> Result<Limits, ContainerError> {
    let cpu = resources.cpu().as_ref();
    let memory = resources.memory().as_ref();
    let devices = resources.devices().as_deref().map(device_rules).transpose()?;
    let unified = resources.unified().clone().unwrap_or_default();
    Ok(Limits {
        cpu_shares: cpu.and_then(|cpu| cpu.shares()),
        cpu_quota_us: cpu.and_then(|cpu| cpu.quota()),
        cpu_period_us: cpu.and_then(|cpu| cpu.period()),
        memory_bytes: memory.and_then(|memory| memory.limit()),
        memory_swap_bytes: memory.and_then(|memory| memory.swap()),
        pids: resources.pids().as_ref().map(|pids| pids.limit()),
        cpuset_cpus: cpu.and_then(|cpu| cpu.cpus().clone()),
        cpuset_mems: cpu.and_then(|cpu| cpu.mems().clone()),
        unified: unified.into_iter().collect(),
        devices,
    })
}

fn device_rules(rules: &[LinuxDeviceCgroup]) -> Result<Vec<DeviceRule>, ContainerError> {
    rules.iter().map(device_rule).collect()
}

fn device_rule(rule: &LinuxDeviceCgroup) -> Result<DeviceRule, ContainerError> {
    use oci_spec::runtime::LinuxDeviceType as Oci;
    use runtime::cgroup::{BadDeviceRule, DeviceAccess, DeviceKind};
    // A negative number is OCI's way of writing "any".
    let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    let access = match rule.access().as_deref() {
        None | Some("") => DeviceAccess::ALL,
        Some(letters) => letters
            .parse()
            .map_err(|err: BadDeviceRule| ContainerError::Invalid(format!("device rule: {err}")))?,
    };
    Ok(DeviceRule {
        allow: rule.allow(),
        kind: match rule.typ().unwrap_or_default() {
            Oci::B => DeviceKind::Block,
            Oci::C | Oci::U | Oci::P => DeviceKind::Char,
            Oci::A => DeviceKind::All,
        },
        major: number(rule.major()),
        minor: number(rule.minor()),
        access,
    })
}
