//! Device nodes and links, on the tmpfs that we have just mounted as `/dev`, and never on what an image holds.

use super::Step;
use super::resolve::{self, Kind, Links};
use crate::refuse::{Explain, refusal};
use plan::{Device, DeviceKind, LaunchPlan};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, symlinkat};
use std::os::fd::{AsFd, OwnedFd};

/// Makes the plan's devices. What is made on the way belongs to `owner`, or to whoever makes it.
pub(super) fn nodes(
    plan: &LaunchPlan,
    dev: Option<&OwnedFd>,
    owner: Option<(Uid, Gid)>,
) -> Step<()> {
    for device in &plan.devices {
        let (parent, name) = place(&device.path, dev)?;
        if let Some((uid, gid)) = owner {
            chownat(&parent, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                .step("own directory", &device.path)?;
        }
        node(device, &parent, name)?;
    }
    Ok(())
}

/// Makes the plan's links.
pub(super) fn links(plan: &LaunchPlan, dev: Option<&OwnedFd>) -> Step<()> {
    for link in &plan.links {
        let (parent, name) = place(&link.path, dev)?;
        symlinkat(&link.target, &parent, name).step("make link", &link.path)?;
    }
    Ok(())
}

fn node(device: &Device, parent: &OwnedFd, name: &str) -> Step<()> {
    let kind = match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    };
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    let number = makedev(device.major, device.minor);
    mknodat(parent, name, kind, mode, number).step("make device", &device.path)?;
    let (uid, gid) = (Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)));
    chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).step("own device", &device.path)
}

/// The directory of a path below our `/dev`, and its last name.
fn place<'a>(path: &'a str, dev: Option<&OwnedFd>) -> Step<(OwnedFd, &'a str)> {
    let refused = |why: &str| refusal("make device", &format!("{path}: {why}"), 0);
    let below = path.strip_prefix("/dev/").ok_or_else(|| refused("is not below /dev"))?;
    let dev = dev.ok_or_else(|| refused("/dev is no tmpfs of the plan"))?;
    let (parent, name) = below.rsplit_once('/').unwrap_or(("", below));
    if matches!(name, "" | "." | "..") {
        return Err(refused("is no name of a device"));
    }
    let parent = resolve::target(dev.as_fd(), parent, Kind::Directory, Links::Refused)
        .step("make device", path)?;
    Ok((parent, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_below_dev_are_places() {
        let dir = tempfile::tempdir().unwrap();
        let dev = sys::seqpacket::directory(dir.path()).unwrap();
        let cases = [
            ("a device", "/dev/null", true),
            ("in a directory", "/dev/snd/seq", true),
            ("elsewhere", "/etc/null", false),
            ("above", "/dev/..", false),
            ("the directory itself", "/dev/", false),
        ];
        for (name, path, want) in cases {
            assert_eq!(place(path, Some(&dev)).is_ok(), want, "{name}");
        }
        assert!(place("/dev/null", None).is_err(), "no /dev of ours");
    }
}
