//! Containers of other runtimes: the bundle that their program reads, and an exec's process in its words.

use super::{Container, ContainerError, Containers};
use crate::handlers::{Handler, Runner, make_directory};
use crate::sandbox::Sandbox;
use cri_spec::{Bundle, Launch, Open};
use oci_spec::runtime::Spec;
use plan::{Drive, PidNamespace, drive};
use rustix::fs::{CWD, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What a driven start takes beside what every start does.
#[derive(Debug)]
pub(super) struct Driven {
    pub(super) drive: Drive,
    pub(super) bundle: OwnedFd,
    pub(super) host: OwnedFd,
}

/// The capability to lower one's `oom_score_adj`.
const CAP_SYS_RESOURCE: u32 = 24;

impl Containers {
    /// Who runs a pod's containers.
    pub(super) fn runner(&self, sandbox: &Sandbox) -> Result<Runner, ContainerError> {
        Ok(self.host.handlers.runner(&sandbox.detail().runner)?)
    }

    /// Refuses what only our own runtime can be handed.
    pub(super) fn refuse_undrivable(
        &self,
        sandbox: &Sandbox,
        launch: &Launch,
    ) -> Result<(), ContainerError> {
        let Runner::Other(handler) = self.runner(sandbox)? else { return Ok(()) };
        let what = launch.open.iter().find_map(|open| match open {
            // Kubelet looks for the first word.
            Open::Image { .. } => Some("ImageVolumeMountFailed: images as volumes"),
            Open::Tree { ids: Some(_), .. } => Some("mounts with other owners"),
            Open::Tree { ids: None, .. } | Open::Root | Open::Namespace(_) => None,
        });
        match what {
            Some(what) => Err(ContainerError::Undrivable { what, handler: handler.name.clone() }),
            None => Ok(()),
        }
    }

    /// Writes the bundle of a container, and leaves in `launch` only what its monitor still needs.
    pub(super) fn bundle(
        &self,
        container: &Container,
        spec: &Spec,
        handler: &Handler,
        launch: &mut Launch,
    ) -> Result<Driven, ContainerError> {
        let path = self.host.paths.bundle(container.pod(), &container.id);
        let failed = |step| {
            let path = path.clone();
            move |source: io::Error| ContainerError::Files { step, path, source }
        };
        make_bundle(&path).map_err(failed("make bundle"))?;
        // Its parent directories can be symbolic links; the monitor looks for the mount below it.
        let real = path.canonicalize().map_err(failed("resolve bundle"))?;
        let joins_pids = matches!(launch.plan.pids, PidNamespace::Pod | PidNamespace::Of(_));
        let facts = Bundle { joins_pids, ..self.bundle_facts(&real) };
        let spec = cri_spec::driven(spec, &facts);
        let json = serde_json::to_vec(&spec).map_err(|err| failed("encode config")(err.into()))?;
        sys::durable::replace(&path.join("config.json"), &json, 0o600)
            .map_err(failed("write config to bundle"))?;
        make_directory(&handler.root).map_err(|source| ContainerError::Files {
            step: "make directory of handler",
            path: handler.root.clone(),
            source,
        })?;
        launch.open.retain(|open| !matches!(open, Open::Tree { .. }));
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let drive = Drive {
            name: handler.name.clone(),
            program: text(&handler.program),
            options: handler.options.clone(),
            state: text(&handler.root),
            bundle: text(&real),
            patience_ms: handler.timeout_ms,
            exec_cgroup: handler.exec_cgroup,
            plan: rest(launch),
        };
        let bundle = open(&real, OFlags::DIRECTORY).map_err(failed("open bundle"))?;
        let namespace = Path::new("/proc/thread-self/ns/mnt");
        let host = open(namespace, OFlags::empty()).map_err(failed("open mount namespace for"))?;
        Ok(Driven { drive, bundle, host })
    }

    /// The process of an exec, as JSON.
    pub(super) fn driven_exec(
        &self,
        container: &Container,
        command: &[String],
        tty: bool,
    ) -> Result<Vec<u8>, ContainerError> {
        let path = self.host.paths.bundle(container.pod(), &container.id);
        let facts = self.bundle_facts(&path);
        let process = cri_spec::driven_exec(&container.spec(), command, tty, &facts)?;
        let step = "encode process for";
        serde_json::to_vec(&process).map_err(|err| ContainerError::Files {
            step,
            path,
            source: err.into(),
        })
    }

    fn bundle_facts<'a>(&self, path: &'a Path) -> Bundle<'a> {
        let limit = &self.host.open_files;
        let may_lower = self.host.facts.capabilities & (1 << CAP_SYS_RESOURCE) != 0;
        let least_oom_score_adj = (!may_lower).then_some(self.host.oom_score_adj);
        let open_files = (limit.soft, limit.hard);
        Bundle { path, open_files, joins_pids: false, least_oom_score_adj }
    }

    /// Removes the bundle, and what the handler's program should have removed.
    pub(super) fn remove_bundle(&self, container: &Container) -> Result<(), ContainerError> {
        let mut left = vec![self.host.paths.bundle(container.pod(), &container.id)];
        let sandbox = self.sandboxes.table.get(container.pod().as_str());
        if let Some(Ok(Runner::Other(handler))) = sandbox.map(|pod| self.runner(&pod)) {
            left.push(handler.root.join(container.id.as_str()));
        }
        for path in left {
            super::remove_tree(&path).map_err(|source| ContainerError::Files {
                step: "remove bundle",
                path,
                source,
            })?;
        }
        Ok(())
    }
}

/// The part of a plan that `config.json` does not say: how the monitor sees the container.
fn rest(launch: &Launch) -> plan::LaunchPlan {
    let mut plan = launch.plan.clone();
    plan.mounts.clear();
    plan.devices.clear();
    plan.links.clear();
    plan.masked.clear();
    plan.readonly.clear();
    plan.process.args.clear();
    plan.process.env.clear();
    plan.process.seccomp = None;
    plan
}

/// The bundle: its directory, and places for what the monitor shows to the program.
fn make_bundle(path: &Path) -> io::Result<()> {
    make_directory(path)?;
    for name in [drive::ROOT, drive::SHM] {
        make_directory(&path.join(name))?;
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path.join(drive::PIDS), flags, Mode::RUSR)?;
    Ok(())
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Where a bundle is, below the run directory of its pod.
pub(crate) fn bundle_name(container: &runtime::id::ContainerId) -> PathBuf {
    format!("{container}.bundle").into()
}
