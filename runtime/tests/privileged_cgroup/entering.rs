//! Processes get into a container's cgroup, and an exec's into one of its own below.

use crate::room::{Room, Shell, held};
use runtime::cgroup::Limits;

/// The paths of a process's cgroups, but for those of a v2 tree beside v1.
fn cgroups_of(room: &Room, pid: i32) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let parts = text.lines().map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        (parts.next().unwrap().to_owned(), parts.next().unwrap().to_owned())
    });
    parts.filter(|(controllers, _)| room.is_v2() || !controllers.is_empty()).collect()
}

#[test]
fn privileged_a_process_enters_every_hierarchy() {
    let room = Room::new();
    let cgroup = room.create(&Limits::default());
    let held = held(&cgroup);
    assert_eq!(held.clone_into().is_some(), room.is_v2());
    let shell = Shell::new("read end");
    held.enter(shell.pid()).unwrap();
    let found = cgroups_of(&room, shell.pid());
    assert_eq!(found.len(), cgroup.directories().len());
    assert!(found.iter().all(|(_, path)| *path == room.container().as_str()), "{found:?}");
    held.kill().unwrap();
    let pid = shell.pid();
    shell.wait();
    assert_eq!(
        held.enter(pid).unwrap_err().raw_os_error(),
        Some(rustix::io::Errno::SRCH.raw_os_error())
    );
}

#[test]
fn privileged_an_exec_has_a_cgroup_of_its_own() {
    let room = Room::new();
    let cgroup = room.create(&Limits { pids: Some(50), ..Limits::default() });
    let held = held(&cgroup);
    let mut first = Shell::started("read end", &held);
    let exec = held.child("exec-1").unwrap();
    let shell = Shell::started("sleep 1000 & sleep 1000", &exec);
    let below = format!("{}/exec-1", room.container());
    for (controllers, path) in cgroups_of(&room, shell.pid()) {
        let is_own = room.is_v2() || controllers == "freezer";
        assert_eq!(
            path,
            if is_own { below.clone() } else { room.container().to_string() },
            "{controllers}"
        );
    }
    exec.kill().unwrap();
    shell.wait();
    assert!(first.is_running(), "only the exec was killed");
    for _ in 0..2 {
        held.remove_child("exec-1").unwrap();
        assert!(room.cgroups.children(&room.container()).unwrap().is_empty());
    }

    // What still runs in a child is ended with it, and with the container.
    let shell = Shell::started("read end", &held.child("exec-2").unwrap());
    held.remove_child("exec-2").unwrap();
    shell.wait();
    let shell = Shell::started("read end", &held.child("exec-3").unwrap());
    held.kill().unwrap();
    shell.wait();
    first.wait();
    for name in ["", ".", "..", "a/b", "/a"] {
        assert!(held.child(name).is_err() && held.remove_child(name).is_err(), "{name:?}");
    }
}
