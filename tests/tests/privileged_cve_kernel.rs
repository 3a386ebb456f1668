//! Past holes about what of the kernel a container sees and may use. `tests/SECURITY.md` lists them.

use cri_api::runtime::v1::security_profile::ProfileType;
use cri_api::runtime::v1::{Capability, SecurityProfile};
use suite::daemon::write;
use suite::hostile::volume;
use suite::in_world;
use suite::pods::security;

const RUNTIME_DEFAULT: SecurityProfile = SecurityProfile {
    profile_type: ProfileType::RuntimeDefault as i32,
    localhost_ref: String::new(),
};

fn localhost(path: &std::path::Path) -> Option<SecurityProfile> {
    Some(SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: path.display().to_string(),
    })
}

#[test]
fn privileged_cve_2015_3630_2017_16539_2018_10892_files_of_the_kernel_are_hidden() {
    in_world(|world| {
        let pod = world.run_pod("masks");
        // A request without lists gets ours; what this kernel does not have cannot be seen either.
        let script = "for f in /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats \
                          /proc/sched_debug /proc/interrupts; do \
                          test -e $f && test \"$(cat $f 2>/dev/null | wc -c)\" != 0 && echo seen $f; done; \
                      for d in /proc/acpi /proc/asound /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do \
                          test -e $d && test -n \"$(ls -A $d 2>/dev/null)\" && echo seen $d; done; \
                      for d in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger; do \
                          grep -q \" $d [a-z]* ro,\" /proc/mounts || ! test -e $d || echo writable $d; done; \
                      ls -d /sys/devices/system/cpu/cpu*/thermal_throttle/* 2>/dev/null; echo end";
        assert_eq!(world.printed(&pod, world.container_config("masks", &[]), script), "end\n");
    });
}

#[test]
fn privileged_lists_of_paths_are_the_requests_where_it_has_some() {
    in_world(|world| {
        let pod = world.run_pod("lists");
        let script = "head -c 5 /proc/version; head -c 1 /proc/timer_list | wc -c; touch /etc/x 2>/dev/null || echo kept";
        let mut config = world.container_config("own", &[]);
        security(&mut config).masked_paths = vec!["/proc/version".into(), "/nothing/here".into()];
        security(&mut config).readonly_paths = vec!["/etc".into()];
        let printed = world.printed(&pod, config, script);
        assert!(!printed.starts_with("Linux"), "{printed}");
        assert!(printed.ends_with("1\nkept\n"), "its lists stand in the place of ours: {printed}");
    });
}

#[test]
fn privileged_cve_2022_0492_2023_25809_cgroups_are_read_only() {
    in_world(|world| {
        let pod = world.run_pod("cgroups");
        let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do \
                          test -d $d || continue; \
                          mkdir $d/x 2>/dev/null && echo made $d/x; \
                          for f in cgroup.procs release_agent notify_on_release tasks devices.allow cgroup.subtree_control; do \
                              test -e $d/$f && (echo 1 > $d/$f) 2>/dev/null && echo wrote $d/$f; \
                          done; \
                      done; \
                      mkdir /tmp/c; mount -t cgroup -o rdma c /tmp/c 2>/dev/null && echo mounted; \
                      mount -t cgroup2 c /tmp/c 2>/dev/null && echo mounted; \
                      mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted; echo end";
        assert_eq!(world.printed(&pod, world.container_config("plain", &[]), script), "end\n");
        let mut config = world.container_config("filtered", &[]);
        security(&mut config).seccomp = Some(RUNTIME_DEFAULT);
        let script = format!(
            "unshare -UrmC sh -c 'mount -t cgroup -o rdma c /tmp && echo mounted' 2>/dev/null; {script}"
        );
        assert_eq!(world.printed(&pod, config, &script), "end\n");
    });
}

#[test]
fn privileged_ghsa_g54h_m393_cpwq_devices_are_denied_unless_they_are_allowed() {
    in_world(|world| {
        let pod = world.run_pod("devices");
        let script = "for d in 'b 8 0' 'b 259 0' 'c 1 1' 'c 1 2' 'c 1 4' 'c 1 11' 'b 7 0' 'c 4 64' 'c 10 237'; do \
                          mknod /tmp/d $d 2>/dev/null || echo no node $d; \
                          (exec 3</tmp/d) 2>/dev/null && echo read $d; \
                          (exec 3>>/tmp/d) 2>/dev/null && echo wrote $d; \
                          rm -f /tmp/d; done; \
                      echo x > /dev/null; head -c 1 /dev/zero | wc -c";
        let printed = world.printed(&pod, world.container_config("devices", &[]), script);
        assert_eq!(printed, "1\n", "only the harmless ones");
    });
}

#[test]
fn privileged_cve_2026_123876_2026_31431_families_of_sockets_are_refused_in_every_way() {
    in_world(|world| {
        let attacks = world.attack("families");
        let pod = world.run_pod("families");
        let mut config = world.container_config("families", &["/attacks/families"]);
        security(&mut config).seccomp = Some(RUNTIME_DEFAULT);
        config.mounts = vec![volume(&attacks, "/attacks")];
        assert_eq!(world.run_to_end(&pod, config).1, "others work\n");
    });
}

#[test]
fn privileged_cve_2023_2431_a_profile_that_cannot_be_read_is_no_profile() {
    in_world(|world| {
        let profiles = world.directory("profiles");
        let file = |name: &str, text: &str| write(&profiles.join(name), text);
        file("empty", "");
        file("blank", "  \n");
        file("text", "default");
        file("list", "[]");
        file("nothing", "{}");
        file("unknown", r#"{"defaultAction":"SCMP_ACT_ALLOWED"}"#);
        file("twice", r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultAction":"SCMP_ACT_KILL"}"#);
        file(
            "operator",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"SCMP_CMP_NO"}]}]}"#,
        );
        file(
            "index",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
        );
        file("rest", r#"{"defaultAction":"SCMP_ACT_ALLOW"} and more"#);
        std::fs::create_dir(profiles.join("directory")).unwrap();
        std::os::unix::fs::symlink("nowhere", profiles.join("dangling")).unwrap();
        nix::unistd::mkfifo(&profiles.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let huge = std::fs::File::create_new(profiles.join("huge")).unwrap();
        huge.set_len(1 << 30).unwrap();
        let pod = world.run_pod("profiles");
        for name in [
            "empty",
            "blank",
            "text",
            "list",
            "nothing",
            "unknown",
            "twice",
            "operator",
            "index",
            "rest",
            "directory",
            "dangling",
            "pipe",
            "huge",
            "missing",
        ] {
            let mut config = world.container_config("refused", &["true"]);
            security(&mut config).seccomp = localhost(&profiles.join(name));
            let status = world.try_run(&pod, config).expect_err(name);
            assert!(status.message().contains("seccomp"), "{name}: it says where: {status:?}");
        }
        for relative in ["profiles/x", "", "../x"] {
            let mut config = world.container_config("relative", &["true"]);
            security(&mut config).seccomp = localhost(std::path::Path::new(relative));
            assert!(world.try_run(&pod, config).is_err(), "{relative:?}");
        }
    });
}

#[test]
fn privileged_profiles_of_the_node_do_what_they_say() {
    in_world(|world| {
        let profiles = world.directory("profiles");
        let pod = world.run_pod("profiles");
        let one = |action: &str, more: &str| {
            format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_AARCH64"],
                    "syscalls":[{{"names":["mkdir","mkdirat"],"action":"{action}"{more}}}]}}"#
            )
        };
        let cases = [
            ("errno", one("SCMP_ACT_ERRNO", r#","errnoRet":28"#), "No space left on device"),
            ("plain", one("SCMP_ACT_ERRNO", ""), "Operation not permitted"),
            ("log", one("SCMP_ACT_LOG", ""), "made"),
            ("allow", one("SCMP_ACT_ALLOW", ""), "made"),
            ("kill", one("SCMP_ACT_KILL_PROCESS", ""), "Bad system call"),
            ("trap", one("SCMP_ACT_TRAP", ""), "Bad system call"),
            (
                "argument",
                one(
                    "SCMP_ACT_ERRNO",
                    r#","args":[{"index":1,"value":448,"valueTwo":0,"op":"SCMP_CMP_EQ"}]"#,
                ),
                "made",
            ),
        ];
        for (name, text, want) in cases {
            write(&profiles.join(name), &text);
            let mut config = world.container_config(name, &[]);
            security(&mut config).seccomp = localhost(&profiles.join(name));
            let script = "sh -c 'mkdir /tmp/x && echo made' 2>&1; true";
            let printed = world.printed(&pod, config, script);
            assert!(printed.contains(want), "{name}: {printed:?}");
        }
    });
}

#[test]
fn privileged_cve_2019_14891_2025_47291_the_monitor_is_outside_and_the_container_inside_the_pods_cgroup()
 {
    in_world(|world| {
        let pod = world.run_pod("cgroups");
        let id = world.run_shell(&pod, "cgroups", "sleep 1000");
        let processes = world.stage.processes(None);
        let cgroup = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let monitor =
            processes.iter().find(|seen| seen.name == "berth-monitor").expect("a monitor");
        let own = world.stage.cgroups.name();
        assert!(!cgroup(monitor.pid).contains(own), "{}", cgroup(monitor.pid));
        let sleeper = processes.iter().find(|seen| seen.name == "sleep").expect("the container");
        let memory = cgroup(sleeper.pid);
        let lines: Vec<_> =
            memory.lines().filter(|l| l.contains("memory") || l.starts_with("0::")).collect();
        assert!(lines.iter().any(|line| line.contains(own) && line.contains(&id)), "{memory}");
    });
}

#[test]
fn privileged_cve_2025_52881_labels_and_settings_are_written_where_they_belong() {
    in_world(|world| {
        let before = host_settings();
        let pod = world.run_pod("settings");
        let mut config = world.container_config("admin", &[]);
        security(&mut config).capabilities = Some(Capability {
            add_capabilities: vec!["SYS_ADMIN".into()],
            ..Capability::default()
        });
        let script = "for f in kernel/core_pattern kernel/panic vm/overcommit_memory; do \
                          (echo 1 > /proc/sys/$f) 2>/dev/null && echo wrote $f; done; \
                      (echo h > /proc/sysrq-trigger) 2>/dev/null && echo triggered; echo end";
        assert_eq!(world.printed(&pod, config, script), "end\n");
        assert_eq!(host_settings(), before);
    });
}

fn host_settings() -> [String; 3] {
    ["kernel/core_pattern", "kernel/panic", "vm/overcommit_memory"].map(|name| {
        std::fs::read_to_string(format!("/proc/sys/{name}")).expect("as the test has made it")
    })
}
