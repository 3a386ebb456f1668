use super::*;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_freezer_tracks_processes_where_there_is_one() {
    let cases: &[(&str, &[&str], Option<usize>)] = &[
        ("v2", &["v2"], Some(0)),
        ("v1", &["blkio", "cpu,cpuacct", "freezer"], Some(2)),
        ("v1 without freezer", &["cpu", "memory"], Some(0)),
        ("nothing", &[], None),
    ];
    for (name, labels, want) in cases {
        let labels: Vec<_> = labels.iter().map(|label| Label((*label).to_owned())).collect();
        assert_eq!(tracking(labels.iter()), *want, "{name}");
    }
}

#[test]
fn a_tree_is_removed_children_first_at_any_depth() {
    let dir = tempfile::tempdir().unwrap();
    let top = Directory::open(dir.path()).unwrap();
    let mut deepest = Directory::open(dir.path()).unwrap();
    for _ in 0..500 {
        for name in ["a", "b"] {
            deepest.make_child(name).unwrap();
        }
        deepest = deepest.child("a").unwrap();
    }
    drop(deepest);
    remove_empty(&top, "a").unwrap();
    assert_eq!(top.children().unwrap(), ["b"]);
    remove_empty(&top, "a").unwrap();
}

#[test]
fn zero_is_no_process() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create_new(dir.path().join("cgroup.procs")).unwrap();
    let cgroup = Directory::open(dir.path()).unwrap();
    cgroup.write("cgroup.procs", "0\n17\n-1\nx\n4\n").unwrap();
    let pids: Vec<_> =
        cgroup.processes().unwrap().into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    assert_eq!(pids, [17, 4]);
}

/// Where cgroups are mounted that `brake` is for, on this host.
fn mount_point(brake: Brake) -> Option<&'static Path> {
    let (candidates, file): (&[_], _) = match brake {
        Brake::V2 => (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "cgroup.controllers"),
        Brake::Freezer => (&["/sys/fs/cgroup/freezer"], "cgroup.procs"),
        Brake::Missing => {
            (&["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"], "cgroup.procs")
        }
    };
    candidates.iter().map(Path::new).find(|place| place.join(file).exists())
}

/// The ways for kernels without `cgroup.kill` and hosts without freezer, on processes that keep forking.
#[test]
fn privileged_a_forking_tree_is_killed_one_by_one() {
    for brake in [Brake::V2, Brake::Freezer, Brake::Missing] {
        let Some(mount_point) = mount_point(brake) else {
            println!("{brake:?} not run: no such hierarchy here");
            continue;
        };
        let root = Directory::open(mount_point).unwrap();
        let name = format!("berth-cgroup-test-end-{}-{brake:?}", std::process::id());
        root.make_child(&name).unwrap();
        let cgroup = root.child(&name).unwrap();
        cgroup.make_child("below").unwrap();
        let below = cgroup.child("below").unwrap();
        let script =
            "read go; trap '' TERM; while :; do (trap '' TERM; sleep 1000) & sleep 0.002; done";
        let mut forking =
            Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        below.write("cgroup.procs", &forking.id().to_string()).unwrap();
        forking.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while below.processes().unwrap().len() < 10 {
            assert!(Instant::now() < deadline, "{brake:?}: it does not fork");
            pause();
        }
        let killed = kill_one_by_one(&cgroup, brake);
        // Without killing anything more: whoever was missed goes on forking.
        let ends = Instant::now() + Duration::from_secs(10);
        let mut left = below.processes().unwrap().len();
        while left > 0 && Instant::now() < ends {
            pause();
            left = below.processes().unwrap().len();
        }
        remove(&root, &name, brake, deadline).unwrap();
        killed.unwrap();
        assert_eq!(left, 0, "{brake:?}");
        forking.wait().unwrap();
    }
}
