//! Pods with a user namespace: their root is nobody on the node.

#![expect(clippy::print_stdout, reason = "what could not run is said")]

use cri_api::runtime::v1::{
    ContainerConfig, IdMapping, Mount, MountPropagation, NamespaceMode, NamespaceOption,
    PodSandboxConfig, StatusRequest, UserNamespace,
};
use std::os::unix::fs::MetadataExt;
use suite::daemon::write;
use suite::pods::{pod_security, security};
use suite::{Pod, World, in_world};
use tonic::Code;

const IDS: IdMapping = IdMapping { host_id: 200_000, container_id: 0, length: 65_536 };

fn ids() -> UserNamespace {
    UserNamespace { mode: NamespaceMode::Pod.into(), uids: vec![IDS], gids: vec![IDS] }
}

fn options(options: &mut Option<NamespaceOption>) -> &mut NamespaceOption {
    options.get_or_insert_default()
}

fn pod_config(world: &World, name: &str) -> PodSandboxConfig {
    let mut config = world.pod_config(name);
    options(&mut pod_security(&mut config).namespace_options).userns_options = Some(ids());
    config
}

fn container(world: &World, name: &str, command: &[&str]) -> ContainerConfig {
    let mut config = world.container_config(name, command);
    options(&mut security(&mut config).namespace_options).userns_options = Some(ids());
    config
}

/// What a case changes in a container's configuration.
type Change = fn(&mut ContainerConfig);

/// Whether this node can: then it must say so, for the handler without a name.
fn is_possible(world: &World) -> bool {
    let status = world.cri().status(StatusRequest::default()).expect("status");
    let handler = status.runtime_handlers.iter().find(|handler| handler.name.is_empty());
    let features = handler.and_then(|handler| handler.features).expect("features");
    if !features.user_namespaces {
        println!("NOT RUN: the kernel maps no ids of mounts, or makes no user namespaces, here");
    }
    features.user_namespaces
}

fn in_world_with(test: impl FnOnce(&mut World) + Send + 'static) {
    in_world(|world| {
        if is_possible(world) {
            test(world);
        }
    });
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

#[test]
fn privileged_root_of_a_pod_is_nobody_on_the_node() {
    in_world_with(|world| {
        let pod = world.run_pod_from(pod_config(world, "users"));
        let volume = world.directory("volume");
        write(&volume.join("there"), "x");
        let mut config = container(world, "root", &[]);
        config.mounts = vec![Mount {
            container_path: "/data".into(),
            host_path: volume.display().to_string(),
            uid_mappings: vec![IDS],
            gid_mappings: vec![IDS],
            ..Default::default()
        }];
        let script = "echo $(cat /proc/self/uid_map); echo $(cat /proc/self/gid_map); id -u; \
            touch /new /bin/new /data/new /dev/shm/new; \
            for f in / /bin /bin/sh /new /bin/new /data/there /data/new /dev /dev/null /dev/pts /dev/shm /dev/shm/new \
                /dev/mqueue /etc/hosts /etc/resolv.conf /etc/hostname /proc/1 /sys; do \
                test $(stat -c %u:%g $f) = 0:0 || echo $f is $(stat -c %u:%g $f); done; \
            grep -c localhost /etc/hosts; hostname; echo line >> /etc/hosts && echo appended; \
            echo x > /dev/null && head -c 4 /dev/zero | wc -c; ls /sys/class/net | tr '\\n' ' '; echo; \
            mknod /tmp/d c 1 3 2>/dev/null && echo made; echo end";
        let printed = world.printed(&pod, config, script);
        let mut lines = lines(&printed);
        // What is not set by us in a sysfs belongs to the node's root, whatever is mounted where.
        lines.retain(|line| !line.starts_with("/sys is"));
        let want = [
            "0 200000 65536",
            "0 200000 65536",
            "0",
            "2",
            "users",
            "appended",
            "4",
            "eth0 lo",
            "end",
        ];
        assert_eq!(lines, want, "{printed}");
        let new = std::fs::metadata(volume.join("new")).unwrap();
        assert_eq!((new.uid(), new.gid()), (0, 0), "on disk it is what it is inside");
    });
}

#[test]
fn privileged_all_of_a_pod_is_in_one_user_namespace_and_execs_too() {
    in_world_with(|world| {
        let pod = world.run_pod_from(pod_config(world, "one"));
        let command = ["sleep", "1000"];
        let first = world.run(&pod, container(world, "first", &command));
        let mut config = container(world, "second", &command);
        options(&mut security(&mut config).namespace_options).pid = NamespaceMode::Pod.into();
        security(&mut config).run_as_user = Some(cri_api::runtime::v1::Int64Value { value: 1000 });
        let second = world.run(&pod, config);
        let node = std::fs::read_link("/proc/self/ns/user").unwrap().display().to_string();
        let seen = [&first, &second].map(|id| world.exec(id, &["readlink", "/proc/self/ns/user"]));
        assert_eq!(seen[0], seen[1]);
        assert_ne!(seen[0].trim(), node);
        assert_eq!(world.exec(&first, &["id", "-u"]), "0\n");
        assert_eq!(world.exec(&second, &["id", "-u"]), "1000\n");
        for (id, uid) in [(&first, 200_000), (&second, 201_000)] {
            let owner = std::fs::metadata(format!("/proc/{}", world.pid(id))).unwrap().uid();
            assert_eq!(owner, uid);
        }
        world.restart_daemon();
        assert_eq!(world.exec(&first, &["readlink", "/proc/self/ns/user"]), seen[0]);
        let status = world.pod_status(&pod.id);
        let told = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(told.userns_options, Some(ids()), "told as it was asked for");
    });
}

#[test]
fn privileged_a_terminal_and_streams_are_the_users_own() {
    in_world_with(|world| {
        let pod = world.run_pod_from(pod_config(world, "tty"));
        let mut config = container(world, "tty", &[]);
        config.tty = true;
        security(&mut config).run_as_user = Some(cri_api::runtime::v1::Int64Value { value: 1000 });
        let printed =
            world.printed(&pod, config, "tty=$(stat -c %u /dev/pts/0); echo $tty > /dev/stdout");
        assert_eq!(printed.trim(), "1000");
        let mut config = container(world, "pipes", &[]);
        security(&mut config).run_as_user = Some(cri_api::runtime::v1::Int64Value { value: 1000 });
        assert_eq!(world.printed(&pod, config, "echo again > /dev/stdout"), "again\n");
    });
}

#[test]
fn privileged_a_privileged_container_has_power_over_its_own_only() {
    in_world_with(|world| {
        let mut config = pod_config(world, "power");
        pod_security(&mut config).privileged = true;
        let pod = world.run_pod_from(config);
        let mut config = container(world, "power", &[]);
        security(&mut config).privileged = true;
        let before = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
        let script = "mount -t tmpfs none /tmp && echo mounts; ip link set lo down && echo links; hostname changed && echo names; \
            (echo 77 > /proc/sys/kernel/panic) 2>/dev/null && echo set; \
            for d in /dev/vda /dev/sda /dev/mem /dev/kmsg; do test -e $d && head -c 1 $d >/dev/null 2>&1 && echo read $d; done; \
            for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/x 2>/dev/null && rmdir $d/x && echo made; done; \
            mknod /tmp/m c 1 1 2>/dev/null && echo device; echo end";
        let printed = world.printed(&pod, config, script);
        let mut got = lines(&printed);
        // On v2 its cgroup is its own to divide, where the node lets it.
        got.retain(|line| *line != "made");
        assert_eq!(got, ["mounts", "links", "names", "end"], "{printed}");
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/panic").unwrap(), before);
    });
}

#[test]
fn privileged_pods_with_user_namespaces_reach_each_other() {
    in_world_with(|world| {
        let server = world.run_pod_from(pod_config(world, "server"));
        world.run(
            &server,
            container(
                world,
                "server",
                &["sh", "-c", "while true; do echo hello | nc -l -p 80; done"],
            ),
        );
        let address = world.address(&server);
        let client = world.run_pod("client");
        let script = format!(
            "for i in $(seq 100); do nc -w 2 {address} 80 </dev/null && break; sleep 0.1; done"
        );
        let printed = world.printed(&client, world.container_config("client", &[]), &script);
        assert_eq!(printed, "hello\n");
    });
}

fn refused(world: &World, change: impl Fn(&mut NamespaceOption)) -> Code {
    let mut config = pod_config(world, "refused");
    change(options(&mut pod_security(&mut config).namespace_options));
    world.try_run_pod(&config).expect_err("refused").code()
}

#[test]
fn privileged_other_shapes_of_user_namespaces_are_refused_and_leave_nothing() {
    in_world_with(|world| {
        type Change = fn(&mut NamespaceOption);
        let cases: [(&str, Change); 9] = [
            ("two ranges", |options| {
                let second = IdMapping { container_id: 65_536, host_id: 500_000, length: 1 };
                options.userns_options.as_mut().unwrap().uids.push(second);
            }),
            ("no range", |options| options.userns_options.as_mut().unwrap().gids.clear()),
            ("without root", |options| {
                options.userns_options.as_mut().unwrap().uids[0].container_id = 1;
            }),
            ("no ids", |options| options.userns_options.as_mut().unwrap().uids[0].length = 0),
            ("beyond all ids", |options| {
                options.userns_options.as_mut().unwrap().uids[0].length = u32::MAX;
            }),
            ("of a container", |options| {
                options.userns_options.as_mut().unwrap().mode = NamespaceMode::Container.into();
            }),
            ("the node's network", |options| options.network = NamespaceMode::Node.into()),
            ("the node's IPC", |options| options.ipc = NamespaceMode::Node.into()),
            ("the node's processes", |options| options.pid = NamespaceMode::Node.into()),
        ];
        for (name, change) in cases {
            assert_eq!(refused(world, change), Code::InvalidArgument, "{name}");
        }
        world.assert_nothing_is_left();
    });
}

#[test]
fn privileged_containers_that_do_not_fit_their_pods_user_namespace_are_refused() {
    in_world_with(|world| {
        let (with, without) =
            (world.run_pod_from(pod_config(world, "with")), world.run_pod("without"));
        let create = |pod: &Pod, change: &dyn Fn(&mut ContainerConfig)| {
            let mut config = container(world, "c", &["true"]);
            change(&mut config);
            world.try_create(pod, config).expect_err("refused").code()
        };
        assert_eq!(create(&without, &|_| {}), Code::InvalidArgument, "one of its own");
        let cases: [(&str, Change); 4] = [
            ("other ids", |config| {
                let options = options(&mut security(config).namespace_options);
                options.userns_options.as_mut().unwrap().uids[0].host_id = 1;
            }),
            ("the node's processes", |config| {
                options(&mut security(config).namespace_options).pid = NamespaceMode::Node.into();
            }),
            ("a user without an id", |config| {
                security(config).run_as_user =
                    Some(cri_api::runtime::v1::Int64Value { value: 65_536 });
            }),
            ("mounts on the node", |config| {
                config.mounts = vec![Mount {
                    container_path: "/mnt".into(),
                    host_path: "/tmp".into(),
                    propagation: MountPropagation::PropagationBidirectional.into(),
                    ..Default::default()
                }];
            }),
        ];
        for (name, change) in cases {
            assert_eq!(create(&with, &change), Code::InvalidArgument, "{name}");
        }
        // One that says nothing is in its pod's all the same.
        let printed = world.printed(
            &with,
            world.container_config("silent", &[]),
            "readlink /proc/self/ns/user",
        );
        assert_ne!(
            printed.trim(),
            std::fs::read_link("/proc/self/ns/user").unwrap().display().to_string()
        );
    });
}
