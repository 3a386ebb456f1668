//! Many pods at once, and none of them in the census afterwards.

use std::time::{Duration, Instant};

use cri_api::runtime::v1::{
    CreateContainerRequest, ListContainersRequest, ListPodSandboxRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
};
use suite::{World, in_world};
use tokio::task::JoinSet;

const PODS: usize = 200;
const AT_A_TIME: usize = 8;

/// Starts pods `numbers` one after the other, each with one running container.
async fn start(
    mut service: Runtime,
    configs: Vec<cri_api::runtime::v1::PodSandboxConfig>,
    container: cri_api::runtime::v1::ContainerConfig,
) -> Vec<String> {
    let mut ids = Vec::new();
    for config in configs {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let pod = service.run_pod_sandbox(request).await.expect("run a pod").into_inner();
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.pod_sandbox_id.clone(),
            config: Some(container.clone()),
            sandbox_config: Some(config),
        };
        let made = service.create_container(request).await.expect("create").into_inner();
        let request = StartContainerRequest { container_id: made.container_id };
        service.start_container(request).await.expect("start");
        ids.push(pod.pod_sandbox_id);
    }
    ids
}

async fn remove(mut service: Runtime, ids: Vec<String>) {
    for id in ids {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        service.stop_pod_sandbox(request).await.expect("stop a pod");
        let request = RemovePodSandboxRequest { pod_sandbox_id: id };
        service.remove_pod_sandbox(request).await.expect("remove a pod");
    }
}

type Runtime =
    cri_api::runtime::v1::runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>;

fn start_all(world: &World) -> (Vec<String>, Duration) {
    let configs: Vec<_> = (0..PODS).map(|n| world.pod_config(&format!("load-{n}"))).collect();
    let container = world.container_config("sleeper", &["sleep", "1000"]);
    let begun = Instant::now();
    let ids = world.cri().block_on(async {
        let mut workers = JoinSet::new();
        for chunk in configs.chunks(PODS / AT_A_TIME) {
            workers.spawn(start(world.cri().runtime_service(), chunk.to_vec(), container.clone()));
        }
        workers.join_all().await.concat()
    });
    (ids, begun.elapsed())
}

#[test]
fn privileged_200_pods_start_and_go_8_at_a_time_and_the_census_is_equal() {
    in_world(|world| {
        // The first pod makes the bridge; it belongs to the node from then on.
        let first = world.run_pod("first");
        world.remove_pod(&first.id);
        let before = world.settled();

        let (ids, starting) = start_all(world);
        let pods = world.cri().list_pod_sandbox(ListPodSandboxRequest::default()).unwrap();
        assert_eq!(pods.items.len(), PODS);
        let begun = Instant::now();
        let containers = world.cri().list_containers(ListContainersRequest::default()).unwrap();
        let listing = begun.elapsed();
        assert_eq!(containers.containers.len(), PODS);
        let full = world.census();
        for kind in ["links", "cgroups", "processes", "mounts"] {
            assert!(full.of(kind).len() >= before.of(kind).len() + PODS, "the census sees {kind}");
        }

        let begun = Instant::now();
        world.cri().block_on(async {
            let mut workers = JoinSet::new();
            for chunk in ids.chunks(PODS / AT_A_TIME) {
                workers.spawn(remove(world.cri().runtime_service(), chunk.to_vec()));
            }
            workers.join_all().await;
        });
        let removing = begun.elapsed();
        eprintln!(
            "{PODS} pods, {AT_A_TIME} at a time: started in {starting:?}, listed in {listing:?}, \
             removed in {removing:?}"
        );
        world.assert_census_is(&before);
    });
}

#[test]
fn privileged_pods_that_come_and_go_for_a_while_leave_nothing() {
    in_world(|world| {
        for round in 0..10 {
            let pod = world.run_pod(&format!("round-{round}"));
            for number in 0..3 {
                world.run_shell(&pod, &format!("c{number}"), "echo x; sleep 1000");
            }
            world.stop_pod(&pod.id);
            world.remove_pod(&pod.id);
        }
        world.assert_nothing_is_left();
    });
}
