//! How containers end: by their own code, by the right signal, and with everything in them.

use std::collections::BTreeMap;

use cri_api::runtime::v1::{
    ContainerState, CreateContainerRequest, ListContainersRequest, NamespaceMode, Signal,
    StartContainerRequest,
};
use suite::patience::{eventually, until};
use suite::pods::{pod_security, security};
use suite::{ImageBuilder, Pod, World, in_world};
use tokio::task::JoinSet;

/// Of each of `true` and `false`.
const MANY: usize = 1_000;
const LANES: usize = 8;

type Runtime =
    cri_api::runtime::v1::runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>;

/// Creates and starts a container for each of `names`; gives what each id was to be.
async fn start(
    mut service: Runtime,
    requests: Vec<(CreateContainerRequest, i32)>,
) -> Vec<(String, i32)> {
    let mut ids = Vec::new();
    for (request, code) in requests {
        let id = service.create_container(request).await.expect("create").into_inner().container_id;
        let request = StartContainerRequest { container_id: id.clone() };
        service.start_container(request).await.expect("start");
        ids.push((id, code));
    }
    ids
}

fn requests(world: &World, pod: &Pod, lane: usize) -> Vec<(CreateContainerRequest, i32)> {
    (0..2 * MANY / LANES)
        .map(|number| {
            let (program, code) = if number % 2 == 0 { ("true", 0) } else { ("false", 1) };
            let config = world.container_config(&format!("{program}-{lane}-{number}"), &[program]);
            let request = CreateContainerRequest {
                pod_sandbox_id: pod.id.clone(),
                config: Some(config),
                sandbox_config: Some(pod.config.clone()),
            };
            (request, code)
        })
        .collect()
}

#[test]
fn privileged_1000_times_true_is_0_and_1000_times_false_is_1() {
    in_world(|world| {
        let pods: Vec<_> = (0..LANES).map(|lane| world.run_pod(&format!("lane-{lane}"))).collect();
        let wanted: BTreeMap<String, i32> = world.cri().block_on(async {
            let mut workers = JoinSet::new();
            for (lane, pod) in pods.iter().enumerate() {
                workers.spawn(start(world.cri().runtime_service(), requests(world, pod, lane)));
            }
            workers.join_all().await.concat().into_iter().collect()
        });
        assert_eq!(wanted.len(), 2 * MANY);
        let list = || {
            let all = world.cri().list_containers(ListContainersRequest::default()).unwrap();
            all.containers
        };
        until("all have ended", || {
            list().iter().all(|one| one.state() == ContainerState::ContainerExited)
        });
        let listed = list();
        assert_eq!(listed.len(), 2 * MANY, "none is lost and none is invented");
        for one in listed {
            let status = world.status(&one.id);
            let reason = if wanted[&one.id] == 0 { "Completed" } else { "Error" };
            assert_eq!(
                (status.exit_code, status.reason.as_str()),
                (wanted[&one.id], reason),
                "{status:?}"
            );
            assert!(
                status.created_at <= status.started_at && status.started_at <= status.finished_at
            );
        }
    });
}

#[test]
fn privileged_stop_signals_are_the_requests_the_images_or_the_default_and_real_time_ones_too() {
    in_world(|world| {
        let image =
            ImageBuilder::busybox().config("StopSignal", serde_json::json!("SIGRTMIN+3")).build();
        let pulled = world.pull(&world.registry().push("stop-signal", "1", &image));
        let pod = world.run_pod("signals");
        // SIGRTMIN is 34 for programs.
        let script = "for n in 1 10 15 34 37 62 64; do trap \"exit $((100+n))\" $n; done; echo up; \
                      while :; do sleep 0.05; done";
        let cases = [
            ("default", false, None, 115),
            ("image", true, None, 137),
            ("request", false, Some(Signal::Sigusr1), 110),
            ("request over image", true, Some(Signal::Sighup), 101),
            ("first real-time", false, Some(Signal::Sigrtmin), 134),
            ("real-time", false, Some(Signal::Sigrtminplus3), 137),
            ("real-time from the end", false, Some(Signal::Sigrtmaxminus2), 162),
            ("last real-time", false, Some(Signal::Sigrtmax), 164),
        ];
        for (name, of_image, asked, want) in cases {
            let mut config = world.container_config(&name.replace(' ', "-"), &["sh", "-c", script]);
            if of_image {
                config.image.as_mut().unwrap().image.clone_from(&pulled.id);
            }
            if let Some(signal) = asked {
                config.stop_signal = signal.into();
            }
            let id = world.run(&pod, config);
            until("it listens", || !world.log_of(&id).is_empty());
            world.stop(&id, 60);
            assert_eq!(world.status(&id).exit_code, want, "{name}");
        }
        world.remove_all_pods();
        world.remove_image(&pulled.id);
    });
}

#[test]
fn privileged_everything_in_a_container_ends_with_it_also_where_pids_are_shared() {
    in_world(|world| {
        for pids in [NamespaceMode::Container, NamespaceMode::Pod, NamespaceMode::Node] {
            let mut config = world.pod_config("all");
            pod_security(&mut config).namespace_options.get_or_insert_default().pid = pids.into();
            let pod = world.run_pod_from(config);
            let run = |name: &str, seconds: u32| {
                let script = format!(
                    "(setsid sh -c 'trap \"\" TERM; sleep {seconds}' &); sh -c 'sleep {seconds}' & sleep {seconds}"
                );
                let mut config = world.container_config(name, &["sh", "-c", &script]);
                security(&mut config).namespace_options.get_or_insert_default().pid = pids.into();
                world.run(&pod, config)
            };
            let (ends, stays) = (run("ends", 2001), run("stays", 2002));
            let sleepers = |seconds: &str| {
                let all = world.stage.processes(None);
                let is = |pid: u32| {
                    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                        line.starts_with(b"sleep\0")
                            && line.ends_with(format!("{seconds}\0").as_bytes())
                    })
                };
                all.iter().filter(|seen| !seen.zombie && is(seen.pid)).count()
            };
            until("all are there", || sleepers("2001") == 3 && sleepers("2002") == 3);
            world.stop(&ends, 0);
            until("all of it has ended", || sleepers("2001") == 0);
            assert_eq!(sleepers("2002"), 3, "{pids:?}: its neighbour runs on");
            world.stop(&stays, 0);
            world.remove_pod(&pod.id);
        }
    });
}

#[test]
fn privileged_a_start_that_fails_is_a_start_error_with_its_cause() {
    in_world(|world| {
        let pod = world.run_pod("failing");
        let file = world.directory("files").join("file");
        suite::daemon::write(&file, "x");
        let cases: [(&str, &[&str], &str); 4] = [
            ("not there", &["/not/there"], "No such file or directory"),
            ("no program", &["/etc/passwd"], "Permission denied"),
            ("not in the path", &["no-such-program"], "executable file not found in $PATH"),
            ("a directory", &["/etc"], "Permission denied"),
        ];
        for (name, command, want) in cases {
            let id = world.create(&pod, world.container_config(&name.replace(' ', "-"), command));
            let told = world.try_start(&id).unwrap_err();
            let status = world.status(&id);
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{name}");
            assert_eq!(status.state(), ContainerState::ContainerExited);
            assert!(
                status.message.contains(want) && told.message().contains(want),
                "{name}: {status:?}"
            );
            assert!(!status.message.contains(&id), "the status is its own: {}", status.message);
            let context = told.message().matches("start container").count();
            assert_eq!(context, 1, "said once: {}", told.message());
            world.remove(&id);
        }
        let mut config = world.container_config("mount", &["true"]);
        config.mounts = vec![suite::hostile::volume(&file, "/etc/passwd/below")];
        let id = world.create(&pod, config);
        world.try_start(&id).unwrap_err();
        assert_eq!(world.status(&id).exit_code, 128);
    });
}

#[test]
fn privileged_a_stop_beside_a_start_leaves_nothing_running() {
    in_world(|world| {
        let pod = world.run_pod("beside");
        let id = world.create(&pod, world.container_config("quick", &["sleep", "1000"]));
        let (service, starting) = (world.cri().runtime_service(), id.clone());
        world.cri().block_on(async {
            let mut one = service.clone();
            let mut other = service.clone();
            let start = one.start_container(StartContainerRequest { container_id: starting });
            let stop = other.stop_pod_sandbox(cri_api::runtime::v1::StopPodSandboxRequest {
                pod_sandbox_id: pod.id.clone(),
            });
            let (started, stopped) = tokio::join!(start, stop);
            started.ok(); // Whoever came first.
            stopped.expect("stop");
        });
        let ended = eventually(|| {
            let state = world.status(&id).state();
            (state != ContainerState::ContainerRunning).then_some(())
        });
        assert!(ended.is_some(), "{:?}", world.status(&id));
    });
}
