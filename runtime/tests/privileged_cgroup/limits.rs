//! Limits are in force as the kernel itself shows them, and refused ones change nothing.

use crate::room::{Room, Shell, held};
use runtime::cgroup::{CgroupError, Limits};

const MIB: i64 = 1 << 20;

fn all() -> Limits {
    Limits {
        cpu_shares: Some(2_048),
        cpu_quota_us: Some(20_000),
        cpu_period_us: Some(50_000),
        memory_bytes: Some(32 * MIB),
        memory_swap_bytes: Some(32 * MIB),
        pids: Some(77),
        cpuset_cpus: Some("0".to_owned()),
        cpuset_mems: Some("0".to_owned()),
        hugepages: Vec::new(),
        unified: Vec::new(),
        devices: None,
    }
}

/// Which file shows what, by version; files that only exist with swap accounting are left out.
fn shown(room: &Room, v1: &[(&str, &str)], v2: &[(&str, &str)]) {
    for (file, want) in if room.is_v2() { v2 } else { v1 } {
        assert_eq!(room.read(&room.container(), file), *want, "{file}");
    }
}

#[test]
fn privileged_limits_are_in_force() {
    let room = Room::new();
    let cgroup = room.create(&all());
    assert_eq!(cgroup.directories().len(), room.cgroups.hierarchies().len());
    let v1 = [
        ("cpu.shares", "2048"),
        ("cpu.cfs_quota_us", "20000"),
        ("cpu.cfs_period_us", "50000"),
        ("memory.limit_in_bytes", "33554432"),
        ("memory.memsw.limit_in_bytes", "33554432"),
        ("pids.max", "77"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
    ];
    let v2 = [
        ("cpu.weight", "174"),
        ("cpu.max", "20000 50000"),
        ("memory.max", "33554432"),
        ("memory.swap.max", "0"),
        ("pids.max", "77"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
    ];
    shown(&room, &v1, &v2);
}

#[test]
fn privileged_limits_grow_shrink_and_end() {
    let room = Room::new();
    let cgroup = room.create(&all());
    let memory = |memory: i64, both: i64| Limits {
        memory_bytes: Some(memory),
        memory_swap_bytes: Some(both),
        ..Limits::default()
    };
    let cases = [
        (64 * MIB, 64 * MIB),
        (16 * MIB, 16 * MIB),
        (24 * MIB, 48 * MIB),
        (48 * MIB, 48 * MIB),
        (-1, -1),
    ];
    for (bytes, both) in cases {
        cgroup.apply(&memory(bytes, both)).unwrap();
        let (file, unlimited) = if room.is_v2() {
            ("memory.max", "max")
        } else {
            ("memory.limit_in_bytes", "9223372036854771712")
        };
        let want = if bytes < 0 { unlimited.to_owned() } else { bytes.to_string() };
        assert_eq!(room.read(&room.container(), file), want, "{bytes} with swap {both}");
    }
    let cpu = |quota: i64, period: u64| Limits {
        cpu_quota_us: Some(quota),
        cpu_period_us: Some(period),
        ..Limits::default()
    };
    // The parent has the same share as the child, so any moment above it is refused (v1).
    let parent = room.path.join("pod").unwrap();
    room.cgroups.open(&parent).unwrap().unwrap().apply(&cpu(40_000, 100_000)).unwrap();
    for (quota, period) in [(4_000, 10_000), (80_000, 200_000), (8_000, 20_000), (-1, 100_000)] {
        cgroup.apply(&cpu(quota, period)).unwrap_or_else(|err| panic!("{quota}/{period}: {err:?}"));
    }
    shown(
        &room,
        &[("cpu.cfs_quota_us", "-1"), ("cpu.shares", "2048")],
        &[("cpu.max", "max 100000")],
    );
}

#[test]
fn privileged_taking_over_a_cgroup_keeps_what_is_not_asked_for() {
    let room = Room::new();
    room.create(&all());
    room.create(&Limits { pids: Some(12), ..Limits::default() });
    shown(
        &room,
        &[("pids.max", "12"), ("cpu.shares", "2048")],
        &[("pids.max", "12"), ("cpu.weight", "174")],
    );
}

#[test]
fn privileged_a_refused_limit_leaves_everything_as_it_was() {
    let room = Room::new();
    let cgroup = room.create(&all());
    let refused = Limits {
        cpu_shares: Some(512),
        pids: Some(5),
        cpuset_cpus: Some("4000".to_owned()),
        ..Limits::default()
    };
    let err = cgroup.apply(&refused).unwrap_err();
    assert!(matches!(&err, CgroupError::Write { file, .. } if file == "cpuset.cpus"), "{err:?}");
    let same = [("pids.max", "77"), ("cpuset.cpus", "0")];
    shown(&room, &same, &same);
    shown(&room, &[("cpu.shares", "2048")], &[("cpu.weight", "174")]);

    let sibling = room.path.join("pod").unwrap().join("refused").unwrap();
    room.cgroups.create(&sibling, &refused).unwrap_err();
    assert_eq!(room.cgroups.children(&room.path.join("pod").unwrap()).unwrap(), ["container"]);
}

#[test]
fn privileged_memory_in_use_is_not_taken_away() {
    let room = Room::new();
    let cgroup = room.create(&all());
    let mut shell = Shell::started(
        "x=$(head -c 4000000 /dev/zero | tr '\\0' x); echo full; read end",
        &held(&cgroup),
    );
    assert_eq!(shell.line(), "full");
    let less = Limits { memory_bytes: Some(MIB), ..Limits::default() };
    let err = cgroup.apply(&less).unwrap_err();
    assert!(matches!(err, CgroupError::MemoryInUse { limit_bytes: 0x10_0000, .. }), "{err}");
    assert!(shell.is_running());
    shown(&room, &[("memory.limit_in_bytes", "33554432")], &[("memory.max", "33554432")]);
    cgroup.kill().unwrap();
    shell.wait();
}

/// The "no internal processes" rule of v2: a parent with processes cannot give controllers to its children.
#[test]
fn privileged_a_parent_with_processes_gives_no_controllers() {
    let room = Room::new();
    if !room.is_v2() {
        println!("not run: v1 has no such rule");
        return;
    }
    let parent = room.cgroups.create(&room.path, &Limits::default()).unwrap();
    let shell = Shell::started("read end", &held(&parent));
    let path = room.path.join("child").unwrap();
    let err =
        room.cgroups.create(&path, &Limits { pids: Some(5), ..Limits::default() }).unwrap_err();
    let CgroupError::MissingController { controller: "pids", source: Some(why), .. } = &err else {
        panic!("{err:?}")
    };
    assert_eq!(why.kind(), std::io::ErrorKind::ResourceBusy);
    assert!(room.cgroups.open(&path).unwrap().is_none(), "taken back");
    let child = room.cgroups.create(&path, &Limits::default()).unwrap();
    assert_eq!(room.read(&path, "cgroup.type"), "domain", "processes can enter");
    Shell::started("true", &held(&child)).wait();
    parent.kill().unwrap();
    shell.wait();
}
