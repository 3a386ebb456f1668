//! Limits of containers and pods: changed while they live, refused where they cannot be, told and kept.

use cri_api::runtime::v1::{
    ContainerState, LinuxContainerResources, UpdateContainerResourcesRequest,
    UpdatePodSandboxResourcesRequest,
};
use suite::patience::until;
use suite::{World, cgroup, in_world};
use tonic::{Code, Status};

type Resources = LinuxContainerResources;

fn update(world: &World, id: &str, linux: Resources) -> Result<(), Status> {
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    world.cri().update_container_resources(request).map(|_| ())
}

fn told(world: &World, id: &str) -> Resources {
    world.status(id).resources.expect("resources").linux.expect("of Linux")
}

/// What the cgroup of a container has, in words that are the same on both versions.
fn in_force(world: &World, id: &str) -> String {
    let read = |file| world.stage.cgroups.read(id, file).unwrap_or_else(|| format!("no {file}"));
    if cgroup::is_v2() {
        let cpu = read("cpu.max");
        let (quota, period) = cpu.split_once(' ').expect("a quota and a period");
        format!("quota {quota} period {period} memory {}", read("memory.max"))
    } else {
        let memory = read("memory.limit_in_bytes");
        format!(
            "quota {} period {} memory {memory}",
            read("cpu.cfs_quota_us"),
            read("cpu.cfs_period_us")
        )
    }
}

const MIB: i64 = 1 << 20;

fn limited() -> Resources {
    Resources {
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        oom_score_adj: 300,
        ..Default::default()
    }
}

#[test]
fn privileged_limits_update_of_a_running_container_is_in_force_and_told_and_outlives_the_daemon() {
    in_world(|world| {
        let pod = world.run_pod("update");
        let mut config = world.container_config("update", &["sleep", "1000"]);
        config.linux.as_mut().unwrap().resources = Some(limited());
        let id = world.run(&pod, config);
        let change = Resources {
            cpu_quota: 20_000,
            memory_limit_in_bytes: 96 * MIB,
            oom_score_adj: 700,
            ..Default::default()
        };
        update(world, &id, change).unwrap();
        let want = format!("quota 20000 period 100000 memory {}", 96 * MIB);
        assert_eq!(in_force(world, &id), want);
        assert_eq!(world.exec(&id, &["cat", "/proc/1/oom_score_adj"]), "700\n");
        assert_eq!(world.exec(&id, &["cat", "/proc/self/oom_score_adj"]), "700\n");
        let all = Resources {
            cpu_quota: 20_000,
            memory_limit_in_bytes: 96 * MIB,
            oom_score_adj: 700,
            ..limited()
        };
        assert_eq!(told(world, &id), all);
        world.kill_daemon();
        world.start_daemon();
        assert_eq!(told(world, &id), all);
        assert_eq!(in_force(world, &id), want);
        update(world, &id, Resources { cpu_shares: 256, ..Default::default() }).unwrap();
        assert_eq!(told(world, &id), Resources { cpu_shares: 256, ..all });
    });
}

#[test]
fn privileged_limits_update_of_a_created_container_holds_from_its_start_on() {
    in_world(|world| {
        let pod = world.run_pod("update-created");
        let mut config = world.container_config("created", &["sleep", "1000"]);
        config.linux.as_mut().unwrap().resources = Some(limited());
        let id = world.create(&pod, config);
        let change = Resources { cpu_period: 50_000, oom_score_adj: 400, ..Default::default() };
        update(world, &id, change).unwrap();
        assert_eq!(told(world, &id).cpu_period, 50_000);
        world.start(&id);
        let want = format!("quota 50000 period 50000 memory {}", 64 * MIB);
        assert_eq!(in_force(world, &id), want);
        assert_eq!(world.exec(&id, &["cat", "/proc/1/oom_score_adj"]), "400\n");
    });
}

#[test]
fn privileged_limits_update_is_all_or_nothing() {
    in_world(|world| {
        let pod = world.run_pod("update-refused");
        let mut config = world.container_config(
            "holder",
            &[
                "sh",
                "-c",
                "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ready; sleep 1000; true",
            ],
        );
        config.linux.as_mut().unwrap().resources = Some(limited());
        let id = world.run(&pod, config);
        until("the container holds memory", || !world.log_of(&id).is_empty());
        let before = (in_force(world, &id), told(world, &id));
        let quota = Resources { cpu_quota: 10_000, ..Default::default() };
        let cases = [
            (
                "memory below what is in use",
                Resources { memory_limit_in_bytes: 8 * MIB, ..quota.clone() },
                Code::FailedPrecondition,
            ),
            (
                "no such processor",
                Resources { cpuset_cpus: "4000".into(), ..quota.clone() },
                Code::InvalidArgument,
            ),
            (
                "no such memory node",
                Resources { cpuset_mems: "63".into(), ..quota.clone() },
                Code::InvalidArgument,
            ),
            (
                "swap below memory",
                Resources { memory_swap_limit_in_bytes: MIB, ..quota.clone() },
                Code::InvalidArgument,
            ),
            (
                "a score that is none",
                Resources { oom_score_adj: 1001, ..quota.clone() },
                Code::InvalidArgument,
            ),
            (
                "a file that is no limit",
                Resources {
                    unified: [("cgroup.procs".to_owned(), "1".to_owned())].into(),
                    ..quota
                },
                Code::InvalidArgument,
            ),
        ];
        for (name, change, code) in cases {
            let error = update(world, &id, change).expect_err(name);
            assert_eq!(error.code(), code, "{name}: {error}");
            assert_eq!((in_force(world, &id), told(world, &id)), before, "{name}");
        }
        assert_eq!(
            world.status(&id).state(),
            ContainerState::ContainerRunning,
            "nothing was killed"
        );
    });
}

#[test]
fn privileged_limits_of_what_has_ended_or_is_not_there_cannot_be_changed() {
    in_world(|world| {
        let pod = world.run_pod("update-ended");
        let id = world.run_shell(&pod, "ended", "exit 0");
        world.wait(&id);
        let error = update(world, &id, limited()).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert_eq!(update(world, "nobody", limited()).unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn privileged_limits_of_a_pod_are_in_the_cgroup_that_is_ours() {
    in_world(|world| {
        let mut config = world.pod_config("pod-limits");
        let linux = config.linux.as_mut().unwrap();
        linux.cgroup_parent = String::new();
        let memory = |mib| Resources { memory_limit_in_bytes: mib * MIB, ..Default::default() };
        linux.resources = Some(memory(64));
        linux.overhead = Some(memory(16));
        let pod = world.run_pod_from(config);
        let file = if cgroup::is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
        let limit = |world: &World| world.stage.cgroups.read(&pod.id, file).unwrap();
        assert_eq!(limit(world), (80 * MIB).to_string());
        let request = UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.id.clone(),
            overhead: None,
            resources: Some(memory(128)),
        };
        world.cri().update_pod_sandbox_resources(request.clone()).unwrap();
        assert_eq!(limit(world), (144 * MIB).to_string());
        world.kill_daemon();
        world.start_daemon();
        let overhead = Some(memory(32));
        let request = UpdatePodSandboxResourcesRequest { overhead, resources: None, ..request };
        world.cri().update_pod_sandbox_resources(request.clone()).unwrap();
        assert_eq!(limit(world), (160 * MIB).to_string(), "the other part is remembered");
        let request =
            UpdatePodSandboxResourcesRequest { pod_sandbox_id: "nobody".into(), ..request };
        let error = world.cri().update_pod_sandbox_resources(request).unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    });
}
