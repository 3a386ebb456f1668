//! What a container's plan refers to, opened: its root, the pod's namespaces, volumes, images.

use super::{Container, ContainerError, Containers, rootfs};
use crate::images::Images;
use crate::metrics::Stage;
use crate::sandbox::Sandbox;
use cri_api::runtime::v1::{ContainerConfig, MountPropagation};
use cri_spec::{Ids, Launch, Open};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use sys::mount::Change;

impl Containers {
    /// Opens everything that the launch plan refers to, in its order.
    pub(super) fn open_all(
        &self,
        sandbox: &Sandbox,
        container: &Container,
        launch: &Launch,
    ) -> Result<Vec<OwnedFd>, ContainerError> {
        refuse_propagation(&container.config)?;
        let mut users = Users { containers: self, sandbox, known: Vec::new() };
        if let Some(ids) = &launch.ids {
            let pin = self.host.paths.pod_run(&sandbox.id).join(sys::pin::Kind::User.name());
            users.known.push((ids.clone(), open_namespace(&pin)?));
        }
        launch.open.iter().map(|what| self.open(container, launch, &mut users, what)).collect()
    }

    fn open(
        &self,
        container: &Container,
        launch: &Launch,
        users: &mut Users<'_>,
        what: &Open,
    ) -> Result<OwnedFd, ContainerError> {
        match what {
            Open::Root => self.open_root(container, launch.ids.as_ref(), users),
            Open::Namespace(path) => open_namespace(path),
            Open::Tree { path, recursive, ids } => {
                let user = users.of(ids.as_ref())?;
                open_tree(path, *recursive, user).map_err(|source| ContainerError::Files {
                    step: "open volume",
                    path: path.clone(),
                    source,
                })
            }
            Open::Image { id, sub_path, ids } => {
                let all = container.made.volumes.iter();
                let image = all.into_iter().find(|image| image.id.to_string() == *id);
                let image = image.ok_or_else(|| ContainerError::NoImage(id.clone()))?;
                open_image(&self.images, image, sub_path, users.of(ids.as_ref())?)
            }
        }
    }

    fn open_root(
        &self,
        container: &Container,
        ids: Option<&Ids>,
        users: &mut Users<'_>,
    ) -> Result<OwnedFd, ContainerError> {
        let lowers = lowers(&self.images, container.image())?;
        let dir = self.host.paths.container(&container.id);
        let user = users.of(ids)?;
        let mount = || match user {
            None => rootfs::writable(&dir, &lowers),
            Some(user) => rootfs::writable_for(&dir, &lowers, user),
        };
        self.host.instruments.stage(Stage::Snapshot, mount).map_err(|source| ContainerError::Root {
            container: container.id.clone(),
            step: "mount",
            source,
        })
    }
}

/// The user namespaces that the owners in mounts are shown through: the pod's, and others that the pod's monitor makes.
struct Users<'a> {
    containers: &'a Containers,
    sandbox: &'a Sandbox,
    known: Vec<(Ids, OwnedFd)>,
}

impl Users<'_> {
    fn of(&mut self, ids: Option<&Ids>) -> Result<Option<&OwnedFd>, ContainerError> {
        let Some(ids) = ids else { return Ok(None) };
        if !self.containers.host.user_namespaces {
            let what = "ids of mounts cannot be mapped on this node".to_owned();
            return Err(ContainerError::Unsupported(what));
        }
        let at = match self.known.iter().position(|(known, _)| known == ids) {
            Some(at) => at,
            None => {
                let made = self.make(ids)?;
                self.known.push((ids.clone(), made));
                self.known.len() - 1
            }
        };
        Ok(self.known.get(at).map(|(_, user)| user))
    }

    fn make(&self, ids: &Ids) -> Result<OwnedFd, ContainerError> {
        let pod = &self.sandbox.id;
        let monitor =
            self.sandbox.monitor().ok_or_else(|| ContainerError::PodNotReady(pod.clone()))?;
        let made = monitor.namespaces(&ids.uids, &ids.gids, &[]);
        let made = made.map_err(|source| ContainerError::MapIds { pod: pod.clone(), source })?;
        made.into_iter().next().ok_or_else(|| ContainerError::PodNotReady(pod.clone()))
    }
}

pub(super) fn lowers(
    images: &Images,
    image: &image::Image,
) -> Result<Vec<OwnedFd>, ContainerError> {
    images
        .lowers(image)
        .map_err(|source| ContainerError::Layers { image: image.id.clone(), source })
}

fn open_namespace(path: &Path) -> Result<OwnedFd, ContainerError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|err| ContainerError::Files {
        step: "open namespace",
        path: path.to_owned(),
        source: err.into(),
    })
}

fn open_tree(path: &Path, recursive: bool, user: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let tree = sys::mount::bind(CWD, path, recursive)?;
    if let Some(user) = user {
        sys::mount::map_ids(&tree, user)?;
    }
    Ok(tree)
}

/// The layers of an image, or a part of them, that nobody can write to.
pub(super) fn open_image(
    images: &Images,
    image: &image::Image,
    sub_path: &str,
    user: Option<&OwnedFd>,
) -> Result<OwnedFd, ContainerError> {
    let failed = |source| ContainerError::ImageVolume {
        image: image.id.clone(),
        sub_path: sub_path.to_owned(),
        source,
    };
    let lowers = lowers(images, image)?;
    let merged = rootfs::volume(&lowers, user).map_err(failed)?;
    let shown = if sub_path.is_empty() { Ok(merged) } else { part(merged, sub_path) };
    let shown = shown.map_err(failed)?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
    sys::mount::set_attributes(&shown, Change { set, ..Change::default() }).map_err(failed)?;
    Ok(shown)
}

/// What `sub_path` is inside a detached mount, whatever links lead there.
fn part(merged: OwnedFd, sub_path: &str) -> io::Result<OwnedFd> {
    let mounts = [merged];
    sys::aside::with_attached(&mounts, &[], |_| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&mounts[0], sub_path, flags, Mode::empty(), resolve) {
                Ok(found) => return Ok(sys::mount::bind(&found, "", false)?),
                // Something was renamed or mounted somewhere on the host while a `..` of a link was followed.
                Err(Errno::AGAIN) if tries < MOST_TRIES => tries += 1,
                Err(err) => return Err(err.into()),
            }
        }
    })
}

/// How often a look-up that the kernel gave up is begun again; nobody can disturb it for longer.
const MOST_TRIES: u32 = 128;

/// Refuses mounts that are to be passed on and that the host does not pass on: nothing would ever arrive.
pub(super) fn refuse_propagation(config: &ContainerConfig) -> Result<(), ContainerError> {
    for mount in config.mounts.iter().filter(|mount| mount.image.is_none()) {
        let wanted = match mount.propagation() {
            MountPropagation::PropagationPrivate => continue,
            MountPropagation::PropagationHostToContainer => "shared or slave",
            MountPropagation::PropagationBidirectional => "shared",
        };
        let path = Path::new(&mount.host_path);
        let found = match propagation(path) {
            Ok(found) => found,
            // It is made later, as a directory of what its path leads through.
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                let path = path.to_owned();
                return Err(ContainerError::Files { step: "look at volume", path, source });
            }
        };
        if !(found.shared || found.slave && wanted != "shared") {
            return Err(ContainerError::Invalid(format!(
                "path {:?} is mounted on {:?} but it is not a {wanted} mount",
                mount.host_path, found.place
            )));
        }
    }
    Ok(())
}

/// How mount events travel to and from a mount of the host.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    place: String,
    shared: bool,
    slave: bool,
}

fn propagation(path: &Path) -> io::Result<Found> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let stat = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    let line = table.lines().find_map(|line| parse(line, stat.stx_mnt_id));
    line.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A line of `proc_pid_mountinfo(5)`, where it is that of the mount `id`.
fn parse(line: &str, id: u64) -> Option<Found> {
    let mut fields = line.split(' ');
    if fields.next()?.parse() != Ok(id) {
        return None;
    }
    let place = fields.nth(3)?.to_owned();
    let tags: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
    let has = |kind: &str| tags.iter().any(|tag| tag.starts_with(kind));
    Some(Found { place, shared: has("shared:"), slave: has("master:") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_mount_table_tell_what_is_passed_on() {
        let rest = "- ext4 /dev/vda rw";
        let cases = [
            ("private", format!("36 35 98:0 / /a rw,noatime {rest}"), Some((false, false))),
            ("shared", format!("36 35 98:0 / /a rw shared:7 {rest}"), Some((true, false))),
            ("slave", format!("36 35 98:0 / /a rw master:7 {rest}"), Some((false, true))),
            ("both", format!("36 35 98:0 / /a rw shared:8 master:7 {rest}"), Some((true, true))),
            (
                "a name to mislead",
                "36 35 98:0 /shared:1 /a rw - ext4 shared:2 rw".into(),
                Some((false, false)),
            ),
            ("another", format!("37 35 98:0 / /a rw shared:7 {rest}"), None),
            ("cut short", "36 35".into(), None),
        ];
        for (name, line, want) in cases {
            let want = want.map(|(shared, slave)| Found { place: "/a".into(), shared, slave });
            assert_eq!(parse(&line, 36), want, "{name}");
        }
    }
}
