//! Over plain directories: what is made, removed and written, without a kernel to answer.

use super::*;
use crate::cgroup::CgroupError;
use std::fs::{File, create_dir_all, read_to_string};
use std::io::Write;
use tempfile::TempDir;

fn fake(labels: &[&str]) -> (TempDir, Cgroups) {
    let dir = tempfile::tempdir().unwrap();
    let mounted = labels.iter().map(|label| {
        let mount_point = dir.path().join(label);
        create_dir_all(&mount_point).unwrap();
        Mounted { label: Label((*label).to_owned()), mount_point }
    });
    let cgroups = Cgroups::over(mounted.collect()).unwrap();
    (dir, cgroups)
}

fn file(dir: &TempDir, path: &str, content: &str) {
    let path = dir.path().join(path);
    create_dir_all(path.parent().unwrap()).unwrap();
    File::create_new(path).unwrap().write_all(content.as_bytes()).unwrap();
}

fn path(text: &str) -> CgroupPath {
    text.parse().unwrap()
}

fn memory(bytes: i64) -> Limits {
    Limits { memory_bytes: Some(bytes), ..Limits::default() }
}

#[test]
fn every_hierarchy_gets_the_cgroup_and_loses_it() {
    let (dir, cgroups) = fake(&["cpu,cpuacct", "freezer", "name=systemd"]);
    assert_eq!(cgroups.version(), Version::V1);
    let made = cgroups.create(&path("/berth/pod/one"), &Limits::default()).unwrap();
    let want: Vec<_> = cgroups.hierarchies().iter().map(|at| at.join("berth/pod/one")).collect();
    assert_eq!(made.directories(), want);
    assert!(want.iter().all(|directory| directory.is_dir()));
    create_dir_all(dir.path().join("freezer/berth/pod/two/exec")).unwrap();
    assert_eq!(cgroups.children(&path("/berth/pod")).unwrap(), ["one", "two"]);
    assert!(
        cgroups.open(&path("/berth/pod/two")).unwrap().is_none(),
        "it is missing in the others"
    );
    for _ in 0..2 {
        cgroups.remove(&path("/berth/pod")).unwrap();
        assert!(cgroups.children(&path("/berth")).unwrap().is_empty());
        assert!(cgroups.open(&path("/berth/pod")).unwrap().is_none());
    }
    assert!(cgroups.children(&path("/elsewhere/below")).unwrap().is_empty());
}

#[test]
fn processors_and_nodes_are_inherited_where_they_are_empty() {
    let (dir, cgroups) = fake(&["cpuset"]);
    file(&dir, "cpuset/cpuset.cpus", "0-3\n");
    file(&dir, "cpuset/cpuset.mems", "0\n");
    for (place, cpus) in [("berth", ""), ("berth/pod", "1-2\n"), ("berth/pod/one", "")] {
        file(&dir, &format!("cpuset/{place}/cpuset.cpus"), cpus);
        file(&dir, &format!("cpuset/{place}/cpuset.mems"), "");
    }
    let limits = Limits { cpuset_cpus: Some("2".to_owned()), ..Limits::default() };
    cgroups.create(&path("/berth/pod/one"), &Limits::default()).unwrap();
    let cpus = |place: &str| {
        read_to_string(dir.path().join("cpuset").join(place).join("cpuset.cpus")).unwrap()
    };
    assert_eq!([cpus("berth"), cpus("berth/pod"), cpus("berth/pod/one")], ["0-3", "1-2\n", "1-2"]);
    cgroups.create(&path("/berth/pod/one"), &limits).unwrap();
    assert_eq!(cpus("berth/pod/one"), "2-2", "a plain file keeps what is not written over");
}

#[test]
fn parents_enable_what_they_have() {
    let (dir, cgroups) = fake(&["v2"]);
    assert_eq!(cgroups.version(), Version::V2);
    for (place, controllers) in
        [("v2", "cpuset cpu io memory pids rdma\n"), ("v2/berth", "memory pids\n")]
    {
        file(&dir, &format!("{place}/cgroup.controllers"), controllers);
        file(&dir, &format!("{place}/cgroup.subtree_control"), "");
        file(&dir, &format!("{place}/cgroup.procs"), "");
    }
    cgroups.create(&path("/berth/pod"), &Limits::default()).unwrap();
    let enabled = |place: &str| {
        read_to_string(dir.path().join(place).join("cgroup.subtree_control")).unwrap()
    };
    assert_eq!(enabled("v2"), "+cpuset +cpu +io +memory +pids");
    assert_eq!(enabled("v2/berth"), "+memory +pids");
}

#[test]
fn a_limit_without_its_controller_is_refused_and_nothing_stays() {
    for labels in [&["cpu", "freezer"][..], &["v2"][..]] {
        let (dir, cgroups) = fake(labels);
        if labels == ["v2"] {
            for place in ["v2", "v2/berth"] {
                file(&dir, &format!("{place}/cgroup.controllers"), "cpu\n");
                file(&dir, &format!("{place}/cgroup.subtree_control"), "cpu\n");
            }
        }
        let err = cgroups.create(&path("/berth/pod"), &memory(1 << 20)).unwrap_err();
        assert!(
            matches!(err, CgroupError::MissingController { controller: "memory", .. }),
            "{err}"
        );
        assert!(cgroups.children(&path("/berth")).unwrap().is_empty());
        cgroups.create(&path("/berth/pod"), &memory(0)).unwrap();
    }
}

#[test]
fn memory_in_use_cannot_be_taken_away() {
    let cases = [
        ("memory", "memory.usage_in_bytes", "memory.limit_in_bytes"),
        ("v2", "memory.current", "memory.max"),
    ];
    for (label, used, limit) in cases {
        let (dir, cgroups) = fake(&[label]);
        if label == "v2" {
            file(&dir, "v2/cgroup.subtree_control", "cpuset cpu io memory pids hugetlb\n");
        }
        file(&dir, &format!("{label}/pod/{used}"), "4097\n");
        file(&dir, &format!("{label}/pod/{limit}"), "");
        let cgroup = cgroups.open(&path("/pod")).unwrap().unwrap();
        let err = cgroup.apply(&memory(4_096)).unwrap_err();
        assert!(
            matches!(err, CgroupError::MemoryInUse { limit_bytes: 4_096, used_bytes: 4_097, .. }),
            "{err}"
        );
        assert_eq!(read_to_string(dir.path().join(label).join("pod").join(limit)).unwrap(), "");
        cgroup.apply(&memory(4_097)).unwrap();
        assert_eq!(read_to_string(dir.path().join(label).join("pod").join(limit)).unwrap(), "4097");
        // The path of creating one that exists already must refuse as well.
        assert!(cgroups.create(&path("/pod"), &memory(1)).is_err());
    }
}

#[test]
fn a_refused_limit_leaves_the_others_as_they_were() {
    let (dir, cgroups) = fake(&["cpu", "memory"]);
    file(&dir, "cpu/pod/cpu.shares", "1024\n");
    file(&dir, "memory/pod/memory.usage_in_bytes", "0\n");
    let cgroup = cgroups.open(&path("/pod"));
    let cgroup = cgroup.unwrap().unwrap();
    let limits = Limits { cpu_shares: Some(2_048), ..memory(1 << 20) };
    let err = cgroup.apply(&limits).unwrap_err();
    assert!(
        matches!(err, CgroupError::MissingController { ref file, .. } if file == "memory.limit_in_bytes"),
        "{err}"
    );
    assert_eq!(read_to_string(dir.path().join("cpu/pod/cpu.shares")).unwrap(), "1024\n");
}

#[test]
fn contradicting_limits_are_refused_before_anything_is_made() {
    let (_dir, cgroups) = fake(&["memory"]);
    let limits = Limits { memory_swap_bytes: Some(1), ..memory(2) };
    assert!(matches!(cgroups.create(&path("/berth"), &limits), Err(CgroupError::Limits(_))));
    assert!(cgroups.open(&path("/berth")).unwrap().is_none());
    assert!(matches!(Cgroups::over(Vec::new()), Err(CgroupError::NotMounted)));
}
