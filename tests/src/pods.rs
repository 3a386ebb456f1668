//! What a kubelet does, in a line each.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use cri_api::runtime::v1::{
    Container, ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus,
    ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, ImageSpec,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, ListContainersRequest, ListPodSandboxRequest, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatus,
    PodSandboxStatusRequest, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
};
use tonic::Status;

use crate::log::{self, Line};
use crate::patience::eventually;
use crate::world::World;

/// A running pod and what it was made from.
#[derive(Clone, Debug)]
pub struct Pod {
    pub id: String,
    pub config: PodSandboxConfig,
}

impl World {
    /// The pod that a kubelet would ask for: a network, an IPC namespace and PIDs per container.
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let uid = format!("uid-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let log_directory = self.directory(&format!("logs/{name}-{uid}"));
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                namespace: "tests".into(),
                uid,
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: log_directory.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.stage.cgroups.path(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(private_namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub fn run_pod(&self, name: &str) -> Pod {
        self.run_pod_from(self.pod_config(name))
    }

    pub fn run_pod_from(&self, config: PodSandboxConfig) -> Pod {
        let id = self.try_run_pod(&config).unwrap_or_else(|status| panic!("run a pod: {status}"));
        Pod { id, config }
    }

    /// # Errors
    ///
    /// The daemon's.
    pub fn try_run_pod(&self, config: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        Ok(self.cri().run_pod_sandbox(request)?.pod_sandbox_id)
    }

    pub fn stop_pod(&self, id: &str) {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.cri().stop_pod_sandbox(request).unwrap_or_else(|e| panic!("stop pod {id}: {e}"));
    }

    pub fn remove_pod(&self, id: &str) {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.cri().remove_pod_sandbox(request).unwrap_or_else(|e| panic!("remove pod {id}: {e}"));
    }

    pub fn remove_all_pods(&self) {
        let pods = self.cri().list_pod_sandbox(ListPodSandboxRequest::default());
        for pod in pods.expect("list pods").items {
            self.stop_pod(&pod.id);
            self.remove_pod(&pod.id);
        }
    }

    pub fn pod_status(&self, id: &str) -> PodSandboxStatus {
        let request =
            PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), ..Default::default() };
        let answer = self.cri().pod_sandbox_status(request);
        let answer = answer.unwrap_or_else(|status| panic!("status of pod {id}: {status}"));
        answer.status.expect("an answer has a status")
    }

    /// The pod's first address; empty where it has none.
    pub fn address(&self, pod: &Pod) -> String {
        self.pod_status(&pod.id).network.map(|network| network.ip).unwrap_or_default()
    }

    /// A container of the busybox image, as a kubelet would ask for it.
    pub fn container_config(&self, name: &str, command: &[&str]) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec {
                image: self.busybox.id.clone(),
                user_specified_image: self.busybox.reference.clone(),
                ..Default::default()
            }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(private_namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// # Errors
    ///
    /// The daemon's.
    pub fn try_create(&self, pod: &Pod, config: ContainerConfig) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        Ok(self.cri().create_container(request)?.container_id)
    }

    pub fn create(&self, pod: &Pod, config: ContainerConfig) -> String {
        self.try_create(pod, config).unwrap_or_else(|status| panic!("create: {status}"))
    }

    /// # Errors
    ///
    /// The daemon's.
    pub fn try_start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.cri().start_container(request).map(|_| ())
    }

    pub fn start(&self, id: &str) {
        self.try_start(id).unwrap_or_else(|status| panic!("start {id}: {status}"));
    }

    /// Creates and starts.
    pub fn run(&self, pod: &Pod, config: ContainerConfig) -> String {
        let id = self.create(pod, config);
        self.start(&id);
        id
    }

    /// Creates and starts a shell with a script.
    pub fn run_shell(&self, pod: &Pod, name: &str, script: &str) -> String {
        self.run(pod, self.container_config(name, &["sh", "-c", script]))
    }

    /// Runs a container to its end, and gives its status and what it wrote to stdout.
    pub fn run_to_end(&self, pod: &Pod, config: ContainerConfig) -> (ContainerStatus, String) {
        let id = self.run(pod, config);
        let status = self.wait(&id);
        let written = log::written(&self.log_of(&id), "stdout");
        (status, written)
    }

    /// What a script prints in a container made from `config`.
    pub fn printed(&self, pod: &Pod, mut config: ContainerConfig, script: &str) -> String {
        config.command = vec!["sh".into(), "-c".into(), script.into()];
        let id = self.run(pod, config);
        let status = self.wait(&id);
        let lines = self.log_of(&id);
        assert_eq!(status.exit_code, 0, "{script:?} ended with {status:?}; it wrote {lines:?}");
        log::written(&lines, "stdout")
    }

    /// Waits until a container has ended.
    pub fn wait(&self, id: &str) -> ContainerStatus {
        let ended = eventually(|| {
            let status = self.status(id);
            (status.state() == ContainerState::ContainerExited).then_some(status)
        });
        ended.unwrap_or_else(|| panic!("container {id} does not end: {:?}", self.status(id)))
    }

    pub fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.to_owned(), ..Default::default() };
        let answer = self.cri().container_status(request);
        let answer = answer.unwrap_or_else(|status| panic!("status of {id}: {status}"));
        answer.status.expect("an answer has a status")
    }

    /// The number that the node knows a running container's first process by.
    pub fn pid(&self, id: &str) -> u32 {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer = self.cri().container_status(request);
        let info = answer.unwrap_or_else(|status| panic!("status of {id}: {status}")).info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).expect("info is JSON");
        info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }

    pub fn stop(&self, id: &str, timeout: i64) {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        self.cri().stop_container(request).unwrap_or_else(|e| panic!("stop {id}: {e}"));
    }

    pub fn remove(&self, id: &str) {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        self.cri().remove_container(request).unwrap_or_else(|e| panic!("remove {id}: {e}"));
    }

    /// # Errors
    ///
    /// The daemon's. A command that ends with another code than 0 is none.
    pub fn try_exec(
        &self,
        id: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<ExecSyncResponse, Status> {
        self.cri().exec_sync(ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout,
        })
    }

    /// What a command prints in a running container.
    pub fn exec(&self, id: &str, command: &[&str]) -> String {
        let answer = self.try_exec(id, command, 60).unwrap_or_else(|e| panic!("exec in {id}: {e}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(answer.exit_code, 0, "{command:?}: {}", text(&answer.stderr));
        text(&answer.stdout)
    }

    /// The id of a pod's container of that name.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn named(&self, pod: &Pod, name: &str) -> String {
        let answer = self.cri().list_containers(ListContainersRequest::default());
        let is = |it: &&Container| {
            it.pod_sandbox_id == pod.id && it.metadata.as_ref().is_some_and(|own| own.name == name)
        };
        let containers = answer.expect("list containers").containers;
        containers.iter().find(is).expect("a container of that name").id.clone()
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.status(id).log_path.into()
    }

    pub fn log_of(&self, id: &str) -> Vec<Line> {
        log::read(&self.log_path(id))
    }
}

fn private_namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

/// Where a mutable part of a container's config lives.
pub fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

/// As [`security`], for a pod.
pub fn pod_security(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}
