//! Runtime handlers: other OCI runtimes beside Berth's own, each on the same node.
//!
//! The container suites themselves run on a handler with `BERTH_TEST_HANDLER=runc`. Here is what is about handlers as such.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cri_api::runtime::v1::{
    ContainerState, ContainerStatus, NamespaceMode, RunPodSandboxRequest, StatusRequest,
};
use suite::daemon::write;
use suite::patience::eventually;
use suite::pods::{Pod, pod_security, security};
use suite::stage::mount_points;
use suite::world::{World, in_world, in_world_for};
use suite::{handler, log};
use tonic::Code;

/// The handlers of this host that are not our own; says so where one is missing.
fn others() -> Vec<&'static str> {
    let is_here = |name: &&str| {
        let here = handler::program(name).is_some();
        if !here {
            eprintln!("NOT RUN: {name} is not installed (hack/setup installs it)");
        }
        here
    };
    ["runc", "crun"].into_iter().filter(is_here).collect()
}

fn run_pod_on(world: &World, handler: &str, name: &str) -> Pod {
    let config = world.pod_config(name);
    let request =
        RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
    let answer = world.cri().run_pod_sandbox(request);
    let id = answer.unwrap_or_else(|status| panic!("run a pod on {handler}: {status}"));
    Pod { id: id.pod_sandbox_id, config }
}

#[test]
fn privileged_status_tells_every_handler_and_pods_echo_theirs() {
    in_world(|world| {
        let status = world.cri().status(StatusRequest::default()).expect("status");
        let names: Vec<_> = status.runtime_handlers.iter().map(|it| it.name.as_str()).collect();
        assert!(names.contains(&"") && names.contains(&"berth"), "{names:?}");
        for name in others() {
            assert!(names.contains(&name), "{names:?}");
            let pod = run_pod_on(world, name, "echo");
            assert_eq!(world.pod_status(&pod.id).runtime_handler, name);
        }
        let runc = status.runtime_handlers.iter().find(|it| it.name == "runc");
        if let Some(features) = runc.and_then(|runc| runc.features) {
            assert!(features.recursive_read_only_mounts, "runc 1.1 knows rro");
        }
        let config = world.pod_config("unknown");
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: "kata".into() };
        let refused = world.cri().run_pod_sandbox(request).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("no runtime handler \"kata\""), "{refused}");
    });
}

#[test]
fn privileged_a_container_of_another_runtime_has_its_output_its_code_and_its_end() {
    for name in others() {
        in_world_for(name, move |world| {
            let pod = run_pod_on(world, name, name);
            let config =
                world.container_config("c", &["sh", "-c", "echo out; echo err >&2; exit 7"]);
            let id = world.run(&pod, config);
            let status = world.wait(&id);
            assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"), "{name}");
            let lines = world.log_of(&id);
            assert_eq!(log::written(&lines, "stdout"), "out\n", "{name}");
            assert_eq!(log::written(&lines, "stderr"), "err\n", "{name}");
        });
    }
}

#[test]
fn privileged_the_hosts_mount_table_never_shows_a_handlers_root() {
    for name in others() {
        in_world_for(name, move |world| {
            let pod = run_pod_on(world, name, name);
            let before = mount_points("thread-self");
            let id = world.run_shell(&pod, "c", "sleep 1000");
            assert_eq!(mount_points("thread-self"), before, "{name}");
            assert_eq!(mount_points(&world.daemon_pid().to_string()), before, "{name}");
            let mounts = world.exec(&id, &["cat", "/proc/mounts"]);
            assert!(
                mounts.starts_with("berth / overlay") || mounts.contains(" / overlay "),
                "{mounts}"
            );
        });
    }
}

#[test]
fn privileged_a_handlers_containers_outlive_the_daemon() {
    for name in others() {
        in_world_for(name, move |world| {
            let pod = run_pod_on(world, name, name);
            let stays = world.run_shell(&pod, "stays", "sleep 1000");
            let ends =
                world.run_shell(&pod, "ends", "while [ ! -e /end ]; do sleep 0.1; done; exit 9");
            world.exec(&ends, &["touch", "/end"]);
            world.kill_daemon();
            world.start_daemon();
            let status = world.wait(&ends);
            assert_eq!(status.exit_code, 9, "{name}");
            assert_eq!(world.status(&stays).state(), ContainerState::ContainerRunning);
            assert_eq!(world.exec(&stays, &["echo", "still"]), "still\n", "{name}");
            world.stop(&stays, 0);
            assert_eq!(world.status(&stays).exit_code, 137, "{name}");
        });
    }
}

#[test]
fn privileged_containers_of_a_handler_share_their_pods_namespaces_and_memory() {
    for name in others() {
        in_world_for(name, move |world| {
            let mut config = world.pod_config(name);
            let options = pod_security(&mut config).namespace_options.get_or_insert_default();
            options.pid = NamespaceMode::Pod.into();
            let request =
                RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: name.into() };
            let id = world.cri().run_pod_sandbox(request).expect("a pod").pod_sandbox_id;
            let pod = Pod { id, config };
            let shared = |name: &str, script: &str| {
                let mut config = world.container_config(name, &["sh", "-c", script]);
                let options = security(&mut config).namespace_options.get_or_insert_default();
                options.pid = NamespaceMode::Pod.into();
                config
            };
            let one = world.run(&pod, shared("one", "echo hello >/dev/shm/word; exec sleep 4321"));
            let word = eventually(|| {
                let two = shared("two", "cat /dev/shm/word; ps -o args; hostname");
                let (_, text) = world.run_to_end(&pod, two);
                world.remove(&world.named(&pod, "two"));
                text.contains("hello").then_some(text)
            });
            let text = word.expect("what one container writes to /dev/shm, the other reads");
            assert!(text.contains("sleep 4321"), "{name}: {text}");
            assert!(text.ends_with(&format!("{name}\n")), "the pod's host name: {text}");
            world.stop(&one, 0);
        });
    }
}

/// A program that does what `script` says when it is run with a command.
fn broken(world: &World, script: &str) -> PathBuf {
    let path = world.directory("broken").join("runtime");
    write(&path, &format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it a program");
    path
}

/// A daemon with the handler `broken`, which may take a second for each thing.
fn restart_with(world: &mut World, script: &str) {
    let program = broken(world, script);
    let path = world.config_path();
    let before = fs::read_to_string(&path).expect("read the configuration");
    let before = before.split("\n[handlers.broken]").next().unwrap_or_default().to_owned();
    write(
        &path,
        &format!("{before}\n[handlers.broken]\nbinary = {program:?}\ntimeout_ms = 1000\n"),
    );
    world.restart_daemon();
    world.accept_what_is_there();
}

/// Starts a container that cannot start, and gives what its status says.
fn start_broken(world: &World) -> ContainerStatus {
    let pod = run_pod_on(world, "broken", "broken");
    let id = world.create(&pod, world.container_config("c", &["true"]));
    let begun = Instant::now();
    let refused = world.try_start(&id).expect_err("it cannot start");
    assert!(begun.elapsed() < Duration::from_secs(60), "a start is bounded: {refused}");
    let status = world.wait(&id);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{status:?}");
    world.stop_pod(&pod.id);
    world.remove_pod(&pod.id);
    status
}

#[test]
fn privileged_a_broken_program_costs_its_container_and_nothing_else() {
    const WORDS: &str = r#"while [ "$1" != create ]; do
        case $1 in --log) log=$2;; delete) exit 0;; esac; shift; done"#;
    in_world(|world| {
        let cases = [
            ("crashes", format!("{WORDS}\nkill -SEGV $$"), "ended with status 139"),
            ("hangs", format!("{WORDS}\nsleep 1000 & wait"), "took too long"),
            ("hangs whatever it is told", "exec sleep 1000".to_owned(), "took too long"),
            ("does nothing", "exit 0".to_owned(), "process from pid file"),
            (
                "says why in its log",
                format!(
                    r#"{WORDS}
                    echo '{{"level":"error","msg":"no such thing"}}' >>$log; exit 1"#
                ),
                "no such thing",
            ),
            ("says why on standard error", format!("{WORDS}\necho so >&2; exit 3"), "so"),
            (
                "names a process that is not its own",
                r#"while [ $# -gt 0 ]; do [ "$1" = --pid-file ] && echo 1 >$2; shift; done"#
                    .to_owned(),
                "process 1: is not the monitor's child",
            ),
        ];
        for (case, script, why) in cases {
            restart_with(world, &script);
            let status = start_broken(world);
            assert!(status.message.contains(why), "{case}: {}", status.message);
        }
        // The node is as it was.
        let pod = world.run_pod("after");
        assert_eq!(world.printed(&pod, world.container_config("c", &[]), "echo well"), "well\n");
    });
}

#[test]
fn privileged_a_container_is_stopped_though_its_program_does_not_answer() {
    let Some(runc) = handler::program("runc") else {
        eprintln!("NOT RUN: runc is not installed (hack/setup installs it)");
        return;
    };
    in_world_for("runc", move |world| {
        // As runc, until it is asked for anything but a start.
        let script = format!(
            r#"for word; do case $word in kill|delete|exec) exec sleep 1000;; esac; done
               exec {} "$@""#,
            runc.display()
        );
        restart_with(world, &script);
        let pod = run_pod_on(world, "broken", "deaf");
        let config =
            world.container_config("c", &["sh", "-c", "trap 'exit 5' TERM; sleep 1000 & wait"]);
        let id = world.run(&pod, config);
        let refused = world.try_exec(&id, &["true"], 30).unwrap_err();
        assert!(refused.message().contains("took too long"), "{refused}");
        world.stop(&id, 20);
        assert_eq!(world.status(&id).exit_code, 5, "the signal arrives all the same");
        world.remove(&id);
        let another = world.run_shell(&pod, "another", "sleep 1000");
        world.stop(&another, 0);
        assert_eq!(world.status(&another).exit_code, 137);
    });
}

#[test]
fn privileged_an_exec_that_takes_too_long_is_killed_whole() {
    for name in others() {
        in_world_for(name, move |world| {
            let pod = run_pod_on(world, name, name);
            let id = world.run_shell(&pod, "c", "sleep 1000");
            let refused =
                world.try_exec(&id, &["sh", "-c", "sleep 777 & sleep 778"], 1).unwrap_err();
            assert_eq!(refused.code(), Code::DeadlineExceeded, "{name}: {refused}");
            let gone = eventually(|| {
                let processes = world.exec(&id, &["ps", "-o", "args"]);
                (!processes.contains("sleep 77")).then_some(())
            });
            assert!(gone.is_some(), "{name}: {}", world.exec(&id, &["ps", "-o", "args"]));
            let answer = world.try_exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 3"], 10);
            let answer = answer.unwrap_or_else(|status| panic!("{name}: {status}"));
            assert_eq!(
                (answer.exit_code, answer.stdout, answer.stderr),
                (3, b"out\n".to_vec(), b"err\n".to_vec())
            );
            let missing = world.try_exec(&id, &["no-such-program"], 10).unwrap_err();
            assert!(missing.message().contains("no-such-program"), "{name}: {missing}");
        });
    }
}
