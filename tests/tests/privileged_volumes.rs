//! Volumes: what is passed on, what is read-only all the way down, whose files they are, and images as volumes.

use cri_api::runtime::v1::{
    ContainerConfig, IdMapping, ImageSpec, Mount, MountPropagation, StatusRequest,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use suite::daemon::write;
use suite::image::{Compression, Flavour, Tree};
use suite::pods::{pod_security, security};
use suite::{ImageBuilder, Pod, World, in_world};
use tonic::Code;

const NONE: Option<&str> = None;

/// A tmpfs of the test, taken down with it.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(path: PathBuf, kind: MsFlags) -> Self {
        std::fs::create_dir_all(&path).expect("make a directory");
        mount(Some("test"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=1m"))
            .expect("mount");
        mount(NONE, &path, NONE, kind, NONE).expect("set propagation");
        Self(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("unmount");
    }
}

fn volume(host: &Path, inside: &str, propagation: MountPropagation) -> Mount {
    Mount {
        container_path: inside.into(),
        host_path: host.display().to_string(),
        propagation: propagation.into(),
        ..Default::default()
    }
}

fn privileged_pod(world: &World, name: &str) -> Pod {
    let mut config = world.pod_config(name);
    pod_security(&mut config).privileged = true;
    world.run_pod_from(config)
}

fn with(world: &World, name: &str, mounts: Vec<Mount>) -> ContainerConfig {
    let mut config = world.container_config(name, &["sleep", "1000"]);
    config.mounts = mounts;
    config
}

#[test]
fn privileged_mounts_of_the_node_arrive_where_they_are_to() {
    use MountPropagation::{
        PropagationBidirectional as Shared, PropagationHostToContainer as Slave,
        PropagationPrivate as Private,
    };
    in_world(|world| {
        let host = Tmpfs::new(world.directory("shared"), MsFlags::MS_SHARED);
        let pod = world.run_pod("arrive");
        let ids: Vec<_> =
            [("private", Private, false), ("slave", Slave, true), ("shared", Shared, true)]
                .into_iter()
                .map(|(name, kind, arrives)| {
                    (
                        world.run(&pod, with(world, name, vec![volume(&host.0, "/mnt", kind)])),
                        name,
                        arrives,
                    )
                })
                .collect();
        let later = Tmpfs::new(host.0.join("later"), MsFlags::MS_PRIVATE);
        write(&later.0.join("file"), "arrived\n");
        for (id, name, arrives) in &ids {
            let seen = world.try_exec(id, &["cat", "/mnt/later/file"], 60).unwrap();
            assert_eq!(seen.exit_code == 0, *arrives, "{name}");
        }
        drop(later);
        for (id, name, _) in &ids {
            assert_eq!(world.exec(id, &["ls", "/mnt/later"]), "", "{name}: gone again");
            world.stop(id, 0);
        }
        world.remove_all_pods();
        drop(host);
    });
}

#[test]
fn privileged_mounts_of_a_container_leave_it_only_where_they_may() {
    use MountPropagation::{
        PropagationBidirectional as Shared, PropagationHostToContainer as Slave,
        PropagationPrivate as Private,
    };
    in_world(|world| {
        let host = Tmpfs::new(world.directory("shared"), MsFlags::MS_SHARED);
        let pod = privileged_pod(world, "leave");
        for (name, kind, leaves) in
            [("private", Private, false), ("slave", Slave, false), ("shared", Shared, true)]
        {
            let mut config = with(world, name, vec![volume(&host.0, "/mnt", kind)]);
            security(&mut config).privileged = true;
            let id = world.run(&pod, config);
            let inner = host.0.join(name);
            std::fs::create_dir(&inner).unwrap();
            world.exec(
                &id,
                &[
                    "sh",
                    "-c",
                    &format!("mount -t tmpfs mine /mnt/{name} && echo x > /mnt/{name}/file"),
                ],
            );
            assert_eq!(inner.join("file").exists(), leaves, "{name}");
            world.stop(&id, 0);
            if leaves {
                umount2(&inner, MntFlags::MNT_DETACH).unwrap();
            }
        }
        world.remove_all_pods();
        drop(host);
    });
}

#[test]
fn privileged_what_the_node_does_not_pass_on_is_refused() {
    use MountPropagation::{
        PropagationBidirectional as Shared, PropagationHostToContainer as Slave,
    };
    in_world(|world| {
        let pod = world.run_pod("refused");
        let private = Tmpfs::new(world.directory("private"), MsFlags::MS_PRIVATE);
        for (kind, want) in [(Slave, "not a shared or slave mount"), (Shared, "not a shared mount")]
        {
            let refused = world
                .try_create(&pod, with(world, "c", vec![volume(&private.0, "/mnt", kind)]))
                .expect_err(want);
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains(want), "{refused}");
        }
        drop(private);
    });
}

#[test]
fn privileged_recursively_read_only_goes_all_the_way_down() {
    in_world(|world| {
        let top = world.directory("top");
        let below = Tmpfs::new(top.join("below"), MsFlags::MS_PRIVATE);
        let pod = world.run_pod("rro");
        let mount = |recursive_read_only| Mount {
            readonly: true,
            recursive_read_only,
            ..volume(&top, "/mnt", MountPropagation::PropagationPrivate)
        };
        let script = "(echo x > /mnt/new) 2>/dev/null && echo top; (echo x > /mnt/below/new) 2>/dev/null && echo below; echo end";
        for (recursive, want) in [(false, "below\nend\n"), (true, "end\n")] {
            let mut config = with(world, &format!("rro-{recursive}"), vec![mount(recursive)]);
            config.command.clear();
            assert_eq!(world.printed(&pod, config, script), want, "{recursive}");
        }
        type Change = fn(&mut Mount);
        let cases: [(&str, Change); 3] = [
            ("writable", |mount| mount.readonly = false),
            ("slave", |mount| {
                mount.propagation = MountPropagation::PropagationHostToContainer.into()
            }),
            ("shared", |mount| {
                mount.propagation = MountPropagation::PropagationBidirectional.into()
            }),
        ];
        for (name, change) in cases {
            let mut asked = mount(true);
            change(&mut asked);
            let refused = world.try_create(&pod, with(world, name, vec![asked])).expect_err(name);
            assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
        }
        let status = world.cri().status(StatusRequest::default()).unwrap();
        assert!(status.runtime_handlers[0].features.unwrap().recursive_read_only_mounts);
        world.remove_all_pods();
        drop(below);
    });
}

#[test]
fn privileged_owners_of_a_volume_are_shown_as_asked_for() {
    in_world(|world| {
        let status = world.cri().status(StatusRequest::default()).unwrap();
        if !status.runtime_handlers[0].features.unwrap().user_namespaces {
            println!("NOT RUN: the kernel maps no ids of mounts here");
            return;
        }
        let data = world.directory("data");
        write(&data.join("file"), "x");
        let pod = world.run_pod("owners");
        let ids = |host_id, length| vec![IdMapping { host_id, container_id: 0, length }];
        let mut config = with(
            world,
            "owners",
            vec![Mount {
                uid_mappings: ids(1000, 10),
                gid_mappings: ids(2000, 10),
                ..volume(&data, "/data", MountPropagation::PropagationPrivate)
            }],
        );
        security(&mut config).run_as_user = Some(cri_api::runtime::v1::Int64Value { value: 1001 });
        security(&mut config).run_as_group = Some(cri_api::runtime::v1::Int64Value { value: 2001 });
        std::fs::set_permissions(&data, PermissionsExt::from_mode(0o777)).unwrap();
        let printed = world.printed(
            &pod,
            config,
            "stat -c %u:%g /data/file; touch /data/new; stat -c %u:%g /data/new",
        );
        assert_eq!(printed, "1000:2000\n1001:2001\n");
        let new = std::fs::metadata(data.join("new")).unwrap();
        assert_eq!((new.uid(), new.gid()), (1, 1), "on disk");
        let refused = world
            .try_create(
                &pod,
                with(
                    world,
                    "half",
                    vec![Mount {
                        uid_mappings: ids(1000, 10),
                        ..volume(&data, "/data", MountPropagation::PropagationPrivate)
                    }],
                ),
            )
            .expect_err("users without groups");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    });
}

fn image_mount(image: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: "/models".into(),
        image: Some(ImageSpec { image: image.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        readonly: true,
        ..Default::default()
    }
}

fn models() -> ImageBuilder {
    ImageBuilder::new(Flavour::Oci)
        .layer(
            Compression::Gzip,
            Tree::default()
                .directory("small")
                .file("small/model", 0o644, b"weights\n")
                .file("small/old", 0o644, b"old\n")
                .file("run", 0o755, b"#!/bin/sh\necho ran\n")
                .symlink("latest", "/small")
                .symlink("up", "../../../small"),
        )
        .layer(
            Compression::Gzip,
            Tree::default().whiteout("small", "old").file("top", 0o644, b"top\n"),
        )
}

#[test]
fn privileged_an_image_is_a_volume_and_stays_while_it_is_used() {
    in_world(|world| {
        let pulled = world.pull(&world.registry().push("models", "1", &models().build()));
        let pod = world.run_pod("models");
        let config = with(world, "uses", vec![image_mount(&pulled.id, "")]);
        let mounts = config.mounts.clone();
        let id = world.create(&pod, config);
        assert_eq!(world.status(&id).mounts, mounts);
        // Off the list before the start, and no content is lost.
        world.remove_image(&pulled.id);
        world.restart_daemon();
        world.start(&id);
        let script = "cat /models/small/model /models/top; ls /models/small; cat /models/latest/model 2>/dev/null; \
            (echo x > /models/new) 2>/dev/null && echo wrote; /models/run 2>/dev/null && echo ran; \
            grep ' /models ' /proc/self/mountinfo | cut -d' ' -f6";
        let seen = world.exec(&id, &["sh", "-c", script]);
        let options = seen.lines().last().unwrap();
        assert!(options.starts_with("ro,nosuid,nodev,noexec"), "{seen}");
        assert_eq!(seen.lines().take(3).collect::<Vec<_>>(), ["weights", "top", "model"], "{seen}");
        assert_eq!(seen.lines().count(), 4, "{seen}");
        world.stop(&id, 0);
        world.remove(&id);
        world.remove_all_pods();
        // With its last user its layers go, which the census sees.
    });
}

#[test]
fn privileged_a_part_of_an_image_is_found_inside_it_only() {
    in_world(|world| {
        let pulled = world.pull(&world.registry().push("models", "2", &models().build()));
        let pod = world.run_pod("parts");
        for (name, sub_path) in
            [("plain", "small"), ("dots", "./small/."), ("link", "latest"), ("link-up", "up")]
        {
            let mut config = with(world, name, vec![image_mount(&pulled.reference, sub_path)]);
            config.command.clear();
            assert_eq!(
                world.printed(&pod, config, "cat /models/model; ls /models"),
                "weights\nmodel\n",
                "{name}"
            );
        }
        let mut config = with(world, "file", vec![image_mount(&pulled.id, "top")]);
        config.command.clear();
        assert_eq!(world.printed(&pod, config, "cat /models"), "top\n");
        let cases = [
            ("missing", pulled.id.as_str(), "large"),
            ("up", &pulled.id, "../small"),
            ("absolute", &pulled.id, "/small"),
            ("through a file", &pulled.id, "top/x"),
            ("no image", "nobody/has:this", ""),
        ];
        for (name, image, sub_path) in cases {
            let refused = world
                .try_create(&pod, with(world, "no", vec![image_mount(image, sub_path)]))
                .expect_err(name);
            assert!(refused.message().starts_with("ImageVolumeMountFailed: "), "{name}: {refused}");
            assert_ne!(refused.code(), Code::Internal, "{name}: {refused}");
        }
        world.remove_all_pods();
        world.remove_image(&pulled.id);
    });
}
