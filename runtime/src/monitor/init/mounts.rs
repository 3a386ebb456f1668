//! The plan's mounts: made detached, given their attributes, and only then attached. There is no moment in which a mount
//! is there with other rights than it should have.

use super::resolve::{self, Kind, Links};
use super::{Ahead, Start, Step};
use crate::refuse::{Explain, refusal};
use crate::world;
use plan::{Attributes, COVERABLE, Mount, PidNamespace, Propagation, Source};
use rustix::fs::{CWD, FileType, PROC_SUPER_MAGIC};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::os::fd::{BorrowedFd, OwnedFd};
use sys::mount::{self, Change};

/// Makes all mounts in order, but those that were made ahead. Gives the root of the plan's own `/dev`, where there is one.
pub(super) fn make(
    start: &Start<'_>,
    ahead: &Ahead,
    root: BorrowedFd<'_>,
) -> Step<Option<OwnedFd>> {
    let mut dev = None;
    for mount in &start.plan.mounts {
        let (detached, kind) = detached(start, ahead, mount)?;
        let place = place(root, mount, kind)?;
        mount::attach(&detached, place).step("mount", &mount.target)?;
        if mount.target == "/dev" && matches!(mount.source, Source::Tmpfs(_)) {
            dev = Some(detached);
        }
    }
    Ok(dev)
}

fn detached(start: &Start<'_>, ahead: &Ahead, mount: &Mount) -> Step<(OwnedFd, Kind)> {
    let step = "make mount";
    let own_dev = mount.target == "/dev" && ahead.dev.is_some();
    let made = match &mount.source {
        Source::Proc if ahead.proc.is_some() => copy(ahead.proc.as_ref()),
        Source::Tmpfs(_) if own_dev => copy(ahead.dev.as_ref()),
        // One made here would show the monitor's PID namespace.
        Source::Proc if start.plan.pids == PidNamespace::Pod => {
            mount::bind(CWD, world::PROC, false)
        }
        Source::Proc => new("proc", &[]),
        Source::Sysfs => new("sysfs", &[]),
        Source::Tmpfs(options) => new("tmpfs", options),
        Source::Devpts(options) => new("devpts", options),
        Source::Mqueue => new("mqueue", &[]),
        Source::Cgroup2 => new("cgroup2", &[]),
        Source::PodShm => mount::bind(CWD, world::SHM, false),
        Source::Tree(fd) => {
            let tree = start.descriptor(*fd)?;
            let kind = kind(tree).step(step, &mount.target)?;
            let tree = tree.try_clone_to_owned().step(step, &mount.target)?;
            restrict(&tree, mount).step("set attributes of mount", &mount.target)?;
            return Ok((tree, kind));
        }
    };
    let made = made.step(step, &mount.target)?;
    restrict(&made, mount).step("set attributes of mount", &mount.target)?;
    Ok((made, Kind::Directory))
}

fn copy(descriptor: Option<&OwnedFd>) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(descriptor.ok_or(Errno::BADF)?, 3)
}

fn new(kind: &str, options: &[(String, String)]) -> Result<OwnedFd, Errno> {
    let options = options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    mount::new(kind, options, MountAttrFlags::empty())
}

fn kind(tree: BorrowedFd<'_>) -> Result<Kind, Errno> {
    let mode = rustix::fs::fstat(tree)?.st_mode;
    let directory = FileType::from_raw_mode(mode) == FileType::Directory;
    Ok(if directory { Kind::Directory } else { Kind::File })
}

fn restrict(detached: &OwnedFd, mount: &Mount) -> std::io::Result<()> {
    let (set, clear) = flags(mount.attributes);
    mount::set_attributes(detached, Change { set, clear, ..Change::default() })?;
    if mount.attributes.recursive_readonly {
        let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
        mount::set_attributes(detached, Change { set, recursive: true, ..Change::default() })?;
    }
    let propagation = Some(match mount.propagation {
        Propagation::Private => mount::Propagation::Private,
        Propagation::Slave => mount::Propagation::Slave,
        Propagation::Shared => mount::Propagation::Shared,
    });
    mount::set_attributes(detached, Change { propagation, recursive: true, ..Change::default() })
}

/// What to set, and what to clear before.
fn flags(attributes: Attributes) -> (MountAttrFlags, MountAttrFlags) {
    let wished = [
        (attributes.readonly || attributes.recursive_readonly, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (attributes.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (attributes.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (attributes.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (attributes.noatime, MountAttrFlags::MOUNT_ATTR_NOATIME),
    ];
    let set = wished.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag).collect();
    let times = attributes.noatime || attributes.relatime;
    // The handling of access times is a number and not a bit: it is cleared as a whole.
    let clear = if times { MountAttrFlags::MOUNT_ATTR__ATIME } else { MountAttrFlags::empty() };
    (set, clear)
}

/// Finds or makes the place of a mount, and refuses those that nothing may cover.
fn place(root: BorrowedFd<'_>, mount: &Mount, kind: Kind) -> Step<OwnedFd> {
    let target = &mount.target;
    let names: Vec<&str> = target.split('/').filter(|name| !name.is_empty()).collect();
    if names.is_empty() || !target.starts_with('/') {
        return Err(refusal("mount", &format!("{target}: is no place below the root"), 0));
    }
    // These have to be real directories: an image could lead them to a volume that somebody else writes to
    // (CVE-2019-19921), or to the host's (CVE-2026-41579).
    let special = matches!(names[0], "proc" | "sys" | "dev");
    let links = if special { Links::Refused } else { Links::Followed };
    let place = resolve::target(root, target, kind, links).step("resolve mount target", target)?;
    let covers_proc = names == ["proc"] && !matches!(mount.source, Source::Proc);
    let on_proc = rustix::fs::fstatfs(&place).step("resolve mount target", target)?.f_type
        == PROC_SUPER_MAGIC;
    if covers_proc || (on_proc && !COVERABLE.contains(&target.as_str())) {
        return Err(refusal("mount", &format!("{target}: nothing may cover the process list"), 0));
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_become_flags() {
        let none = MountAttrFlags::empty();
        let cases = [
            ("nothing", Attributes::default(), none, none),
            (
                "read-only below too",
                Attributes { recursive_readonly: true, ..Attributes::default() },
                MountAttrFlags::MOUNT_ATTR_RDONLY,
                none,
            ),
            (
                "no access times",
                Attributes { noatime: true, nodev: true, ..Attributes::default() },
                MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_NODEV,
                MountAttrFlags::MOUNT_ATTR__ATIME,
            ),
            (
                "relative access times",
                Attributes { relatime: true, ..Attributes::default() },
                none,
                MountAttrFlags::MOUNT_ATTR__ATIME,
            ),
        ];
        for (name, attributes, set, clear) in cases {
            assert_eq!(flags(attributes), (set, clear), "{name}");
        }
    }
}
