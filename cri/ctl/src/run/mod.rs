//! `berth run`: an image to a running container in one command, in a pod of its own.
//!
//! ```text
//! options ──▶ pull if missing ──▶ pod ──▶ container ──▶ output until it ends ──▶ take the pod down
//! ```
//!
//! What can be refused is refused before anything is made. From the moment the pod is asked for, every way out
//! leads through taking it down, unless it is meant to stay. Interrupts never cut a call in half: they are looked
//! at between the steps, and while the container runs they stop it.

mod foreground;
mod from_files;
mod image;
mod options;
mod pod;

use std::time::Duration;

use cri_api::runtime::v1::{CreateContainerRequest, StartContainerRequest};

use crate::commands::containers::PullFlags;
use crate::duration;
use crate::error::CliError;
use crate::interrupt::Interrupts;
use crate::node::Node;
use crate::output::Out;
use crate::settings::Settings;
use options::Network;
pub(crate) use pod::remove_logs_of;
use pod::{Plan, Pod};

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Leave the container running and print its id
    #[arg(short, long)]
    detach: bool,

    /// Remove the pod when the container has ended [default: true, but for --name and --detach]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<bool>,

    /// Name of the pod [default: after the image]
    #[arg(long)]
    name: Option<String>,

    /// Environment variable; without a value, it is taken from here; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Mount a path of the host; may be repeated
    #[arg(short, long, value_name = "HOST:CONTAINER[:ro]")]
    volume: Vec<String>,

    /// Publish a port on the host; may be repeated
    #[arg(short, long, value_name = "[IP:]HOST:CONTAINER[/udp]")]
    publish: Vec<String>,

    /// A network of the pod's own, or the host's
    #[arg(long, alias = "network", value_enum, default_value = "pod")]
    net: Network,

    /// Working directory
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,

    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Memory limit: 256m, 1g
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,

    /// How many CPUs' time the container may use: 0.5, 2
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,

    /// Runtime handler [default: the daemon's]
    #[arg(short, long, value_name = "HANDLER", default_value = "", hide_default_value = true)]
    runtime: String,

    #[command(flatten)]
    pull: PullFlags,

    /// Give up creating the container after this time
    #[arg(short = 'T', long, value_name = "DURATION", value_parser = duration::parse)]
    cancel_timeout: Option<Duration>,

    /// The image, and what to run in place of its own command; or, as with crictl, the configuration files of a
    /// container and a pod
    #[arg(value_names = ["IMAGE", "COMMAND"], required = true, trailing_var_arg = true)]
    words: Vec<String>,
}

impl Run {
    /// Gives the exit code of the container.
    pub(crate) async fn run(
        self,
        node: &Node,
        settings: &Settings,
        out: &mut Out,
    ) -> Result<u8, CliError> {
        if let Some(files) = from_files::recognise(&self.words) {
            return from_files::run(self, files, node, settings, out).await.map(|()| 0);
        }
        if self.detach && self.rm == Some(true) {
            return Err(CliError::DetachedRemoval);
        }
        let plan = Plan::new(&self)?;
        let mut interrupts = Interrupts::new()?;
        plan.refuse_taken_name(node).await?;
        tokio::select! {
            // A pull that nobody waits for is the daemon's to go on with.
            () = interrupts.next() => return Err(CliError::Interrupted),
            provided = image::provide(node, &plan.image, self.pull) => provided?,
        }

        let limit = self.cancel_timeout.filter(|limit| !limit.is_zero());
        let pod = Pod::run(node, plan).await?;
        let container = match start(node, &pod, limit, &mut interrupts).await {
            Ok(container) => container,
            Err(error) => {
                pod.take_down(node).await;
                return Err(error);
            }
        };
        if self.detach {
            let printed = out.line(&container).and_then(|()| out.flush());
            if printed.is_err() {
                pod.take_down(node).await;
            }
            return printed.map(|()| 0);
        }
        let result = foreground::attend(node, &pod, &container, &mut interrupts, out).await;
        if self.rm.unwrap_or(self.name.is_none()) || result.is_err() {
            pod.take_down(node).await;
        }
        result
    }
}

async fn start(
    node: &Node,
    pod: &Pod,
    limit: Option<Duration>,
    interrupts: &mut Interrupts,
) -> Result<String, CliError> {
    let interruption = async |interrupts: &mut Interrupts| match interrupts.has_come().await {
        true => Err(CliError::Interrupted),
        false => Ok(()),
    };
    interruption(interrupts).await?;
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(pod.plan.container()),
        sandbox_config: Some(pod.plan.pod()),
    };
    let image = &pod.plan.image;
    let created = node
        .create_container(request, limit)
        .await
        .map_err(CliError::call(format!("create a container of {image}")))?;
    interruption(interrupts).await?;
    node.start_container(StartContainerRequest { container_id: created.container_id.clone() })
        .await
        .map_err(CliError::call(format!("start a container of {image}")))?;
    Ok(created.container_id)
}
