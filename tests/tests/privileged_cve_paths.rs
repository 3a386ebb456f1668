//! Past holes where a path of an image or a volume led to the node. `tests/SECURITY.md` lists them.
//!
//! Each test has a canary on the node, which must be the same afterwards, and a link to it where a runtime once followed.

use cri_api::runtime::v1::{ContainerConfig, ImageSpec};
use suite::canary::SECRET;
use suite::daemon::write;
use suite::hostile::volume;
use suite::image::{Compression, Tree};
use suite::pods::security;
use suite::{Canary, ImageBuilder, World, in_world};

/// The ways in which a link can point at a file of the node.
fn links_to(canary: &Canary, below: &str) -> Vec<(&'static str, String)> {
    let absolute = canary.at(below);
    let up = "../".repeat(30);
    vec![
        ("absolute", absolute.clone()),
        ("relative", format!("{up}{}", absolute.trim_start_matches('/'))),
        ("by the first process", format!("/proc/1/root{absolute}")),
        ("by a descriptor", format!("/proc/self/fd/3{absolute}")),
        ("to nothing yet", format!("{absolute}-that-is-not-there")),
    ]
}

/// The name of a container made from a title.
fn name(text: &str) -> String {
    text.replace([' ', '/'], "-").to_lowercase()
}

#[test]
fn privileged_cve_2019_18837_2025_24965_2024_5154_files_of_the_pod_on_links_stay_inside() {
    in_world(|world| {
        let canary = Canary::plant(world);
        let log = world.directory("termination");
        write(&log.join("log"), "");
        for (title, target) in links_to(&canary, "file") {
            let mut tree = Tree::default();
            for path in ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"] {
                tree = tree.symlink(path, &target);
            }
            world.with_tree(tree.symlink("termination-log", &target), |image| {
                let pod = world.run_pod("files");
                let script = "cat /etc/hostname; cat /etc/hosts /etc/resolv.conf; echo x >> /etc/hosts; \
                              echo said > /termination-log; mount | grep -c ' /etc/' ; true";
                let mut config = world.config_of(image, &name(title), script);
                config.mounts = vec![volume(&log.join("log"), "/termination-log")];
                match world.try_run(&pod, config) {
                    Ok(id) => {
                        world.wait(&id);
                        let lines = suite::log::written(&world.log_of(&id), "stdout");
                        assert!(!lines.contains(SECRET.trim()), "{title}: {lines}");
                    }
                    Err(status) => assert!(!status.message().is_empty(), "{title}"),
                }
            });
            canary.assert_unharmed(title);
        }
        world.with_tree(Tree::default().symlink("etc", &canary.at("directory")), |image| {
            let pod = world.run_pod("etc");
            world.try_run(&pod, world.config_of(image, "etc", "true")).ok();
        });
        canary.assert_unharmed("a link in place of /etc");
    });
}

#[test]
fn privileged_cve_2023_27561_2023_28642_2025_54867_special_directories_must_be_directories() {
    in_world(|world| {
        let canary = Canary::plant(world);
        type Make = fn(Tree, &str, &str) -> Tree;
        let kinds: [(&str, Make, bool); 4] = [
            ("a link", |tree, path, to| tree.symlink(path, to), true),
            ("a link to nothing", |tree, path, _| tree.symlink(path, "nothing/there"), true),
            ("a file", |tree, path, _| tree.file(path, 0o644, b""), true),
            ("a pipe", |tree, path, _| tree.fifo(path), true),
        ];
        for directory in ["proc", "sys", "dev"] {
            for (kind, make, refused) in &kinds {
                let tree = make(Tree::default(), directory, &canary.at("directory"));
                world.with_tree(tree, |image| {
                    let pod = world.run_pod("special");
                    let config = world.config_of(image, directory, "true");
                    let outcome = world.try_run(&pod, config);
                    assert_eq!(outcome.is_err(), *refused, "{directory} is {kind}: {outcome:?}");
                });
                canary.assert_unharmed(&format!("/{directory} is {kind}"));
            }
        }
        // Below /dev and /sys nothing of an image is to be seen at all.
        let mut tree = Tree::default();
        for path in ["dev/pts", "dev/shm", "dev/mqueue", "sys/fs"] {
            tree = tree.symlink(path, &canary.at("directory"));
        }
        world.with_tree(tree, |image| {
            let pod = world.run_pod("below");
            let config = world.config_of(
                image,
                "below",
                "stat -f -c %T /dev/pts /dev/shm /dev/mqueue /sys/fs/cgroup",
            );
            let (status, _) = world.run_to_end(&pod, config);
            assert_eq!(status.exit_code, 0, "{status:?}");
        });
        canary.assert_unharmed("links below the special directories");
    });
}

#[test]
fn privileged_cve_2026_41579_2026_47766_devices_are_never_made_behind_a_link() {
    in_world(|world| {
        let canary = Canary::plant(world);
        for (title, target) in links_to(&canary, "directory") {
            world.with_tree(Tree::default().symlink("dev", &target), |image| {
                let pod = world.run_pod("dev");
                world.try_run(&pod, world.config_of(image, "dev", "true")).unwrap_err();
            });
            canary.assert_unharmed(title);
        }
        let chain = Tree::default()
            .symlink("dev", "second")
            .symlink("second", "third")
            .symlink("third", &canary.at("directory"));
        world.with_tree(chain, |image| {
            let pod = world.run_pod("chain");
            world.try_run(&pod, world.config_of(image, "dev", "true")).unwrap_err();
        });
        canary.assert_unharmed("a chain of links");
    });
}

#[test]
fn privileged_cve_2015_3627_2026_88264_2026_88265_streams_and_console_are_not_the_images() {
    in_world(|world| {
        let canary = Canary::plant(world);
        let mut tree = Tree::default();
        for path in ["dev/null", "dev/console", "dev/ptmx", "dev/tty", "dev/stdin", "dev/fd"] {
            tree = tree.symlink(path, &canary.at("file"));
        }
        world.with_tree(tree.symlink("entry", &canary.at("file")), |image| {
            let pod = world.run_pod("streams");
            let script = "stat -L -c '%t:%T' /proc/self/fd/0 /dev/null; ls -l /dev/console 2>&1 | cut -c1; \
                          for fd in /proc/self/fd/*; do n=${fd##*/}; test $n -gt 3 && readlink $fd; done; echo end";
            let (_, written) = world.run_to_end(&pod, world.config_of(image, "plain", script));
            assert!(written.starts_with("1:3\n1:3\n") && written.ends_with("end\n"), "{written}");
            let mut config = world.config_of(image, "tty", "stat -L -c %F /dev/console; readlink /dev/fd");
            config.tty = true;
            let (_, written) = world.run_to_end(&pod, config);
            assert_eq!(written.replace('\r', ""), "character special file\n/proc/self/fd\n");
            let mut config = world.config_of(image, "entry", "");
            config.command = vec!["/entry".into()];
            world.try_run(&pod, config).unwrap_err();
        });
        canary.assert_unharmed("streams, console and entry point as links");
    });
}

#[test]
fn privileged_cve_2015_3629_a_target_that_a_container_has_replaced_is_not_followed() {
    in_world(|world| {
        let canary = Canary::plant(world);
        let (shared, data) = (world.directory("shared"), world.directory("data"));
        write(&data.join("mine"), "mine\n");
        let pod = world.run_pod("replaced");
        let mut first = world.container_config("first", &[]);
        first.mounts = vec![volume(&shared, "/shared")];
        let link = format!("ln -s {} /shared/data && echo linked", canary.at("directory"));
        assert_eq!(world.printed(&pod, first, &link), "linked\n");
        let mut second = world.container_config("second", &[]);
        second.mounts = vec![volume(&shared, "/shared"), volume(&data, "/shared/data")];
        let script = format!(
            "cat {}/mine; cat {}/file 2>/dev/null; true",
            canary.at("directory"),
            canary.at("directory")
        );
        assert_eq!(world.printed(&pod, second, &script), "mine\n", "it landed inside");
        canary.assert_unharmed("a volume over a link that a container made");
    });
}

#[test]
fn privileged_cve_2015_3631_2019_16884_nothing_is_mounted_over_the_process_list() {
    in_world(|world| {
        let data = world.directory("data");
        let pod = world.run_pod("over");
        for target in [
            "/proc",
            "/proc/",
            "/proc/self",
            "/proc/self/attr",
            "/proc/thread-self/attr/exec",
            "/proc/sys",
            "/proc/sys/kernel",
            "/proc/1",
            "/proc/../proc/self/fd",
            "/dev/../proc/self",
        ] {
            let mut config = world.container_config("over", &["true"]);
            config.mounts = vec![volume(&data, target)];
            assert!(world.try_run(&pod, config).is_err(), "{target}");
        }
        let image =
            ImageBuilder::busybox().config("Volumes", serde_json::json!({ "/proc": {} })).build();
        world.with_image(&image, |image| {
            let pod = world.run_pod("volume");
            world.try_run(&pod, world.config_of(image, "volume", "true")).unwrap_err();
        });
        // By way of a link of the image, too.
        world.with_tree(Tree::default().symlink("here", "/proc/self"), |image| {
            let pod = world.run_pod("link");
            for target in ["/here/attr", "/here/fd", "/here"] {
                let mut config = world.config_of(image, "link", "true");
                config.mounts = vec![volume(&data, target)];
                assert!(world.try_run(&pod, config).is_err(), "{target}");
            }
        });
    });
}

#[test]
fn privileged_cve_2022_23648_volumes_of_an_image_show_nothing_of_the_node() {
    in_world(|world| {
        let canary = Canary::plant(world);
        for (title, target) in links_to(&canary, "directory") {
            let image = ImageBuilder::busybox()
                .layer(Compression::Gzip, Tree::default().symlink("v", &target))
                .config("Volumes", serde_json::json!({ "/v": {}, "/v/below": {} }))
                .build();
            world.with_image(&image, |image| {
                let pod = world.run_pod("volumes");
                let script = "cat /v/file /v/below/file 2>/dev/null; echo end";
                if let Ok(id) = world.try_run(&pod, world.config_of(image, "volumes", script)) {
                    world.wait(&id);
                    assert_eq!(
                        suite::log::written(&world.log_of(&id), "stdout"),
                        "end\n",
                        "{title}"
                    );
                }
            });
            canary.assert_unharmed(title);
        }
    });
}

#[test]
fn privileged_cve_2026_55686_working_directories_are_made_inside() {
    in_world(|world| {
        let canary = Canary::plant(world);
        let mut cases = links_to(&canary, "directory");
        cases.push(("up", "..".to_owned()));
        for (title, target) in cases {
            let image = ImageBuilder::busybox()
                .layer(Compression::Gzip, Tree::default().symlink("a", &target))
                .config("WorkingDir", serde_json::json!("/a/new/deep"))
                .build();
            world.with_image(&image, |image| {
                let pod = world.run_pod("workdir");
                if let Ok(id) =
                    world.try_run(&pod, world.config_of(image, "workdir", "pwd; echo x > y"))
                {
                    assert_eq!(world.wait(&id).exit_code, 0, "{title}");
                }
            });
            canary.assert_unharmed(title);
        }
    });
}

#[test]
fn privileged_cve_2024_21626_a_working_directory_outside_the_root_is_refused() {
    in_world(|world| {
        let pod = world.run_pod("cwd");
        let refused = |config: ContainerConfig, what: &str| {
            assert!(world.try_run(&pod, config).is_err(), "{what}");
        };
        for number in (3..16).chain([32, 64]) {
            let mut config = world.container_config("cwd", &["pwd"]);
            config.working_dir = format!("/proc/self/fd/{number}");
            refused(config, &format!("descriptor {number}"));
        }
        for directory in ["/proc/1/cwd", "/proc/self/cwd/../../..", "/proc/1/root/../.."] {
            let mut config = world.container_config("cwd", &["pwd"]);
            config.working_dir = directory.into();
            refused(config, directory);
        }
        world.with_tree(Tree::default().symlink("link", "/proc/self/fd/7"), |image| {
            let pod = world.run_pod("link");
            let mut config = world.config_of(image, "link", "pwd");
            config.working_dir = "/link".into();
            world.try_run(&pod, config).unwrap_err();
        });
        let pod = world.run_pod("exec");
        let id = world.run_shell(&pod, "exec", "sleep 1000");
        let script =
            "for cwd in /proc/[0-9]*/cwd; do readlink $cwd; done; ls /proc/self/fd | wc -l";
        let seen = world.exec(&id, &["sh", "-c", script]);
        assert!(!seen.contains("unreachable"), "{seen}");
        assert_eq!(
            seen.lines().last().map(str::trim),
            Some("4"),
            "three streams and the listing: {seen}"
        );
    });
}

#[test]
fn privileged_cve_2026_115520_2026_115521_odd_targets_and_read_only_roots() {
    in_world(|world| {
        let data = world.directory("data");
        write(&data.join("mine"), "mine\n");
        let pod = world.run_pod("odd");
        let long = format!("/{}", "deep/".repeat(100));
        for (at, target) in ["/a]:b", "/a:[b]", "/a\\040b", "/a b", "/ä/ö", "/a,b=c", long.as_str()]
            .iter()
            .enumerate()
        {
            let mut config = world.container_config(&format!("odd-{at}"), &[]);
            config.mounts = vec![volume(&data, target)];
            let printed = world.printed(
                &pod,
                config,
                &format!("cat '{}/mine'", target.trim_end_matches('/')),
            );
            assert_eq!(printed, "mine\n", "{target}");
        }
        for target in ["", "relative", "/a\0b", &format!("/{}", "x".repeat(4096))] {
            let mut config = world.container_config("refused", &["true"]);
            config.mounts = vec![volume(&data, target)];
            assert!(world.try_run(&pod, config).is_err(), "{target:?}");
        }
        let mut config = world.container_config("fd", &["true"]);
        security(&mut config).readonly_rootfs = true;
        config.mounts = vec![volume(&data, "/proc/self/fd")];
        world.try_run(&pod, config).unwrap_err();
        let mut config = world.container_config("readonly", &[]);
        security(&mut config).readonly_rootfs = true;
        config.mounts = vec![volume(&data, "/data")];
        let script = "touch /x 2>&1 | grep -o 'Read-only file system'; cat /data/mine";
        assert_eq!(world.printed(&pod, config, script), "Read-only file system\nmine\n");
    });
}

#[test]
fn privileged_links_that_honest_images_have_still_work() {
    // containerd be027f1a8 and 196664bc0, moby CVE-2026-42306: first fixes that broke these.
    in_world(|world| {
        let tree = Tree::default()
            .directory("nix/store")
            .file("nix/store/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nnix:x:77:78::/:/bin/sh\n")
            .symlink("etc/passwd", "/nix/store/passwd")
            .directory("run")
            .symlink("var/run", "/run");
        world.with_tree(tree, |image| {
            let data = world.directory("data");
            write(&data.join("mine"), "mine\n");
            let pod = world.run_pod("honest");
            let mut config = world.config_of(image, "honest", "");
            security(&mut config).run_as_username = "nix".into();
            config.mounts = vec![volume(&data, "/var/run/data")];
            let printed = world.printed(&pod, config, "id -u; id -g; cat /run/data/mine");
            assert_eq!(printed, "77\n78\nmine\n");
        });
        let canary = Canary::plant(world);
        let up = format!("{}{}", "../".repeat(30), canary.at("file").trim_start_matches('/'));
        world.with_tree(Tree::default().symlink("etc/passwd", &up), |image| {
            let pod = world.run_pod("up");
            let mut config = world.config_of(image, "up", "true");
            security(&mut config).run_as_username = "root".into();
            world.try_run(&pod, config).unwrap_err();
        });
        canary.assert_unharmed("a passwd file that is a link to the node");
    });
}

#[test]
fn privileged_cve_2020_27534_2025_0750_names_are_no_paths() {
    in_world(|world| {
        for parent in ["../x", "/a/../../b", "/a/./b", "a\0b"] {
            let mut config = world.pod_config("parent");
            config.linux.as_mut().unwrap().cgroup_parent = parent.into();
            assert!(world.try_run_pod(&config).is_err(), "{parent:?}");
        }
        for bad in ["../x", "a/b", "a\0b", ""] {
            let mut config = world.pod_config("name");
            config.metadata.as_mut().unwrap().name = bad.into();
            assert!(world.try_run_pod(&config).is_err(), "name {bad:?}");
        }
        let canary = Canary::plant(world);
        let pod = world.run_pod("logs");
        for bad in ["../x", "/etc/x", "a/../../x", "a/", &canary.at("file")] {
            let mut config = world.container_config("logs", &["true"]);
            config.log_path = bad.into();
            assert!(world.try_run(&pod, config).is_err(), "log path {bad:?}");
        }
        canary.assert_unharmed("log paths that lead out");
    });
}

#[test]
fn privileged_cve_2026_53489_a_log_file_is_a_file_of_its_own() {
    in_world(|world| {
        let canary = Canary::plant(world);
        let pod = world.run_pod("logs");
        let logs = std::path::Path::new(&pod.config.log_directory);
        std::os::unix::fs::symlink(canary.path().join("file"), logs.join("link.log")).unwrap();
        std::os::unix::fs::symlink(canary.path(), logs.join("links")).unwrap();
        std::fs::create_dir(logs.join("directory.log")).unwrap();
        nix::unistd::mkfifo(&logs.join("pipe.log"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for bad in ["link.log", "links/file", "directory.log", "pipe.log"] {
            let mut config = world.container_config("logs", &["echo", "x"]);
            config.log_path = bad.into();
            assert!(world.try_run(&pod, config).is_err(), "{bad}");
        }
        canary.assert_unharmed("log files that are links");
    });
}

#[test]
fn privileged_checkpoints_cannot_be_created_from() {
    // CVE-2026-119101, CVE-2026-50195, CVE-2026-53492, CVE-2026-95837, CVE-2026-92574, CVE-2024-8676, CVE-2026-94603:
    // each of them came in by CreateContainer with an archive, or an image that says that it is one.
    in_world(|world| {
        let archive = world.directory("archive").join("checkpoint.tar");
        std::fs::copy("/bin/busybox", &archive).unwrap();
        let pod = world.run_pod("restore");
        for reference in [archive.display().to_string(), "checkpoint.tar".into(), "/".into()] {
            let mut config = world.container_config("restore", &["true"]);
            config.image = Some(ImageSpec { image: reference.clone(), ..ImageSpec::default() });
            assert!(world.try_create(&pod, config).is_err(), "{reference}");
        }
        let tree = Tree::default()
            .file("config.dump", 0o644, br#"{"id":"x","name":"restored"}"#)
            .file("spec.dump", 0o644, br#"{"ociVersion":"1.0.2","process":{"args":["restored"]}}"#)
            .directory("checkpoint");
        let image = ImageBuilder::busybox()
            .layer(Compression::Gzip, tree)
            .config(
                "Labels",
                serde_json::json!({ "io.kubernetes.cri-o.annotations.checkpoint.name": "x" }),
            )
            .build();
        world.with_image(&image, |image| {
            let pod = world.run_pod("as-image");
            let (_, written) =
                world.run_to_end(&pod, world.config_of(image, "plain", "echo not restored"));
            assert_eq!(written, "not restored\n");
        });
    });
}

#[test]
fn privileged_cve_2026_119101_mounts_of_the_node_propagate_as_before() {
    in_world(|world| {
        let propagation = || {
            let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let fields = |line: &str| {
                let (place, _) = line.split_once(" - ").unwrap_or((line, ""));
                place.split(' ').skip(4).map(str::to_owned).collect::<Vec<_>>()
            };
            table.lines().map(fields).collect::<Vec<_>>()
        };
        let before = propagation();
        run_some(world);
        world.remove_all_pods();
        assert_eq!(propagation(), before);
    });
}

fn run_some(world: &World) {
    let mut pod = world.pod_config("propagation");
    suite::pods::pod_security(&mut pod).privileged = true;
    let pod = world.run_pod_from(pod);
    let mut config = world.container_config("privileged", &[]);
    security(&mut config).privileged = true;
    world.printed(&pod, config, "mount -t tmpfs t /tmp && umount /tmp");
    world.printed(&pod, world.container_config("plain", &[]), "true");
}
