//! Nothing survives a kill, and nothing is left by a removal.

use crate::room::{Room, Shell, eventually, held};
use runtime::cgroup::Limits;
use std::time::{Duration, Instant};

#[test]
fn privileged_a_forking_tree_is_killed_whole() {
    let room = Room::new();
    let cgroup = room.create(&Limits { pids: Some(200), ..Limits::default() });
    let held = held(&cgroup);
    // Every process keeps making others, in sessions of their own, and does not care for its children.
    let bomb = "f() { trap '' TERM HUP; while :; do (f) & sleep 0.01; done; }; echo started; f";
    let mut shell = Shell::started(bomb, &held);
    assert_eq!(shell.line(), "started");
    let count = || room.read(&room.container(), "cgroup.procs").lines().count();
    eventually("it grows", || count() > 20);
    held.kill().unwrap();
    eventually("all are gone", || count() == 0);
    held.kill().unwrap();
    shell.wait();
}

#[test]
fn privileged_removal_ends_what_runs_and_can_be_repeated() {
    let room = Room::new();
    let cgroup = room.create(&Limits::default());
    let held = held(&cgroup);
    let first = Shell::started("sleep 1000 & sleep 1000", &held);
    let exec = Shell::started("sleep 1000", &held.child("exec").unwrap().child("deeper").unwrap());
    let pod = room.path.join("pod").unwrap();
    let begun = Instant::now();
    room.cgroups.remove(&pod).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(9), "it waited for its deadline");
    assert!(room.cgroups.open(&pod).unwrap().is_none());
    room.cgroups.remove(&pod).unwrap();
    first.wait();
    exec.wait();
    held.kill().unwrap();
    held.remove_child("exec").unwrap();
    cgroup.kill().unwrap();
}

#[test]
fn privileged_a_frozen_cgroup_is_killed_and_removed() {
    let room = Room::new();
    let held = held(&room.create(&Limits::default()));
    let exec = held.child("exec").unwrap();
    let shells = [Shell::started("sleep 1000", &held), Shell::started("sleep 1000", &exec)];
    let (file, frozen) =
        if room.is_v2() { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
    for path in [room.container().join("exec").unwrap(), room.container()] {
        let mut file = std::fs::File::options().write(true).open(room.file(&path, file)).unwrap();
        std::io::Write::write_all(&mut file, frozen.as_bytes()).unwrap();
    }
    room.cgroups.remove(&room.container()).unwrap();
    for shell in shells {
        shell.wait();
    }
}

/// What a crash in the middle of making a cgroup leaves: it in one hierarchy, and a process in there only.
#[test]
fn privileged_half_a_cgroup_is_found_and_removed() {
    let room = Room::new();
    for hierarchy in room.cgroups.hierarchies() {
        if hierarchy.ends_with("freezer") || hierarchy.ends_with("cpu") {
            continue;
        }
        let pod = hierarchy.join(&room.path.as_str()[1..]).join("pod");
        std::fs::create_dir_all(pod.join("container")).unwrap();
        if room.is_v2() || hierarchy.ends_with("pids") {
            let shell = Shell::new("sleep 1000");
            let mut file =
                std::fs::File::options().write(true).open(pod.join("cgroup.procs")).unwrap();
            std::io::Write::write_all(&mut file, shell.pid().to_string().as_bytes()).unwrap();
            // The shell ends with its input where nobody kills it; here it must not live that long.
            std::thread::spawn(move || shell.wait());
        }
    }
    assert_eq!(room.cgroups.children(&room.path).unwrap(), ["pod"]);
    let is_whole = room.cgroups.open(&room.container()).unwrap().is_some();
    assert_eq!(is_whole, room.is_v2(), "only v2 has nothing to miss");
    room.cgroups.remove(&room.path.join("pod").unwrap()).unwrap();
    assert!(room.cgroups.children(&room.path).unwrap().is_empty());
}
