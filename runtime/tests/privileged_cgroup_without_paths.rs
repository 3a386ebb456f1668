//! The monitor's part works where no path of the host resolves any more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use runtime::cgroup::{Cgroups, Held, Limits};
use std::io::Write;
use std::process::{Child, Command, Stdio};

/// A process that waits for its input to end.
fn waiting() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// The only test of its program: the root directory belongs to the whole process.
#[test]
fn privileged_a_held_cgroup_needs_no_path() {
    let cgroups = Cgroups::detect().unwrap();
    let path = format!("/berth-cgroup-test-{}", std::process::id()).parse().unwrap();
    let limits = Limits { memory_bytes: Some(16 << 20), pids: Some(20), ..Limits::default() };
    let cgroup = cgroups.create(&path, &limits).unwrap();
    let held = Held::from_descriptors(cgroup.descriptors().unwrap()).unwrap();
    drop(cgroup);
    let [mut first, mut exec, mut last] = [waiting(), waiting(), waiting()];
    let pid = |child: &Child| i32::try_from(child.id()).unwrap();

    let empty = tempfile::tempdir().unwrap();
    std::os::unix::fs::chroot(empty.path()).unwrap();
    std::env::set_current_dir("/").unwrap();
    assert!(!std::path::Path::new("/sys").exists());

    let oom = held.oom().unwrap().unwrap();
    held.enter(pid(&first)).unwrap();
    let child = held.child("exec").unwrap();
    child.enter(pid(&exec)).unwrap();
    child.kill().unwrap();
    assert!(!exec.wait().unwrap().success());
    held.remove_child("exec").unwrap();
    first.stdin.as_mut().unwrap().write_all(b"still here").unwrap();
    held.enter(pid(&last)).unwrap();
    held.kill().unwrap();
    assert!(!first.wait().unwrap().success());
    assert!(!last.wait().unwrap().success());
    assert_eq!(oom.kills().unwrap(), 0);
    cgroups.remove(&path).unwrap();
    assert!(cgroups.open(&path).unwrap().is_none());
}
