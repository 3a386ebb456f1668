//! The state of the node, read when it is asked for.

use crate::container;
use crate::node::Node;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Gauges that are set at each scrape.
pub(super) struct State {
    node: Weak<Node>,
    gauges: Mutex<Gauges>,
}

struct Gauges {
    build: IntGaugeVec,
    pods: IntGaugeVec,
    containers: IntGaugeVec,
    images: IntGauge,
    layer_bytes: IntGauge,
    layer_inodes: IntGauge,
    monitors: IntGauge,
    monitor_bytes: IntGauge,
    own_bytes: IntGauge,
    own_descriptors: IntGauge,
    own_threads: IntGauge,
    database_bytes: IntGauge,
}

impl State {
    pub(super) fn new(node: Weak<Node>) -> Result<Self, prometheus::Error> {
        let by_state = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["state"]);
        let gauges = Gauges {
            build: IntGaugeVec::new(
                Opts::new("berth_build_info", "Which build this is; always 1."),
                &["version"],
            )?,
            pods: by_state("berth_pods", "Pods, by state.")?,
            containers: by_state("berth_containers", "Containers, by state.")?,
            images: IntGauge::new("berth_images", "Images that are listed.")?,
            layer_bytes: IntGauge::new("berth_layer_store_bytes", "Bytes of all layers.")?,
            layer_inodes: IntGauge::new("berth_layer_store_inodes", "Inodes of all layers.")?,
            monitors: IntGauge::new(
                "berth_monitors",
                "Monitors that are spoken to; fewer than ready pods means that some do not answer.",
            )?,
            monitor_bytes: IntGauge::new(
                "berth_monitors_proportional_set_bytes",
                "Memory of all monitors, shared pages counted in parts.",
            )?,
            own_bytes: IntGauge::new(
                "process_resident_memory_bytes",
                "Resident memory of the daemon.",
            )?,
            own_descriptors: IntGauge::new(
                "process_open_fds",
                "Descriptors that the daemon has open.",
            )?,
            own_threads: IntGauge::new("process_threads", "Threads of the daemon.")?,
            database_bytes: IntGauge::new(
                "berth_database_bytes",
                "Bytes of the records' database, with its log.",
            )?,
        };
        gauges.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self { node, gauges: Mutex::new(gauges) })
    }
}

impl Collector for State {
    fn desc(&self) -> Vec<&Desc> {
        // Unchecked: the families are set anew each time, and no other collector has their names.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // One scrape at a time sets the gauges.
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = self.node.upgrade() {
            gauges.read(&node);
        }
        gauges.read_own();
        gauges.families()
    }
}

impl Gauges {
    fn read(&self, node: &Arc<Node>) {
        let sandboxes = node.sandboxes.table.list();
        for (state, is_ready) in [("ready", true), ("notready", false)] {
            let of_state = sandboxes.iter().filter(|sandbox| sandbox.is_ready() == is_ready);
            self.pods.with_label_values(&[state]).set(count(of_state.count()));
        }
        let states: Vec<&str> =
            node.containers.table.list().iter().map(|one| word(&one.state())).collect();
        for state in ["created", "running", "exited"] {
            let of_state = states.iter().filter(|found| **found == state);
            self.containers.with_label_values(&[state]).set(count(of_state.count()));
        }
        self.images.set(count(node.images.list().len()));
        let usage = node.images.usage();
        self.layer_bytes.set(usage.bytes.try_into().unwrap_or(i64::MAX));
        self.layer_inodes.set(usage.inodes.try_into().unwrap_or(i64::MAX));

        let monitors: Vec<i32> =
            sandboxes.iter().filter_map(|sandbox| sandbox.monitor()).map(|m| m.pid()).collect();
        self.monitors.set(count(monitors.len()));
        self.monitor_bytes.set(monitors.iter().filter_map(|pid| proportional_bytes(*pid)).sum());
        let database = node.host.paths.database();
        let log = database.with_extension("db-wal");
        let sizes = [database, log].map(|path| path.metadata().map_or(0, |file| file.len()));
        self.database_bytes.set(sizes.iter().sum::<u64>().try_into().unwrap_or(i64::MAX));
    }

    fn read_own(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            self.own_bytes.set(field(&status, "VmRSS:").unwrap_or_default() * 1024);
            self.own_threads.set(field(&status, "Threads:").unwrap_or_default());
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            self.own_descriptors.set(count(open.count()));
        }
    }

    fn families(&self) -> Vec<MetricFamily> {
        let by_label = [&self.build, &self.pods, &self.containers];
        let plain = [
            &self.images,
            &self.layer_bytes,
            &self.layer_inodes,
            &self.monitors,
            &self.monitor_bytes,
            &self.own_bytes,
            &self.own_descriptors,
            &self.own_threads,
            &self.database_bytes,
        ];
        let families = by_label.into_iter().flat_map(Collector::collect);
        families.chain(plain.into_iter().flat_map(Collector::collect)).collect()
    }
}

fn word(state: &container::State) -> &'static str {
    match state {
        container::State::Created => "created",
        container::State::Running { .. } => "running",
        container::State::Exited(_) => "exited",
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// proc(5), `smaps_rollup`. A monitor that has just ended has none.
fn proportional_bytes(pid: i32) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(field(&text, "Pss:")? * 1024)
}

/// The number behind a key, of a file with a line each.
fn field(text: &str, key: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}
