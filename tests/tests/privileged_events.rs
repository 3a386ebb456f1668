//! GetContainerEvents and the lists that come in pieces.

use std::time::Duration;

use cri_api::runtime::v1::{
    Container, ContainerEventResponse, ContainerEventType, ContainerFilter, ContainerState,
    GetEventsRequest, PodSandboxState, PodSandboxStatusRequest, StreamContainersRequest,
    StreamImagesRequest, StreamPodSandboxesRequest,
};
use suite::in_world;
use suite::world::World;
use tonic::{Code, Status, Streaming};

const CREATED: ContainerEventType = ContainerEventType::ContainerCreatedEvent;
const STARTED: ContainerEventType = ContainerEventType::ContainerStartedEvent;
const STOPPED: ContainerEventType = ContainerEventType::ContainerStoppedEvent;
const DELETED: ContainerEventType = ContainerEventType::ContainerDeletedEvent;

type Events = Streaming<ContainerEventResponse>;

fn listen(world: &World) -> Events {
    let mut service = world.cri().runtime_service();
    let answer = world.cri().block_on(service.get_container_events(GetEventsRequest {}));
    answer.expect("events").into_inner()
}

/// The next event, or why there is none.
fn try_next(world: &World, events: &mut Events) -> Result<ContainerEventResponse, Status> {
    let patience = Duration::from_secs(60);
    let next =
        world.cri().block_on(async { tokio::time::timeout(patience, events.message()).await });
    next.expect("an event comes")?.ok_or_else(|| Status::cancelled("the stream has ended"))
}

fn next(world: &World, events: &mut Events) -> ContainerEventResponse {
    try_next(world, events).unwrap_or_else(|status| panic!("event: {status}"))
}

/// Expects one event, with the pod's state and those of its containers.
fn expect(
    world: &World,
    events: &mut Events,
    (kind, id): (ContainerEventType, &str),
    pod: PodSandboxState,
    containers: &[ContainerState],
) {
    let event = next(world, events);
    assert_eq!(
        (event.container_event_type(), event.container_id.as_str()),
        (kind, id),
        "{event:?}"
    );
    assert!(event.created_at > 0);
    let status = event.pod_sandbox_status.expect("kubelet ignores events without the pod");
    assert_eq!(status.state(), pod, "{kind:?}");
    let states: Vec<_> = event.containers_statuses.iter().map(|status| status.state()).collect();
    assert_eq!(states, containers, "{kind:?}");
}

#[test]
fn privileged_events_tell_the_life_of_a_pod_in_order_to_everybody() {
    use ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    use PodSandboxState::{SandboxNotready, SandboxReady};
    in_world(|world| {
        let mut all = [listen(world), listen(world)];
        let pod = world.run_pod("events");
        let id = world.create(&pod, world.container_config("c", &["sleep", "1000"]));
        for events in &mut all {
            expect(world, events, (CREATED, &pod.id), SandboxReady, &[]);
            expect(world, events, (STARTED, &pod.id), SandboxReady, &[]);
            expect(world, events, (CREATED, &id), SandboxReady, &[ContainerCreated]);
        }
        let mut late = listen(world);
        world.start(&id);
        expect(world, &mut late, (STARTED, &id), SandboxReady, &[ContainerRunning]);
        world.stop(&id, 0);
        expect(world, &mut late, (STOPPED, &id), SandboxReady, &[ContainerExited]);
        world.remove(&id);
        expect(world, &mut late, (DELETED, &id), SandboxReady, &[]);
        world.stop_pod(&pod.id);
        expect(world, &mut late, (STOPPED, &pod.id), SandboxNotready, &[]);
        world.remove_pod(&pod.id);
        expect(world, &mut late, (DELETED, &pod.id), SandboxNotready, &[]);
        for events in &mut all {
            for kind in [STARTED, STOPPED, DELETED, STOPPED, DELETED] {
                assert_eq!(next(world, events).container_event_type(), kind);
            }
        }
    });
}

#[test]
fn privileged_the_shortest_container_is_told_from_its_start_to_its_end() {
    in_world(|world| {
        let pod = world.run_pod("short");
        let mut events = listen(world);
        for round in 0..20 {
            let id = world.create(&pod, world.container_config(&format!("c{round}"), &["true"]));
            world.start(&id);
            for kind in [CREATED, STARTED, STOPPED] {
                let event = next(world, &mut events);
                assert_eq!((event.container_event_type(), &event.container_id), (kind, &id));
            }
        }
        let id = world.create(&pod, world.container_config("none", &["/no/such/program"]));
        world.try_start(&id).expect_err("there is no such program");
        for kind in [CREATED, STOPPED] {
            assert_eq!(next(world, &mut events).container_event_type(), kind);
        }
    });
}

#[test]
fn privileged_a_listener_that_does_not_read_costs_nobody_anything_and_is_told() {
    in_world(|world| {
        let mut idle = listen(world);
        let pod = world.run_pod("flood");
        let mut config = world.container_config("c", &["true"]);
        // Few events fill what the connection itself holds.
        config.labels = [("filler".into(), "x".repeat(60_000))].into();
        for attempt in 0..700 {
            config.metadata.as_mut().expect("metadata").attempt = attempt;
            let id = world.create(&pod, config.clone());
            world.remove(&id);
        }
        let mut fresh = listen(world);
        let id = world.create(&pod, world.container_config("last", &["true"]));
        assert_eq!(next(world, &mut fresh).container_id, id, "others are told at once");
        let mut got = 0;
        let ended = loop {
            match try_next(world, &mut idle) {
                Ok(_) => got += 1,
                Err(status) => break status,
            }
        };
        assert_eq!(ended.code(), Code::DataLoss, "after {got} events: {ended}");
        assert!(ended.message().contains("events were missed"), "{ended}");
        assert!(got < 1400, "{got} events were kept for one that does not read");
    });
}

#[test]
fn privileged_a_listener_that_leaves_is_forgotten() {
    in_world(|world| {
        let before = world.settled();
        let listeners: Vec<Events> = (0..20).map(|_| listen(world)).collect();
        let pod = world.run_pod("left");
        drop(listeners);
        world.stop_pod(&pod.id);
        world.remove_pod(&pod.id);
        world.assert_census_is(&before);
    });
}

#[test]
fn privileged_lists_in_pieces_hold_each_row_once() {
    in_world(|world| {
        let cri = world.cri();
        let mut service = cri.runtime_service();
        let empty = cri.block_on(service.stream_containers(StreamContainersRequest::default()));
        let mut empty = empty.expect("a stream").into_inner();
        assert!(cri.block_on(empty.message()).expect("an end").is_none(), "no message at all");

        let pods = ["one", "two"].map(|name| world.run_pod(name));
        for attempt in 0..150 {
            let mut config = world.container_config("c", &["true"]);
            config.metadata.as_mut().expect("metadata").attempt = attempt;
            world.create(&pods[0], config);
        }
        let id = world.create(&pods[1], world.container_config("other", &["true"]));
        let rows = |filter: Option<ContainerFilter>| -> (usize, Vec<Container>) {
            let mut service = cri.runtime_service();
            cri.block_on(async move {
                let request = StreamContainersRequest { filter };
                let mut stream = service.stream_containers(request).await?.into_inner();
                let (mut messages, mut rows) = (0, Vec::new());
                while let Some(message) = stream.message().await? {
                    messages += 1;
                    rows.extend(message.containers);
                }
                Ok::<_, Status>((messages, rows))
            })
            .expect("a list")
        };
        let (messages, all) = rows(None);
        assert!(messages > 1, "a long list comes in pieces");
        let mut ids: Vec<_> = all.iter().map(|row| row.id.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 151);
        let filter = ContainerFilter { pod_sandbox_id: pods[1].id.clone(), ..Default::default() };
        let (_, of_pod) = rows(Some(filter));
        assert_eq!(of_pod.iter().map(|row| &row.id).collect::<Vec<_>>(), [&id]);

        let request = StreamPodSandboxesRequest::default();
        let mut stream =
            cri.block_on(service.stream_pod_sandboxes(request)).expect("pods").into_inner();
        let message = cri.block_on(stream.message()).expect("a message").expect("rows");
        assert_eq!(message.pod_sandboxes.len(), 2);
        let mut images = cri.image_service();
        let request = StreamImagesRequest::default();
        let mut stream = cri.block_on(images.stream_images(request)).expect("images").into_inner();
        let message = cri.block_on(stream.message()).expect("a message").expect("rows");
        assert_eq!(message.images.len(), 1);
    });
}

#[test]
fn privileged_a_pods_status_has_its_containers_and_the_time() {
    in_world(|world| {
        let pod = world.run_pod("status");
        let id = world.run_shell(&pod, "c", "sleep 1000");
        let other = world.run_pod("other");
        world.run_shell(&other, "c", "sleep 1000");
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id, ..Default::default() };
        let answer = world.cri().pod_sandbox_status(request).expect("a status");
        let ids: Vec<_> = answer.containers_statuses.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, [id.as_str()]);
        assert_eq!(answer.containers_statuses[0].state(), ContainerState::ContainerRunning);
        assert!(answer.timestamp >= answer.containers_statuses[0].started_at);
    });
}
