//! The pod that `run` makes for one container.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cri_api::runtime::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, ListPodSandboxRequest, Mount, NamespaceMode, NamespaceOption,
    PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PortMapping,
    RunPodSandboxRequest, SecurityProfile, security_profile::ProfileType,
};

use super::options::{self, Network, User};
use super::{Run, from_files};
use crate::error::CliError;
use crate::ids;
use crate::node::Node;
use crate::output::note;
use crate::select::{POD_NAME, POD_NAMESPACE, POD_UID};

const NAMESPACE: &str = "default";
const LOG_ROOT: &str = "/var/log/berth";
const LOG_FILE: &str = "0.log";

/// All that was asked for, checked, before anything is made of it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) image: String,
    pub(super) name: String,
    uid: String,
    handler: String,
    log_directory: PathBuf,
    command: Vec<String>,
    environment: Vec<KeyValue>,
    mounts: Vec<Mount>,
    ports: Vec<PortMapping>,
    network: Network,
    working_dir: String,
    user: User,
    memory_bytes: i64,
    cpu_quota_us: Option<i64>,
}

/// A pod that runs. It stays until [`Pod::take_down`].
#[derive(Debug)]
#[must_use = "the pod runs until it is taken down"]
pub(super) struct Pod {
    pub(super) id: String,
    pub(super) plan: Plan,
}

impl Plan {
    pub(super) fn new(run: &Run) -> Result<Self, CliError> {
        let (image, command) = run.words.split_first().expect("the parser requires one");
        if run.net == Network::Host && !run.publish.is_empty() {
            return Err(CliError::PortsOnHostNetwork);
        }
        let name = match &run.name {
            Some(name) => options::name(name).map_err(CliError::option("--name", name))?,
            None => options::name_after(image, &ids::suffix()?),
        };
        let uid = ids::uuid()?;
        let here = |name: &str| std::env::var_os(name).map(OsStringExt::into_vec);
        let directory = absolute(Path::new("."))?;
        let one = |option, text: &Option<String>, read: fn(&str) -> Result<i64, _>| {
            let value = text.as_ref();
            value.map(|text| read(text).map_err(CliError::option(option, text))).transpose()
        };
        Ok(Self {
            image: image.clone(),
            log_directory: log_directory(&name, &uid)?,
            name,
            uid,
            handler: run.runtime.clone(),
            command: command.to_vec(),
            environment: each("-e", &run.env, |text| options::variable(text, here))?
                .into_iter()
                .flatten()
                .collect(),
            mounts: each("-v", &run.volume, |text| options::volume(text, &directory))?,
            ports: each("-p", &run.publish, options::port)?,
            network: run.net,
            working_dir: run.workdir.clone().unwrap_or_default(),
            user: match &run.user {
                Some(user) => options::user(user).map_err(CliError::option("-u", user))?,
                None => User::default(),
            },
            memory_bytes: one("--memory", &run.memory, options::memory)?.unwrap_or(0),
            cpu_quota_us: one("--cpus", &run.cpus, options::cpu_quota_us)?,
        })
    }

    pub(super) fn pod(&self) -> PodSandboxConfig {
        let (network, hostname) = match self.network {
            Network::Pod => (NamespaceMode::Pod, self.name.clone()),
            Network::Host => (NamespaceMode::Node, String::new()),
        };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.uid.clone(),
                namespace: NAMESPACE.into(),
                attempt: 0,
            }),
            hostname,
            log_directory: self.log_directory.display().to_string(),
            port_mappings: self.ports.clone(),
            labels: self.labels(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(network)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(super) fn container(&self) -> ContainerConfig {
        let network = match self.network {
            Network::Pod => NamespaceMode::Pod,
            Network::Host => NamespaceMode::Node,
        };
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: self.name.clone(), attempt: 0 }),
            image: Some(ImageSpec {
                image: self.image.clone(),
                user_specified_image: self.image.clone(),
                ..Default::default()
            }),
            // In place of the image's command; its entrypoint stays.
            args: self.command.clone(),
            working_dir: self.working_dir.clone(),
            envs: self.environment.clone(),
            mounts: self.mounts.clone(),
            labels: self.labels(),
            log_path: LOG_FILE.into(),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    memory_limit_in_bytes: self.memory_bytes,
                    cpu_period: self.cpu_quota_us.map_or(0, |_| options::CPU_PERIOD_US),
                    cpu_quota: self.cpu_quota_us.unwrap_or(0),
                    ..Default::default()
                }),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces(network)),
                    run_as_user: self.user.uid,
                    run_as_group: self.user.gid,
                    run_as_username: self.user.name.clone(),
                    // To the CRI, silence is no filter at all; people expect the default one.
                    seccomp: Some(SecurityProfile {
                        profile_type: ProfileType::RuntimeDefault.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let labels = [(POD_NAME, &*self.name), (POD_NAMESPACE, NAMESPACE), (POD_UID, &*self.uid)];
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// The daemon would not mind: each pod has its own uid. People do.
    pub(super) async fn refuse_taken_name(&self, node: &Node) -> Result<(), CliError> {
        match find(node, POD_NAME, &self.name).await? {
            Some(pod) => Err(CliError::NameTaken { name: self.name.clone(), id: pod.id }),
            None => Ok(()),
        }
    }
}

impl Pod {
    /// Leaves nothing behind when it fails.
    pub(super) async fn run(node: &Node, plan: Plan) -> Result<Self, CliError> {
        fs::DirBuilder::new()
            .recursive(true)
            // What a workload prints is its own business.
            .mode(0o700)
            .create(&plan.log_directory)
            .map_err(|source| CliError::Create { path: plan.log_directory.clone(), source })?;
        let request = RunPodSandboxRequest {
            config: Some(plan.pod()),
            runtime_handler: plan.handler.clone(),
        };
        match node.run_pod_sandbox(request, None).await {
            Ok(answer) => Ok(Self { id: answer.pod_sandbox_id, plan }),
            Err(status) => {
                let error = CliError::call(format!("run pod {}", plan.name))(status);
                // The pod may be there all the same, if only the answer was lost.
                match find(node, POD_UID, &plan.uid).await {
                    Ok(Some(pod)) => Self { id: pod.id, plan }.take_down(node).await,
                    Ok(None) | Err(_) => remove_logs(&plan.log_directory),
                }
                Err(error)
            }
        }
    }

    /// Removes pod, container and log. What cannot be removed is told, since nobody else would tell.
    pub(super) async fn take_down(self, node: &Node) {
        if from_files::remove(node, &self.id).await {
            remove_logs(&self.plan.log_directory);
        }
    }
}

/// Where a pod that `run` made has its log.
fn log_directory(name: &str, uid: &str) -> Result<PathBuf, CliError> {
    let root = std::env::var_os("BERTH_LOG_DIR").unwrap_or_else(|| LOG_ROOT.into());
    Ok(absolute(Path::new(&root))?.join(format!("{name}_{uid}")))
}

/// Removes the log of a pod that `run` has made and left; other pods have none at that place.
pub(crate) fn remove_logs_of(metadata: &PodSandboxMetadata) -> Result<(), CliError> {
    let PodSandboxMetadata { name, uid, .. } = metadata;
    // The daemon's word alone must not lead anywhere else.
    let is_uid =
        uid.len() == 36 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if options::name(name).is_ok() && is_uid {
        let directory = log_directory(name, uid)?;
        if directory.is_dir() {
            remove_logs(&directory);
        }
    }
    Ok(())
}

fn remove_logs(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        note(format_args!("log directory {} stays: {error}", directory.display()));
    }
}

async fn find(node: &Node, label: &str, value: &str) -> Result<Option<PodSandbox>, CliError> {
    let filter = PodSandboxFilter {
        label_selector: BTreeMap::from([(label.to_owned(), value.to_owned())]),
        ..Default::default()
    };
    let answer = node
        .list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) })
        .await
        .map_err(CliError::call("list pods"))?;
    let is_ours = |pod: &PodSandbox| {
        pod.metadata.as_ref().is_some_and(|metadata| metadata.namespace == NAMESPACE)
    };
    Ok(answer.items.into_iter().find(is_ours))
}

fn namespaces(network: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn each<T>(
    option: &'static str,
    texts: &[String],
    read: impl Fn(&str) -> Result<T, crate::error::OptionError>,
) -> Result<Vec<T>, CliError> {
    texts.iter().map(|text| read(text).map_err(CliError::option(option, text))).collect()
}

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|source| CliError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn plan(words: &[&str]) -> Result<Plan, CliError> {
        Plan::new(&Line::try_parse_from([&["run"], words].concat()).unwrap().run)
    }

    #[test]
    fn words_after_the_image_are_the_command_whatever_they_look_like() {
        let plan = plan(&["-e", "A=1", "busybox", "-d", "--rm", "ls", "-l"]).unwrap();
        assert_eq!(plan.image, "busybox");
        let container = plan.container();
        assert_eq!(container.args, ["-d", "--rm", "ls", "-l"]);
        assert!(container.command.is_empty(), "the entrypoint is the image's");
        assert!(plan.name.starts_with("busybox-"));
    }

    #[test]
    fn options_arrive_in_the_configurations() {
        let plan = plan(&[
            "--name", "web", "-p", "8080:80", "-v", "/h:/c:ro", "-w", "/w", "-u", "7:8",
            "--memory", "1m", "--cpus", "0.5", "busybox",
        ])
        .unwrap();
        let (pod, container) = (plan.pod(), plan.container());
        assert_eq!(pod.hostname, "web");
        assert_eq!(pod.port_mappings[0].host_port, 8080);
        assert_eq!(pod.labels[POD_NAME], "web");
        assert_eq!(container.labels, pod.labels, "so that ps shows the pod");
        assert!(pod.log_directory.ends_with(&format!("/web_{}", pod.metadata.unwrap().uid)));
        assert!(container.mounts[0].readonly);
        assert_eq!(container.working_dir, "/w");
        let linux = container.linux.unwrap();
        let resources = linux.resources.unwrap();
        assert_eq!(resources.memory_limit_in_bytes, 1 << 20);
        assert_eq!((resources.cpu_quota, resources.cpu_period), (50_000, 100_000));
        let security = linux.security_context.unwrap();
        assert_eq!(security.run_as_user.unwrap().value, 7);
        assert_eq!(security.run_as_group.unwrap().value, 8);
    }

    #[test]
    fn the_hosts_network_has_no_ports_to_publish_and_no_host_name() {
        let pod = plan(&["--net=host", "busybox"]).unwrap().pod();
        let security = pod.linux.unwrap().security_context.unwrap();
        assert_eq!(security.namespace_options.unwrap().network(), NamespaceMode::Node);
        assert_eq!(pod.hostname, "");
        let refused = plan(&["--net", "host", "-p", "80:80", "busybox"]);
        assert!(matches!(refused, Err(CliError::PortsOnHostNetwork)));
    }
}
