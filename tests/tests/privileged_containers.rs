//! Containers: their life, their exit codes, how they are found.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cri_api::runtime::v1::{
    Container, ContainerConfig, ContainerFilter, ContainerState, ContainerStateValue,
    ContainerStatusRequest, CreateContainerRequest, ImageSpec, LinuxContainerResources,
    ListContainersRequest, Signal, StartContainerRequest, StopContainerRequest,
};
use serde_json::json;
use suite::image::{Compression, Tree};
use suite::patience::{eventually, until};
use suite::pods::security;
use suite::{ImageBuilder, World, in_world, log};
use tonic::Code;

fn list(world: &World, filter: Option<ContainerFilter>) -> Vec<Container> {
    let request = ListContainersRequest { filter };
    world.cri().list_containers(request).expect("list containers").containers
}

/// A script that ends with `code` as soon as it gets SIGTERM, and says when it is ready to.
fn until_terminated(code: u8) -> String {
    format!("trap 'exit {code}' TERM; echo ready; while :; do sleep 0.05; done")
}

fn wait_until_ready(world: &World, id: &str) {
    until("the container is ready", || !world.log_of(id).is_empty());
}

#[test]
fn privileged_a_container_lives_from_created_to_running_to_exited_to_removed() {
    in_world(|world| {
        let pod = world.run_pod("life");
        let mut config = world.container_config("life", &["sh", "-c", &until_terminated(0)]);
        config.labels = BTreeMap::from([("app".into(), "web".into())]);
        config.annotations = BTreeMap::from([("note".into(), "text".into())]);
        let id = world.create(&pod, config.clone());
        assert!(
            id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
        );

        let created = world.status(&id);
        assert_eq!(created.state(), ContainerState::ContainerCreated);
        assert_eq!((created.started_at, created.finished_at), (0, 0));
        assert!(created.created_at > 0);
        assert_eq!(created.metadata, config.metadata);
        assert_eq!(created.labels, config.labels);
        assert_eq!(created.annotations, config.annotations);
        let log_path = format!("{}/life.log", pod.config.log_directory);
        assert_eq!(created.log_path, log_path);

        world.start(&id);
        let running = world.status(&id);
        assert_eq!(running.state(), ContainerState::ContainerRunning);
        assert!(running.started_at >= running.created_at);
        assert_eq!(running.finished_at, 0);

        wait_until_ready(world, &id);
        world.stop(&id, 10);
        let exited = world.status(&id);
        assert_eq!(exited.state(), ContainerState::ContainerExited);
        assert_eq!((exited.exit_code, exited.reason.as_str()), (0, "Completed"));
        assert!(exited.finished_at >= exited.started_at);

        world.remove(&id);
        assert!(list(world, None).is_empty());
        let request = ContainerStatusRequest { container_id: id, ..Default::default() };
        let error = world.cri().container_status(request).unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    });
}

#[test]
fn privileged_exit_codes_and_reasons_are_those_of_the_process() {
    in_world(|world| {
        let pod = world.run_pod("codes");
        let cases = [
            ("exit 0", 0, "Completed"),
            ("exit 1", 1, "Error"),
            ("exit 7", 7, "Error"),
            ("exit 137", 137, "Error"),
            ("exit 255", 255, "Error"),
            ("nosuchcommand", 127, "Error"),
        ];
        for (number, (script, code, reason)) in cases.into_iter().enumerate() {
            let id = world.run_shell(&pod, &format!("c{number}"), script);
            let status = world.wait(&id);
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{script}");
        }
        // The first process of a PID namespace does not die of its own signals; from outside it does.
        let id = world.run_shell(&pod, "killed", "sleep 1000");
        world.stop(&id, 0);
        let status = world.status(&id);
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    });
}

#[test]
fn privileged_the_shortest_container_has_its_true_exit_code() {
    in_world(|world| {
        let pod = world.run_pod("short");
        for round in 0..20 {
            let code = round * 3;
            let id = world.run_shell(&pod, &format!("c{round}"), &format!("exit {code}"));
            assert_eq!(world.wait(&id).exit_code, code);
        }
    });
}

#[test]
fn privileged_what_cannot_be_started_says_why() {
    in_world(|world| {
        let pod = world.run_pod("start-error");
        let cases = [
            ("missing", vec!["/no/such/program"], "/no/such/program"),
            ("directory", vec!["/etc"], "/etc"),
            ("no-permission", vec!["/etc/passwd"], "/etc/passwd"),
        ];
        for (name, command, mentioned) in cases {
            // crun says why, but not of what.
            let mentioned = if suite::handler::is("crun") { "crun create" } else { mentioned };
            let id = world.create(&pod, world.container_config(name, &command));
            let error = world.try_start(&id).unwrap_err();
            assert!(error.message().contains(mentioned), "{name}: {error}");
            let status = world.status(&id);
            assert_eq!(status.state(), ContainerState::ContainerExited, "{name}");
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{name}");
            assert!(status.message.contains(mentioned), "{name}: {:?}", status.message);
            assert!(status.finished_at > 0, "{name}");
        }
    });
}

#[test]
fn privileged_a_container_beyond_its_memory_is_oom_killed() {
    in_world(|world| {
        let pod = world.run_pod("oom");
        let mut config = world.container_config("oom", &["sh", "-c", "tail /dev/zero"]);
        config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 16 << 20,
            memory_swap_limit_in_bytes: 16 << 20,
            ..Default::default()
        });
        let id = world.run(&pod, config);
        let status = world.wait(&id);
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    });
}

#[test]
fn privileged_stop_lets_a_container_end_by_itself_and_kills_one_that_does_not() {
    in_world(|world| {
        let pod = world.run_pod("stop");
        let polite = world.run_shell(&pod, "polite", &until_terminated(7));
        let stubborn = world.run_shell(
            &pod,
            "stubborn",
            "trap '' TERM; echo ready; while :; do sleep 1; done",
        );
        let deaf = world.run(&pod, world.container_config("deaf", &["sleep", "1000"]));
        wait_until_ready(world, &polite);
        wait_until_ready(world, &stubborn);

        world.stop(&polite, 30);
        assert_eq!(world.status(&polite).exit_code, 7);

        let begun = Instant::now();
        world.stop(&stubborn, 1);
        assert_eq!(world.status(&stubborn).exit_code, 137);
        assert!(begun.elapsed() >= Duration::from_millis(950), "it had its second");

        let begun = Instant::now();
        world.stop(&deaf, 0);
        assert_eq!(world.status(&deaf).exit_code, 137);
        assert!(begun.elapsed() < Duration::from_secs(1), "no grace means none");
    });
}

#[test]
fn privileged_stop_sends_the_signal_of_the_image_or_of_the_request() {
    in_world(|world| {
        let image = ImageBuilder::busybox().config("StopSignal", json!("SIGUSR1")).build();
        let pulled = world.pull(&world.registry().push("signal", "1", &image));
        let pod = world.run_pod("signal");
        let script = "trap 'exit 10' USR1; trap 'exit 12' USR2; trap 'exit 15' TERM; echo ready; \
                      while :; do sleep 0.05; done";
        let cases = [
            ("default", world.busybox.id.clone(), Signal::RuntimeDefault, 15, Signal::Sigterm),
            ("image", pulled.id.clone(), Signal::RuntimeDefault, 10, Signal::Sigusr1),
            ("request", pulled.id.clone(), Signal::Sigusr2, 12, Signal::Sigusr2),
        ];
        for (name, image, wanted, code, told) in cases {
            let mut config = world.container_config(name, &["sh", "-c", script]);
            config.image = Some(ImageSpec { image, ..Default::default() });
            config.stop_signal = wanted.into();
            let id = world.run(&pod, config);
            wait_until_ready(world, &id);
            assert_eq!(world.status(&id).stop_signal(), told, "{name}");
            world.stop(&id, 20);
            assert_eq!(world.status(&id).exit_code, code, "{name}");
        }
        world.remove_all_pods();
        world.remove_image(&pulled.id);
    });
}

#[test]
fn privileged_a_second_stop_may_shorten_the_first() {
    in_world(|world| {
        let pod = world.run_pod("shorten");
        let id =
            world.run_shell(&pod, "deaf", "trap '' TERM; echo ready; while :; do sleep 1; done");
        wait_until_ready(world, &id);
        let begun = Instant::now();
        world.cri().block_on(async {
            let mut service = world.cri().runtime_service();
            let request = StopContainerRequest { container_id: id.clone(), timeout: 60 };
            let slow = tokio::spawn(async move { service.stop_container(request).await });
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut service = world.cri().runtime_service();
            let request = StopContainerRequest { container_id: id.clone(), timeout: 0 };
            service.stop_container(request).await.unwrap();
            slow.await.unwrap().unwrap();
        });
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(world.status(&id).exit_code, 137);
    });
}

#[test]
fn privileged_a_stop_goes_on_when_its_caller_has_gone() {
    in_world(|world| {
        let pod = world.run_pod("gone");
        let id =
            world.run_shell(&pod, "deaf", "trap '' TERM; echo ready; while :; do sleep 1; done");
        wait_until_ready(world, &id);
        world.cri().block_on(async {
            let mut service = world.cri().runtime_service();
            let request = StopContainerRequest { container_id: id.clone(), timeout: 1 };
            let stop = tokio::spawn(async move { service.stop_container(request).await });
            tokio::time::sleep(Duration::from_millis(100)).await;
            stop.abort();
        });
        assert_eq!(world.wait(&id).exit_code, 137);
    });
}

#[test]
fn privileged_every_process_of_a_container_ends_with_it() {
    in_world(|world| {
        let pod = world.run_pod("all");
        let script =
            "(sleep 1001 &) ; (sh -c 'trap \"\" TERM; sleep 1002' &) ; echo ready; sleep 1003";
        let id = world.run_shell(&pod, "many", script);
        wait_until_ready(world, &id);
        world.stop(&id, 0);
        let left = world.census();
        let sleeps = left.of("processes").iter().filter(|name| name.starts_with("sleep")).count();
        assert_eq!(sleeps, 0, "{left:?}");
    });
}

#[test]
fn privileged_stop_and_remove_may_be_repeated_and_unknown_ids_succeed() {
    in_world(|world| {
        let pod = world.run_pod("again");
        let id = world.run_shell(&pod, "one", "sleep 1000");
        for _ in 0..3 {
            world.stop(&id, 0);
        }
        for _ in 0..3 {
            world.remove(&id);
        }
        let never = world.create(&pod, world.container_config("never-started", &["true"]));
        world.stop(&never, 0);
        world.remove(&never);
        let running = world.run_shell(&pod, "running", "sleep 1000");
        world.remove(&running);
        for id in ["0".repeat(64), "abc".into()] {
            world.stop(&id, 0);
            world.remove(&id);
        }
        assert!(list(world, None).is_empty());
    });
}

#[test]
fn privileged_only_a_created_container_can_be_started() {
    in_world(|world| {
        let pod = world.run_pod("starts");
        let id = world.run_shell(&pod, "running", &until_terminated(0));
        let error = world.try_start(&id).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "running: {error}");
        wait_until_ready(world, &id);
        world.stop(&id, 10);
        let error = world.try_start(&id).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "exited: {error}");
        let request = StartContainerRequest { container_id: "0".repeat(64) };
        let error = world.cri().start_container(request).unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "unknown: {error}");
        assert_eq!(world.status(&id).exit_code, 0, "nothing has happened to it");
    });
}

#[test]
fn privileged_creates_repeated_while_one_is_at_work_give_the_same_container() {
    in_world(|world| {
        let pod = world.run_pod("retry");
        let config = world.container_config("retry", &["true"]);
        let ids = world.cri().block_on(async {
            let mut creates = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let mut service = world.cri().runtime_service();
                let request = CreateContainerRequest {
                    pod_sandbox_id: pod.id.clone(),
                    config: Some(config.clone()),
                    sandbox_config: Some(pod.config.clone()),
                };
                creates.spawn(async move { service.create_container(request).await });
            }
            creates.join_all().await
        });
        let mut ids: Vec<String> =
            ids.into_iter().map(|id| id.unwrap().into_inner().container_id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1, "{ids:?}");

        let error = world.try_create(&pod, config.clone()).unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists, "it was told already: {error}");
        let mut other = config;
        other.metadata.as_mut().unwrap().attempt = 1;
        assert_ne!(world.create(&pod, other), ids[0]);
        assert_eq!(list(world, None).len(), 2);
    });
}

#[test]
fn privileged_bad_input_is_refused_with_its_code_and_leaves_nothing() {
    in_world(|world| {
        type Change = fn(&mut ContainerConfig);
        let cases: [(&str, Code, Change); 9] = [
            ("no metadata", Code::InvalidArgument, |config| config.metadata = None),
            ("no image", Code::InvalidArgument, |config| config.image = None),
            ("absent image", Code::NotFound, |config| {
                config.image.as_mut().unwrap().image = "nobody/has:this".into();
            }),
            ("group without user", Code::InvalidArgument, |config| {
                security(config).run_as_group = Some(cri_api::runtime::v1::Int64Value { value: 5 });
            }),
            ("unknown user name", Code::InvalidArgument, |config| {
                security(config).run_as_username = "nobody-here".into();
            }),
            ("unknown capability", Code::InvalidArgument, |config| {
                security(config).capabilities = Some(cri_api::runtime::v1::Capability {
                    add_capabilities: vec!["NO_SUCH_CAP".into()],
                    ..Default::default()
                });
            }),
            ("relative mount", Code::InvalidArgument, |config| {
                config.mounts = vec![cri_api::runtime::v1::Mount {
                    container_path: "relative".into(),
                    host_path: "/tmp".into(),
                    ..Default::default()
                }];
            }),
            ("log path that climbs", Code::InvalidArgument, |config| {
                config.log_path = "../../../escaped.log".into();
            }),
            ("missing seccomp profile", Code::InvalidArgument, |config| {
                security(config).seccomp = Some(cri_api::runtime::v1::SecurityProfile {
                    profile_type: cri_api::runtime::v1::security_profile::ProfileType::Localhost
                        .into(),
                    localhost_ref: "/no/such/profile.json".into(),
                });
            }),
        ];
        let pod = world.run_pod("bad");
        let before = world.settled();
        for (what, code, change) in cases {
            let mut config = world.container_config("bad", &["true"]);
            change(&mut config);
            let error = world.try_create(&pod, config).expect_err(what);
            assert_eq!(error.code(), code, "{what}: {error}");
            assert!(list(world, None).is_empty(), "{what}");
            world.assert_census_is(&before);
        }
        let absent = suite::Pod { id: "0".repeat(64), ..pod.clone() };
        let error = world.try_create(&absent, world.container_config("x", &["true"])).unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "unknown pod: {error}");
        world.stop_pod(&pod.id);
        let error = world.try_create(&pod, world.container_config("x", &["true"])).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "stopped pod: {error}");
    });
}

#[test]
fn privileged_one_image_id_is_told_everywhere() {
    in_world(|world| {
        let pod = world.run_pod("image-id");
        let (id, reference) = (world.busybox.id.clone(), world.busybox.reference.clone());
        assert!(id.starts_with("sha256:"));
        for (name, image) in [("by-id", id.clone()), ("by-tag", reference.clone())] {
            let mut config = world.container_config(name, &["true"]);
            config.image = Some(ImageSpec {
                image,
                user_specified_image: reference.clone(),
                ..Default::default()
            });
            let container = world.create(&pod, config);
            let status = world.status(&container);
            assert_eq!(status.image_id, id, "{name}: status");
            assert!(!status.image_ref.is_empty(), "{name}");
            let image = status.image.unwrap();
            assert!(!image.image.is_empty(), "{name}");
            let listed = list(world, None).into_iter().find(|other| other.id == container).unwrap();
            assert_eq!(listed.image_id, id, "{name}: list");
            assert_eq!(listed.image.unwrap().user_specified_image, reference, "{name}");
        }
    });
}

#[test]
fn privileged_containers_are_found_by_id_pod_state_and_labels() {
    in_world(|world| {
        let (front, back) = (world.run_pod("front"), world.run_pod("back"));
        let labelled = |world: &World, pod, name: &str| {
            let mut config = world.container_config(name, &["sleep", "1000"]);
            config.labels =
                BTreeMap::from([("name".into(), name.into()), ("all".into(), "yes".into())]);
            world.create(pod, config)
        };
        let a = labelled(world, &front, "a");
        let b = labelled(world, &front, "b");
        let c = labelled(world, &back, "c");
        world.start(&b);
        world.start(&c);
        world.stop(&c, 0);
        let by_state = |state: ContainerState| ContainerFilter {
            state: Some(ContainerStateValue { state: state.into() }),
            ..Default::default()
        };
        let by_id = |id: &str| ContainerFilter { id: id.into(), ..Default::default() };
        let by_pod = |id: &str| ContainerFilter { pod_sandbox_id: id.into(), ..Default::default() };
        let by_labels = |labels: &[(&str, &str)]| ContainerFilter {
            label_selector: labels.iter().map(|&(k, v)| (k.into(), v.into())).collect(),
            ..Default::default()
        };
        let cases: [(&str, ContainerFilter, &[&String]); 10] = [
            ("nothing", ContainerFilter::default(), &[&a, &b, &c]),
            ("id", by_id(&a), &[&a]),
            ("beginning of an id", by_id(&b[..13]), &[&b]),
            ("unknown id", by_id(&"f".repeat(64)), &[]),
            ("pod", by_pod(&front.id), &[&a, &b]),
            ("beginning of a pod id", by_pod(&back.id[..13]), &[&c]),
            ("created", by_state(ContainerState::ContainerCreated), &[&a]),
            ("running", by_state(ContainerState::ContainerRunning), &[&b]),
            ("exited", by_state(ContainerState::ContainerExited), &[&c]),
            ("labels, all of them", by_labels(&[("all", "yes"), ("name", "c")]), &[&c]),
        ];
        for (what, filter, expected) in cases {
            let mut found: Vec<String> =
                list(world, Some(filter)).into_iter().map(|container| container.id).collect();
            let mut expected: Vec<String> = expected.iter().map(|&id| id.clone()).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "by {what}");
        }
        assert_eq!(world.status(&a[..13]).id, a, "a truncated id is enough");
    });
}

#[test]
fn privileged_a_container_ends_and_goes_though_its_image_and_its_cgroup_have_gone() {
    in_world(|world| {
        let image = ImageBuilder::busybox()
            .layer(Compression::Gzip, Tree::default().file("mark", 0o644, b"x"))
            .build();
        let pulled = world.pull(&world.registry().push("going", "1", &image));
        let pod = world.run_pod("going");
        let mut config = world.container_config("going", &["sh", "-c", "exit 3"]);
        config.image = Some(ImageSpec { image: pulled.id.clone(), ..Default::default() });
        let id = world.run(&pod, config);
        assert_eq!(world.wait(&id).exit_code, 3);
        world.remove_image(&pulled.id);
        world.stage.cgroups.remove_empty(&id);
        world.stop(&id, 0);
        world.remove(&id);
    });
}

#[test]
fn privileged_verbose_status_shows_the_pid_and_the_runtime_spec() {
    in_world(|world| {
        let pod = world.run_pod("verbose");
        let id = world.run_shell(&pod, "verbose", "sleep 1000");
        let request = ContainerStatusRequest { container_id: id, verbose: true };
        let answer = world.cri().container_status(request).unwrap();
        let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        let pid = info["pid"].as_u64().expect("a pid");
        // Another runtime says that a container has started a moment before its program runs.
        let name = eventually(|| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
            ["sh", "sleep"].contains(&name.trim_end()).then_some(())
        });
        assert!(name.is_some(), "process {pid} is not the container's");
        let arguments = &info["runtimeSpec"]["process"]["args"];
        assert_eq!(arguments, &json!(["sh", "-c", "sleep 1000"]));
    });
}

#[test]
fn privileged_many_containers_of_one_pod_run_side_by_side() {
    in_world(|world| {
        let pod = world.run_pod("many");
        let ids: Vec<String> = (0..12)
            .map(|n| {
                world.run_shell(
                    &pod,
                    &format!("c{n}"),
                    &format!("sleep 0.{n:02}; echo {n}; exit {n}"),
                )
            })
            .collect();
        for (number, id) in ids.iter().enumerate() {
            let status = world.wait(id);
            assert_eq!(status.exit_code, i32::try_from(number).unwrap());
            assert_eq!(log::written(&world.log_of(id), "stdout"), format!("{number}\n"));
        }
    });
}
