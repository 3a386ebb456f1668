//! The daemon may die at any moment; pods do not notice, and the next daemon knows all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use cri_api::runtime::v1::{
    ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandboxState,
    RemovePodSandboxRequest, RunPodSandboxRequest, StopPodSandboxRequest,
};
use suite::patience::{pause, until};
use suite::process::{Signal, signal};
use suite::{World, in_world, log};
use tokio::task::JoinSet;

fn pods(world: &World) -> Vec<String> {
    let answer = world.cri().list_pod_sandbox(ListPodSandboxRequest::default());
    answer.expect("list pods").items.into_iter().map(|pod| pod.id).collect()
}

#[test]
fn privileged_pods_run_on_and_are_known_after_the_daemon_was_killed() {
    in_world(|world| {
        let pod = world.run_pod("survivor");
        let id = world.run_shell(
            &pod,
            "survivor",
            "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done",
        );
        until("it has said something", || !world.log_of(&id).is_empty());
        let (pod_before, before) = (world.pod_status(&pod.id), world.status(&id));
        world.kill_daemon();
        world.start_daemon();
        assert_eq!(world.pod_status(&pod.id), pod_before);
        assert_eq!(world.status(&id), before);
        assert_eq!(world.exec(&id, &["echo", "alive"]), "alive\n");
        let other = world.run_pod("neighbour");
        world.exec(&id, &["ping", "-c", "1", "-W", "5", &world.address(&other)]);
        world.stop(&id, 20);
        assert_eq!(world.status(&id).exit_code, 5);
    });
}

#[test]
fn privileged_exit_codes_of_those_that_ended_meanwhile_are_known() {
    in_world(|world| {
        let pod = world.run_pod("meanwhile");
        let gate = world.directory("gate");
        let script = |code: u32| {
            format!("echo up; while ! test -e /gate/open; do sleep 0.02; done; exit {code}")
        };
        let mut ids = Vec::new();
        for code in [0, 1, 7, 137] {
            let mut config =
                world.container_config(&format!("c{code}"), &["sh", "-c", &script(code)]);
            config.mounts = vec![cri_api::runtime::v1::Mount {
                container_path: "/gate".into(),
                host_path: gate.display().to_string(),
                ..Default::default()
            }];
            ids.push((world.run(&pod, config), code));
        }
        world.kill_daemon();
        suite::daemon::write(&gate.join("open"), "");
        until("all containers have ended", || {
            let processes = world.stage.processes(None);
            processes.iter().all(|seen| seen.name.starts_with("berth-monitor"))
        });
        world.start_daemon();
        for (id, code) in ids {
            let status = world.wait(&id);
            assert_eq!(status.exit_code, i32::try_from(code).unwrap());
            let reason = if code == 0 { "Completed" } else { "Error" };
            assert_eq!(status.reason, reason);
            assert!(status.finished_at >= status.started_at);
        }
    });
}

#[test]
fn privileged_a_log_has_no_gap_where_the_daemon_was_killed() {
    in_world(|world| {
        let pod = world.run_pod("numbered");
        let script = "i=0; while [ $i -lt 1500 ]; do echo $i; i=$((i+1)); usleep 1000; done";
        let id = world.run_shell(&pod, "numbered", script);
        let path = world.log_path(&id);
        for _ in 0..2 {
            pause(Duration::from_millis(200));
            world.kill_daemon();
            pause(Duration::from_millis(200));
            world.start_daemon();
        }
        let status = world.wait(&id);
        assert_eq!(status.exit_code, 0);
        let expected: String = (0..1500).map(|number| format!("{number}\n")).collect();
        assert_eq!(log::written(&log::read(&path), "stdout"), expected);
    });
}

#[test]
fn privileged_a_log_is_opened_again_by_a_daemon_that_did_not_start_the_container() {
    in_world(|world| {
        let pod = world.run_pod("reopen");
        let id = world.run_shell(&pod, "reopen", "while :; do echo x; sleep 0.02; done");
        let path = world.log_path(&id);
        world.kill_daemon();
        world.start_daemon();
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        let request = cri_api::runtime::v1::ReopenContainerLogRequest { container_id: id.clone() };
        world.cri().reopen_container_log(request).unwrap();
        until("a line in the new file", || !log::read(&path).is_empty());
    });
}

#[test]
fn privileged_states_of_all_kinds_are_the_same_after_a_kill() {
    in_world(|world| {
        let (ready, stopped) = (world.run_pod("ready"), world.run_pod("stopped"));
        world.create(&ready, world.container_config("created", &["true"]));
        world.run_shell(&ready, "running", "sleep 1000");
        let exited = world.run_shell(&ready, "exited", "exit 4");
        world.wait(&exited);
        let failed = world.create(&ready, world.container_config("failed", &["/no/such"]));
        world.try_start(&failed).expect_err("there is no such program");
        let killed = world.run_shell(&stopped, "killed", "sleep 1000");
        world.stop_pod(&stopped.id);
        let list = |world: &World| {
            let containers = world.cri().list_containers(ListContainersRequest::default());
            let mut containers = containers.unwrap().containers;
            containers.sort_by(|a, b| a.id.cmp(&b.id));
            let statuses: Vec<_> = containers.iter().map(|one| world.status(&one.id)).collect();
            (containers, statuses)
        };
        let before = list(world);
        for round in ["kill", "kill again", "orderly"] {
            match round {
                "orderly" => world.restart_daemon(),
                _ => {
                    world.kill_daemon();
                    world.start_daemon();
                }
            }
            assert_eq!(list(world), before, "{round}");
            assert_eq!(world.pod_status(&stopped.id).state(), PodSandboxState::SandboxNotready);
            assert_eq!(world.pod_status(&ready.id).state(), PodSandboxState::SandboxReady);
        }
        assert_eq!(world.status(&killed).exit_code, 137);
    });
}

#[test]
fn privileged_a_container_created_before_a_kill_can_be_started_after_it() {
    in_world(|world| {
        let pod = world.run_pod("later");
        let id =
            world.create(&pod, world.container_config("later", &["sh", "-c", "echo hi; exit 6"]));
        world.kill_daemon();
        world.start_daemon();
        world.start(&id);
        assert_eq!(world.wait(&id).exit_code, 6);
        assert_eq!(log::written(&world.log_of(&id), "stdout"), "hi\n");
    });
}

#[test]
fn privileged_addresses_of_living_pods_are_not_given_out_again_after_a_kill() {
    in_world(|world| {
        let before: BTreeSet<String> = (0..4)
            .map(|n| world.run_pod(&format!("old-{n}")))
            .map(|pod| world.address(&pod))
            .collect();
        world.kill_daemon();
        world.start_daemon();
        for number in 0..8 {
            let pod = world.run_pod(&format!("new-{number}"));
            assert!(!before.contains(&world.address(&pod)));
        }
    });
}

#[test]
fn privileged_a_name_is_taken_after_a_kill_and_free_after_the_removal() {
    in_world(|world| {
        let config = world.pod_config("name");
        let first = world.try_run_pod(&config).unwrap();
        world.kill_daemon();
        world.start_daemon();
        let error = world.try_run_pod(&config).unwrap_err();
        assert_eq!(error.code(), tonic::Code::AlreadyExists, "{error}");
        assert_eq!(pods(world), [first.as_str()]);
        world.remove_pod(&first);
        assert_ne!(world.try_run_pod(&config).unwrap(), first);
    });
}

#[test]
fn privileged_a_pod_whose_monitor_was_killed_ends_and_is_removed() {
    in_world(|world| {
        let pod = world.run_pod("orphan");
        let id = world.run_shell(&pod, "orphan", "sleep 1000");
        let mut monitor = world.stage.processes(None).into_iter();
        let monitor = monitor.find(|seen| seen.name.starts_with("berth-monitor")).unwrap();
        signal(monitor.pid, Signal::SIGKILL);
        let status = world.wait(&id);
        assert_ne!(status.exit_code, 0, "nobody saw it end well: {status:?}");
        world.stop_pod(&pod.id);
        assert_eq!(world.pod_status(&pod.id).state(), PodSandboxState::SandboxNotready);
        world.remove_pod(&pod.id);
        world.assert_nothing_is_left();
    });
}

#[test]
fn privileged_containers_run_on_wherever_their_cgroups_are() {
    in_world(|world| {
        // A kubelet makes the cgroup of a pod before it asks for the pod, and removes it itself.
        world.stage.cgroups.make("kubepods/pod-1");
        world.accept_what_is_there();
        let configured = world.stage.cgroups.path();
        let parents = [String::new(), configured.clone(), format!("{configured}/kubepods/pod-1")];
        let ids = parents.map(|parent| {
            let mut config = world.pod_config("cgroups");
            config.linux.as_mut().unwrap().cgroup_parent.clone_from(&parent);
            let pod = world.run_pod_from(config);
            (world.run_shell(&pod, "sleeper", "sleep 1000"), parent)
        });
        world.kill_daemon();
        world.start_daemon();
        for (id, parent) in &ids {
            let state = world.status(id).state();
            assert_eq!(state, ContainerState::ContainerRunning, "below {parent:?}");
        }
    });
}

/// Kills the daemon while 40 pods are being made, eight at a time, each with a container.
#[test]
fn privileged_a_kill_in_the_middle_of_40_pods_leaves_nothing_that_cannot_be_removed() {
    in_world(|world| {
        for after in [15, 60, 150] {
            kill_while_making_pods(world, Duration::from_millis(after));
            world.start_daemon();
            let known = pods(world);
            let mut ids = BTreeSet::new();
            assert!(known.iter().all(|id| ids.insert(id.clone())), "each pod once");
            let containers = world.cri().list_containers(ListContainersRequest::default()).unwrap();
            for container in containers.containers {
                assert!(known.contains(&container.pod_sandbox_id), "no container without a pod");
                let status = world.status(&container.id);
                assert_ne!(status.state(), ContainerState::ContainerUnknown, "{status:?}");
            }
            // What a kubelet does with pods that it does not know.
            for id in known {
                world.stop_pod(&id);
                world.remove_pod(&id);
            }
            world.assert_nothing_is_left();
        }
    });
}

fn kill_while_making_pods(world: &mut World, after: Duration) {
    let configs: Vec<_> = (0..40).map(|n| world.pod_config(&format!("cut-{n}"))).collect();
    let container = world.container_config("sleeper", &["sleep", "1000"]);
    let pid = world.daemon_pid();
    world.cri().block_on(async {
        let mut workers = JoinSet::new();
        for chunk in configs.chunks(5) {
            let mut service = world.cri().runtime_service();
            let (chunk, container) = (chunk.to_vec(), container.clone());
            workers.spawn(async move {
                for config in chunk {
                    let request =
                        RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
                    let pod = service.run_pod_sandbox(request).await?.into_inner();
                    let request = cri_api::runtime::v1::CreateContainerRequest {
                        pod_sandbox_id: pod.pod_sandbox_id,
                        config: Some(container.clone()),
                        sandbox_config: Some(config),
                    };
                    let made = service.create_container(request).await?.into_inner();
                    let container_id = made.container_id;
                    let request = cri_api::runtime::v1::StartContainerRequest { container_id };
                    service.start_container(request).await?;
                }
                Ok::<(), tonic::Status>(())
            });
        }
        tokio::time::sleep(after).await;
        signal(pid, Signal::SIGKILL);
        // Their connection breaks; that is what a kubelet sees.
        workers.join_all().await;
    });
    world.kill_daemon();
}

#[test]
fn privileged_a_kill_in_the_middle_of_removing_pods_is_finished_by_the_next_removal() {
    in_world(|world| {
        let ids: Vec<String> = (0..16)
            .map(|number| {
                let pod = world.run_pod(&format!("gone-{number}"));
                world.run_shell(&pod, "sleeper", "sleep 1000");
                pod.id
            })
            .collect();
        let pid = world.daemon_pid();
        world.cri().block_on(async {
            let mut removals = JoinSet::new();
            for id in &ids {
                let mut service = world.cri().runtime_service();
                let pod_sandbox_id = id.clone();
                removals.spawn(async move {
                    let request = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
                    service.stop_pod_sandbox(request).await?;
                    service.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await
                });
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
            signal(pid, Signal::SIGKILL);
            removals.join_all().await;
        });
        world.kill_daemon();
        world.start_daemon();
        for id in ids {
            world.stop_pod(&id);
            world.remove_pod(&id);
        }
        world.assert_nothing_is_left();
    });
}
