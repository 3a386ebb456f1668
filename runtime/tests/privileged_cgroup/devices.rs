//! Device rules hold against root.

use crate::room::{Room, Shell, held};
use runtime::cgroup::{Cgroup, DeviceKind, DeviceRule, Limits};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::os::fd::AsFd;

const ALL: [&str; 5] = ["make a disk", "read a disk", "write null", "read zero", "make a terminal"];

fn allow(kind: DeviceKind, numbers: Option<(u32, u32)>, access: &str) -> DeviceRule {
    let (major, minor) = numbers.unzip();
    DeviceRule { allow: true, kind, major, minor, access: access.parse().unwrap() }
}

fn limits(rules: &[DeviceRule]) -> Limits {
    Limits { devices: Some(rules.to_vec()), ..Limits::default() }
}

/// What a root process in the cgroup can do. An open that the driver refuses has passed the rules.
fn possible(cgroup: &Cgroup) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    mknodat(CWD, at("disk"), FileType::BlockDevice, Mode::from_raw_mode(0o600), makedev(7, 0))
        .unwrap();
    let script = format!(
        "try() {{ name=$1; shift; case $(\"$@\" 2>&1) in *'not permitted'*) ;; *) echo \"$name\";; esac; }}
         try 'make a disk' mknod {made} b 7 0
         try 'read a disk' dd if={disk} of={copy} count=0
         try 'write null' dd if={script} of=/dev/null
         try 'read zero' dd if=/dev/zero of={copy} count=1
         try 'make a terminal' mknod {terminal} c 136 77",
        made = at("made"),
        disk = at("disk"),
        copy = at("copy"),
        script = "/proc/self/cmdline",
        terminal = at("terminal"),
    );
    let output = Shell::started(&script, &held(cgroup)).wait();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn privileged_only_allowed_devices_can_be_used() {
    let null = || allow(DeviceKind::Char, Some((1, 3)), "rwm");
    let deny_all = DeviceRule { allow: false, ..allow(DeviceKind::All, None, "rwm") };
    let cases: &[(&str, &[DeviceRule], &[&str])] = &[
        ("no rules", &[], &[]),
        ("one device", &[null()], &["write null"]),
        (
            "as runtimes do it",
            &[
                deny_all,
                allow(DeviceKind::Block, None, "m"),
                allow(DeviceKind::Char, None, "m"),
                null(),
            ],
            &["make a disk", "write null", "make a terminal"],
        ),
        ("everything", &[allow(DeviceKind::All, None, "rwm")], &ALL),
    ];
    for (name, rules, want) in cases {
        let room = Room::new();
        assert_eq!(possible(&room.create(&limits(rules))), *want, "{name}");
    }
    assert_eq!(possible(&Room::new().create(&Limits::default())), ALL, "no word about devices");
}

#[test]
fn privileged_new_rules_take_the_place_of_old_ones() {
    let room = Room::new();
    let cgroup = room.create(&limits(&[allow(DeviceKind::Char, Some((1, 3)), "rwm")]));
    let zero = limits(&[allow(DeviceKind::Char, Some((1, 5)), "r")]);
    for _ in 0..2 {
        cgroup.apply(&zero).unwrap();
        assert_eq!(possible(&cgroup), ["read zero"]);
    }
    cgroup.apply(&Limits { pids: Some(50), ..Limits::default() }).unwrap();
    assert_eq!(possible(&cgroup), ["read zero"], "other limits leave devices alone");
    if room.is_v2() {
        let directory = std::fs::File::open(&cgroup.directories()[0]).unwrap();
        assert_eq!(sys::bpf::device_programs(directory.as_fd()).unwrap(), 1);
    }
}
