//! Containers in the PID namespace of another container, and in the host's.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod stage;

use plan::{LaunchPlan, PidNamespace, Source};
use runtime::cgroup::Limits;
use runtime::id::ContainerId;
use stage::cgroup::Stage;
use stage::{Pod, wait_for};
use std::fs::read_link;

fn plan(pids: PidNamespace, script: &str) -> LaunchPlan {
    LaunchPlan { pids, ..stage::plan(&["sh", "-c", script]) }
}

fn namespace(pid: i32) -> std::path::PathBuf {
    read_link(format!("/proc/{pid}/ns/pid")).unwrap()
}

#[test]
fn privileged_a_container_sees_the_processes_of_its_target() {
    let (of, stage, pod) = (Stage::new("target"), Stage::new("joins"), Pod::new());
    let target = of.container(&pod, &Limits::default());
    let first = target.start(&stage::plan(&["sleep", "1021"])).unwrap();
    let joins = stage.container(&pod, &Limits::default());
    let pids = PidNamespace::Of(target.id.as_str().to_owned());
    let script =
        "cat /proc/1/cmdline; echo; ls /proc/1/fd >/dev/null && echo looks; exec sleep 1022";
    let second = joins.start(&plan(pids, script)).unwrap();
    assert_eq!(namespace(first.pid), namespace(second.pid));
    let log = wait_for("its words", || Some(joins.log()).filter(|log| log.len() == 2));
    assert_eq!(log[0].replace('\0', " "), "stdout F sleep 1021 ");
    let (code, out, _) = target.exec(&["sh", "-c", "cat /proc/[0-9]*/cmdline"]).unwrap();
    assert_eq!(code, 0);
    assert!(out.contains("1022"), "{out:?}");

    // Its own end leaves the target alone; the target's ends all that is there.
    pod.monitor.kill(&joins.id).unwrap();
    assert_eq!(joins.wait().code, 137);
    assert!(target.record().is_none());
    let again = stage.container(&pod, &Limits::default());
    let pids = PidNamespace::Of(target.id.as_str().to_owned());
    again.start(&plan(pids, "sleep 1023")).unwrap();
    pod.monitor.kill(&target.id).unwrap();
    assert_eq!((target.wait().code, again.wait().code), (137, 137));
}

#[test]
fn privileged_a_target_must_run_and_a_cgroup_must_be_there() {
    let (stage, pod) = (Stage::new("gone"), Pod::new());
    let target = pod.container();
    target.start(&stage::plan(&["true"])).unwrap();
    target.wait();
    let nobody = ContainerId::generate();
    for (name, of) in [("ended", &target.id), ("unknown", &nobody)] {
        let container = stage.container(&pod, &Limits::default());
        let pids = PidNamespace::Of(of.as_str().to_owned());
        let refused = container.start(&plan(pids, "true")).unwrap_err().to_string();
        assert!(refused.contains("not running"), "{name}: {refused}");
        assert_eq!(container.wait().code, 128, "{name}");
    }
    let container = pod.container();
    let pids = PidNamespace::Of(nobody.as_str().to_owned());
    let refused = container.start(&plan(pids, "true")).unwrap_err().to_string();
    assert!(refused.contains("cgroup"), "{refused}");
}

#[test]
fn privileged_the_hosts_processes_are_seen_where_asked_for() {
    let (stage, pod) = (Stage::new("host"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let script = format!("test -d /proc/{} && echo $$; exec sleep 1000", pod.monitor.pid());
    let started = container.start(&plan(PidNamespace::Host, &script)).unwrap();
    assert_eq!(namespace(started.pid), namespace(pod.monitor.pid()));
    let log = wait_for("its words", || Some(container.log()).filter(|log| log.len() == 1));
    assert_eq!(log, [format!("stdout F {}", started.pid)]);
    pod.monitor.kill(&container.id).unwrap();
    assert_eq!(container.wait().code, 137);
}

#[test]
fn privileged_message_queues_are_those_of_the_ipc_namespace() {
    let pod = Pod::new();
    let container = pod.container();
    let mut plan = stage::plan(&[
        "sh",
        "-c",
        "touch /dev/mqueue/q; stat -f -c %T /dev/mqueue; ls /dev/mqueue",
    ]);
    plan.mounts.push(stage::mount("/dev/mqueue", Source::Mqueue));
    let ipc = pod.monitor.namespaces(
        &[plan::IdRange { inside: 0, outside: 0, length: 1 }],
        &[plan::IdRange { inside: 0, outside: 0, length: 1 }],
        &[plan::NamespaceKind::Ipc],
    );
    let mut container = container;
    let fd = container.with(ipc.unwrap().remove(1));
    plan.join = vec![plan::Join { kind: plan::NamespaceKind::Ipc, fd }];
    container.start(&plan).unwrap();
    assert_eq!(container.wait().code, 0, "{:?}", container.log());
    let log = container.log();
    assert_eq!(log.last().unwrap(), "stdout F q", "{log:?}");
}
