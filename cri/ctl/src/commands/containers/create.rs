//! `berth create`.

use std::path::PathBuf;
use std::time::Duration;

use cri_api::runtime::v1::{CreateContainerRequest, PullImageRequest};

use crate::auth::AuthFlags;
use crate::error::CliError;
use crate::node::Node;
use crate::output::Out;
use crate::settings::Settings;
use crate::{config_file, duration, pull};

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    #[arg(value_name = "POD-ID")]
    pod: String,

    /// The container's configuration, JSON or YAML
    #[arg(value_name = "CONTAINER-CONFIG")]
    config: PathBuf,

    /// The configuration that the pod was run with
    #[arg(value_name = "POD-CONFIG")]
    pod_config: PathBuf,

    #[command(flatten)]
    pull: PullFlags,

    /// Give up after this time
    #[arg(short = 'T', long, value_name = "DURATION", value_parser = duration::parse)]
    cancel_timeout: Option<Duration>,
}

/// Whether and how to pull the image first.
#[derive(Debug, clap::Args)]
pub(crate) struct PullFlags {
    /// Do not pull the image
    #[arg(long, conflicts_with = "with_pull")]
    pub(crate) no_pull: bool,

    /// Pull the image first, even if it is there
    #[arg(long)]
    pub(crate) with_pull: bool,

    #[command(flatten)]
    pub(crate) auth: AuthFlags,

    /// Give up the pull after this time; 0 is never
    #[arg(long, alias = "pt", value_name = "DURATION", value_parser = duration::parse,
          env = "CRICTL_PULL_TIMEOUT")]
    pub(crate) pull_timeout: Option<Duration>,
}

impl Create {
    pub(crate) async fn run(
        self,
        node: &Node,
        settings: &Settings,
        out: &mut Out,
    ) -> Result<(), CliError> {
        let pulls = self.pull.with_pull || (settings.pull_on_create && !self.pull.no_pull);
        let request = request(self.pod, &self.config, &self.pod_config)?;
        if pulls {
            self.pull.pull_for(node, &request).await?;
        }
        let limit = self.cancel_timeout.filter(|limit| !limit.is_zero());
        let answer = node
            .create_container(request, limit)
            .await
            .map_err(CliError::call("create the container"))?;
        out.line(answer.container_id)
    }
}

pub(crate) fn request(
    pod_sandbox_id: String,
    config: &std::path::Path,
    pod_config: &std::path::Path,
) -> Result<CreateContainerRequest, CliError> {
    Ok(CreateContainerRequest {
        pod_sandbox_id,
        config: Some(config_file::container(config)?),
        sandbox_config: Some(config_file::pod(pod_config)?),
    })
}

impl PullFlags {
    /// Pulls the image of the container, and those it mounts.
    pub(crate) async fn pull_for(
        self,
        node: &Node,
        request: &CreateContainerRequest,
    ) -> Result<(), CliError> {
        let auth = self.auth.credentials()?;
        let limit = self.pull_timeout.filter(|limit| !limit.is_zero());
        let config = request.config.iter();
        let mounted = config.clone().flat_map(|config| &config.mounts);
        let images = config
            .filter_map(|config| config.image.as_ref())
            .chain(mounted.filter_map(|mount| mount.image.as_ref()));
        for image in images.filter(|image| !image.image.is_empty()) {
            let request = PullImageRequest {
                image: Some(image.clone()),
                auth: auth.clone(),
                sandbox_config: request.sandbox_config.clone(),
            };
            pull::image(node, request, limit).await?;
        }
        Ok(())
    }
}
