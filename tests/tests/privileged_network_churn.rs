//! Many pods that come and go, and daemons that die in between.

use std::time::Duration;

use cri_api::runtime::v1::{PodSandboxConfig, RemovePodSandboxRequest, RunPodSandboxRequest};
use suite::pods::Pod;
use suite::{World, in_world};
use tokio::task::JoinSet;

/// Runs and removes the pods, each right after the other in its lane, all lanes side by side.
fn come_and_go(world: &World, lanes: Vec<Vec<PodSandboxConfig>>) {
    world.cri().block_on(async {
        let mut work = JoinSet::new();
        for lane in lanes {
            let mut runtime = world.cri().runtime_service();
            work.spawn(async move {
                for config in lane {
                    let request =
                        RunPodSandboxRequest { config: Some(config), ..Default::default() };
                    let id = runtime.run_pod_sandbox(request).await.expect("run").into_inner();
                    let request = RemovePodSandboxRequest { pod_sandbox_id: id.pod_sandbox_id };
                    runtime.remove_pod_sandbox(request).await.expect("remove");
                }
            });
        }
        while let Some(ended) = work.join_next().await {
            ended.expect("a lane comes to its end");
        }
    });
}

/// Asks for pods, and does not wait for what becomes of them.
fn ask_and_turn_away(world: &World, configs: Vec<PodSandboxConfig>, patience: Duration) {
    world.cri().block_on(async {
        let mut asked = JoinSet::new();
        for config in configs {
            let mut runtime = world.cri().runtime_service();
            let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
            asked.spawn(async move { runtime.run_pod_sandbox(request).await });
        }
        tokio::time::sleep(patience).await;
        asked.abort_all();
    });
}

#[test]
fn privileged_250_pods_on_a_24_come_and_go() {
    in_world(|world| {
        world.restart_with_network(&["subnet = \"10.77.0.0/24\""]);
        let mut pods: Vec<Pod> = (0..250).map(|n| world.run_pod(&format!("pod{n}"))).collect();
        let mut last = world.address(&pods[249]);
        for round in 0..50 {
            let gone = pods.remove(round * 3 % pods.len());
            world.remove_pod(&gone.id);
            let next = world.run_pod(&format!("next{round}"));
            let address = world.address(&next);
            assert_ne!(address, last, "an address is not used again at once");
            last = address;
            pods.push(next);
        }
        let mut addresses: Vec<String> = pods.iter().map(|pod| world.address(pod)).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 250);
    });
}

#[test]
fn privileged_a_thousand_pods_with_daemons_killed_in_between_leave_nothing() {
    const ROUNDS: u64 = 10;
    in_world(|world| {
        for round in 0..ROUNDS {
            let configs = |lane: usize| {
                (0..25).map(|n| world.pod_config(&format!("churn-{lane}-{n}"))).collect()
            };
            come_and_go(world, (0..4).map(configs).collect());
            // Some are left to the next daemon, in whatever state.
            let kept: Vec<Pod> = (0..3).map(|n| world.run_pod(&format!("kept{n}"))).collect();
            world.stop_pod(&kept[0].id);
            let before = world.address(&kept[1]);
            let torn = (0..8).map(|n| world.pod_config(&format!("torn{n}"))).collect();
            ask_and_turn_away(world, torn, Duration::from_millis(4 * round));
            world.kill_daemon();
            world.start_daemon();
            assert_eq!(world.address(&kept[1]), before);
            world.remove_all_pods();
        }
    });
}
