//! The runtime itself: `version`, `info`, `runtime-config`, `update-runtime-config`.

use cri_api::runtime::v1::{
    NetworkConfig, RuntimeConfig, RuntimeConfigRequest, StatusRequest, UpdateRuntimeConfigRequest,
    VersionRequest,
};
use serde_json::{Map, Value};

use crate::error::CliError;
use crate::node::Node;
use crate::output::{Format, Out, Table, document};

#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,

    /// Leave out the runtime's own documents
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UpdateRuntimeConfig {
    /// The addresses of this node's pods
    #[arg(short, long, value_name = "CIDR", default_value = "")]
    pod_cidr: String,
}

impl UpdateRuntimeConfig {
    pub(crate) async fn run(self, node: &Node) -> Result<(), CliError> {
        let network_config = Some(NetworkConfig { pod_cidr: self.pod_cidr });
        let request =
            UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
        node.update_runtime_config(request)
            .await
            .map(drop)
            .map_err(CliError::call("update the runtime's configuration"))
    }
}

pub(crate) async fn version(node: &Node, out: &mut Out) -> Result<(), CliError> {
    let request = VersionRequest { version: "v1".into() };
    let answer = node.version(request).await.map_err(CliError::call("get the version"))?;
    out.line(format_args!("Version:  {}", answer.version))?;
    out.line(format_args!("RuntimeName:  {}", answer.runtime_name))?;
    out.line(format_args!("RuntimeVersion:  {}", answer.runtime_version))?;
    out.line(format_args!("RuntimeApiVersion:  {}", answer.runtime_api_version))
}

pub(crate) async fn runtime_config(node: &Node, out: &mut Out) -> Result<(), CliError> {
    let answer = node
        .runtime_config(RuntimeConfigRequest {})
        .await
        .map_err(CliError::call("get the runtime's configuration"))?;
    let mut table = Table::without_header(10);
    if let Some(linux) = answer.linux {
        table.row(["cgroup driver:", linux.cgroup_driver().as_str_name()]);
    }
    out.table(&table)
}

impl Info {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let request = StatusRequest { verbose: !self.quiet };
        let answer =
            node.status(request).await.map_err(CliError::call("get the runtime's status"))?;
        let mut info = Map::new();
        info.extend(answer.status.as_ref().map(|status| ("status".into(), document::json(status))));
        if !answer.runtime_handlers.is_empty() {
            let handlers = answer.runtime_handlers.iter().map(document::go_json).collect();
            info.insert("runtimeHandlers".into(), Value::Array(handlers));
        }
        let features = answer.features.as_ref();
        info.extend(features.map(|features| ("features".into(), document::go_json(features))));
        info.extend(document::details(&answer.info));
        out.document(&Value::Object(info), self.output)
    }
}
