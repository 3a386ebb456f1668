//! A monitor that is killed, crashes or stands still: its pod's containers end, and are told of as what they are.

use std::time::{Duration, Instant};

use cri_api::runtime::v1::security_profile::ProfileType;
use cri_api::runtime::v1::{ContainerState, NamespaceMode, PodSandboxState, SecurityProfile};
use suite::patience::{pause, until};
use suite::pods::{pod_security, security};
use suite::process::{Signal, signal};
use suite::stage::mounts_below;
use suite::{Pod, World, in_world};

fn monitor(world: &World) -> u32 {
    let processes = world.stage.processes(None);
    let mut monitors = processes.iter().filter(|seen| seen.name == "berth-monitor");
    let monitor = monitors.next().expect("a monitor").pid;
    assert!(monitors.next().is_none(), "one monitor");
    monitor
}

/// Two containers that would run for ever, with processes that have left them as far as they can.
fn busy(world: &World, pids: NamespaceMode) -> (Pod, Vec<String>) {
    busy_under(world, pids, None)
}

fn busy_under(
    world: &World,
    pids: NamespaceMode,
    apparmor: Option<SecurityProfile>,
) -> (Pod, Vec<String>) {
    let mut config = world.pod_config("busy");
    pod_security(&mut config).namespace_options.get_or_insert_default().pid = pids.into();
    let pod = world.run_pod_from(config);
    let ids = ["one", "two"]
        .map(|name| {
            let script = "(setsid sleep 1000 &) ; trap '' TERM HUP; sleep 1001";
            let mut config = world.container_config(name, &["sh", "-c", script]);
            security(&mut config).namespace_options.get_or_insert_default().pid = pids.into();
            security(&mut config).apparmor.clone_from(&apparmor);
            let id = world.run(&pod, config);
            until("its processes are there", || {
                world.stage.processes(None).iter().any(|it| it.name == "sleep")
            });
            id
        })
        .into();
    (pod, ids)
}

/// Kills the monitor, for certain, and gives how long its containers lived on.
fn kill_and_wait(world: &World, how: Signal) -> Duration {
    let pid = monitor(world);
    let begun = Instant::now();
    until("no process of the pod is left", || {
        // A monitor takes the handler off at the first SIGSEGV that is no fault; a fault would come again at once.
        signal(pid, how);
        !world.stage.processes(Some(world_daemon(world))).iter().any(|seen| {
            !seen.zombie
                && (seen.name == "sleep" || seen.name == "sh" || seen.name.starts_with("berth-mon"))
        })
    });
    begun.elapsed()
}

/// The daemon's own number, or one that nobody has where it is down.
fn world_daemon(world: &World) -> u32 {
    if world.is_daemon_up() { world.daemon_pid() } else { 0 }
}

fn assert_told(world: &World, pod: &Pod, ids: &[String]) {
    for id in ids {
        let status = world.wait(id);
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"), "{status:?}");
        assert!(status.message.contains("monitor"), "it says why: {status:?}");
    }
    until("the pod is not ready", || {
        world.pod_status(&pod.id).state() == PodSandboxState::SandboxNotready
    });
}

#[test]
fn privileged_containers_end_with_a_monitor_that_is_killed_and_say_so() {
    in_world(|world| {
        for pids in [NamespaceMode::Container, NamespaceMode::Pod, NamespaceMode::Node] {
            for how in [Signal::SIGKILL, Signal::SIGSEGV] {
                let (pod, ids) = busy(world, pids);
                let lived = kill_and_wait(world, how);
                println!("{pids:?}, {how}: the last process ended after {lived:?}");
                assert_told(world, &pod, &ids);
                world.remove_pod(&pod.id);
            }
        }
    });
}

#[test]
fn privileged_containers_end_with_a_monitor_that_is_killed_while_the_daemon_is_down() {
    in_world(|world| {
        for pids in [NamespaceMode::Container, NamespaceMode::Pod] {
            // The kernel takes the parent-death signal away where `execve` changes a label: those wait for the daemon.
            let unconfined = SecurityProfile {
                profile_type: ProfileType::Unconfined.into(),
                ..SecurityProfile::default()
            };
            let (pod, ids) = busy_under(world, pids, Some(unconfined));
            world.kill_daemon();
            let lived = kill_and_wait(world, Signal::SIGKILL);
            println!("{pids:?}, no daemon: the last process ended after {lived:?}");
            world.start_daemon();
            assert_told(world, &pod, &ids);
            world.remove_pod(&pod.id);
        }
    });
}

#[test]
fn privileged_labelled_containers_end_when_the_daemon_is_back_at_the_latest() {
    in_world(|world| {
        let (pod, ids) = busy(world, NamespaceMode::Container);
        world.kill_daemon();
        let pid = monitor(world);
        signal(pid, Signal::SIGKILL);
        until("the monitor has ended", || suite::process::look(pid).is_none_or(|seen| seen.zombie));
        world.start_daemon();
        assert_told(world, &pod, &ids);
        until("nothing of it runs", || {
            !world.stage.processes(None).iter().any(|seen| !seen.zombie && seen.name == "sleep")
        });
    });
}

#[test]
fn privileged_a_monitor_that_stands_still_loses_nothing_and_keeps_nobody() {
    in_world(|world| {
        let pod = world.run_pod("still");
        let short = world.run_shell(&pod, "short", "sleep 1; echo last; exit 7");
        let pid = monitor(world);
        signal(pid, Signal::SIGSTOP);
        pause(Duration::from_secs(2));
        assert_eq!(
            world.status(&short).state(),
            ContainerState::ContainerRunning,
            "nobody knows better"
        );
        signal(pid, Signal::SIGCONT);
        assert_eq!(world.wait(&short).exit_code, 7);
        assert_eq!(suite::log::written(&world.log_of(&short), "stdout"), "last\n");
        let long = world.run_shell(&pod, "long", "sleep 1000");
        signal(pid, Signal::SIGSTOP);
        world.stop(&long, 0);
        assert_eq!(world.status(&long).state(), ContainerState::ContainerExited);
        signal(pid, Signal::SIGCONT);
    });
}

#[test]
fn privileged_a_monitor_whose_run_directory_was_emptied_is_found_and_ended() {
    in_world(|world| {
        let (pod, ids) = busy(world, NamespaceMode::Container);
        let pid = monitor(world);
        world.kill_daemon();
        let run = world.stage.state().join("pods").join(&pod.id);
        for mount in mounts_below(&run).iter().rev() {
            nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
        std::fs::remove_dir_all(&run).unwrap();
        assert!(suite::process::look(pid).is_some(), "it runs on, and nobody can reach it");
        world.start_daemon();
        until("it has ended", || suite::process::look(pid).is_none_or(|seen| seen.zombie));
        assert_told(world, &pod, &ids);
    });
}

#[test]
fn privileged_a_monitor_that_a_new_daemon_never_reached_goes_with_its_pod() {
    in_world(|world| {
        let (pod, ids) = busy(world, NamespaceMode::Container);
        let pid = monitor(world);
        world.kill_daemon();
        signal(pid, Signal::SIGSTOP);
        world.start_daemon();
        assert_eq!(
            world.pod_status(&pod.id).state(),
            PodSandboxState::SandboxReady,
            "it may only be slow"
        );
        world.stop_pod(&pod.id);
        for id in &ids {
            assert_eq!(world.status(id).state(), ContainerState::ContainerExited);
        }
        until("the monitor has ended", || suite::process::look(pid).is_none_or(|seen| seen.zombie));
        world.remove_pod(&pod.id);
        world.assert_nothing_is_left();
    });
}

#[test]
fn privileged_a_monitor_is_small() {
    in_world(|world| {
        let pod = world.run_pod("small");
        world.run_shell(&pod, "small", "sleep 1000");
        let rollup =
            std::fs::read_to_string(format!("/proc/{}/smaps_rollup", monitor(world))).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        println!("PSS of a monitor with one container: {kib} KiB");
        let is_static = suite::daemon::binary("berth-monitor")
            .parent()
            .is_some_and(|dir| dir.ends_with("berth"));
        if is_static && !cfg!(debug_assertions) {
            assert!(kib <= 250, "{rollup}");
        } else {
            // A debug build carries its checks with it; the bench measures the release build.
            assert!(kib <= 4096, "{rollup}");
        }
    });
}
