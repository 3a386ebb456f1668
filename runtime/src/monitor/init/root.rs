//! The container's root: attached in its own mount namespace only, and made the root there.

use super::{Start, Step};
use crate::refuse::Explain;
use crate::world;
use plan::{LaunchPlan, Propagation};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountAttrFlags;
use std::os::fd::{AsFd, BorrowedFd};
use sys::mount::{self, Change};

/// Puts the root onto the monitor's empty directory. The descriptor now is the root of a mount like any other.
pub(super) fn attach<'a>(start: &'a Start<'_>) -> Step<BorrowedFd<'a>> {
    let root = start.descriptor(start.plan.root)?;
    put(root)?;
    Ok(root)
}

/// Makes an empty directory the root directory, and lets go of the monitor's.
pub(super) fn enter_nothing() -> Step<()> {
    let step = "attach";
    let nothing = mount::bind(CWD, world::EMPTY, false).step(step, world::EMPTY)?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount::set_attributes(&nothing, Change { set, ..Change::default() })
        .step(step, world::EMPTY)?;
    put(nothing.as_fd())?;
    mount::pivot(&nothing).step("pivot", "to an empty root")
}

fn put(root: BorrowedFd<'_>) -> Step<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, world::ROOT, flags, Mode::empty())
        .step("open", "the place of the root")?;
    mount::attach(root, place).step("attach", "the root")
}

/// Makes it the root directory, lets go of the monitor's, and closes it to writes where the plan says so.
pub(super) fn enter(plan: &LaunchPlan, root: BorrowedFd<'_>) -> Step<()> {
    mount::pivot(root).step("pivot", "to the root")?;
    let propagation = match plan.root_propagation {
        Propagation::Private => None,
        Propagation::Slave => Some(mount::Propagation::Slave),
        Propagation::Shared => Some(mount::Propagation::Shared),
    };
    let set = if plan.root_readonly {
        MountAttrFlags::MOUNT_ATTR_RDONLY
    } else {
        MountAttrFlags::empty()
    };
    mount::set_attributes(root, Change { set, propagation, ..Change::default() })
        .step("set attributes", "of the root")
}
