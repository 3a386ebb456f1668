//! The command line as a whole: which commands there are. Their flags are with the commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    attach, containers, events, exec, images, logs, node, pods, port_forward, stats,
};
use crate::error::CliError;
use crate::node::Node;
use crate::output::Out;
use crate::run;
use crate::settings::{Flags, Settings};

/// What a failed `run` exits with, to be told from the exit code of the container.
const RUN_FAILED: u8 = 125;

/// Runs and looks after pods, containers and images. Commands, flags and output are those of crictl.
#[derive(Debug, Parser)]
#[command(name = "berth", version, disable_version_flag = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags,

    /// Print the version of this program
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // A command of our own first: it is what people try first.
    /// Run an image in a pod of its own
    Run(Box<run::Run>),

    /// List images
    #[command(visible_aliases = ["image", "img"])]
    Images(images::List),
    /// Pull an image from a registry
    Pull(images::Pull),
    /// Push an image to a registry
    Push(images::Push),
    /// Give an image more names
    Tag(images::Tag),
    /// Take names away from images
    Untag(images::Untag),
    /// Write images into an archive
    Save(images::Save),
    /// Take images over from an archive
    Load(images::Load),
    /// Show how an image was made
    History(images::History),
    /// Show the status of images
    Inspecti(images::Inspect),
    /// Remove images, with all their names
    Rmi(images::Remove),
    /// Remove images that nothing uses
    Prune(images::Prune),
    /// Show how much the images take
    Imagefsinfo(images::FsInfo),

    /// List pods
    Pods(pods::List),
    /// Run a pod from a configuration file
    Runp(pods::Run),
    /// Show the status of pods
    Inspectp(pods::Inspect),
    /// Stop pods
    Stopp(pods::Stop),
    /// Remove pods
    Rmp(pods::Remove),

    /// List containers
    Ps(containers::List),
    /// Create a container in a pod from configuration files
    Create(containers::Create),
    /// Start created containers
    Start(containers::Start),
    /// Show the status of containers
    Inspect(containers::Inspect),
    /// Stop containers
    Stop(containers::Stop),
    /// Remove containers
    Rm(containers::Remove),
    /// Change the limits of containers
    Update(containers::Update),
    /// Run a command in a container
    Exec(exec::Exec),
    /// Follow a running container, and type into it
    Attach(attach::Attach),
    /// Forward ports of this machine to a pod
    PortForward(port_forward::PortForward),
    /// Show what a container wrote
    Logs(logs::Logs),

    /// Show the versions of the runtime
    Version,
    /// Show the state and the configuration of the runtime
    Info(node::Info),
    /// Show what containers use
    Stats(stats::Stats),
    /// Show what pods use
    Statsp(stats::PodStats),
    /// Show the metrics of pods and containers
    Metricsp(stats::PodMetrics),
    /// Describe the metrics that there are
    Metricdescs(stats::MetricDescriptors),

    /// Tell the runtime the addresses of this node's pods
    UpdateRuntimeConfig(node::UpdateRuntimeConfig),
    /// Show what the runtime wants kubelet to use
    RuntimeConfig,
    /// Show what happens to pods and containers, as it happens
    #[command(visible_alias = "event")]
    Events(events::Events),
}

/// Prints help, or what is wrong with the words.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the stream is closed.
    error.print().ok();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let is_run = std::env::args_os().any(|word| word == "run");
    ExitCode::from(if is_run { RUN_FAILED } else { 2 })
}

impl Args {
    pub(crate) fn failure_code(&self) -> u8 {
        if matches!(self.command, Command::Run(_)) { RUN_FAILED } else { 1 }
    }

    /// Gives the exit code.
    pub(crate) async fn run(self, out: &mut Out) -> Result<u8, CliError> {
        let settings = Settings::new(self.flags, std::env::var("BERTH_ENDPOINT").ok())?;
        let node = Node::connect(&settings).await?;
        match self.command {
            Command::Run(run) => return run.run(&node, &settings, out).await,
            Command::Exec(exec) => return exec.run(&node, out).await,
            Command::Attach(attach) => return attach.run(&node).await,
            Command::PortForward(forward) => forward.run(&node, out).await,

            Command::Images(list) => list.run(&node, out).await,
            Command::Pull(pull) => pull.run(&node, out).await,
            Command::Push(push) => push.run(&node, out).await,
            Command::Tag(tag) => tag.run(&node).await,
            Command::Untag(untag) => untag.run(&node).await,
            Command::Save(save) => save.run(&node).await,
            Command::Load(load) => load.run(&node, out).await,
            Command::History(history) => history.run(&node, out).await,
            Command::Prune(prune) => prune.run(&node, out).await,
            Command::Inspecti(inspect) => inspect.run(&node, out).await,
            Command::Rmi(remove) => remove.run(&node, out).await,
            Command::Imagefsinfo(info) => info.run(&node, out).await,

            Command::Pods(list) => list.run(&node, out).await,
            Command::Runp(run) => run.run(&node, out).await,
            Command::Inspectp(inspect) => inspect.run(&node, out).await,
            Command::Stopp(stop) => stop.run(&node, out).await,
            Command::Rmp(remove) => remove.run(&node, out).await,

            Command::Ps(list) => list.run(&node, out).await,
            Command::Create(create) => create.run(&node, &settings, out).await,
            Command::Start(start) => start.run(&node, out).await,
            Command::Inspect(inspect) => inspect.run(&node, out).await,
            Command::Stop(stop) => stop.run(&node, out).await,
            Command::Rm(remove) => remove.run(&node, out).await,
            Command::Logs(logs) => logs.run(&node, out).await,

            Command::Version => node::version(&node, out).await,
            Command::Info(info) => info.run(&node, out).await,
            Command::Update(update) => update.run(&node, out).await,
            Command::Stats(stats) => stats.run(&node, out).await,
            Command::Statsp(stats) => stats.run(&node, out).await,
            Command::Metricsp(metrics) => metrics.run(&node, out).await,
            Command::Metricdescs(descriptors) => descriptors.run(&node, out).await,
            Command::UpdateRuntimeConfig(update) => update.run(&node).await,
            Command::RuntimeConfig => node::runtime_config(&node, out).await,
            Command::Events(events) => events.run(&node, out).await,
        }
        .map(|()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn no_two_flags_collide() {
        Args::command().debug_assert();
    }
}
