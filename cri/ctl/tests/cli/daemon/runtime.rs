//! The calls for pods and containers. A container's arguments are its script: `out TEXT` and `err TEXT` write a
//! line, `exit CODE` ends it, `wait` goes on until it is stopped, `fail` does not start, `deaf` takes no SIGTERM.

use std::fs;
use std::path::Path;

use cri_api::runtime::v1::runtime_service_server::RuntimeService;
use cri_api::runtime::v1::{
    self as cri, ContainerState, ContainerStatus, PodSandbox, PodSandboxState, PodSandboxStatus,
};
use tonic::{Request, Response, Status};

use super::{Container, Node, State, open_log, write_log};

type Answer<T> = Result<Response<T>, Status>;

impl State {
    fn id(&mut self) -> String {
        self.next_id += 1;
        format!("{:064x}", self.next_id)
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers.get_mut(id).ok_or_else(|| Status::not_found(format!("no container {id}")))
    }
}

impl Node {
    fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let result = work(&mut self.state.lock().unwrap());
        self.changes.send_modify(|count| *count += 1);
        result
    }
}

/// Runs the script until it ends or waits.
fn play(container: &mut Container) -> Result<(), Status> {
    container.state = ContainerState::ContainerRunning;
    if !container.config.log_path.is_empty() {
        open_log(&container.log_path);
    }
    let words = container.config.args.clone();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "out" => write_log(&container.log_path, "stdout", words.next().unwrap()),
            "err" => write_log(&container.log_path, "stderr", words.next().unwrap()),
            "wait" | "deaf" => return Ok(()),
            "fail" => return Err(Status::unknown("execute /no/such/program: no such file")),
            "exit" => container.exit_code = words.next().unwrap().parse().unwrap(),
            other => panic!("no word of the script: {other}"),
        }
    }
    container.state = ContainerState::ContainerExited;
    Ok(())
}

#[tonic::async_trait]
impl RuntimeService for Node {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake\u{1b}[31m".into(),
            runtime_version: "1.2.3".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let cgroup_driver = cri::CgroupDriver::Cgroupfs.into();
        let linux = Some(cri::LinuxRuntimeConfiguration { cgroup_driver });
        Ok(Response::new(cri::RuntimeConfigResponse { linux }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        if request.runtime_handler == "unknown" {
            return Err(Status::invalid_argument("no runtime handler \"unknown\""));
        }
        let pod_sandbox_id = self.change(|state| {
            let id = state.id();
            state.pods.insert(id.clone(), request.config.unwrap());
            id
        });
        if request.runtime_handler == "lost-answer" {
            return Err(Status::deadline_exceeded("too late"));
        }
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let wanted = request.into_inner().filter.unwrap_or_default().label_selector;
        let state = self.state.lock().unwrap();
        let matching = state.pods.iter().filter(|(_, pod)| {
            wanted.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
        });
        let items = matching.map(|(id, pod)| PodSandbox {
            id: id.clone(),
            metadata: pod.metadata.clone(),
            labels: pod.labels.clone(),
            ..Default::default()
        });
        Ok(Response::new(cri::ListPodSandboxResponse { items: items.collect() }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let state = self.state.lock().unwrap();
        let pod = state.pods.get(&id).ok_or_else(|| Status::not_found(format!("no pod {id}")))?;
        let status = PodSandboxStatus {
            id,
            metadata: pod.metadata.clone(),
            state: PodSandboxState::SandboxReady.into(),
            created_at: 1_000_000_000,
            ..Default::default()
        };
        let info = [("info".to_owned(), r#"{"pid":7}"#.to_owned())].into();
        let status = Some(status);
        Ok(Response::new(cri::PodSandboxStatusResponse { status, info, ..Default::default() }))
    }

    async fn stop_pod_sandbox(
        &self,
        _: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.change(|state| {
            state.pods.remove(&id);
            state.containers.retain(|_, container| container.pod != id);
        });
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap();
        let pod = request.sandbox_config.unwrap();
        let log_path = Path::new(&pod.log_directory).join(&config.log_path);
        if let Some(directory) = log_path.parent() {
            fs::create_dir_all(directory).unwrap();
        }
        let container_id = self.change(|state| {
            let id = state.id();
            let container = Container {
                pod: request.pod_sandbox_id,
                config,
                log_path,
                state: ContainerState::ContainerCreated,
                exit_code: 0,
            };
            state.containers.insert(id.clone(), container);
            id
        });
        Ok(Response::new(cri::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let id = request.into_inner().container_id;
        self.change(|state| play(state.container(&id)?))?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        let is_stopping = self.change(|state| {
            state.stops.push(request.timeout);
            let container = state.container(&request.container_id)?;
            let is_deaf = container.config.args.iter().any(|word| word == "deaf");
            if is_deaf && request.timeout > 0 {
                return Ok(true);
            }
            write_log(&container.log_path, "stdout", "stopped");
            container.exit_code = if request.timeout > 0 { 143 } else { 137 };
            container.state = ContainerState::ContainerExited;
            Ok::<_, Status>(false)
        })?;
        if is_stopping {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        self.change(|state| state.containers.remove(&request.into_inner().container_id));
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let wanted = request.into_inner().filter.unwrap_or_default().state;
        let state = self.state.lock().unwrap();
        let all = state.containers.iter().map(|(id, container)| cri::Container {
            id: id.clone(),
            pod_sandbox_id: container.pod.clone(),
            metadata: container.config.metadata.clone(),
            image: container.config.image.clone(),
            state: container.state.into(),
            labels: container.config.labels.clone(),
            ..Default::default()
        });
        let matches = |one: &cri::Container| wanted.is_none_or(|wanted| wanted.state == one.state);
        let containers = all.filter(matches).collect();
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let mut state = self.state.lock().unwrap();
        let container = state.container(&id)?;
        let status = ContainerStatus {
            metadata: container.config.metadata.clone(),
            state: container.state.into(),
            log_path: container.log_path.to_str().unwrap().into(),
            exit_code: container.exit_code,
            id,
            ..Default::default()
        };
        let status = Some(status);
        Ok(Response::new(cri::ContainerStatusResponse { status, ..Default::default() }))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Answer<cri::ExecSyncResponse> {
        let command = request.into_inner().cmd.join(" ");
        Ok(Response::new(cri::ExecSyncResponse {
            stdout: format!("{command}\n").into(),
            stderr: b"a word of warning\n".into(),
            exit_code: if command.contains("exit") { 9 } else { 0 },
        }))
    }
}
