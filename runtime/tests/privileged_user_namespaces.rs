//! Containers in a user namespace of their pod.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod stage;

use plan::{Capabilities, IdRange, Join, LaunchPlan, NamespaceKind, PidNamespace, UserNamespace};
use runtime::cgroup::Limits;
use runtime::monitor::MonitorError;
use stage::cgroup::Stage;
use stage::{Container, Pod};
use std::fs::{read_link, read_to_string};

const RANGE: IdRange = IdRange { inside: 0, outside: 1_000_000, length: 65_536 };
const KINDS: [NamespaceKind; 3] = [NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts];

/// A plan for `container` in namespaces that are new, its root shown as the user namespace's own.
fn plan(container: &mut Container<'_>, pids: PidNamespace, script: &str) -> LaunchPlan {
    let made = container.pod.monitor.namespaces(&[RANGE], &[RANGE], &KINDS).unwrap();
    sys::mount::map_ids(&container.root, &made[0]).unwrap();
    let mut fds = made.into_iter().map(|fd| container.with(fd));
    let user = UserNamespace { fd: fds.next().unwrap(), uids: RANGE, gids: RANGE };
    let join = KINDS.into_iter().zip(fds).map(|(kind, fd)| Join { kind, fd }).collect();
    LaunchPlan { user: Some(user), join, pids, ..stage::plan(&["sh", "-c", script]) }
}

/// Whether a root of these tests, which is a tmpfs, can be shown so (Linux 6.3).
fn possible(pod: &Pod) -> bool {
    let user = pod.monitor.namespaces(&[RANGE], &[RANGE], &[]).unwrap();
    let tmpfs = sys::mount::new("tmpfs", [], rustix::mount::MountAttrFlags::empty()).unwrap();
    let possible = sys::mount::map_ids(&tmpfs, &user[0]).is_ok();
    if !possible {
        println!("NOT RUN: this kernel maps no ids of a tmpfs");
    }
    possible
}

fn status(pid: i32, field: &str) -> String {
    let status = read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// Whether the namespace `kind` of a process belongs to the user namespace that the process is in.
fn owns(pid: i32, kind: &str) -> bool {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let owner = sys::pin::owner(&namespace).unwrap();
    let user = std::fs::metadata(format!("/proc/{pid}/ns/user")).unwrap();
    let owner = rustix::fs::fstat(&owner).unwrap();
    use std::os::unix::fs::MetadataExt;
    owner.st_ino == user.ino()
}

#[test]
fn privileged_root_inside_is_somebody_else_outside() {
    let pod = Pod::new();
    if !possible(&pod) {
        return;
    }
    let mut container = pod.container();
    let script = "id -u; id -g; cat /proc/self/uid_map; touch /new; stat -c '%u %g' /new /dev / /dev/null /dev/pts; \
                  stat -c %u /proc/1 /sys; echo x > /dev/null && echo written; sleep 1000";
    let mut plan = plan(&mut container, PidNamespace::Own, script);
    plan.process.capabilities =
        Capabilities { bounding: !0, permitted: !0, effective: !0, ambient: 0 };
    let started = container.start(&plan).unwrap();
    let log = stage::wait_for("all that it says", || {
        let log = container.log();
        (log.last().is_some_and(|line| line == "stdout F written")).then_some(log)
    });
    let said: Vec<String> = log
        .iter()
        .map(|line| {
            line.trim_start_matches("stdout F ").split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .collect();
    let mine = ["0", "0", "0 1000000 65536"];
    // The device's owner is a number of the host's.
    let owned = ["0 0", "0 0", "0 0", "65534 65534", "0 0", "0"];
    let want: Vec<&str> = mine.into_iter().chain(owned).collect();
    assert_eq!(said[..want.len()], want, "{said:?}");

    assert_eq!(status(started.pid, "Uid"), ["1000000"; 4].join("\t"));
    assert_eq!(status(started.pid, "Groups"), "1000000");
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        assert!(owns(started.pid, kind), "{kind}");
    }
    let ours = read_link("/proc/self/ns/user").unwrap();
    assert_ne!(read_link(format!("/proc/{}/ns/user", started.pid)).unwrap(), ours);

    let (code, out, err) =
        container.exec(&["sh", "-c", "id -u; readlink /proc/self/ns/user"]).unwrap();
    assert_eq!(code, 0, "{err}");
    let user = read_link(format!("/proc/{}/ns/user", started.pid)).unwrap();
    assert_eq!(out, format!("0\n{}\n", user.display()));
}

#[test]
fn privileged_nothing_of_the_hosts_can_be_changed_or_made() {
    let pod = Pod::new();
    if !possible(&pod) {
        return;
    }
    let mut container = pod.container();
    let script = "mknod /tmp/null c 1 3 2>/dev/null && echo made; \
                  mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; \
                  (echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo wrote; \
                  kill -0 $PPID 2>/dev/null; mount -t tmpfs none /tmp && echo mounts; echo end";
    let mut plan = plan(&mut container, PidNamespace::Own, script);
    plan.process.capabilities =
        Capabilities { bounding: !0, permitted: !0, effective: !0, ambient: 0 };
    container.start(&plan).unwrap();
    assert_eq!(container.wait().code, 0);
    // Its own mount namespace it may well change.
    assert_eq!(container.log(), ["stdout F mounts", "stdout F end"]);
}

#[test]
fn privileged_containers_share_a_pid_namespace_that_is_the_user_namespaces() {
    let (stage, pod) = (Stage::new("users"), Pod::new());
    if !possible(&pod) {
        return;
    }
    let mut container = stage.container(&pod, &Limits::default());
    let plan = plan(&mut container, PidNamespace::Pod, "cat /proc/1/comm; id -u; exec sleep 1000");
    let started = container.start(&plan).unwrap();
    assert!(owns(started.pid, "pid") && owns(started.pid, "mnt"));
    assert_eq!(status(started.pid, "Uid"), ["1000000"; 4].join("\t"));
    let (code, out, err) =
        container.exec(&["sh", "-c", "cat /proc/1/comm; id -u; ls /proc | grep -c '^1$'"]).unwrap();
    assert_eq!((code, out.as_str()), (0, "berth-pod-init\n0\n1\n"), "{err}");
    let log = stage::wait_for("its words", || Some(container.log()).filter(|log| log.len() == 2));
    assert_eq!(log, ["stdout F berth-pod-init", "stdout F 0"]);
}

#[test]
fn privileged_another_user_can_reopen_its_streams() {
    let pod = Pod::new();
    if !possible(&pod) {
        return;
    }
    let mut container = pod.container();
    let mut plan = plan(&mut container, PidNamespace::Own, "echo again > /dev/stdout; id -u");
    (plan.process.identity.uid, plan.process.identity.gid) = (1234, 1234);
    plan.process.identity.groups = vec![1234];
    plan.process.capabilities = Capabilities::default();
    container.start(&plan).unwrap();
    assert_eq!(container.wait().code, 0);
    assert_eq!(container.log(), ["stdout F again", "stdout F 1234"]);
}

#[test]
fn privileged_ids_that_cannot_be_mapped_are_refused() {
    let pod = Pod::new();
    let twice = [RANGE, RANGE];
    let empty = IdRange { length: 0, ..RANGE };
    for (name, uids) in [("overlapping", &twice[..]), ("empty", &[empty]), ("none", &[])] {
        let refused = pod.monitor.namespaces(uids, &[RANGE], &[]);
        assert!(matches!(refused, Err(MonitorError::Refused { .. })), "{name}: {refused:?}");
    }
    // It goes on as if nothing had been.
    assert_eq!(pod.run(&["true"]).0.code, 0);
    if !possible(&pod) {
        return;
    }
    let mut container = pod.container();
    let mut plan = plan(&mut container, PidNamespace::Own, "true");
    plan.process.identity.uid = 70_000;
    let refused = container.start(&plan).unwrap_err().to_string();
    assert!(refused.contains("user 70000"), "{refused}");
}
