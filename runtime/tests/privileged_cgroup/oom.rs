//! Kills for want of memory are counted and reported.

use crate::room::{PATIENCE, Room, Shell, held, is_readable};
use runtime::cgroup::Limits;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

const MIB: i64 = 1 << 20;

/// `tail` keeps the last line of its input, which here never ends.
const HOG: &str = "exec tail /dev/zero";

fn tight() -> Limits {
    Limits { memory_bytes: Some(16 * MIB), memory_swap_bytes: Some(16 * MIB), ..Limits::default() }
}

#[test]
fn privileged_an_oom_kill_is_reported_and_counted() {
    let room = Room::new();
    let held = held(&room.create(&tight()));
    let oom = held.oom().unwrap().unwrap();
    assert_eq!(oom.kills().unwrap(), 0);
    assert!(!is_readable(oom.as_fd(), Duration::ZERO), "nothing has happened");
    let hog = Shell::started(HOG, &held);
    assert!(is_readable(oom.as_fd(), PATIENCE));
    assert_eq!(hog.wait().status.signal(), Some(9));
    assert_eq!(oom.kills().unwrap(), 1);
    assert!(
        !is_readable(oom.as_fd(), Duration::ZERO),
        "reading the count takes the readiness back"
    );
    room.cgroups.remove(&room.container()).unwrap();
    assert!(oom.kills().is_err(), "the count goes with the cgroup");
}

#[test]
fn privileged_the_limit_of_the_pod_counts_for_its_container() {
    let room = Room::new();
    room.cgroups.create(&room.path.join("pod").unwrap(), &tight()).unwrap();
    let held = held(&room.create(&Limits::default()));
    let oom = held.oom().unwrap().unwrap();
    let hog = Shell::started(HOG, &held.child("exec").unwrap());
    assert_eq!(hog.wait().status.signal(), Some(9));
    assert_eq!(oom.kills().unwrap(), 1);
}

#[test]
fn privileged_other_ends_are_not_counted() {
    let room = Room::new();
    let held = held(&room.create(&tight()));
    let oom = held.oom().unwrap().unwrap();
    let shell = Shell::started("sleep 1000", &held);
    held.kill().unwrap();
    shell.wait();
    assert_eq!(oom.kills().unwrap(), 0);
}
