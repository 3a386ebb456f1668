//! A stored spec to what a monitor executes.
//!
//! Descriptors are numbered in the order in which the plan names them: the root is 0, then the namespaces, then the
//! trees of the mounts. The daemon opens [`Launch::open`] from first to last and sends the results in that order.

mod mounts;
mod process;
mod refuse;
#[cfg(test)]
mod tests;

pub use process::{exec, exec_with};

use crate::container::{SHARED_PIDS, TARGET_PIDS};
use crate::error::SpecError;
use crate::input::HostFacts;
use crate::users;
use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Spec,
};
use plan::{
    Fd, IdRange, Join, LaunchPlan, NamespaceKind, PidNamespace, Propagation, UserNamespace,
};
use std::path::PathBuf;

/// A plan, and what has to be opened for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What the monitor executes.
    pub plan: LaunchPlan,
    /// What the descriptors of the plan are: number N is `open[N]`.
    pub open: Vec<Open>,
    /// How the owners in the root's layers are shown: to the container as they are on disk.
    pub ids: Option<Ids>,
}

/// Something that the daemon opens and sends beside a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Open {
    /// The container's root file system: a detached mount.
    Root,
    /// A namespace, by its pin.
    Namespace(PathBuf),
    /// A detached copy of a part of the host's file system (`open_tree(2)` with `OPEN_TREE_CLONE`). Links in the path
    /// are followed.
    Tree {
        /// A file or directory of the host.
        path: PathBuf,
        /// Whether the mounts below it are copied too (`AT_RECURSIVE`).
        recursive: bool,
        /// How its owners are shown; as they are where there is none. What is mounted below it is shown as it is, as with
        /// runc and crun.
        ids: Option<Ids>,
    },
    /// A detached mount of an image's layers, that nobody can write to.
    Image {
        /// The image.
        id: String,
        /// What below its root is shown instead of that; empty is the root. Links in it are followed inside the image.
        sub_path: String,
        /// How its owners are shown.
        ids: Option<Ids>,
    },
}

/// Ids of file owners and the ids that they are shown as (`MOUNT_ATTR_IDMAP` of `mount_setattr(2)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Users: `inside` is on disk, `outside` what the host sees.
    pub uids: Vec<IdRange>,
    /// Groups, likewise.
    pub gids: Vec<IdRange>,
}

/// Turns a profile of a spec into a program: [`seccomp::compile`](crate::seccomp::compile), or a cache before it.
pub type Compile<'a> = dyn FnMut(&LinuxSeccomp) -> Result<plan::Seccomp, SpecError> + 'a;

/// Compiles a profile each time.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<plan::Seccomp, SpecError> {
    let field = "linux.seccomp".to_owned();
    crate::seccomp::compile(profile).map_err(|source| SpecError::Seccomp { field, source })
}

/// Translates a spec to a plan.
///
/// # Errors
///
/// [`SpecError`] where the spec has something that plans have no word for. Nothing in a spec is passed over, but for
/// the cgroup limits, which the daemon applies itself, and annotations.
pub fn launch(spec: &Spec, host: &HostFacts) -> Result<Launch, SpecError> {
    launch_with(spec, host, &mut compile)
}

/// [`launch`], with compiled filters from elsewhere.
///
/// # Errors
///
/// As [`launch`], and what `compile` says.
pub fn launch_with(
    spec: &Spec,
    host: &HostFacts,
    compile: &mut Compile<'_>,
) -> Result<Launch, SpecError> {
    refuse::unsupported(spec)?;
    let linux = spec.linux().as_ref().ok_or_else(|| SpecError::missing("linux", "is needed"))?;
    let root = spec.root().as_ref().ok_or_else(|| SpecError::missing("root", "is needed"))?;

    let mut descriptors = Descriptors::default();
    let root_fd = descriptors.add(Open::Root)?;
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let join = join(namespaces, &mut descriptors)?;
    let user = user(linux, namespaces, &mut descriptors)?;
    let mounts = mounts::mounts(spec, linux, host, &mut descriptors)?;
    let ids = user.as_ref().map(|user| Ids { uids: vec![user.uids], gids: vec![user.gids] });

    let plan = LaunchPlan {
        root: root_fd,
        root_readonly: root.readonly().unwrap_or_default(),
        root_propagation: root_propagation(linux)?,
        join,
        pids: pids(spec, namespaces)?,
        cgroup_namespace: namespaces.iter().any(|ns| ns.typ() == LinuxNamespaceType::Cgroup),
        devices: mounts.devices,
        links: mounts.links,
        masked: linux.masked_paths().clone().unwrap_or_default(),
        readonly: [mounts.readonly, linux.readonly_paths().clone().unwrap_or_default()].concat(),
        mounts: mounts.mounts,
        process: process::process(spec, linux, compile)?,
        user,
    };
    Ok(Launch { plan, open: descriptors.open, ids })
}

/// What is to be opened so far.
#[derive(Default)]
struct Descriptors {
    open: Vec<Open>,
}

impl Descriptors {
    fn add(&mut self, open: Open) -> Result<Fd, SpecError> {
        let number = u16::try_from(self.open.len())
            .map_err(|_| SpecError::missing("mounts", "there are more than a plan can count"))?;
        self.open.push(open);
        Ok(Fd(number))
    }
}

fn join(
    namespaces: &[LinuxNamespace],
    descriptors: &mut Descriptors,
) -> Result<Vec<Join>, SpecError> {
    let kinds = [
        (LinuxNamespaceType::Network, NamespaceKind::Network),
        (LinuxNamespaceType::Ipc, NamespaceKind::Ipc),
        (LinuxNamespaceType::Uts, NamespaceKind::Uts),
    ];
    let mut join = Vec::new();
    for (oci, kind) in kinds {
        for namespace in namespaces.iter().filter(|namespace| namespace.typ() == oci) {
            let field = "linux.namespaces";
            let Some(path) = namespace.path() else {
                let feature = "new namespaces but for mounts, PIDs and cgroups are";
                return Err(SpecError::unsupported(field, feature));
            };
            join.push(Join { kind, fd: descriptors.add(Open::Namespace(path.clone()))? });
        }
    }
    Ok(join)
}

fn user(
    linux: &Linux,
    namespaces: &[LinuxNamespace],
    descriptors: &mut Descriptors,
) -> Result<Option<UserNamespace>, SpecError> {
    let own = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    let Some(path) = own.and_then(|namespace| namespace.path().clone()) else { return Ok(None) };
    let one = |field: &str, mappings: &Option<Vec<LinuxIdMapping>>| match mappings.as_deref() {
        Some([mapping]) => Ok(users::from_oci(mapping)),
        None | Some(_) => {
            Err(SpecError::unsupported(field, "user namespaces but of one range are"))
        }
    };
    let uids = one("linux.uidMappings", linux.uid_mappings())?;
    let gids = one("linux.gidMappings", linux.gid_mappings())?;
    Ok(Some(UserNamespace { fd: descriptors.add(Open::Namespace(path))?, uids, gids }))
}

fn pids(spec: &Spec, namespaces: &[LinuxNamespace]) -> Result<PidNamespace, SpecError> {
    match namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Pid) {
        None => Ok(PidNamespace::Host),
        Some(namespace) if namespace.path().is_none() => {
            let target = spec.annotations().as_ref().and_then(|all| all.get(TARGET_PIDS));
            Ok(match target {
                Some(target) => PidNamespace::Of(target.clone()),
                None if noted(spec, SHARED_PIDS) => PidNamespace::Pod,
                None => PidNamespace::Own,
            })
        }
        Some(_) => Err(SpecError::unsupported("linux.namespaces", "joined PID namespaces are")),
    }
}

/// Whether one of our own annotations is there.
fn noted(spec: &Spec, key: &str) -> bool {
    spec.annotations().as_ref().and_then(|all| all.get(key)).is_some_and(|value| value == "true")
}

fn root_propagation(linux: &Linux) -> Result<Propagation, SpecError> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate") => Ok(Propagation::Private),
        Some("slave" | "rslave") => Ok(Propagation::Slave),
        Some("shared" | "rshared") => Ok(Propagation::Shared),
        Some(other) => {
            Err(SpecError::invalid("linux.rootfsPropagation", other, "is no propagation"))
        }
    }
}
