//! What pods and containers use: `stats`, `statsp`, and the metrics `metricsp` and `metricdescs`.
//!
//! Rates need two samples, so `stats` and `statsp` ask twice; `--watch` goes on with that.

use std::collections::BTreeMap;
use std::time::Duration;

use cri_api::runtime::v1::{
    ContainerStats, ContainerStatsFilter, CpuUsage, ListContainerStatsRequest,
    ListContainerStatsResponse, ListMetricDescriptorsRequest, ListPodSandboxMetricsRequest,
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats,
    PodSandboxStatsFilter, UInt64Value,
};

use crate::error::{CliError, OptionError};
use crate::node::Node;
use crate::output::{Format, Out, Table, document, human};

/// What both have in common.
#[derive(Debug, clap::Args)]
struct Sampling {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,

    /// Seconds between the samples of which a rate is made
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// Go on until interrupted
    #[arg(short, long)]
    watch: bool,

    /// Only those with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// Beginning of an id
    #[arg(value_name = "CONTAINER-ID", conflicts_with = "id")]
    container: Option<String>,

    /// Show all containers, not only the running ones
    #[arg(short, long)]
    all: bool,

    /// Only the container with this id
    #[arg(long)]
    id: Option<String>,

    /// Only those of this pod
    #[arg(short, long, value_name = "POD-ID")]
    pod: Option<String>,

    #[command(flatten)]
    sampling: Sampling,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PodStats {
    /// Beginning of an id
    #[arg(value_name = "POD-ID", conflicts_with = "id")]
    pod: Option<String>,

    /// Only the pod with this id
    #[arg(long)]
    id: Option<String>,

    #[command(flatten)]
    sampling: Sampling,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PodMetrics {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,

    /// Go on until interrupted
    #[arg(short, long)]
    watch: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MetricDescriptors {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,
}

impl Sampling {
    fn labels(&self) -> Result<BTreeMap<String, String>, CliError> {
        let pair = |label: &String| match label.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(CliError::option("--label", label)(OptionError::Form("KEY=VALUE"))),
        };
        self.label.iter().map(pair).collect()
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
    }
}

impl Stats {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let filter = ContainerStatsFilter {
            id: self.id.clone().or(self.container.clone()).unwrap_or_default(),
            pod_sandbox_id: self.pod.clone().unwrap_or_default(),
            label_selector: self.sampling.labels()?,
        };
        let list = async || {
            let request = ListContainerStatsRequest { filter: Some(filter.clone()) };
            node.list_container_stats(request)
                .await
                .map_err(CliError::call("list statistics of containers"))
        };
        let mut before = list().await?;
        loop {
            if self.sampling.output != Format::Table {
                out.document(&document::json(&before), self.sampling.output)?;
                if !self.sampling.watch {
                    return Ok(());
                }
            }
            self.sampling.pause().await;
            let now = list().await?;
            if self.sampling.output == Format::Table {
                out.table(&containers(&before, &now))?;
                if !self.sampling.watch {
                    return Ok(());
                }
            }
            out.flush()?;
            before = now;
        }
    }
}

impl PodStats {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let filter = PodSandboxStatsFilter {
            id: self.id.clone().or(self.pod.clone()).unwrap_or_default(),
            label_selector: self.sampling.labels()?,
        };
        let list = async || {
            let request = ListPodSandboxStatsRequest { filter: Some(filter.clone()) };
            node.list_pod_sandbox_stats(request)
                .await
                .map_err(CliError::call("list statistics of pods"))
        };
        let mut before = list().await?;
        loop {
            if self.sampling.output != Format::Table {
                out.document(&document::json(&before), self.sampling.output)?;
                if !self.sampling.watch {
                    return Ok(());
                }
            }
            self.sampling.pause().await;
            let now = list().await?;
            if self.sampling.output == Format::Table {
                out.table(&pods(&before, &now))?;
                if !self.sampling.watch {
                    return Ok(());
                }
            }
            out.flush()?;
            before = now;
        }
    }
}

impl PodMetrics {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        loop {
            let answer = node
                .list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {})
                .await
                .map_err(CliError::call("list metrics of pods"))?;
            out.document(&document::json(&answer), self.output)?;
            out.flush()?;
            if !self.watch {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

impl MetricDescriptors {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let answer = node
            .list_metric_descriptors(ListMetricDescriptorsRequest {})
            .await
            .map_err(CliError::call("list descriptions of metrics"))?;
        out.document(&document::json(&answer), self.output)
    }
}

fn containers(before: &ListContainerStatsResponse, now: &ListContainerStatsResponse) -> Table {
    let mut table = Table::new(["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES", "SWAP"]);
    let id = |stats: &ContainerStats| stats.attributes.clone().unwrap_or_default().id;
    let old: BTreeMap<String, &ContainerStats> =
        before.stats.iter().map(|stats| (id(stats), stats)).collect();
    for stats in &now.stats {
        let id = id(stats);
        let cpu = old.get(&id).and_then(|old| old.cpu.as_ref());
        let name = stats.attributes.clone().unwrap_or_default().metadata.unwrap_or_default().name;
        let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes);
        let layer = stats.writable_layer.clone().unwrap_or_default();
        let swap = stats.swap.as_ref().and_then(|swap| swap.swap_usage_bytes);
        table.row([
            human::short_id(&id).to_owned(),
            name,
            percent(cpu, stats.cpu.as_ref()),
            size(memory),
            size(layer.used_bytes),
            layer.inodes_used.map_or(0, |count| count.value).to_string(),
            size(swap),
        ]);
    }
    table
}

fn pods(before: &ListPodSandboxStatsResponse, now: &ListPodSandboxStatsResponse) -> Table {
    let mut table = Table::new(["POD", "POD ID", "CPU %", "MEM"]);
    let id = |stats: &PodSandboxStats| stats.attributes.clone().unwrap_or_default().id;
    let old: BTreeMap<String, &PodSandboxStats> =
        before.stats.iter().map(|stats| (id(stats), stats)).collect();
    for stats in &now.stats {
        let id = id(stats);
        let old = old.get(&id).and_then(|old| old.linux.as_ref()?.cpu.as_ref());
        let linux = stats.linux.clone().unwrap_or_default();
        let name = stats.attributes.clone().unwrap_or_default().metadata.unwrap_or_default().name;
        let memory = linux.memory.and_then(|memory| memory.working_set_bytes);
        let cpu = percent(old, linux.cpu.as_ref());
        table.row([name, human::short_id(&id).to_owned(), cpu, size(memory)]);
    }
    table
}

fn size(bytes: Option<UInt64Value>) -> String {
    human::size(bytes.map_or(0, |bytes| bytes.value))
}

/// Per cent of one processor between two samples; nothing is known of what is there once only.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown of it")]
fn percent(before: Option<&CpuUsage>, now: Option<&CpuUsage>) -> String {
    let used = |cpu: &CpuUsage| cpu.usage_core_nano_seconds.map_or(0, |used| used.value);
    let rate = match (before, now) {
        (Some(before), Some(now)) if now.timestamp > before.timestamp => {
            let used = used(now).saturating_sub(used(before)) as f64;
            used / (now.timestamp - before.timestamp) as f64 * 100.0
        }
        (Some(_) | None, Some(_) | None) => 0.0,
    };
    format!("{rate:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_one_processor() {
        let cpu = |timestamp, value| CpuUsage {
            timestamp,
            usage_core_nano_seconds: Some(UInt64Value { value }),
            ..Default::default()
        };
        let (first, second) = (cpu(1_000_000_000, 0), cpu(2_000_000_000, 1_255_000_000));
        assert_eq!(percent(Some(&first), Some(&second)), "125.50");
        assert_eq!(percent(Some(&second), Some(&second)), "0.00", "the same sample twice");
        assert_eq!(percent(None, Some(&second)), "0.00");
    }
}
