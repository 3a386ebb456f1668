//! A container runtime on a stage of its own, and what a kubelet would ask of it.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use cri_api::runtime::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, ListContainersRequest, ListPodSandboxRequest, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PullImageRequest, RemoveImageRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
    VersionRequest,
};
use suite::cri::Cri;
use suite::daemon::{self, Daemon};
use suite::image::Image;
use suite::process::{self, Process};
use suite::stage::Stage;
use suite::{ImageBuilder, Registry, peer};
use tonic::Status;

use crate::figure::Sample;
use crate::medium::Medium;

/// What went wrong, for a note under the table.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The program of every container; it can be told from a runtime's own processes by its command line.
pub(crate) const PROGRAM: [&str; 2] = ["sleep", "1000000"];

/// Whose daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Berth,
    Containerd,
}

enum Running {
    Berth(Daemon),
    Containerd(Process, Cri),
}

impl Running {
    fn cri(&self) -> &Cri {
        match self {
            Self::Berth(daemon) => daemon.cri(),
            Self::Containerd(_, cri) => cri,
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Berth(daemon) => daemon.pid(),
            Self::Containerd(process, _) => process.id(),
        }
    }
}

/// A daemon, its registry, and its client.
pub(crate) struct Node {
    // Dropped in this order.
    running: Running,
    registry: Registry,
    stage: Stage,
    image: String,
    pods: usize,
}

/// A pod that was asked for.
#[derive(Clone, Debug)]
struct Wish {
    pod: PodSandboxConfig,
    container: ContainerConfig,
}

/// A pod with one running container, and how long each step took.
struct Started {
    pod: String,
    container: String,
    run: f64,
    create: f64,
    launch: f64,
}

impl Node {
    /// # Panics
    ///
    /// When the daemon does not come up, or cannot run a pod.
    pub(crate) fn start(kind: Kind, medium: Medium) -> Self {
        let stage = Stage::enter();
        medium.mount(&stage.root());
        let registry = Registry::start();
        let busybox = registry.push("busybox", "1", &ImageBuilder::busybox().build());
        let running = match kind {
            Kind::Berth => {
                daemon::configure(&stage, &[]);
                Running::Berth(Daemon::start(&stage))
            }
            Kind::Containerd => {
                peer::configure(&stage, &registry);
                let (process, cri) = peer::start(&stage);
                Running::Containerd(process, cri)
            }
        };
        let mut node = Self { running, registry, stage, image: String::new(), pods: 0 };
        node.image = node.pull(&busybox).unwrap_or_else(|err| panic!("pull busybox: {err}"));
        // The first pod also makes what all of them share: a bridge, rules, cgroups.
        node.pods(1).unwrap_or_else(|err| panic!("run a pod: {err}"));
        node
    }

    fn cri(&self) -> &Cri {
        self.running.cri()
    }

    /// Starts pods one after the other, then ends them one after the other.
    pub(crate) fn pods(&mut self, count: usize) -> Result<Vec<Sample>, Failure> {
        let mut samples = Vec::new();
        let mut pods = Vec::new();
        for _ in 0..count {
            let started = self.start_pod()?;
            samples.extend([
                ("pod-start", started.run + started.create + started.launch),
                ("pod-run", started.run),
                ("pod-create", started.create),
                ("pod-launch", started.launch),
            ]);
            pods.push(started.pod);
        }
        for pod in pods {
            let (result, took) = timed(|| self.end_pod(&pod));
            result?;
            samples.push(("pod-stop", took));
        }
        process::reap_orphans();
        Ok(samples)
    }

    /// Starts many pods, some at a time, and ends them in the same way.
    pub(crate) fn parallel(
        &mut self,
        count: usize,
        at_a_time: usize,
    ) -> Result<Vec<Sample>, Failure> {
        let wishes: Vec<Wish> = (0..count).map(|_| self.wish()).collect();
        let service = self.cri().runtime_service();
        let start = move |wish: Wish| {
            let mut service = service.clone();
            async move {
                let run =
                    RunPodSandboxRequest { config: Some(wish.pod.clone()), ..Default::default() };
                let pod = service.run_pod_sandbox(run).await?.into_inner().pod_sandbox_id;
                let create = create_request(&pod, wish);
                let id = service.create_container(create).await?.into_inner().container_id;
                service.start_container(StartContainerRequest { container_id: id }).await?;
                Ok::<String, Status>(pod)
            }
        };
        let (pods, start) = timed(|| side_by_side(self.cri(), wishes, at_a_time, start));
        let service = self.cri().runtime_service();
        let end = move |pod: String| {
            let mut service = service.clone();
            async move {
                let stop = StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
                service.stop_pod_sandbox(stop).await?;
                service.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
                Ok::<(), Status>(())
            }
        };
        let pods = pods?;
        let (ended, stop) = timed(|| side_by_side(self.cri(), pods, at_a_time, end));
        ended?;
        process::reap_orphans();
        Ok(vec![("parallel", start), ("parallel-stop", stop)])
    }

    /// A pod to run commands in; gives the container.
    pub(crate) fn begin_exec(&mut self) -> Result<String, Failure> {
        Ok(self.start_pod()?.container)
    }

    pub(crate) fn exec(&mut self, container: &str, count: usize) -> Result<Vec<Sample>, Failure> {
        let mut samples = Vec::new();
        for _ in 0..count {
            let request = ExecSyncRequest {
                container_id: container.to_owned(),
                cmd: vec!["true".into()],
                timeout: 60,
            };
            let (answer, took) = timed(|| self.cri().exec_sync(request));
            let code = answer?.exit_code;
            if code != 0 {
                return Err(format!("true ended with {code}").into());
            }
            samples.push(("exec", took));
        }
        Ok(samples)
    }

    /// Creates containers, in pods of fifty, until there are so many.
    pub(crate) fn fill(&mut self, wanted: usize) -> Result<(), Failure> {
        let mut there = self.containers()?;
        while there < wanted {
            let wish = self.wish();
            let pod = self.run(&wish)?;
            for number in 0..50.min(wanted - there) {
                let mut wish = wish.clone();
                let metadata = ContainerMetadata { name: format!("c{number}"), attempt: 0 };
                wish.container.metadata = Some(metadata);
                self.cri().create_container(create_request(&pod, wish))?;
                there += 1;
            }
        }
        Ok(())
    }

    fn containers(&self) -> Result<usize, Status> {
        Ok(self.cri().list_containers(ListContainersRequest::default())?.containers.len())
    }

    /// Lists all containers, of which there must be `expected`; and asks for the version, which is what any call takes.
    pub(crate) fn list(
        &mut self,
        row: &'static str,
        expected: usize,
        count: usize,
    ) -> Result<Vec<Sample>, Failure> {
        let mut samples = Vec::new();
        for _ in 0..count {
            let (there, took) = timed(|| self.containers());
            if there? != expected {
                return Err(format!("the list is not {expected} long").into());
            }
            samples.push((row, took));
        }
        Ok(samples)
    }

    /// Calls that do nothing.
    pub(crate) fn version(
        &mut self,
        row: &'static str,
        count: usize,
    ) -> Result<Vec<Sample>, Failure> {
        let mut samples = Vec::new();
        for _ in 0..count {
            let (answer, took) =
                timed(|| self.cri().version(VersionRequest { version: "v1".into() }));
            answer?;
            samples.push((row, took));
        }
        Ok(samples)
    }

    /// Puts an image into the registry.
    pub(crate) fn offer(&mut self, name: &str, image: &Image) -> String {
        self.registry.push(name, "1", image)
    }

    /// Pulls an image and removes it again; how long each took.
    pub(crate) fn pull_and_remove(
        &mut self,
        reference: &str,
        [pull, remove]: [&'static str; 2],
    ) -> Result<Vec<Sample>, Failure> {
        nix::unistd::sync();
        let (id, pulled) = timed(|| self.pull(reference));
        let image = Some(ImageSpec { image: id?, ..Default::default() });
        // An image is removed long after it was pulled: what is on the disk by then takes more than what never got there.
        nix::unistd::sync();
        let (removed, took) = timed(|| self.cri().remove_image(RemoveImageRequest { image }));
        removed?;
        Ok(vec![(pull, pulled), (remove, took)])
    }

    fn pull(&self, reference: &str) -> Result<String, Status> {
        let image = Some(ImageSpec { image: reference.to_owned(), ..Default::default() });
        let request = PullImageRequest { image, ..Default::default() };
        Ok(self.cri().pull_image(request)?.image_ref)
    }

    /// The memory of the daemon as it is now.
    pub(crate) fn daemon_memory(&mut self, row: &'static str) -> Result<Vec<Sample>, Failure> {
        let (pss, _) = memory_of(self.running.pid())?;
        Ok(vec![(row, pss)])
    }

    /// What `count` pods cost in memory, beside their own processes. They are left for [`Node::clear`].
    pub(crate) fn memory(&mut self, count: usize) -> Result<Vec<Sample>, Failure> {
        for _ in 0..count {
            self.start_pod()?;
        }
        let daemon = self.running.pid();
        let (pss, rss) = memory_of(daemon)?;
        let mut helpers = 0.0;
        for seen in self.stage.processes(Some(daemon)) {
            if seen.pid != daemon && !seen.zombie && !is_program(seen.pid) {
                helpers += memory_of(seen.pid)?.0;
            }
        }
        let pods = u32::try_from(count).map_or(f64::INFINITY, f64::from);
        Ok(vec![("memory-pod", helpers / pods), ("memory-daemon", pss), ("memory-daemon-rss", rss)])
    }

    /// Ends every pod.
    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        for pod in self.cri().list_pod_sandbox(ListPodSandboxRequest::default())?.items {
            self.end_pod(&pod.id)?;
        }
        process::reap_orphans();
        Ok(())
    }

    fn start_pod(&mut self) -> Result<Started, Status> {
        let wish = self.wish();
        let (pod, run) = timed(|| self.run(&wish));
        let pod = pod?;
        let request = create_request(&pod, wish);
        let (created, create) = timed(|| self.cri().create_container(request));
        let container = created?.container_id;
        let request = StartContainerRequest { container_id: container.clone() };
        let (launched, launch) = timed(|| self.cri().start_container(request));
        launched?;
        Ok(Started { pod, container, run, create, launch })
    }

    fn run(&self, wish: &Wish) -> Result<String, Status> {
        let config = Some(wish.pod.clone());
        let request = RunPodSandboxRequest { config, ..Default::default() };
        Ok(self.cri().run_pod_sandbox(request)?.pod_sandbox_id)
    }

    fn end_pod(&self, pod: &str) -> Result<(), Status> {
        let id = || pod.to_owned();
        self.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id() })?;
        self.cri().remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id() })?;
        Ok(())
    }

    /// The next pod, with the directory for its logs that a kubelet makes beforehand.
    fn wish(&mut self) -> Wish {
        self.pods += 1;
        let name = format!("pod-{}", self.pods);
        let logs: PathBuf = self.stage.directory().join("logs").join(&name);
        fs::create_dir_all(&logs).unwrap_or_else(|err| panic!("make {}: {err}", logs.display()));
        let namespaces = NamespaceOption {
            network: NamespaceMode::Pod.into(),
            pid: NamespaceMode::Container.into(),
            ipc: NamespaceMode::Pod.into(),
            ..Default::default()
        };
        let security = LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces.clone()),
            ..Default::default()
        };
        let pod = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                uid: format!("uid-{}", self.pods),
                namespace: "bench".into(),
                attempt: 0,
                name: name.clone(),
            }),
            hostname: name,
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.stage.cgroups.path(),
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        };
        let security = LinuxContainerSecurityContext {
            namespace_options: Some(namespaces),
            ..Default::default()
        };
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "sleeps".into(), attempt: 0 }),
            image: Some(ImageSpec { image: self.image.clone(), ..Default::default() }),
            command: PROGRAM.map(str::to_owned).to_vec(),
            log_path: "sleeps.log".into(),
            linux: Some(LinuxContainerConfig {
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        };
        Wish { pod, container }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What is still there after a failure is killed by the stage, whatever the daemon says.
        self.clear().ok();
    }
}

fn create_request(pod: &str, wish: Wish) -> CreateContainerRequest {
    CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(wish.container),
        sandbox_config: Some(wish.pod),
    }
}

/// Does `work` for each item, for so many at a time.
fn side_by_side<I, T, F>(
    cri: &Cri,
    items: Vec<I>,
    at_a_time: usize,
    work: impl Fn(I) -> F,
) -> Result<Vec<T>, Failure>
where
    F: Future<Output = Result<T, Status>> + Send + 'static,
    T: Send + 'static,
{
    cri.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        let mut done = Vec::new();
        for item in items {
            if running.len() >= at_a_time
                && let Some(first) = running.join_next().await
            {
                done.push(first??);
            }
            running.spawn(work(item));
        }
        while let Some(next) = running.join_next().await {
            done.push(next??);
        }
        Ok(done)
    })
}

/// Does `work`; how many seconds it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed().as_secs_f64())
}

fn is_program(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|&byte| byte == 0).take(2).eq(PROGRAM.map(str::as_bytes))
}

/// Proportional and resident set size of a process, in bytes.
fn memory_of(pid: u32) -> Result<(f64, f64), Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        kilobytes
            .map(|kilobytes: f64| kilobytes * 1024.0)
            .ok_or_else(|| format!("no {key} of {pid}"))
    };
    Ok((value("Pss:")?, value("Rss:")?))
}
