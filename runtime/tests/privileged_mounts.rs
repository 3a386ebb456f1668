//! Mounts of a plan: what is passed on, what is read-only below, the cgroup view, what may be covered.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod stage;

use plan::{Attributes, COVERABLE, Capabilities, LaunchPlan, Mount, Propagation, Source};
use runtime::cgroup::Limits;
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use stage::cgroup::Stage;
use stage::{Container, Pod};
use std::io::Write as _;
use std::path::{Path, PathBuf};

const EVERYTHING: Capabilities =
    Capabilities { bounding: !0, permitted: !0, effective: !0, ambient: 0 };

/// A directory that is a mount of its own, in a mount namespace that this thread, and so its pod, has for itself.
struct Host {
    _dir: tempfile::TempDir,
    top: PathBuf,
}

impl Host {
    fn new() -> Self {
        sys::rights::own_mount_namespace().unwrap();
        let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
        mount_change("/", private).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        tmpfs(&top);
        mount_change(&top, MountPropagationFlags::SHARED).unwrap();
        Self { _dir: dir, top }
    }

    /// A mount below, made now.
    fn below(&self, name: &str) -> PathBuf {
        let below = self.top.join(name);
        std::fs::create_dir(&below).unwrap();
        tmpfs(&below);
        below
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        unmount(&self.top, UnmountFlags::DETACH).unwrap();
    }
}

fn tmpfs(at: &Path) {
    rustix::mount::mount("test", at, "tmpfs", MountFlags::empty(), c"size=1m").unwrap();
}

/// A plan that shows the tree at `path` as `/mnt`.
fn plan(
    container: &mut Container<'_>,
    path: &Path,
    propagation: Propagation,
    attributes: Attributes,
) -> LaunchPlan {
    let tree = container.with(sys::mount::bind(CWD, path, true).unwrap());
    let mut plan = stage::plan(&["sleep", "1000"]);
    plan.root_propagation = propagation;
    let source = Source::Tree(tree);
    plan.mounts.push(Mount { target: "/mnt".into(), source, attributes, propagation });
    plan.process.capabilities = EVERYTHING;
    plan
}

fn works(container: &Container<'_>, script: &str) -> bool {
    let mut process = stage::process(&["sh", "-c", script]);
    process.capabilities = EVERYTHING;
    let (exec, _out, _err) = container.begin_exec_of(&process).unwrap();
    stage::wait_for("the end of an exec", || exec.ended().unwrap()) == 0
}

#[test]
fn privileged_mounts_travel_as_the_plan_says() {
    let (host, pod) = (Host::new(), Pod::new());
    for (name, propagation, arrives, leaves) in [
        ("private", Propagation::Private, false, false),
        ("slave", Propagation::Slave, true, false),
        ("shared", Propagation::Shared, true, true),
    ] {
        let mut container = pod.container();
        let plan = plan(&mut container, &host.top, propagation, Attributes::default());
        container.start(&plan).unwrap();

        let from_host = host.below(&format!("{name}-in"));
        std::fs::File::create_new(from_host.join("file")).unwrap();
        assert_eq!(works(&container, &format!("cat /mnt/{name}-in/file")), arrives, "{name}: in");

        let out = host.top.join(format!("{name}-out"));
        std::fs::create_dir(&out).unwrap();
        let mount = format!("mount -t tmpfs none /mnt/{name}-out && touch /mnt/{name}-out/file");
        assert!(works(&container, &mount), "{name}");
        assert_eq!(out.join("file").exists(), leaves, "{name}: out");
        pod.monitor.kill(&container.id).unwrap();
        container.wait();
    }
}

#[test]
fn privileged_read_only_is_of_one_mount_or_of_all_below() {
    let (host, pod) = (Host::new(), Pod::new());
    host.below("inner");
    let readonly = Attributes { readonly: true, ..Attributes::default() };
    let recursive = Attributes { recursive_readonly: true, ..readonly };
    let cases = [
        ("writable", Attributes::default(), true, true),
        ("read-only", readonly, false, true),
        ("recursively", recursive, false, false),
    ];
    for (name, attributes, top, inner) in cases {
        let mut container = pod.container();
        let plan = plan(&mut container, &host.top, Propagation::Private, attributes);
        container.start(&plan).unwrap();
        assert_eq!(works(&container, "touch /mnt/file"), top, "{name}: top");
        assert_eq!(works(&container, "touch /mnt/inner/file"), inner, "{name}: inner");
        pod.monitor.kill(&container.id).unwrap();
        container.wait();
    }
    assert!(host.top.join("file").exists(), "what was changed is the host's");
}

#[test]
fn privileged_cgroups_are_seen_from_the_containers_own_down() {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("NOT RUN: cgroup v2 is not mounted at /sys/fs/cgroup");
        return;
    }
    let (stage, pod) = (Stage::new("view"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let mut plan = stage::plan(&[
        "sh",
        "-c",
        "cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | grep -c 1; test -e /sys/fs/cgroup/cgroup.type && echo below",
    ]);
    plan.cgroup_namespace = true;
    let readonly = Attributes {
        readonly: true,
        nosuid: true,
        nodev: true,
        noexec: true,
        ..Attributes::default()
    };
    plan.mounts
        .push(Mount { attributes: readonly, ..stage::mount("/sys/fs/cgroup", Source::Cgroup2) });
    container.start(&plan).unwrap();
    assert_eq!(container.wait().code, 0, "{:?}", container.log());
    let log = container.log();
    assert_eq!(log.first().unwrap(), "stdout F 0::/", "{log:?}");
    assert_eq!(log.last().unwrap(), "stdout F below", "not the root of the host's: {log:?}");
}

#[test]
fn privileged_of_proc_only_what_nobody_sets_anything_by_can_be_covered() {
    let pod = Pod::new();
    let file = pod.dir.path().join("fake");
    std::fs::File::create_new(&file).unwrap().write_all(b"fake\n").unwrap();
    let run = |target: &str| {
        let mut container = pod.container();
        let tree = container.with(sys::mount::bind(CWD, &file, false).unwrap());
        let mut plan = stage::plan(&["cat", target]);
        plan.mounts.push(stage::mount(target, Source::Tree(tree)));
        container.start(&plan).map(|_| (container.wait().code, container.log()))
    };
    for target in COVERABLE {
        if Path::new(target).exists() {
            let want = (0, vec!["stdout F fake".to_owned()]);
            assert_eq!(run(target).unwrap(), want, "{target}");
        }
    }
    for target in
        ["/proc/self/attr/exec", "/proc/sys/kernel/core_pattern", "/proc/version", "/proc"]
    {
        run(target).expect_err(target);
    }
}
