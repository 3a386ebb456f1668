//! What a container has and has not, and what hostile roots get.

mod stage;

use plan::{Attributes, Capabilities, Identity, Mount, Propagation, Rlimit, Source};
use runtime::monitor::StartError;
use rustix::mount::MountAttrFlags;
use stage::{Pod, mount, options, plan};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;

fn refused(result: Result<runtime::monitor::Started, StartError>) -> String {
    match result {
        Err(StartError::Refused { step, message }) => format!("{step}: {message}"),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn privileged_no_descriptor_but_the_standard_ones() {
    let pod = Pod::new();
    let container = pod.container();
    // The shell expands the pattern itself and holds no directory open meanwhile.
    let script =
        "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done; readlink /proc/$$/fd/0; sleep 1000";
    container.start(&plan(&["sh", "-c", script])).unwrap();
    let log = stage::wait_for("its list", || Some(container.log()).filter(|log| log.len() >= 4));
    let own: Vec<_> = log.iter().filter(|line| !line.ends_with("/null")).collect();
    // The directory that the shell itself reads is number 3 at most.
    assert!(
        own.iter().all(|line| matches!(
            line.as_str(),
            "stdout F 0" | "stdout F 1" | "stdout F 2" | "stdout F 3"
        )),
        "{log:?}"
    );
    let (code, out, _) = container.exec(&["ls", "/proc/1/fd"]).unwrap();
    assert_eq!((code, out.as_str()), (0, "0\n1\n2\n"));
    let (_, out, _) = container.exec(&["sh", "-c", "ls /proc/$$/fd; true"]).unwrap();
    assert_eq!(out, "0\n1\n2\n");
}

#[test]
fn privileged_identity_and_capabilities_are_exact() {
    let pod = Pod::new();
    let mut plan =
        plan(&["grep", "-E", "^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)", "/proc/self/status"]);
    plan.process.identity = Identity { uid: 1000, gid: 1001, groups: vec![1001, 7], umask: None };
    plan.process.capabilities =
        Capabilities { bounding: 0x21, permitted: 0, effective: 0, ambient: 0 };
    let container = pod.container();
    container.start(&plan).unwrap();
    container.wait();
    let log = container.log().join("\n");
    for want in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1001\t1001\t1001\t1001",
        "Groups:\t7 1001",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000021",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(log.contains(want), "{want} in {log}");
    }
}

#[test]
fn privileged_ambient_capabilities_reach_an_ordinary_user() {
    let pod = Pod::new();
    let mut plan = plan(&["grep", "Cap", "/proc/self/status"]);
    plan.process.identity = Identity { uid: 1000, gid: 1000, groups: vec![1000], umask: None };
    let one = 1 << 10;
    plan.process.capabilities =
        Capabilities { bounding: one, permitted: one, effective: one, ambient: one };
    let container = pod.container();
    container.start(&plan).unwrap();
    container.wait();
    let log = container.log();
    assert_eq!(log.iter().filter(|line| line.ends_with("0000000000000400")).count(), 5, "{log:?}");
}

#[test]
fn privileged_limits_directory_and_mask_hold() {
    let pod = Pod::new();
    let mut plan = plan(&[
        "sh",
        "-c",
        "ulimit -n; pwd; umask; touch x; stat -c %a x; cat /proc/self/oom_score_adj",
    ]);
    plan.process.rlimits = vec![Rlimit { resource: 7, soft: 100, hard: 200 }];
    plan.process.cwd = "/srv/made/for/it".to_owned();
    plan.process.identity.umask = Some(0o027);
    plan.process.oom_score_adj = Some(500);
    let container = pod.container();
    container.start(&plan).unwrap();
    container.wait();
    let log = container.log();
    assert_eq!(
        log,
        [
            "stdout F 100",
            "stdout F /srv/made/for/it",
            "stdout F 0027",
            "stdout F 640",
            "stdout F 500"
        ]
    );
}

#[test]
fn privileged_a_lower_oom_score_than_granted_is_no_failure() {
    let pod = Pod::new();
    let mut plan = plan(&["cat", "/proc/self/oom_score_adj"]);
    plan.process.oom_score_adj = Some(-998);
    let container = pod.container();
    container.start(&plan).unwrap();
    assert_eq!(container.wait().code, 0);
    assert_eq!(container.log().len(), 1);
}

#[test]
fn privileged_hidden_paths_are_hidden_and_protected_ones_hold() {
    let pod = Pod::new();
    let script = "cat /proc/keys | grep -c .; ls /sys/firmware | grep -c .; \
        stat -c %t:%T /etc/secret; touch /sys/firmware/x || echo dir; \
        echo x > /proc/sys/kernel/hostname || echo file; touch /etc/x || echo etc";
    let mut plan = plan(&["sh", "-c", script]);
    plan.masked =
        ["/proc/keys", "/sys/firmware", "/etc/secret", "/not/there"].map(str::to_owned).into();
    plan.readonly = ["/proc/sys", "/etc", "/not/there"].map(str::to_owned).into();
    let container = pod.container();
    std::fs::hard_link(container.path().join("etc/passwd"), container.path().join("etc/secret"))
        .unwrap();
    container.start(&plan).unwrap();
    container.wait();
    let log: Vec<_> =
        container.log().into_iter().filter(|line| line.starts_with("stdout")).collect();
    assert_eq!(
        log,
        [
            "stdout F 0",
            "stdout F 0",
            "stdout F 1:3",
            "stdout F dir",
            "stdout F file",
            "stdout F etc"
        ]
    );
}

#[test]
fn privileged_a_read_only_root_is_read_only_but_for_its_mounts() {
    let pod = Pod::new();
    let mut plan = plan(&[
        "sh",
        "-c",
        "touch /x || echo root; touch /tmp/x && echo tmp; touch /dev/shm/x && echo shm",
    ]);
    plan.root_readonly = true;
    plan.mounts.push(mount("/tmp", Source::Tmpfs(options(&[("mode", "1777")]))));
    let container = pod.container();
    container.start(&plan).unwrap();
    container.wait();
    let log: Vec<_> =
        container.log().into_iter().filter(|line| line.starts_with("stdout")).collect();
    assert_eq!(log, ["stdout F root", "stdout F tmp", "stdout F shm"]);
}

#[test]
fn privileged_shared_memory_is_the_pods() {
    let pod = Pod::new();
    pod.run(&["sh", "-c", "echo hello > /dev/shm/word"]);
    let (_, log) = pod.run(&["cat", "/dev/shm/word"]);
    assert_eq!(log, ["stdout F hello"]);
}

#[test]
fn privileged_special_directories_must_be_real() {
    for name in ["proc", "sys", "dev"] {
        let outside = tempfile::tempdir().unwrap();
        for target in ["/etc", "../../../../etc", outside.path().to_str().unwrap()] {
            let pod = Pod::new();
            let container = pod.container();
            std::fs::remove_dir(container.path().join(name)).unwrap();
            symlink(target, container.path().join(name)).unwrap();
            let why = refused(container.start(&plan(&["true"])));
            assert!(why.contains("symbolic links"), "{name} -> {target}: {why}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

#[test]
fn privileged_volumes_land_inside_whatever_their_targets_are() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("untouched");
    for target in [secret.to_str().unwrap(), "../../../../../../tmp/untouched", "/gone/deeper"] {
        let pod = Pod::new();
        let mut container = pod.container();
        let volume = sys::mount::new("tmpfs", [("mode", "755")], MountAttrFlags::empty()).unwrap();
        std::fs::create_dir(format!("/proc/self/fd/{}/inside", volume.as_raw_fd())).unwrap();
        let fd = container.with(volume);
        symlink(target, container.path().join("data")).unwrap();
        let mut plan = plan(&["ls", "/data"]);
        plan.mounts.push(Mount {
            target: "/data".to_owned(),
            source: Source::Tree(fd),
            attributes: Attributes { readonly: true, ..Attributes::default() },
            propagation: Propagation::Private,
        });
        container.start(&plan).unwrap();
        assert_eq!(container.wait().code, 0);
        assert_eq!(container.log(), ["stdout F inside"], "{target}");
        assert!(!secret.exists());
    }
    assert!(!Path::new("/tmp/untouched").exists());
}

#[test]
fn privileged_nothing_covers_the_process_list() {
    for target in ["/proc", "/proc/sys", "/proc/self/attr", "/proc/1", "/"] {
        let pod = Pod::new();
        let mut plan = plan(&["true"]);
        plan.mounts.push(mount(target, Source::Tmpfs(Vec::new())));
        let why = refused(pod.container().start(&plan));
        assert!(why.contains("mount"), "{target}: {why}");
    }
}

#[test]
fn privileged_a_working_directory_outside_is_refused() {
    for cwd in ["/proc/self/fd/3", "/proc/self/fd/4", "/proc/1/cwd/..", "/proc/self/root"] {
        let pod = Pod::new();
        let mut plan = plan(&["true"]);
        plan.process.cwd = cwd.to_owned();
        let started = pod.container().start(&plan);
        assert!(started.is_err(), "{cwd}");
        let why = refused(started);
        assert!(why.starts_with("resolve working directory: "), "{cwd}: {why}");
    }
}

#[test]
fn privileged_a_filter_refuses_calls() {
    use plan::{Instruction, Seccomp};
    let pod = Pod::new();
    for no_new_privileges in [true, false] {
        let mut plan =
            plan(&["sh", "-c", "mount -t tmpfs none /tmp; grep Seccomp: /proc/self/status"]);
        plan.process.no_new_privileges = no_new_privileges;
        // mount(2) is number 165 on x86-64: it fails with EPERM, and all others go through.
        let at = |code, jt, jf, k| Instruction { code, jt, jf, k };
        let program = vec![
            at(0x20, 0, 0, 0),
            at(0x15, 0, 1, 165),
            at(0x06, 0, 0, 0x0005_0001),
            at(0x06, 0, 0, 0x7fff_0000),
        ];
        plan.process.seccomp = Some(Seccomp { program, flags: 0 });
        let container = pod.container();
        container.start(&plan).unwrap();
        container.wait();
        let log = container.log();
        assert_eq!(log.last().unwrap(), "stdout F Seccomp:\t2", "{log:?}");
    }
}

#[test]
fn privileged_a_terminal_is_the_containers_own() {
    let pod = Pod::new();
    let script =
        "readlink /proc/self/fd/0; stat -c %F /dev/console; ls /dev/pts; echo x > /dev/console";
    let mut plan = plan(&["sh", "-c", script]);
    plan.process.terminal = Some(plan::Terminal { rows: 24, columns: 80 });
    let container = pod.container();
    container.start(&plan).unwrap();
    assert_eq!(container.wait().code, 0);
    let log: Vec<_> = container.log().iter().map(|line| line.trim_end().to_owned()).collect();
    assert_eq!(log[0], "stdout F /dev/pts/0");
    assert_eq!(log[1], "stdout F character special file");
    assert_eq!(log.last().unwrap(), "stdout F x");
}
