//! Past holes by which a process of a container reached processes, programs, files or memory of the node.
//! `tests/SECURITY.md` lists them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cri_api::runtime::v1::{
    Capability, ExecSyncRequest, ExecSyncResponse, KeyValue, NamespaceMode,
};
use suite::daemon::{binary, write};
use suite::hostile::volume;
use suite::image::{Compression, Tree, digest};
use suite::patience::{eventually, until};
use suite::pods::{pod_security, security};
use suite::{ImageBuilder, World, in_bare_world, in_world};

/// Content, mode and owner of the programs that a container must not reach.
fn programs() -> BTreeMap<PathBuf, String> {
    let names = ["berthd", "berth-monitor", "berth-unpack", "berth"];
    names
        .map(|name| {
            let path = binary(name);
            let at = fs::metadata(&path).expect("as the test has made it");
            let line = format!(
                "{} {:o} {}:{} {}",
                digest(&fs::read(&path).expect("as the test has made it")),
                at.mode(),
                at.uid(),
                at.gid(),
                at.ino()
            );
            (path, line)
        })
        .into()
}

#[test]
fn privileged_cve_2019_5736_the_runtimes_program_cannot_be_reached_nor_changed() {
    in_world(|world| {
        let before = programs();
        let image = ImageBuilder::busybox()
            .layer(
                Compression::Gzip,
                Tree::default().file("entry", 0o755, b"#!/proc/self/exe\n").file(
                    "evil",
                    0o755,
                    b"#!/bin/sh\necho evil\n",
                ),
            )
            .build();
        world.with_image(&image, |image| {
            let pod = world.run_pod("exe");
            // What interprets itself is what the container has there, and not what started it.
            let mut config = world.config_of(image, "entry", "");
            config.command = vec!["/entry".into()];
            if let Ok(id) = world.try_run(&pod, config) {
                world.wait(&id);
            }
            // Opens whatever runs as if to write to it, again and again, while processes enter the container.
            let script = "while ! test -e /tmp/done; do for p in /proc/[0-9]*; do \
                              e=$(readlink $p/exe 2>/dev/null); \
                              case $e in /bin/*|/evil|'') ;; *) echo \"exe $e\"; \
                                  (echo x >> $p/exe) 2>/dev/null && echo wrote;; esac; \
                          done; done; echo end";
            let id = world.run(&pod, world.config_of(image, "writer", script));
            for _ in 0..100 {
                world.exec(&id, &["true"]);
            }
            world.try_exec(&id, &["/entry"], 10).ok();
            world.exec(&id, &["touch", "/tmp/done"]);
            assert_eq!(world.wait(&id).exit_code, 0);
            let written = suite::log::written(&world.log_of(&id), "stdout");
            assert!(!written.contains("wrote"), "{written}");
            let seen = written.lines().filter(|line| line.starts_with("exe "));
            for line in seen {
                assert!(
                    line.contains("memfd:berth-monitor"),
                    "it saw a program of the node: {line}"
                );
            }
        });
        assert_eq!(programs(), before);
    });
}

#[test]
fn privileged_cve_2019_5736_the_monitor_runs_from_a_sealed_file_in_memory() {
    in_world(|world| {
        world.run_pod("sealed");
        let processes = world.stage.processes(None);
        let monitor =
            processes.iter().find(|seen| seen.name == "berth-monitor").expect("a monitor");
        let exe = PathBuf::from(format!("/proc/{}/exe", monitor.pid));
        let link = fs::read_link(&exe).unwrap().display().to_string();
        assert!(link.starts_with("/memfd:berth-monitor"), "{link}");
        let file = fs::File::open(&exe).unwrap();
        let seals = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GET_SEALS).unwrap();
        let wanted = nix::fcntl::SealFlag::F_SEAL_WRITE
            | nix::fcntl::SealFlag::F_SEAL_SHRINK
            | nix::fcntl::SealFlag::F_SEAL_GROW
            | nix::fcntl::SealFlag::F_SEAL_SEAL;
        assert!(nix::fcntl::SealFlag::from_bits_retain(seals).contains(wanted), "{seals:x}");
        let status = fs::read_to_string(format!("/proc/{}/status", monitor.pid)).unwrap();
        assert!(status.contains("Threads:\t1\n"), "{status}");
        let maps = fs::read_to_string(format!("/proc/{}/maps", monitor.pid)).unwrap();
        let is_built_static =
            binary("berth-monitor").parent().is_some_and(|dir| dir.ends_with("berth"));
        if is_built_static {
            assert!(!maps.contains(".so"), "it is linked statically: {maps}");
        } else {
            println!("NOT RUN: static linking of the monitor; hack/build links it so");
        }
    });
}

#[test]
fn privileged_cve_2016_9962_who_enters_a_container_cannot_be_taken_over_with_a_gain() {
    in_world(|world| {
        let attacks = world.attack("taker");
        for pid in [NamespaceMode::Container, NamespaceMode::Pod] {
            let pod = world.run_pod("taker");
            let mut config = world.container_config("taker", &["/attacks/taker"]);
            let context = security(&mut config);
            context.namespace_options.get_or_insert_default().pid = pid.into();
            context.capabilities = Some(Capability {
                add_capabilities: vec!["SYS_PTRACE".into()],
                ..Capability::default()
            });
            config.mounts = vec![volume(&attacks, "/attacks")];
            let id = world.run(&pod, config);
            until("it looks", || !world.log_of(&id).is_empty());
            for number in 0..150 {
                // Stopped by the one that took it over, an exec may fail; it must not win anything.
                world.try_exec(&id, &["true"], 20).ok();
                if pid == NamespaceMode::Pod && number % 10 == 0 {
                    let mut config = world.container_config(&format!("victim-{number}"), &["true"]);
                    security(&mut config).namespace_options.get_or_insert_default().pid =
                        pid.into();
                    world.try_run(&pod, config).ok();
                }
            }
            world.try_exec(&id, &["touch", "/tmp/done"], 20).unwrap();
            world.wait(&id);
            let written = suite::log::written(&world.log_of(&id), "stdout");
            let (first, last) = written.split_once('\n').unwrap();
            assert_eq!(first, "ready");
            assert!(last.starts_with("saw ") && last.lines().count() == 1, "{pid:?}: {written}");
            println!("{pid:?}: {}", last.trim());
            world.remove_pod(&pod.id);
        }
    });
}

#[test]
fn privileged_cve_2020_15257_no_abstract_socket_is_ours() {
    in_world(|world| {
        let mut config = world.pod_config("host");
        pod_security(&mut config).namespace_options.get_or_insert_default().network =
            NamespaceMode::Node.into();
        let pod = world.run_pod_from(config);
        let mut config = world.container_config("host", &[]);
        security(&mut config).namespace_options.get_or_insert_default().network =
            NamespaceMode::Node.into();
        let printed = world.printed(&pod, config, "awk '{print $8}' /proc/net/unix");
        let directory = world.path().display().to_string();
        assert!(printed.contains(&directory), "the node's sockets are seen at all: {printed}");
        let ours = printed.lines().filter(|path| path.starts_with('@') && path.contains("berth"));
        assert_eq!(ours.count(), 0, "{printed}");
    });
}

#[test]
fn privileged_cve_2021_41103_2024_25621_2021_41091_users_of_the_node_find_nothing() {
    in_world(|world| {
        let pod = world.run_pod("closed");
        world.run_shell(&pod, "closed", "sleep 1000");
        for top in [world.root(), world.stage.state()] {
            let mode = fs::metadata(&top).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o700, "{}", top.display());
            let mut look = std::process::Command::new("setpriv");
            look.args(["--reuid=65534", "--regid=65534", "--clear-groups", "find"]).arg(&top);
            look.args(["-mindepth", "1", "-print"]);
            let found = suite::process::output(&mut look);
            assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{}", top.display());
        }
    });
}

#[test]
fn privileged_cve_2019_14271_2022_1227_2026_41567_no_program_of_an_image_is_a_helper() {
    in_world(|world| {
        let trap = world.directory("trap");
        let script = b"#!/bin/sh\ntouch /trap/sprung\nexec false\n";
        let mut tree = Tree::default();
        for directory in ["bin", "usr/bin", "sbin", "usr/sbin"] {
            for name in [
                "xz",
                "unpigz",
                "gzip",
                "zstd",
                "nsenter",
                "criu",
                "newuidmap",
                "mount",
                "tar",
                "getent",
            ] {
                tree = tree.file(&format!("{directory}/{name}"), 0o755, script);
            }
        }
        tree = tree
            .file("etc/ld.so.preload", 0o644, b"/lib/evil.so\n")
            .file("etc/nsswitch.conf", 0o644, b"passwd: evil\ngroup: evil\n")
            .file("lib/libnss_evil.so.2", 0o755, b"not a library")
            .file("lib/evil.so", 0o755, b"not a library");
        world.with_tree(tree, |image| {
            let pod = world.run_pod("helpers");
            let mut config = world.config_of(image, "helpers", "sleep 1000");
            security(&mut config).run_as_username = "app".into();
            config.envs = vec![
                KeyValue { key: "LD_PRELOAD".into(), value: "/lib/evil.so".into() },
                KeyValue { key: "LD_LIBRARY_PATH".into(), value: "/lib".into() },
            ];
            config.mounts = vec![volume(&trap, "/trap")];
            let id = world.run(&pod, config);
            world.exec(&id, &["id", "-u"]);
            world.stop(&id, 0);
        });
        assert_eq!(fs::read_dir(&trap).unwrap().count(), 0, "something of the image was run");
    });
}

#[test]
fn privileged_cve_2021_43784_what_is_long_arrives_whole_or_not_at_all() {
    in_world(|world| {
        let pod = world.run_pod("long");
        let long = "x".repeat(100_000);
        let mut config =
            world.container_config("long", &["sh", "-c", "echo ${#LONG}; echo ${#WORD}"]);
        config.envs = vec![
            KeyValue { key: "LONG".into(), value: long.clone().into() },
            KeyValue { key: "WORD".into(), value: "word".into() },
        ];
        config.annotations.insert("long".into(), long.clone());
        assert_eq!(world.run_to_end(&pod, config).1, "100000\n4\n");
        let mut config = world.container_config("argument", &["sh", "-c", "echo ${#1}", "sh"]);
        config.command.push(long.clone());
        assert_eq!(world.run_to_end(&pod, config).1, "100000\n");
        // One argument has 128 KiB at most: the kernel's limit, and no silent cut.
        let mut config = world.container_config("too-long", &["sh", "-c", "echo ${#1}", "sh"]);
        config.command.push("x".repeat(200_000));
        assert!(world.try_run(&pod, config).is_err());
        let mut config = world.container_config("mounts", &["true"]);
        let data = world.directory("data");
        config.mounts = (0..2_000).map(|at| volume(&data, &format!("/m/{at}"))).collect();
        assert!(world.try_run(&pod, config).is_err(), "more mounts than a request may have");
    });
}

#[test]
fn privileged_cve_2022_31030_2022_1708_the_output_of_execs_is_bounded() {
    in_world(|world| {
        let pod = world.run_pod("flood");
        let id = world.run_shell(&pod, "flood", "sleep 1000");
        let before = resident(world.daemon_pid());
        for script in ["head -c 200m /dev/zero", "head -c 200m /dev/zero >&2"] {
            let answer = world.try_exec(&id, &["sh", "-c", script], 120).unwrap();
            assert!(answer.stdout.len() + answer.stderr.len() <= 16 << 20);
            assert_eq!(answer.exit_code, 0);
        }
        let status = world.try_exec(&id, &["cat", "/dev/zero"], 1).unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        let grown = resident(world.daemon_pid()).saturating_sub(before);
        assert!(grown < 96 << 10, "the daemon grew by {grown} KiB");
        // Many at once share what there is; who comes too late is told so.
        let (mut whole, mut refused) = (0, 0);
        for answer in floods(world, &id, 16) {
            match answer {
                Ok(answer) => {
                    whole += 1;
                    assert!(answer.stdout.len() > 15 << 20, "{} bytes", answer.stdout.len());
                }
                Err(status) => {
                    refused += 1;
                    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
                }
            }
        }
        println!("16 floods at once: {whole} whole, {refused} refused");
        assert!(whole > 0);
        world.exec(&id, &["true"]);
    });
}

fn floods(world: &World, id: &str, count: usize) -> Vec<Result<ExecSyncResponse, tonic::Status>> {
    world.cri().block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..count {
            let mut service = world.cri().runtime_service();
            let request = ExecSyncRequest {
                container_id: id.to_owned(),
                cmd: ["head", "-c", "20m", "/dev/zero"].map(str::to_owned).into(),
                timeout: 120,
            };
            running.spawn(async move { Ok(service.exec_sync(request).await?.into_inner()) });
        }
        running.join_all().await
    })
}

#[test]
fn privileged_cve_2022_23471_2025_64329_execs_that_fail_leave_nothing() {
    in_world(|world| {
        let pod = world.run_pod("failing");
        let id = world.run_shell(&pod, "failing", "sleep 1000");
        world.try_exec(&id, &["/not/there"], 5).unwrap_err();
        let before = world.settled();
        let threads = count(&format!("/proc/{}/task", world.daemon_pid()));
        for _ in 0..300 {
            world.try_exec(&id, &["/not/there"], 5).unwrap_err();
        }
        world.assert_census_is(&before);
        let now = eventually(|| {
            let now = count(&format!("/proc/{}/task", world.daemon_pid()));
            (now <= threads + 4).then_some(now)
        });
        assert!(now.is_some(), "threads: {threads} before");
    });
}

fn count(directory: &str) -> usize {
    fs::read_dir(directory).expect("as the test has made it").count()
}

/// `VmRSS` in KiB.
fn resident(pid: u32) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("as the test has made it");
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
fn privileged_cve_2020_8557_the_files_of_a_pod_cannot_fill_the_nodes_disk() {
    in_world(|world| {
        let pod = world.run_pod("files");
        let script = "for f in /etc/hosts /etc/hostname /etc/resolv.conf; do \
                          echo '10.0.0.9 added' >> $f && tail -1 $f; \
                          head -c 16m /dev/zero >> $f 2>/dev/null && echo \"$f took it all\"; done; echo end";
        let printed = world.printed(&pod, world.container_config("files", &[]), script);
        assert!(printed.contains("10.0.0.9 added"), "programs do add to these: {printed}");
        assert!(!printed.contains("took it all"), "{printed}");
        let on_disk: u64 =
            below(&world.root().join("pods")).iter().map(|at| at.blocks() * 512).sum();
        assert!(on_disk < 4 << 20, "{on_disk} bytes");
    });
}

fn below(top: &Path) -> Vec<fs::Metadata> {
    let mut all = Vec::new();
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        all.push(fs::symlink_metadata(entry.path()).expect("as the test has made it"));
        if entry.path().is_dir() {
            all.extend(below(&entry.path()));
        }
    }
    all
}

#[test]
fn privileged_ids_of_requests_are_no_paths() {
    // apple/container's GHSAs: an id that is joined to a path.
    in_bare_world(|world: &mut World| {
        let file = world.directory("victim").join("file");
        write(&file, "x");
        for id in [
            "../../x",
            "..",
            "/",
            "",
            "a\0b",
            &"x".repeat(4096),
            &file.display().to_string(),
            "%2e%2e",
            "*",
        ] {
            let status =
                world.cri().container_status(cri_api::runtime::v1::ContainerStatusRequest {
                    container_id: id.to_owned(),
                    verbose: false,
                });
            assert!(status.is_err(), "{id:?}");
            // What is not there is removed already; an id that could mean anything is refused.
            world
                .cri()
                .remove_container(cri_api::runtime::v1::RemoveContainerRequest {
                    container_id: id.to_owned(),
                })
                .ok();
            world
                .cri()
                .remove_pod_sandbox(cri_api::runtime::v1::RemovePodSandboxRequest {
                    pod_sandbox_id: id.to_owned(),
                })
                .ok();
        }
        assert!(file.exists());
    });
}
