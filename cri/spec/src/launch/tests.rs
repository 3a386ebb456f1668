//! Plans of specs: what becomes of each part, and that nothing is passed over.

use super::*;
use crate::container;
use crate::input::CgroupFacts;
use crate::testing::{Request, device};
use cri_api::runtime::v1;
use cri_api::runtime::v1::NamespaceMode;
use oci_spec::runtime::{Mount, PosixRlimitBuilder, PosixRlimitType, Process};
use plan::Source;

fn spec(request: &Request) -> Spec {
    container(&request.input()).expect("spec")
}

fn plan(request: &Request) -> Launch {
    launch(&spec(request), &request.host).expect("plan")
}

fn process(spec: &mut Spec) -> &mut Process {
    spec.process_mut().as_mut().expect("process")
}

#[test]
fn every_descriptor_of_the_plan_is_opened_once_and_in_order() {
    let mut request = Request::plain();
    request.host.cgroup = CgroupFacts::V1 {
        hierarchies: vec!["/sys/fs/cgroup/cpu,cpuacct".into(), "/sys/fs/cgroup/memory".into()],
    };
    let Launch { plan, open, .. } = plan(&request);
    let trees = plan.mounts.iter().filter_map(|mount| match mount.source {
        Source::Tree(fd) => Some(fd),
        Source::Proc
        | Source::Sysfs
        | Source::Tmpfs(_)
        | Source::Devpts(_)
        | Source::Mqueue
        | Source::Cgroup2
        | Source::PodShm => None,
    });
    let used: Vec<usize> = std::iter::once(plan.root)
        .chain(plan.join.iter().map(|join| join.fd))
        .chain(trees)
        .map(|fd| usize::from(fd.0))
        .collect();
    assert_eq!(used, (0..open.len()).collect::<Vec<_>>());
    assert_eq!(open[0], Open::Root);
    assert_eq!(open[1], Open::Namespace("/run/berth/p/net".into()));
}

#[test]
fn cgroup_v1_shows_the_containers_own_directories_under_all_their_names() {
    let mut request = Request::plain();
    request.host.cgroup = CgroupFacts::V1 {
        hierarchies: vec!["/sys/fs/cgroup/cpu,cpuacct".into(), "/sys/fs/cgroup/systemd".into()],
    };
    let Launch { plan, open, .. } = plan(&request);
    let below: Vec<_> =
        plan.mounts.iter().filter(|m| m.target.starts_with("/sys/fs/cgroup")).collect();
    let targets: Vec<&str> = below.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(
        targets,
        [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/cpuacct",
            "/sys/fs/cgroup/systemd"
        ]
    );
    assert!(!below[0].attributes.readonly, "mount points are made in it first");
    assert!(below[1..].iter().all(|mount| mount.attributes.readonly));
    assert_eq!(plan.readonly[0], "/sys/fs/cgroup", "and then it is closed");
    let tree = |path: &str| Open::Tree { path: path.into(), recursive: false, ids: None };
    assert!(open.contains(&tree("/sys/fs/cgroup/systemd/kubepods/pod0d1f/c1")));
    assert!(!plan.cgroup_namespace);
}

#[test]
fn the_pid_namespace_outlasts_the_request() {
    let cases = [
        (NamespaceMode::Pod, PidNamespace::Pod),
        (NamespaceMode::Container, PidNamespace::Own),
        (NamespaceMode::Node, PidNamespace::Host),
    ];
    for (mode, want) in cases {
        let mut request = Request::plain();
        request.context().namespace_options =
            Some(v1::NamespaceOption { pid: mode.into(), ..v1::NamespaceOption::default() });
        // Nobody's annotations but ours decide (CVE-2024-3154).
        request.container.annotations = [(SHARED_PIDS.to_owned(), "true".to_owned())].into();
        request.pod.annotations = request.container.annotations.clone();
        assert_eq!(plan(&request).plan.pids, want, "{mode:?}");
    }
}

#[test]
fn default_nodes_and_links_yield_to_mounts() {
    let mut request = Request::plain();
    request.container.devices =
        vec![v1::Device { host_path: "/dev/fuse".into(), ..v1::Device::default() }];
    request.devices = vec![device("/dev/fuse")];
    let names = |request: &Request| {
        let plan = plan(request).plan;
        let nodes = plan.devices.into_iter().map(|device| device.path);
        nodes.chain(plan.links.into_iter().map(|link| link.path)).collect::<Vec<_>>().join(" ")
    };
    const LINKS: &str = "/dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx /dev/core";
    assert_eq!(
        names(&request),
        format!(
            "/dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/fuse {LINKS}"
        )
    );

    let mount = |path: &str| v1::Mount {
        container_path: path.into(),
        host_path: "/srv".into(),
        ..v1::Mount::default()
    };
    request.container.mounts = vec![mount("/dev/random")];
    assert_eq!(
        names(&request),
        format!("/dev/null /dev/zero /dev/full /dev/urandom /dev/tty /dev/fuse {LINKS}")
    );
    request.container.mounts = vec![mount("/dev")];
    assert_eq!(names(&request), "", "a /dev of the host has them");
}

#[test]
fn limits_and_terminals_become_numbers() {
    let mut request = Request::plain();
    request.container.tty = true;
    request.container.stdin = true;
    request.container.stdin_once = true;
    let mut spec = spec(&request);
    let limit = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(1024u64)
        .hard(u64::MAX)
        .build()
        .expect("limit");
    process(&mut spec).set_rlimits(Some(vec![limit]));
    let process = launch(&spec, &request.host).expect("plan").plan.process;
    assert_eq!(process.rlimits, [plan::Rlimit { resource: 7, soft: 1024, hard: u64::MAX }]);
    assert_eq!(process.terminal, Some(plan::Terminal::default()));
    assert!(process.stdin && process.stdin_once);
    assert_eq!(process.oom_score_adj, Some(0));
}

#[test]
fn an_exec_has_the_rights_of_its_container_and_no_more() {
    let mut request = Request::plain();
    request.identity.uid = 1000;
    request.identity.groups = vec![5];
    request.container.stdin = true;
    request.context().no_new_privs = true;
    request.context().seccomp = Some(v1::SecurityProfile::default());
    request.context().capabilities =
        Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..v1::Capability::default() });
    let spec = spec(&request);
    let first = launch(&spec, &request.host).expect("plan").plan.process;
    let command = ["ls".to_owned(), "-l".to_owned()];

    let second = exec(&spec, &command, false).expect("exec");
    assert_eq!(second.capabilities, plan::Capabilities::default(), "all were dropped");
    assert!(second.seccomp.is_some());
    let want = plan::Process { args: command.to_vec(), stdin: false, ..first };
    assert_eq!(second, want);

    let with_terminal = exec(&spec, &command, true).expect("exec");
    assert_eq!(with_terminal.terminal, Some(plan::Terminal::default()));
    assert_eq!(with_terminal.env.last().map(String::as_str), Some("TERM=xterm"));

    for command in [&[][..], &[String::new()], &["ls".into(), "\0".into()]] {
        assert!(exec(&spec, command, false).is_err(), "{command:?}");
    }
}

#[test]
fn filters_come_from_the_given_compiler() {
    let mut request = Request::plain();
    request.context().seccomp = Some(v1::SecurityProfile::default());
    let spec = spec(&request);
    let canned = plan::Seccomp { program: Vec::new(), flags: 99 };
    let mut asked = 0;
    let mut cache = |_: &LinuxSeccomp| {
        asked += 1;
        Ok(canned.clone())
    };
    let first = launch_with(&spec, &request.host, &mut cache).expect("plan").plan.process;
    let second = exec_with(&spec, &["ls".into()], false, &mut cache).expect("exec");
    assert_eq!((first.seccomp.as_ref(), second.seccomp.as_ref()), (Some(&canned), Some(&canned)));
    assert_eq!(asked, 2);
}

#[test]
fn mounts_that_plans_have_no_word_for_are_refused() {
    let cases: [(&str, &str, &str, &[&str]); 9] = [
        ("unknown flag", "tmpfs", "tmpfs", &["nosymfollow"]),
        ("a flag of another type", "proc", "proc", &["newinstance"]),
        ("options of procfs", "proc", "proc", &["hidepid=2"]),
        ("options of a bind", "bind", "/srv", &["rbind", "mode=755"]),
        ("propagation of one mount alone", "bind", "/srv", &["bind", "shared"]),
        ("a disk", "ext4", "/dev/sda", &["rw"]),
        ("a relative source", "bind", "srv", &["bind"]),
        ("no type", "", "x", &[]),
        ("a size for the pod's memory", "tmpfs", "pod-shm", &["size=1m"]),
    ];
    for (case, kind, source, options) in cases {
        let request = Request::plain();
        let mut spec = spec(&request);
        let mut mount = Mount::default();
        mount
            .set_destination("/data".into())
            .set_typ(Some(kind.into()))
            .set_source(Some(source.into()))
            .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
        spec.mounts_mut().get_or_insert_default().push(mount);
        assert!(launch(&spec, &request.host).is_err(), "{case}");
    }
}

/// Specs of other hands: a field that is set and refused. The JSON is merged into a plain spec.
#[test]
fn fields_that_plans_have_no_word_for_are_refused() {
    let cases = [
        (r#"{"domainname": "x"}"#, "domainname"),
        (r#"{"hooks": {"prestart": []}}"#, "hooks"),
        (r#"{"linux": {"sysctl": {"net.core.somaxconn": "1"}}}"#, "linux.sysctl"),
        (r#"{"linux": {"personality": {"domain": "LINUX32"}}}"#, "linux.personality"),
        (r#"{"linux": {"mountLabel": "x"}}"#, "linux.mountLabel"),
        (r#"{"linux": {"intelRdt": {}}}"#, "linux.intelRdt"),
        (r#"{"linux": {"timeOffsets": {}}}"#, "linux.timeOffsets"),
        (
            r#"{"linux": {"uidMappings": [{"hostID": 1, "containerID": 0, "size": 1}]}}"#,
            "linux.uidMappings",
        ),
        (r#"{"linux": {"rootfsPropagation": "unbindable"}}"#, "linux.rootfsPropagation"),
        (r#"{"linux": {"namespaces": []}}"#, "hostname"),
        (
            r#"{"linux": {"namespaces": [{"type": "uts", "path": "/u"}]}}"#,
            "linux.namespaces: a mount namespace is needed",
        ),
        (
            r#"{"linux": {"namespaces": [{"type": "uts", "path": "/u"}, {"type": "mount"}, {"type": "user"}]}}"#,
            "linux.namespaces: user",
        ),
        (
            r#"{"linux": {"namespaces": [{"type": "uts", "path": "/u"}, {"type": "mount"}, {"type": "time"}]}}"#,
            "linux.namespaces: time",
        ),
        (
            r#"{"linux": {"namespaces": [{"type": "uts", "path": "/u"}, {"type": "mount"}, {"type": "pid", "path": "/p"}]}}"#,
            "linux.namespaces: joined PID",
        ),
        (
            r#"{"linux": {"namespaces": [{"type": "uts", "path": "/u"}, {"type": "mount"}, {"type": "network"}]}}"#,
            "linux.namespaces: new",
        ),
        (
            r#"{"linux": {"namespaces": [{"type": "uts", "path": "/u"}, {"type": "mount"}, {"type": "mount"}]}}"#,
            "linux.namespaces: \"mnt\" is there twice",
        ),
        (
            r#"{"linux": {"devices": [{"path": "/srv/x", "type": "c", "major": 1, "minor": 1}]}}"#,
            "linux.devices: devices outside",
        ),
        (
            r#"{"linux": {"devices": [{"path": "/dev/pts/x", "type": "c", "major": 1, "minor": 1}]}}"#,
            "linux.devices: \"/dev/pts/x\" lies in a mount",
        ),
        (
            r#"{"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": -1, "minor": 1}]}}"#,
            "linux.devices: \"-1\"",
        ),
        (r#"{"process": {"scheduler": {"policy": "SCHED_OTHER"}}}"#, "process.scheduler"),
        (
            r#"{"process": {"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}}"#,
            "process.ioPriority",
        ),
        (r#"{"process": {"args": []}}"#, "process.args"),
        (r#"{"process": {"cwd": "tmp"}}"#, "process.cwd"),
        (
            r#"{"process": {"capabilities": {"inheritable": ["CAP_CHOWN"]}}}"#,
            "process.capabilities.inheritable",
        ),
    ];
    let request = Request::plain();
    for (patch, want) in cases {
        let mut json = serde_json::to_value(spec(&request)).expect("JSON");
        merge(&mut json, serde_json::from_str(patch).expect("patch"));
        let spec: Spec = serde_json::from_value(json).expect("spec");
        let error = launch(&spec, &request.host).expect_err(patch).to_string();
        assert!(error.starts_with(want), "{patch}: {error}");
    }
}

fn merge(into: &mut serde_json::Value, patch: serde_json::Value) {
    match (into, patch) {
        (serde_json::Value::Object(into), serde_json::Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}
