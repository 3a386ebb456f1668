//! Typical requests, with their specs and plans in `fixtures/`: what a change to the translation changes is seen in
//! their diff.
//!
//! `BERTH_FIXTURES=write cargo test -p cri-spec golden` writes them anew. Filters are shown by their size only; their
//! own tests compare every call.

use crate::testing::{Request, device};
use crate::{CgroupFacts, container, launch};
use cri_api::runtime::v1;
use cri_api::runtime::v1::{MountPropagation, NamespaceMode};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;

#[test]
fn golden_plain() {
    check("plain", &Request::plain());
}

#[test]
fn golden_privileged() {
    let mut request = Request::plain();
    request.privileged();
    request.context().seccomp = Some(v1::SecurityProfile::default());
    request.host.devices = ["/dev/sda", "/dev/null", "/dev/pts/0"].map(device).to_vec();
    check("privileged", &request);
}

#[test]
fn golden_host_namespaces() {
    let mut request = Request::plain();
    request.namespaces = crate::NamespacePins::default();
    request.context().namespace_options = Some(v1::NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Node.into(),
        ipc: NamespaceMode::Node.into(),
        ..v1::NamespaceOption::default()
    });
    check("host-namespaces", &request);
}

#[test]
fn golden_read_only() {
    let mut request = Request::plain();
    request.context().readonly_rootfs = true;
    // As kubelet says in every request, but for pods with shareProcessNamespace or hostPID.
    request.context().namespace_options = Some(v1::NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..v1::NamespaceOption::default()
    });
    request.context().no_new_privs = true;
    request.context().seccomp = Some(v1::SecurityProfile::default());
    request.context().capabilities =
        Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..v1::Capability::default() });
    check("read-only", &request);
}

#[test]
fn golden_user() {
    let mut request = Request::plain();
    request.identity = crate::Identity {
        uid: 1000,
        gid: 1000,
        groups: vec![1234, 50_000],
        home: "/home/app".into(),
    };
    request.context().capabilities = Some(v1::Capability {
        add_ambient_capabilities: vec!["NET_BIND_SERVICE".into()],
        ..v1::Capability::default()
    });
    request.image.env = vec!["PATH=/app/bin".into(), "SECRET".into(), "MODE=image".into()];
    request.image.entrypoint = vec!["/app/bin/serve".into()];
    request.image.working_dir = "/app".into();
    request.container.args = vec!["--port=80".into()];
    request.container.envs = vec![v1::KeyValue { key: "MODE".into(), value: b"request".into() }];
    request.container.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 900,
        unified: [("pids.max".into(), "100".into())].into(),
        ..v1::LinuxContainerResources::default()
    });
    check("user", &request);
}

#[test]
fn golden_mounts() {
    let mount = |container_path: &str, host_path: &str| v1::Mount {
        container_path: container_path.into(),
        host_path: host_path.into(),
        ..v1::Mount::default()
    };
    let mut request = Request::plain();
    request.container.mounts = vec![
        v1::Mount { readonly: true, ..mount("/etc/config/inner", "/srv/inner") },
        v1::Mount {
            propagation: MountPropagation::PropagationHostToContainer.into(),
            ..mount("/mnt", "/mnt")
        },
        v1::Mount {
            readonly: true,
            recursive_read_only: true,
            ..mount("/etc/config", "/srv/config")
        },
        mount("/etc/hosts", "/var/lib/kubelet/pods/p/etc-hosts"),
        mount("/dev/termination-log", "/var/lib/kubelet/pods/p/log"),
        mount("/dev/shm", "/srv/shm"),
    ];
    check("mounts", &request);
}

#[test]
fn golden_cgroup_v1() {
    let mut request = Request::plain();
    let hierarchies =
        ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/systemd"];
    request.host.cgroup = CgroupFacts::V1 { hierarchies: hierarchies.map(Into::into).to_vec() };
    check("cgroup-v1", &request);
}

#[test]
fn golden_terminal_and_devices() {
    let mut request = Request::plain();
    request.container.tty = true;
    request.container.stdin = true;
    request.container.devices = vec![v1::Device {
        container_path: "/dev/fuse".into(),
        host_path: "/dev/fuse".into(),
        permissions: "rw".into(),
    }];
    request.devices = vec![device("/dev/fuse")];
    check("terminal-and-devices", &request);
}

#[test]
fn golden_user_namespace() {
    let mut request = Request::plain();
    request.with_user_namespace();
    request.identity =
        crate::Identity { uid: 1000, gid: 1000, groups: vec![1000], home: "/".into() };
    let ids = v1::IdMapping { host_id: 131_072, container_id: 0, length: 65_536 };
    request.container.mounts = vec![v1::Mount {
        container_path: "/data".into(),
        host_path: "/srv/data".into(),
        uid_mappings: vec![ids],
        gid_mappings: vec![ids],
        ..v1::Mount::default()
    }];
    request.container.devices = vec![v1::Device {
        container_path: "/dev/fuse".into(),
        host_path: "/dev/fuse".into(),
        permissions: "rw".into(),
    }];
    request.devices = vec![device("/dev/fuse")];
    check("user-namespace", &request);
}

#[test]
fn golden_target_and_image_volume() {
    let mut request = Request::plain();
    request.context().namespace_options = Some(v1::NamespaceOption {
        pid: NamespaceMode::Target.into(),
        target_id: "c0ffee".into(),
        ..v1::NamespaceOption::default()
    });
    request.target = Some("c0ffee".into());
    request.images.insert("models:1".into(), "sha256:abc".into());
    request.container.mounts = vec![v1::Mount {
        container_path: "/models".into(),
        image: Some(v1::ImageSpec { image: "models:1".into(), ..v1::ImageSpec::default() }),
        image_sub_path: "small".into(),
        ..v1::Mount::default()
    }];
    check("target-and-image-volume", &request);
}

/// Compares spec and plan of `request` with `fixtures/<name>.json`, or writes that.
fn check(name: &str, request: &Request) {
    let spec = container(&request.input()).expect("spec");
    let launch = launch(&spec, &request.host).expect("plan");
    let again: oci_spec::runtime::Spec =
        serde_json::from_value(serde_json::to_value(&spec).expect("JSON")).expect("spec");
    assert_eq!(again, spec, "a stored spec comes back as it was");

    let mut spec = serde_json::to_value(&spec).expect("JSON");
    sort_sets(&mut spec);
    if let Some(rules) = spec.pointer_mut("/linux/seccomp/syscalls") {
        *rules = json!(format!("{} rules", rules.as_array().map_or(0, Vec::len)));
    }
    let mut plan = serde_json::to_value(&launch.plan).expect("JSON");
    if let Some(program) = plan.pointer_mut("/process/seccomp/program") {
        *program = json!(format!("{} instructions", program.as_array().map_or(0, Vec::len)));
    }
    if let Some(Value::Object(sets)) = plan.pointer_mut("/process/capabilities") {
        for set in sets.values_mut() {
            *set = json!(format!("{:#013x}", set.as_u64().expect("a set")));
        }
    }
    for mount in plan["mounts"].as_array_mut().expect("mounts") {
        let attributes = mount["attributes"].as_object_mut().expect("attributes");
        attributes.retain(|_, is_on| *is_on == json!(true));
    }
    // What most have not would only be read over.
    plan.as_object_mut().expect("plan").retain(|key, value| key != "user" || !value.is_null());
    let shown = |open: &crate::Open| format!("{open:?}").replace(", ids: None", "");
    let open: Vec<String> = launch.open.iter().map(shown).collect();
    let got = json!({ "spec": spec, "plan": plan, "open": open });
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}.json"));
    if std::env::var_os("BERTH_FIXTURES").is_some_and(|value| value == "write") {
        let mut options = std::fs::File::options();
        let mut file = options.write(true).create(true).truncate(true).open(&file).expect("open");
        file.write_all(format!("{}\n", readable(&got, 0)).as_bytes()).expect("write");
    }
    let want = std::fs::read_to_string(&file).expect("read fixture");
    let want: Value = serde_json::from_str(&want).expect("JSON");
    // As text, so that the message is a readable difference and not two values on one line each.
    assert_eq!(readable(&got, 0), readable(&want, 0), "{}: see this module's page", file.display());
}

/// Capability sets come in any order.
fn sort_sets(spec: &mut Value) {
    if let Some(Value::Object(sets)) = spec.pointer_mut("/process/capabilities") {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.sort_by_key(|name| name.as_str().map(str::to_owned));
        }
    }
}

/// JSON with whatever fits on a line on one line.
fn readable(value: &Value, indent: usize) -> String {
    const WIDTH: usize = 120;
    let line = value.to_string();
    let (open, close, parts) = match value {
        Value::Array(parts) if indent + line.len() > WIDTH => {
            ('[', ']', parts.iter().map(|part| readable(part, indent + 2)).collect::<Vec<_>>())
        }
        Value::Object(parts) if indent + line.len() > WIDTH => {
            let part = |(key, part): (&String, &Value)| {
                format!("{}: {}", json!(key), readable(part, indent + 2))
            };
            ('{', '}', parts.iter().map(part).collect())
        }
        Value::Array(_)
        | Value::Object(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => return line,
    };
    let margin = " ".repeat(indent + 2);
    let parts: Vec<String> = parts.iter().map(|part| format!("{margin}{part}")).collect();
    format!("{open}\n{}\n{}{close}", parts.join(",\n"), " ".repeat(indent))
}
