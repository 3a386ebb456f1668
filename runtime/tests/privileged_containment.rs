//! Containers in cgroups of their own, on whatever version this machine has.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod stage;

use runtime::cgroup::Limits;
use runtime::exit::Cause;
use stage::cgroup::Stage;
use stage::{Pod, plan, wait_for};
use std::path::Path;

fn cgroups_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
}

#[test]
fn privileged_a_container_and_its_execs_are_in_its_cgroup() {
    let (stage, pod) = (Stage::new("in"), Pod::new());
    let container = stage.container(&pod, &Limits { pids: Some(50), ..Limits::default() });
    let started = container.start(&plan(&["sleep", "1000"])).unwrap();
    let own = stage.path.to_string();
    assert!(cgroups_of(started.pid).contains(&own), "{}", cgroups_of(started.pid));
    let (exec, _out, _err) = container.begin_exec(&["sleep", "993"]).unwrap();
    assert!(cgroups_of(exec.pid()).contains(&format!("{own}/exec-")), "{}", cgroups_of(exec.pid()));
    assert_eq!(stage.children().len(), 1);
    exec.kill().unwrap();
    assert_eq!(wait_for("its end", || exec.ended().unwrap()), 137);
    assert!(stage.children().is_empty(), "an exec's cgroup goes with it");
    pod.monitor.kill(&container.id).unwrap();
    assert_eq!(container.wait().code, 137);
}

#[test]
fn privileged_an_exec_that_loses_its_client_dies_whole() {
    let (stage, pod) = (Stage::new("whole"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    container.start(&plan(&["sleep", "1000"])).unwrap();
    // A session of its own, so that no process group leads to the child.
    let script = "/bin/busybox setsid sleep 992 & sleep 991";
    let (exec, _out, _err) = container.begin_exec(&["sh", "-c", script]).unwrap();
    let sleeps = || {
        let tasks = stage.directories().into_iter().flat_map(|directory| {
            let names = stage.children();
            names.into_iter().filter_map(move |name| {
                std::fs::read_to_string(directory.join(name).join("cgroup.procs")).ok()
            })
        });
        tasks.map(|tasks| tasks.lines().count()).sum::<usize>()
    };
    wait_for("its processes", || (sleeps() > 1).then_some(()));
    drop(exec);
    wait_for("none", || (sleeps() == 0).then_some(()));
    // What could not be removed while they died is removed with the next exec.
    wait_for("an empty cgroup", || {
        container.exec(&["true"]).unwrap();
        stage.children().is_empty().then_some(())
    });
    pod.monitor.kill(&container.id).unwrap();
    container.wait();
}

#[test]
fn privileged_a_background_child_keeps_its_cgroup_until_it_ends() {
    let (stage, pod) = (Stage::new("background"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    container.start(&plan(&["sleep", "1000"])).unwrap();
    let script = "sleep 990 >/dev/null 2>&1 & echo $! > /tmp/child";
    assert_eq!(container.exec(&["sh", "-c", script]).unwrap().0, 0);
    assert_eq!(stage.children().len(), 1);
    assert_eq!(container.exec(&["sh", "-c", "kill $(cat /tmp/child)"]).unwrap().0, 0);
    wait_for("the end of the child", || {
        container.exec(&["true"]).unwrap();
        stage.children().is_empty().then_some(())
    });
    pod.monitor.kill(&container.id).unwrap();
    container.wait();
}

#[test]
fn privileged_killed_for_want_of_memory_is_told() {
    let (stage, pod) = (Stage::new("oom"), Pod::new());
    let limits = Limits {
        memory_bytes: Some(16 << 20),
        memory_swap_bytes: Some(16 << 20),
        ..Limits::default()
    };
    let container = stage.container(&pod, &limits);
    // The shell itself grows until it is killed.
    container
        .start(&plan(&["sh", "-c", "x=0123456789abcdef; while true; do x=$x$x; done"]))
        .unwrap();
    let exit = container.wait();
    assert_eq!((exit.code, exit.cause), (137, Cause::OutOfMemory));
}

#[test]
fn privileged_killed_by_a_signal_is_no_want_of_memory() {
    let (stage, pod) = (Stage::new("signal"), Pod::new());
    let limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    let container = stage.container(&pod, &limits);
    let started = container.start(&plan(&["sleep", "1000"])).unwrap();
    pod.monitor.kill(&container.id).unwrap();
    let exit = container.wait();
    assert_eq!((exit.code, exit.cause), (137, Cause::Ended));
    assert!(!Path::new(&format!("/proc/{}", started.pid)).exists());
}

#[test]
fn privileged_a_cgroup_namespace_begins_at_the_containers_cgroup() {
    let (stage, pod) = (Stage::new("namespace"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let mut plan = plan(&["cat", "/proc/self/cgroup"]);
    plan.cgroup_namespace = true;
    container.start(&plan).unwrap();
    container.wait();
    let log = container.log();
    assert!(log.iter().any(|line| line.ends_with(":/")), "{log:?}");
    assert!(!log.join(" ").contains("berth-test"), "{log:?}");
}
