//! Past holes about who a container is and what it may do: users, groups, capabilities, environments, metadata.
//! `tests/SECURITY.md` lists them.

use std::time::{Duration, Instant};

use cri_api::runtime::v1::{
    Capability, ContainerStatusRequest, Int64Value, KeyValue, NamespaceMode, PodSandboxConfig,
};
use serde_json::{Value, json};
use suite::image::{Compression, Tree};
use suite::pods::{pod_security, security};
use suite::{ImageBuilder, Pod, World, in_world};

const NONE: &str = "0000000000000000";

fn user(id: i64) -> Option<Int64Value> {
    Some(Int64Value { value: id })
}

fn with_user(image_user: &str, tree: Tree) -> suite::image::Image {
    ImageBuilder::busybox().layer(Compression::Gzip, tree).config("User", json!(image_user)).build()
}

#[test]
fn privileged_cve_2016_3697_a_numeric_user_is_no_name() {
    in_world(|world| {
        let passwd = b"root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n";
        let image = with_user("1000", Tree::default().file("etc/passwd", 0o644, passwd));
        world.with_image(&image, |image| {
            let pod = world.run_pod("numeric");
            assert_eq!(
                world.run_to_end(&pod, world.config_of(image, "image", "id -u")).1,
                "1000\n"
            );
            let mut config = world.config_of(image, "request", "id -u");
            security(&mut config).run_as_user = user(1000);
            assert_eq!(world.run_to_end(&pod, config).1, "1000\n");
        });
    });
}

#[test]
fn privileged_cve_2024_40635_2026_46680_2026_30892_users_are_exact_or_refused() {
    in_world(|world| {
        let passwd = "root:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n2147483648:x:0:0::/:/bin/sh\n\
                      -1:x:0:0::/:/bin/sh\n0x1:x:0:0::/:/bin/sh\n";
        let tree = || Tree::default().file("etc/passwd", 0o644, passwd.as_bytes());
        let cases = [
            ("1", Some("1:0")),
            ("1:1", Some("1:1")),
            ("01", Some("1:0")),
            ("2147483648", Some("2147483648:0")),
            ("4294967294:4294967294", Some("4294967294:4294967294")),
            ("4294967295", None),
            ("1:4294967295", None),
            ("4294967296", None),
            ("100000000000000000000", None),
            ("1:4294967296", None),
            ("+1", None),
            ("1 ", None),
        ];
        for (text, want) in cases {
            world.with_image(&with_user(text, tree()), |image| {
                let pod = world.run_pod("exact");
                let config = world.config_of(image, "exact", "echo $(id -u):$(id -g)");
                match (world.try_run(&pod, config), want) {
                    (Ok(id), Some(want)) => {
                        world.wait(&id);
                        let got = suite::log::written(&world.log_of(&id), "stdout");
                        assert_eq!(got.trim(), want, "{text:?}");
                    }
                    (Err(_), None) => {}
                    (got, want) => panic!("{text:?}: {got:?} and not {want:?}"),
                }
            });
        }
        let pod = world.run_pod("request");
        for id in [-1, 4_294_967_295, 4_294_967_296, i64::MAX, i64::MIN] {
            let mut config = world.container_config("request", &["true"]);
            security(&mut config).run_as_user = user(id);
            assert!(world.try_run(&pod, config).is_err(), "user {id}");
            let mut config = world.container_config("groups", &["true"]);
            security(&mut config).supplemental_groups = vec![id];
            assert!(world.try_run(&pod, config).is_err(), "group {id}");
        }
    });
}

#[test]
fn privileged_cve_2016_8867_2018_1000400_2022_24769_no_capability_where_none_belongs() {
    in_world(|world| {
        let pod = world.run_pod("capabilities");
        let script = "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f2 | tr '\\n' ' '";
        let mut config = world.container_config("user", &["sh", "-c", script]);
        security(&mut config).run_as_user = user(1000);
        let all_none = [NONE; 4].join(" ");
        assert_eq!(world.run_to_end(&pod, config).1.trim(), all_none, "a user has none");
        // An exec has what its container has, and never more (CVE-2025-27612).
        let mut config = world.container_config("dropped", &["sleep", "1000"]);
        security(&mut config).capabilities =
            Some(Capability { drop_capabilities: vec!["ALL".into()], ..Capability::default() });
        let id = world.run(&pod, config);
        assert_eq!(world.exec(&id, &["sh", "-c", script]).trim(), all_none, "nor an exec");
        // Inheritable ones survive a change of user (CVE-2022-29162, CVE-2022-27650, CVE-2022-27652).
        let inherited = "grep ^CapInh /proc/self/status | cut -f2";
        let id = world.run(&pod, world.container_config("plain", &["sleep", "1000"]));
        assert_eq!(world.exec(&id, &["sh", "-c", inherited]).trim(), NONE);
        let mut config = world.container_config("privileged", &["sh", "-c", inherited]);
        security(&mut config).privileged = true;
        let mut privileged = world.pod_config("privileged");
        pod_security(&mut privileged).privileged = true;
        let pod = world.run_pod_from(privileged);
        assert_eq!(world.run_to_end(&pod, config).1.trim(), NONE);
    });
}

#[test]
fn privileged_cve_2023_25173_2022_2995_a_group_that_denies_does_deny() {
    in_world(|world| {
        let pod = world.run_pod("groups");
        let volume = world.directory("volume");
        suite::daemon::write(&volume.join("denied"), "others may read this\n");
        std::os::unix::fs::chown(volume.join("denied"), Some(0), Some(1001)).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o604);
        std::fs::set_permissions(volume.join("denied"), mode).unwrap();
        let mut config = world.container_config("denied", &["sh", "-c", "id -G; cat /v/denied"]);
        let context = security(&mut config);
        context.run_as_user = user(1000);
        context.run_as_group = user(1001);
        config.mounts = vec![suite::hostile::volume(&volume, "/v")];
        let (status, written) = world.run_to_end(&pod, config);
        assert!(written.starts_with("1001"), "the primary group is one of the groups: {written}");
        assert!(status.exit_code != 0 && !written.contains("others"), "{written}");
    });
}

#[test]
fn privileged_cve_2026_47262_2025_4437_2024_9676_user_files_of_an_image_are_bounded() {
    in_world(|world| {
        let line = |count: usize| "x".repeat(count).into_bytes();
        let trees = [
            ("a pipe", Tree::default().fifo("etc/passwd").fifo("etc/group")),
            ("a directory", Tree::default().directory("etc/passwd").directory("etc/group")),
            (
                "a loop",
                Tree::default().symlink("etc/passwd", "group").symlink("etc/group", "passwd"),
            ),
            ("a link to a device", Tree::default().symlink("etc/passwd", "/dev/zero")),
            ("a long line", Tree::default().file("etc/passwd", 0o644, &line(64 << 20))),
        ];
        for (title, tree) in trees {
            world.with_tree(tree, |image| {
                let pod = world.run_pod("files");
                let before = resident(world.daemon_pid());
                let begun = Instant::now();
                let mut config = world.config_of(image, "files", "true");
                security(&mut config).run_as_username = "somebody".into();
                world.try_run(&pod, config).unwrap_err();
                // By far less than a pipe or a device would hold it up.
                assert!(begun.elapsed() < Duration::from_secs(30), "{title} takes long");
                let grown = resident(world.daemon_pid()).saturating_sub(before);
                assert!(grown < 16 << 10, "{title}: the daemon grew by {grown} KiB");
            });
        }
    });
}

/// `VmRSS` in KiB.
fn resident(pid: u32) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("as the test has made it");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("as the test has made it");
    line.split_whitespace()
        .next()
        .expect("as the test has made it")
        .parse()
        .expect("as the test has made it")
}

#[test]
fn privileged_cve_2022_4318_2026_15809_no_value_brings_a_line_of_its_own() {
    in_world(|world| {
        for bad in ["web\nroot2", "web\r", "web:x", "web\0", "we b", "web\u{2028}"] {
            let mut config = world.pod_config("lines");
            config.hostname = bad.into();
            assert!(world.try_run_pod(&config).is_err(), "host name {bad:?}");
        }
        let pod = world.run_pod("lines");
        for name in ["root\nx", "root:x", "root\0"] {
            let mut config = world.container_config("name", &["true"]);
            security(&mut config).run_as_username = name.into();
            assert!(world.try_run(&pod, config).is_err(), "user {name:?}");
        }
        let mut config =
            world.container_config("home", &["sh", "-c", "wc -l < /etc/passwd; id -u"]);
        config.envs =
            vec![KeyValue { key: "HOME".into(), value: "/x\nroot2:x:0:0::/:/bin/sh".into() }];
        security(&mut config).run_as_user = user(12345);
        assert_eq!(world.run_to_end(&pod, config).1, "2\n12345\n", "passwd is the image's");
    });
}

#[test]
fn privileged_cve_2019_11245_the_user_of_an_image_stays_over_restarts() {
    in_world(|world| {
        let pulled =
            world.pull(&world.registry().push("as-app", "1", &with_user("app", Tree::default())));
        let pod = world.run_pod("restarts");
        for round in 0..6 {
            let mut config = world.config_of(&pulled, "again", "id -u");
            config.metadata.as_mut().unwrap().attempt = round;
            assert_eq!(
                world.run_to_end(&pod, config).1.lines().last(),
                Some("1000"),
                "round {round}"
            );
            if round % 2 == 1 {
                world.restart_daemon();
            }
        }
        world.remove_all_pods();
        world.remove_image(&pulled.id);
    });
}

#[test]
fn privileged_cve_2021_21334_2026_57231_an_environment_is_the_containers_own() {
    in_world(|world| {
        let image = ImageBuilder::busybox()
            .config("Env", json!(["PATH=/bin", "*", "=", "A", "B=b", "HOME"]))
            .build();
        world.with_image(&image, |image| {
            let pod = world.run_pod("environment");
            let ids: Vec<_> = (0..32)
                .map(|number| {
                    let mut config = world.config_of(image, &format!("own-{number}"), "env");
                    config.envs = vec![KeyValue {
                        key: "SECRET".into(),
                        value: format!("of-{number}-only").into(),
                    }];
                    world.create(&pod, config)
                })
                .collect();
            ids.iter().for_each(|id| world.start(id));
            for (number, id) in ids.iter().enumerate() {
                world.wait(id);
                let mut seen: Vec<_> = suite::log::written(&world.log_of(id), "stdout")
                    .lines()
                    .filter(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL="))
                    .map(str::to_owned)
                    .collect();
                seen.retain(|line| !line.starts_with("HOSTNAME=") && line != "HOME=/root");
                seen.sort();
                let own = format!("SECRET=of-{number}-only");
                assert_eq!(seen, ["B=b", "PATH=/bin", own.as_str()], "container {number}");
            }
        });
    });
}

#[test]
fn privileged_cve_2022_0811_2022_0532_settings_are_the_pods_own_and_plain() {
    in_world(|world| {
        let kept = [
            "kernel/core_pattern",
            "net/ipv4/ip_forward",
            "kernel/shmmax",
            "kernel/shm_rmid_forced",
        ];
        let read = || kept.map(|key| std::fs::read_to_string(format!("/proc/sys/{key}")).unwrap());
        let before = read();
        let refused = |key: &str, value: &str, change: &dyn Fn(&mut PodSandboxConfig)| {
            let mut config = world.pod_config("settings");
            config.linux.as_mut().unwrap().sysctls.insert(key.into(), value.into());
            change(&mut config);
            assert!(world.try_run_pod(&config).is_err(), "{key} = {value:?}");
        };
        for value in ["1+kernel.core_pattern=|/x", "1=2", "1,2", "1\n2", "1\0", "\"1\"", "$(id)"] {
            refused("kernel.shm_rmid_forced", value, &|_| {});
        }
        for key in [
            "kernel.core_pattern",
            "vm.swappiness",
            "net/../kernel/core_pattern",
            "/etc/passwd",
            "net..x",
        ] {
            refused(key, "1", &|_| {});
        }
        let host = |set: fn(&mut cri_api::runtime::v1::NamespaceOption)| {
            move |config: &mut PodSandboxConfig| {
                set(pod_security(config).namespace_options.get_or_insert_default());
            }
        };
        refused(
            "net.ipv4.ip_forward",
            "0",
            &host(|options| options.network = NamespaceMode::Node.into()),
        );
        refused("kernel.shmmax", "1", &host(|options| options.ipc = NamespaceMode::Node.into()));
        assert_eq!(read(), before, "the node's own");
    });
}

#[test]
fn privileged_cve_2026_53488_2026_94603_2024_3154_2023_6476_words_of_images_and_pods_do_nothing() {
    in_world(|world| {
        let words = json!({
            "containerd.io/restart.status": "running",
            "containerd.io/restart.loguri": "binary:///bin/touch?/tmp/owned",
            "io.cri-containerd.kind": "sandbox",
            "io.kubernetes.cri-o.UnifiedCgroup": "memory.max=max",
            "io.kubernetes.cri-o.Devices": "/dev/kmsg:/dev/kmsg:rwm",
            "io.kubernetes.cri-o.userns-mode": "private",
            "io.kubernetes.cri-o.annotations.checkpoint.name": "x",
            "io.podman.annotations.privileged": "true",
            "io.podman.annotations.seccomp": "unconfined",
            "org.systemd.property.ExecStartPre": "'/bin/touch /tmp/owned'",
            "run.oci.keep_original_groups": "1",
            "run.oci.systemd.force_cgroup_v1": "1",
            "module.wasm.image/variant": "compat",
            "cdi.k8s.io/device": "vendor.com/device=all",
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
            "container.apparmor.security.beta.kubernetes.io/twin": "unconfined",
            "berth.privileged": "true",
        });
        let labelled = ImageBuilder::busybox().config("Labels", words.clone()).build();
        let plain = world.pull(&world.registry().push(
            "plain",
            "1",
            &ImageBuilder::busybox().config("Labels", json!({})).build(),
        ));
        world.with_image(&labelled, |labelled| {
            let mut annotated = world.pod_config("twins");
            let without = world.run_pod_from(annotated.clone());
            annotated.metadata.as_mut().unwrap().name = "annotated".into();
            for (key, value) in words.as_object().unwrap() {
                if key == "cdi.k8s.io/device" {
                    continue; // A pod may ask for devices in this way, and would be told that there is none.
                }
                annotated.annotations.insert(key.clone(), value.as_str().unwrap().into());
            }
            let with = world.run_pod_from(annotated);
            let one = spec(world, &without, &plain.id);
            let other = spec(world, &with, &labelled.id);
            assert_eq!(one, other);
        });
        world.remove_image(&plain.id);
    });
}

/// What a runtime is told of a container, but for what names this one: ids, paths, the pod's own names.
fn spec(world: &World, pod: &Pod, image: &str) -> Value {
    let mut config = world.container_config("twin", &["true"]);
    config.image.as_mut().expect("as the test has made it").image = image.to_owned();
    let id = world.create(pod, config);
    let request = ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let answer = world.cri().container_status(request).expect("as the test has made it");
    let info: Value = serde_json::from_str(&answer.info["info"]).expect("as the test has made it");
    let mut spec = info["runtimeSpec"].clone();
    assert!(spec["process"]["args"].is_array(), "{info}");
    spec["annotations"] = Value::Null;
    spec["linux"]["cgroupsPath"] = Value::Null;
    for set in spec["process"]["capabilities"]
        .as_object_mut()
        .expect("as the test has made it")
        .values_mut()
    {
        // A set has no order.
        set.as_array_mut().expect("as the test has made it").sort_by_key(Value::to_string);
    }
    let text = spec.to_string().replace(&pod.id, "POD").replace(&id, "CONTAINER");
    let text = text.replace("annotated", "twins");
    serde_json::from_str(&text).expect("as the test has made it")
}
