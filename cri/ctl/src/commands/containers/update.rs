//! `berth update`: other limits for containers that were created or run.

use cri_api::runtime::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};

use crate::error::{self, CliError};
use crate::node::Node;
use crate::output::Out;

/// What is left out stays as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    #[arg(value_name = "CONTAINER-ID", required = true)]
    containers: Vec<String>,

    /// Period of the quota, in microseconds
    #[arg(long, value_name = "USEC", default_value_t = 0)]
    cpu_period: i64,

    /// Processor time in each period, in microseconds; -1 is no limit
    #[arg(long, value_name = "USEC", default_value_t = 0, allow_negative_numbers = true)]
    cpu_quota: i64,

    /// Share of the processors relative to others; 1024 is the usual one
    #[arg(long, value_name = "SHARES", default_value_t = 0)]
    cpu_share: i64,

    /// Memory, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0, allow_negative_numbers = true)]
    memory: i64,

    /// Score by which the kernel chooses what to kill for want of memory, -1000 to 1000
    #[arg(long, value_name = "SCORE", default_value_t = 0, allow_negative_numbers = true)]
    oom_score_adj: i64,

    /// Processors, such as 0-3,7
    #[arg(long, value_name = "LIST", default_value = "")]
    cpuset_cpus: String,

    /// Memory nodes, such as 0,1
    #[arg(long, value_name = "LIST", default_value = "")]
    cpuset_mems: String,
}

impl Update {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let linux = LinuxContainerResources {
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpu_shares: self.cpu_share,
            memory_limit_in_bytes: self.memory,
            oom_score_adj: self.oom_score_adj,
            cpuset_cpus: self.cpuset_cpus,
            cpuset_mems: self.cpuset_mems,
            ..Default::default()
        };
        let mut results = Vec::new();
        for id in self.containers {
            let request = UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(linux.clone()),
                ..Default::default()
            };
            results.push(match node.update_container_resources(request).await {
                Ok(_) => out.line(id),
                Err(status) => Err(CliError::call(format!("update container {id}"))(status)),
            });
        }
        error::all(results)
    }
}
