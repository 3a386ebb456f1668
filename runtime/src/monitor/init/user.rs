//! User namespaces: entered as their root, by a process that has nothing of the host's any more.
//!
//! All that the container's mounts, sockets and processes are to belong to is made after this. What only the host's root
//! can make is made before: device nodes, limits above the present ones, and streams that become the user's.

use super::{Channel, Start, Stdio, Step, Word};
use crate::refuse::{Explain, refusal};
use crate::world::{self, World};
use plan::{IdRange, NamespaceKind, Process, Source, UserNamespace};
use rustix::fs::{FileType, Gid, Uid};
use rustix::mount::MountAttrFlags;
use rustix::thread::{self, LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd, OwnedFd};
use sys::mount;

/// Does what has to be done before [`enter`]. Gives the container's `/dev`, with its devices, where the plan has one.
pub(super) fn prepare(start: &Start<'_>, user: &UserNamespace) -> Step<Option<OwnedFd>> {
    let (uids, gids) = (user.uids, user.gids);
    super::identity::limit(&start.plan.process)?;
    give(start.stdio, &start.plan.process, uids, gids)?;
    // Devices of a file system that was made inside cannot be opened (`SB_I_NODEV`); so this one is made outside.
    let own = start.plan.mounts.iter().find(|mount| mount.target == "/dev");
    let Some(Source::Tmpfs(options)) = own.map(|mount| &mount.source) else { return Ok(None) };
    let (uid, gid) = (outside("user", uids, 0)?, outside("group", gids, 0)?);
    let owner = [("uid".to_owned(), uid.to_string()), ("gid".to_owned(), gid.to_string())];
    let options: Vec<_> = options.iter().cloned().chain(owner).collect();
    let options = options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let dev = mount::new("tmpfs", options, MountAttrFlags::empty()).step("make mount", "/dev")?;
    let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
    super::devices::nodes(start.plan, Some(&dev), Some(owner))?;
    Ok(Some(dev))
}

/// Enters the namespace, and makes a mount namespace that it owns.
pub(super) fn enter(start: &Start<'_>, user: &UserNamespace) -> Step<()> {
    vouch()?;
    join(start, user)?;
    sys::rights::own_mount_namespace().step("make namespace", "mount")
}

/// Enters the namespace, and becomes its root.
pub(super) fn join(start: &Start<'_>, user: &UserNamespace) -> Step<()> {
    let namespace = start.descriptor(user.fd)?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
        .step("join namespace", "user")?;
    become_root()
}

/// Becomes user 0 of the user namespace that was entered, with all rights in it and none outside. New files belong to
/// that user, and its keys are in a ring of their own.
pub(super) fn become_root() -> Step<()> {
    let step = "become root of the user namespace";
    thread::set_thread_groups(&[]).step(step, "groups")?;
    thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).step(step, "group")?;
    thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).step(step, "user")?;
    sys::rights::own_session_keyring().step("leave the session keyring", "")
}

/// Attaches a procfs and a sysfs where nothing of the container will see them. In a mount namespace of its own, a user
/// namespace can only mount the kinds that are there already with nothing hidden (`mount_too_revealing()` of the kernel's
/// fs/namespace.c).
pub(super) fn vouch() -> Step<()> {
    let closed = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    for (kind, place) in [("proc", world::SEEN_PROC), ("sysfs", world::SEEN_SYS)] {
        let detached = mount::new(kind, [], closed).step("make mount", place)?;
        world::attach(&detached, place).step("attach", place)?;
    }
    Ok(())
}

/// Makes pipes the user's, who may want to open `/dev/stdout`. Inside, nobody has the right to.
pub(super) fn give(stdio: Stdio<'_>, process: &Process, uids: IdRange, gids: IdRange) -> Step<()> {
    let step = "own standard streams";
    let owner = outside("user", uids, process.identity.uid)?;
    let group = outside("group", gids, 0)?;
    for fd in [stdio.stdin, stdio.stdout, stdio.stderr] {
        let mode = rustix::fs::fstat(fd).step(step, "")?.st_mode;
        if FileType::from_raw_mode(mode) == FileType::Fifo {
            let (owner, group) = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)));
            rustix::fs::fchown(fd, owner, group).step(step, "")?;
        }
    }
    Ok(())
}

fn outside(what: &str, range: IdRange, id: u32) -> Step<u32> {
    let unmapped = || refusal("map into user namespace", &format!("{what} {id}"), 0);
    range.to_outside(id).ok_or_else(unmapped)
}

/// Makes the namespaces `kinds` inside the new user namespace that this process is in, once somebody has mapped ids into
/// it, and sends each: the user namespace first. Gives the exit status of this process.
pub(crate) fn maker(world: &World, kinds: &[NamespaceKind], channel: &Channel) -> i32 {
    super::tell(channel, make(world, kinds, channel))
}

fn make(world: &World, kinds: &[NamespaceKind], channel: &Channel) -> Step<()> {
    super::session::keep_only(vec![channel.as_fd(), world.proc.as_fd()], &world.proof)?;
    channel.wait_for_go()?;
    become_root()?;
    let kinds: Vec<_> = kinds.iter().map(|kind| pinned(*kind)).collect();
    sys::pin::make(&kinds, &world.proof).step("make namespaces", "of the pod")?;
    for kind in [sys::pin::Kind::User].iter().chain(&kinds) {
        let own = world.own_namespace(kind.name()).step("open namespace", kind.name())?;
        channel.say_with(&Word::Namespace, own.as_fd())?;
    }
    Ok(())
}

fn pinned(kind: NamespaceKind) -> sys::pin::Kind {
    match kind {
        NamespaceKind::Network => sys::pin::Kind::Network,
        NamespaceKind::Ipc => sys::pin::Kind::Ipc,
        NamespaceKind::Uts => sys::pin::Kind::Uts,
    }
}
