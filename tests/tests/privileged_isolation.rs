//! What a container sees of the node and may do to it.

use cri_api::runtime::v1::security_profile::ProfileType;
use cri_api::runtime::v1::{
    Capability, Int64Value, KeyValue, LinuxContainerResources, LinuxContainerSecurityContext,
    Mount, MountPropagation, SecurityProfile, SupplementalGroupsPolicy,
};
use suite::daemon::write;
use suite::image::{Compression, Tree};
use suite::pods::security;
use suite::{ImageBuilder, cgroup, handler, in_world};

const RUNTIME_DEFAULT: SecurityProfile = SecurityProfile {
    profile_type: ProfileType::RuntimeDefault as i32,
    localhost_ref: String::new(),
};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// What a kubelet masks unless a pod asks it not to.
fn kubelet_paths(context: &mut LinuxContainerSecurityContext) {
    context.masked_paths = names(&[
        "/proc/asound",
        "/proc/acpi",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
    ]);
    context.readonly_paths =
        names(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
}

/// The value of a line of /proc/self/status.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

#[test]
fn privileged_environment_and_arguments_come_from_image_and_request() {
    in_world(|world| {
        let image = ImageBuilder::busybox()
            .config("Env", serde_json::json!(["PATH=/bin", "A=image", "B=image"]))
            .config("Entrypoint", serde_json::json!(["echo", "entry"]))
            .config("Cmd", serde_json::json!(["cmd"]))
            .config("WorkingDir", serde_json::json!("/usr/bin"))
            .build();
        let pulled = world.pull(&world.registry().push("env", "1", &image));
        let pod = world.run_pod("env");
        let cases: [(&str, &[&str], &[&str], &str); 4] = [
            ("image", &[], &[], "entry cmd\n"),
            ("args", &[], &["one", "two words"], "entry one two words\n"),
            ("command", &["echo", "mine"], &[], "mine\n"),
            ("both", &["echo", "mine"], &["args"], "mine args\n"),
        ];
        for (name, command, args, expected) in cases {
            let mut config = world.container_config(name, command);
            config.image.as_mut().unwrap().image.clone_from(&pulled.id);
            config.args = names(args);
            assert_eq!(world.run_to_end(&pod, config).1, expected, "{name}");
        }
        let mut config = world.container_config("variables", &[]);
        config.image.as_mut().unwrap().image.clone_from(&pulled.id);
        config.envs = [("B", "request"), ("C", "a=b c")]
            .map(|(key, value)| KeyValue { key: key.into(), value: value.into() })
            .into();
        let printed = world.printed(&pod, config.clone(), "echo $A,$B,$C; pwd; echo $HOME");
        assert_eq!(printed, "image,request,a=b c\n/usr/bin\n/root\n");
        config.metadata.as_mut().unwrap().name = "directory".into();
        config.log_path = "directory.log".into();
        config.working_dir = "/new/directory".into();
        assert_eq!(world.printed(&pod, config, "pwd"), "/new/directory\n");
        world.remove_all_pods();
        world.remove_image(&pulled.id);
    });
}

#[test]
fn privileged_user_and_groups_are_those_of_request_or_image() {
    in_world(|world| {
        let as_app = ImageBuilder::busybox().config("User", serde_json::json!("app")).build();
        let as_app = world.pull(&world.registry().push("as-app", "1", &as_app));
        let pod = world.run_pod("users");
        type Change = fn(&mut LinuxContainerSecurityContext);
        let cases: [(&str, bool, Change, &str); 6] = [
            ("root", false, |_| {}, "0:0 0"),
            ("image user", true, |_| {}, "1000:1000 1000 2000"),
            ("number", false, |context| context.run_as_user = value(1000), "1000:1000 1000 2000"),
            (
                "name",
                false,
                |context| context.run_as_username = "app".into(),
                "1000:1000 1000 2000",
            ),
            (
                "number, group, more groups",
                false,
                |context| {
                    context.run_as_user = value(1000);
                    context.run_as_group = value(1234);
                    context.supplemental_groups = vec![50000];
                },
                "1000:1234 1234 2000 50000",
            ),
            (
                "strict groups",
                false,
                |context| {
                    context.run_as_user = value(1000);
                    context.supplemental_groups = vec![50000];
                    context.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
                },
                "1000:1000 1000 50000",
            ),
        ];
        for (name, of_image, change, expected) in cases {
            let mut config = world.container_config(&name.replace([' ', ','], "-"), &[]);
            if of_image {
                config.image.as_mut().unwrap().image.clone_from(&as_app.id);
            }
            change(security(&mut config));
            let printed = world.printed(&pod, config, "echo $(id -u):$(id -g) $(id -G)");
            let mut words: Vec<&str> = printed.split_whitespace().collect();
            let mut expected: Vec<&str> = expected.split_whitespace().collect();
            words[1..].sort_unstable();
            expected[1..].sort_unstable();
            assert_eq!(words, expected, "{name}");
        }
        world.remove_all_pods();
        world.remove_image(&as_app.id);
    });
}

fn value(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

#[test]
fn privileged_status_tells_the_user_with_the_primary_group_first() {
    in_world(|world| {
        let pod = world.run_pod("told");
        let mut config = world.container_config("told", &["sleep", "1000"]);
        let context = security(&mut config);
        context.run_as_user = value(1000);
        context.run_as_group = value(1234);
        context.supplemental_groups = vec![50000];
        context.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
        let id = world.run(&pod, config);
        let user = world.status(&id).user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid), (1000, 1234));
        assert_eq!(user.supplemental_groups, [1234, 50000]);
    });
}

#[test]
fn privileged_capabilities_are_the_default_set_more_less_or_none() {
    in_world(|world| {
        let pod = world.run_pod("capabilities");
        let default: u64 = 0x0000_0000_a804_25fb;
        let (net_admin, chown): (u64, u64) = (1 << 12, 1);
        let cases: [(&str, &[&str], &[&str], u64); 5] = [
            ("default", &[], &[], default),
            ("more", &["NET_ADMIN"], &[], default | net_admin),
            ("less", &[], &["CHOWN"], default & !chown),
            ("none", &[], &["ALL"], 0),
            ("only", &["NET_ADMIN"], &["ALL"], net_admin),
        ];
        for (name, add, drop, expected) in cases {
            let mut config = world.container_config(name, &[]);
            security(&mut config).capabilities = Some(Capability {
                add_capabilities: names(add),
                drop_capabilities: names(drop),
                ..Default::default()
            });
            let status = world.printed(&pod, config, "cat /proc/self/status");
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                let got = u64::from_str_radix(field(&status, set), 16).unwrap();
                assert_eq!(got, expected, "{name}: {set} {got:016x}");
            }
            // A capability inherited by every child would survive a change of user (CVE-2022-24769).
            assert_eq!(field(&status, "CapInh"), "0000000000000000", "{name}");
        }
    });
}

#[test]
fn privileged_a_user_has_no_capabilities() {
    in_world(|world| {
        let pod = world.run_pod("user");
        let mut config = world.container_config("user", &[]);
        security(&mut config).run_as_user = value(1000);
        let status = world.printed(&pod, config, "cat /proc/self/status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set}");
        }
    });
}

#[test]
fn privileged_seccomp_and_no_new_privs_are_as_asked_for() {
    in_world(|world| {
        let pod = world.run_pod("seccomp");
        let profile = |kind: ProfileType| {
            Some(SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() })
        };
        let cases = [
            ("nil", None, "0"),
            ("unconfined", profile(ProfileType::Unconfined), "0"),
            ("default", profile(ProfileType::RuntimeDefault), "2"),
            ("zero", Some(SecurityProfile::default()), "2"),
        ];
        for (name, seccomp, expected) in cases {
            let mut config = world.container_config(name, &[]);
            security(&mut config).seccomp = seccomp;
            let status = world.printed(&pod, config, "cat /proc/self/status");
            assert_eq!(field(&status, "Seccomp"), expected, "{name}");
        }
        for wanted in [false, true] {
            let mut config = world.container_config(&format!("nnp-{wanted}"), &[]);
            let context = security(&mut config);
            context.no_new_privs = wanted;
            context.run_as_user = value(1000);
            context.seccomp = Some(RUNTIME_DEFAULT);
            let status = world.printed(&pod, config, "cat /proc/self/status");
            assert_eq!(field(&status, "NoNewPrivs"), if wanted { "1" } else { "0" });
            assert_eq!(field(&status, "Seccomp"), "2");
        }
    });
}

#[test]
fn privileged_the_default_profile_refuses_what_leads_out() {
    in_world(|world| {
        let pod = world.run_pod("profile");
        let mut config = world.container_config("profile", &[]);
        security(&mut config).seccomp = Some(RUNTIME_DEFAULT);
        let script = "unshare -r true 2>/dev/null && echo unshare; \
                      mount -t tmpfs t /tmp 2>/dev/null && echo mount; echo end";
        assert_eq!(world.printed(&pod, config, script), "end\n");
    });
}

#[test]
fn privileged_masked_paths_are_empty_and_readonly_paths_cannot_be_written() {
    in_world(|world| {
        let pod = world.run_pod("paths");
        let mut config = world.container_config("paths", &[]);
        kubelet_paths(security(&mut config));
        let script = "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; \
                      ls /sys/firmware /proc/scsi 2>/dev/null | grep -vc : ; \
                      (echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo wrote; \
                      (echo h > /proc/sysrq-trigger) 2>/dev/null && echo triggered; echo end";
        let printed = world.printed(&pod, config, script);
        let words: Vec<&str> = printed.split_whitespace().collect();
        assert_eq!(words[0], "0", "{printed}");
        assert_eq!(words.last(), Some(&"end"), "{printed}");
        assert!(!words.contains(&"wrote") && !words.contains(&"triggered"), "{printed}");
    });
}

#[test]
fn privileged_sys_and_cgroups_are_read_only_and_devices_are_the_harmless_ones() {
    in_world(|world| {
        let pod = world.run_pod("devices");
        let what = "closes the tmpfs that holds the hierarchies of cgroup v1 to writes";
        let own =
            cgroup::is_v2() || !handler::is_other(&format!("only Berth's own runtime {what}"));
        let top = if own { "/sys/fs/cgroup" } else { "" };
        let script = "grep ' /sys ' /proc/self/mountinfo | cut -d' ' -f6 | cut -d, -f1 | sort -u; \
                      for d in TOP /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo made $d; done; \
                      for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
                      echo x > /dev/null && head -c 4 /dev/zero | wc -c; \
                      mknod /tmp/disk b 8 0 2>/dev/null && cat /tmp/disk 2>/dev/null && echo read; \
                      mknod /tmp/mem c 1 1 2>/dev/null && head -c 1 /tmp/mem 2>/dev/null && echo read; \
                      test -d /dev/shm && test -d /dev/pts && test -d /dev/mqueue && echo dirs; \
                      readlink /dev/fd; readlink /dev/stdin";
        let script = script.replace("TOP", top);
        let printed = world.printed(&pod, world.container_config("devices", &[]), &script);
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines, ["ro", "4", "dirs", "/proc/self/fd", "/proc/self/fd/0"], "{printed}");
    });
}

#[test]
fn privileged_the_shared_memory_of_a_pod_is_one_and_has_the_configured_size() {
    in_world(|world| {
        let pod = world.run_pod("shm");
        let id = world.run_shell(&pod, "one", "echo from-one > /dev/shm/file; sleep 1000");
        suite::patience::until("the file is there", || {
            world.try_exec(&id, &["cat", "/dev/shm/file"], 10).unwrap().exit_code == 0
        });
        let script = "cat /dev/shm/file; df -k /dev/shm | tail -1 | awk '{print $2}'";
        let printed = world.printed(&pod, world.container_config("two", &[]), script);
        assert_eq!(printed, "from-one\n65536\n");
    });
}

#[test]
fn privileged_a_read_only_root_cannot_be_written_but_its_volumes_can() {
    in_world(|world| {
        let pod = world.run_pod("readonly");
        let mut config = world.container_config("readonly", &[]);
        security(&mut config).readonly_rootfs = true;
        let volume = world.directory("volume");
        config.mounts = vec![Mount {
            container_path: "/data".into(),
            host_path: volume.display().to_string(),
            ..Default::default()
        }];
        let script = "(echo x > /file) 2>/dev/null && echo wrote; echo y > /data/file; \
                      echo z > /dev/shm/file && echo end";
        assert_eq!(world.printed(&pod, config, script), "end\n");
        assert_eq!(std::fs::read_to_string(volume.join("file")).unwrap(), "y\n");
    });
}

#[test]
fn privileged_what_a_container_writes_is_its_own() {
    in_world(|world| {
        let pod = world.run_pod("own");
        let script = "cat /bin/mark 2>/dev/null; echo x > /bin/mark; rm /etc/group; ls /etc";
        for name in ["first", "second"] {
            let config = world.container_config(name, &[]);
            let printed = world.printed(&pod, config, script);
            assert!(printed.contains("passwd") && !printed.contains('x'), "{name}: {printed}");
        }
    });
}

#[test]
fn privileged_mounts_of_every_kind_are_made_as_asked_for() {
    in_world(|world| {
        let pod = world.run_pod("mounts");
        let (directory, missing) = (world.directory("dir"), world.directory("x").join("missing"));
        write(&directory.join("file"), "content\n");
        let link = directory.join("link");
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        let mount = |from: &std::path::Path, to: &str, readonly: bool| Mount {
            container_path: to.into(),
            host_path: from.display().to_string(),
            readonly,
            ..Default::default()
        };
        let mut config = world.container_config("mounts", &[]);
        config.mounts = vec![
            mount(&directory, "/rw", false),
            mount(&directory, "/deep/down/ro", true),
            mount(&directory.join("file"), "/one-file", true),
            mount(&link, "/through-link", false),
            mount(&missing, "/made", false),
            mount(&directory, "/rw/../also", false),
        ];
        let script = "cat /one-file /deep/down/ro/file /through-link/file /also/file; \
                      (echo x > /deep/down/ro/new) 2>/dev/null && echo wrote; \
                      (echo x > /one-file) 2>/dev/null && echo wrote; \
                      echo y > /rw/new && echo z > /made/new && echo end";
        let printed = world.printed(&pod, config, script);
        assert_eq!(printed, "content\ncontent\ncontent\ncontent\nend\n");
        assert_eq!(std::fs::read_to_string(directory.join("new")).unwrap(), "y\n");
        assert_eq!(std::fs::read_to_string(missing.join("new")).unwrap(), "z\n");
    });
}

#[test]
fn privileged_mounts_are_told_in_the_status() {
    in_world(|world| {
        let pod = world.run_pod("told");
        let mut config = world.container_config("told", &["true"]);
        config.mounts = vec![Mount {
            container_path: "/data".into(),
            host_path: world.directory("data").display().to_string(),
            readonly: true,
            propagation: MountPropagation::PropagationPrivate.into(),
            ..Default::default()
        }];
        let mounts = config.mounts.clone();
        let id = world.create(&pod, config);
        assert_eq!(world.status(&id).mounts, mounts);
    });
}

#[test]
fn privileged_links_in_an_image_do_not_lead_a_mount_out_of_the_root() {
    if handler::lacks("crun", "it refuses a mount below a link to a directory that is not there") {
        return;
    }
    in_world(|world| {
        let victim = world.directory("victim");
        let image = ImageBuilder::busybox()
            .layer(
                Compression::Gzip,
                Tree::default()
                    .symlink("data", &victim.display().to_string())
                    .symlink("up", "../../.."),
            )
            .build();
        let pulled = world.pull(&world.registry().push("links", "1", &image));
        let pod = world.run_pod("links");
        let volume = world.directory("volume");
        write(&volume.join("mine"), "mine\n");
        let mut config = world.container_config("links", &[]);
        config.image.as_mut().unwrap().image.clone_from(&pulled.id);
        config.mounts = ["/data/here", "/up/tmp/there"]
            .map(|path| Mount {
                container_path: path.into(),
                host_path: volume.display().to_string(),
                ..Default::default()
            })
            .into();
        let printed = world.printed(&pod, config, "cat /data/here/mine /up/tmp/there/mine");
        assert_eq!(printed, "mine\nmine\n");
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0, "nothing was made on the node");
        world.remove_all_pods();
        world.remove_image(&pulled.id);
    });
}

#[test]
fn privileged_limits_are_in_the_cgroup_and_in_the_status() {
    in_world(|world| {
        let pod = world.run_pod("limits");
        let mut config = world.container_config("limits", &["sleep", "1000"]);
        let resources = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        };
        config.linux.as_mut().unwrap().resources = Some(resources.clone());
        let id = world.run(&pod, config);
        let expected: &[(&str, &str)] = if cgroup::is_v2() {
            // 512 shares of 1024 are weight 20 by the old formula, 59 by that of newer runtimes.
            &[("cpu.max", "50000 100000"), ("memory.max", "67108864")]
        } else {
            &[
                ("cpu.cfs_quota_us", "50000"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.shares", "512"),
                ("memory.limit_in_bytes", "67108864"),
            ]
        };
        for (file, value) in expected {
            assert_eq!(world.stage.cgroups.read(&id, file).as_deref(), Some(*value), "{file}");
        }
        let told = world.status(&id).resources.unwrap().linux.unwrap();
        assert_eq!(told.cpu_quota, resources.cpu_quota);
        assert_eq!(told.cpu_period, resources.cpu_period);
        assert_eq!(told.cpu_shares, resources.cpu_shares);
        assert_eq!(told.memory_limit_in_bytes, resources.memory_limit_in_bytes);
    });
}

#[test]
fn privileged_oom_score_and_resource_limits_are_as_asked_for() {
    in_world(|world| {
        let pod = world.run_pod("oom-score");
        let mut config = world.container_config("oom-score", &[]);
        config.linux.as_mut().unwrap().resources =
            Some(LinuxContainerResources { oom_score_adj: 500, ..Default::default() });
        assert_eq!(world.printed(&pod, config, "cat /proc/self/oom_score_adj"), "500\n");
        let config = world.container_config("limits", &[]);
        let limits = world.printed(&pod, config, "cat /proc/self/limits");
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let soft: u64 = files.split_whitespace().nth(3).unwrap().parse().unwrap();
        assert!(soft >= 1024, "{files}");
        assert!(
            soft <= 1 << 20,
            "an endless limit makes programs slow that close everything: {files}"
        );
    });
}

#[test]
fn privileged_a_container_has_no_descriptor_of_anybody_else() {
    in_world(|world| {
        let pod = world.run_pod("descriptors");
        let script = "ls -l /proc/self/fd | awk '{print $9}' | sort -n | tr '\\n' ' '; \
                      for f in 0 1 2; do readlink /proc/$$/fd/$f; done";
        let printed = world.printed(&pod, world.container_config("descriptors", &[]), script);
        let mut lines = printed.lines();
        // ls itself has the directory open as the fourth.
        assert_eq!(
            lines.next().unwrap().split_whitespace().collect::<Vec<_>>()[..4],
            ["0", "1", "2", "3"]
        );
        assert!(!printed.contains(&world.path().display().to_string()), "{printed}");
    });
}

#[test]
fn privileged_a_container_sees_its_own_processes_and_mounts_only() {
    in_world(|world| {
        let pod = world.run_pod("own");
        let script = "ps -o pid | tail -n +2 | wc -l; cat /proc/1/cmdline | tr '\\0' ' '; echo; \
                      cat /proc/self/mountinfo";
        let printed = world.printed(&pod, world.container_config("own", &[]), script);
        let mut lines = printed.lines();
        let processes: usize = lines.next().unwrap().trim().parse().unwrap();
        assert!(processes <= 5, "{printed}");
        assert!(lines.next().unwrap().starts_with("sh -c"), "it is the first process: {printed}");
        // Whatever is mounted is its own: the node's disks and the daemon's directories are not among it, but for
        // the pod's files and the devices that containers have.
        let places: Vec<&str> = lines
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|place| !place.is_empty())
            .collect();
        assert!(places.contains(&"/proc") && places.contains(&"/sys"), "{printed}");
        let own = ["/", "/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
        let strangers = places.iter().filter(|place| {
            !own.iter().any(|own| **place == *own)
                && !["/dev/", "/proc/", "/sys/"].iter().any(|below| place.starts_with(below))
        });
        assert_eq!(strangers.count(), 0, "{printed}");
    });
}

#[test]
fn privileged_a_privileged_container_may_mount_and_sees_devices() {
    in_world(|world| {
        let mut config = world.pod_config("privileged");
        suite::pods::pod_security(&mut config).privileged = true;
        let pod = world.run_pod_from(config);
        let mut config = world.container_config("privileged", &[]);
        security(&mut config).privileged = true;
        let script = "mount -t tmpfs t /tmp && echo mounted; test -e /dev/kmsg && echo devices; \
                      grep Seccomp: /proc/self/status";
        let printed = world.printed(&pod, config, script);
        assert_eq!(printed, "mounted\ndevices\nSeccomp:\t0\n");
    });
}
