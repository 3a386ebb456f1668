//! What happens to pods and containers, told to whoever listens (GetContainerEvents).
//!
//! Nobody waits for a listener. Each has a place in one bounded queue: one that falls more than [`KEPT`] events behind has
//! missed some, is told so by the end of its stream, and lists anew, as kubelet does. Nothing is kept for who comes later.

use crate::container::{Container, State};
use crate::host::now_ns;
use crate::sandbox::Sandbox;
use crate::table::Table;
use cri_api::runtime::v1::{ContainerEventResponse, ContainerEventType, ContainerStatus};
use runtime::id::PodId;
use std::sync::Arc;
use tokio::sync::broadcast;

/// How many events a listener can fall behind: a node full of pods that all start at once.
const KEPT: usize = 1024;

/// Tells listeners of events.
#[derive(Debug)]
pub(crate) struct Hub {
    sender: broadcast::Sender<Arc<ContainerEventResponse>>,
    /// All containers of the node, for the statuses in each event.
    pub(crate) containers: Arc<Table<Container>>,
}

/// A listener's place in the queue.
pub(crate) type Listener = broadcast::Receiver<Arc<ContainerEventResponse>>;

impl Default for Hub {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(KEPT), containers: Arc::default() }
    }
}

impl Hub {
    /// Listens to what happens from now on.
    pub(crate) fn listen(&self) -> Listener {
        self.sender.subscribe()
    }

    /// Tells what happened to a pod, or to the container `id` of it, with the statuses of all of the pod.
    pub(crate) fn tell(&self, event: ContainerEventType, id: &str, pod: &Sandbox) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: event.into(),
            created_at: now_ns(),
            pod_sandbox_status: Some(pod.status()),
            containers_statuses: self.statuses(pod),
        };
        // The last listener may have left just now.
        self.sender.send(Arc::new(event)).ok();
    }

    /// Tells of the step from `before` to `after`. An end that was heard of before its start is told as both.
    pub(crate) fn tell_step(&self, before: &State, after: &State, id: &str, pod: &Sandbox) {
        use ContainerEventType::{
            ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
        };
        let steps: &[ContainerEventType] = match (before, after) {
            (State::Created, State::Running { .. }) => &[Started],
            (State::Running { .. }, State::Exited(_)) => &[Stopped],
            (State::Created, State::Exited(exited)) if exited.has_run() => &[Started, Stopped],
            (State::Created, State::Exited(_)) => &[Stopped],
            (State::Created, State::Created)
            | (State::Running { .. }, State::Created | State::Running { .. })
            | (State::Exited(_), _) => &[],
        };
        steps.iter().for_each(|step| self.tell(*step, id, pod));
    }

    /// The statuses of a pod's containers.
    pub(crate) fn statuses(&self, pod: &Sandbox) -> Vec<ContainerStatus> {
        let all = self.containers.list();
        let own = all.iter().filter(|container| of(container, &pod.id));
        own.map(|container| container.status(&pod.config.log_directory)).collect()
    }
}

fn of(container: &Container, pod: &PodId) -> bool {
    container.pod() == pod
}
