//! What Prometheus scrapes: counters and histograms that the daemon fills as it works, and the state of the node read
//! when it is asked for.
//!
//! Names and units follow Prometheus' conventions (<https://prometheus.io/docs/practices/naming/>): seconds and bytes,
//! `_total` on counters. No label has values that a client can make up without bound.

mod calls;
mod node;
mod serve;

pub(crate) use calls::CountCalls;
pub(crate) use serve::{ListenError, listen, serve};

use crate::node::Node;
use prometheus::core::Collector;
use prometheus::{Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts};
use std::sync::Weak;
use std::time::Duration;

/// From half a millisecond, which a call that only reads memory takes, to the five minutes of a large pull.
const SECONDS: [f64; 18] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0, 300.0,
];

/// What the daemon fills as it works. Clones fill the same instruments.
#[derive(Clone, Debug)]
pub(crate) struct Instruments {
    calls: IntCounterVec,
    call_seconds: HistogramVec,
    calls_in_flight: IntGauge,
    pulls: IntCounterVec,
    pull_seconds: Histogram,
    stage_seconds: HistogramVec,
    exits: IntCounterVec,
    record_seconds: Histogram,
}

/// A part of making a pod or starting a container that takes time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// A pod's namespaces made and pinned.
    Namespaces,
    /// A pod connected to its network.
    Network,
    /// A pod's monitor started, until it answers.
    Monitor,
    /// A container's root put together from its layers.
    Snapshot,
    /// A container's process made, until its program runs.
    Spawn,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Namespaces => "namespaces",
            Stage::Network => "network",
            Stage::Monitor => "monitor",
            Stage::Snapshot => "snapshot",
            Stage::Spawn => "spawn",
        }
    }
}

impl Instruments {
    /// # Errors
    ///
    /// None that a run could meet and a test could not: a name that is not one.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        let seconds =
            |name: &str, help: &str| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        Ok(Self {
            calls: counters(
                "berth_grpc_calls_total",
                "Calls answered, by operation and gRPC code.",
                &["operation", "code"],
            )?,
            call_seconds: HistogramVec::new(
                seconds("berth_grpc_call_duration_seconds", "Time until a call was answered."),
                &["operation"],
            )?,
            calls_in_flight: IntGauge::new(
                "berth_grpc_calls_in_flight",
                "Calls that are being worked on.",
            )?,
            pulls: counters(
                "berth_image_pulls_total",
                "Pulls of images that ended, by result.",
                &["result"],
            )?,
            pull_seconds: Histogram::with_opts(seconds(
                "berth_image_pull_duration_seconds",
                "Time of pulls that succeeded.",
            ))?,
            stage_seconds: HistogramVec::new(
                seconds(
                    "berth_start_stage_duration_seconds",
                    "Time of the stages of making a pod and of starting a container.",
                ),
                &["stage"],
            )?,
            exits: counters(
                "berth_container_exits_total",
                "Containers that ended, by reason.",
                &["reason"],
            )?,
            record_seconds: Histogram::with_opts(seconds(
                "berth_record_write_duration_seconds",
                "Time of a record's way into the database.",
            ))?,
        })
    }

    /// Does `work` and takes the time.
    pub(crate) fn stage<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let timer = self.stage_seconds.with_label_values(&[stage.name()]).start_timer();
        let result = work();
        timer.observe_duration();
        result
    }

    /// As [`Self::stage`], of writing a record.
    pub(crate) fn record<T>(&self, write: impl FnOnce() -> T) -> T {
        let timer = self.record_seconds.start_timer();
        let result = write();
        timer.observe_duration();
        result
    }

    pub(crate) fn exited(&self, reason: &str) {
        self.exits.with_label_values(&[reason]).inc();
    }

    /// A pull that ended after `time`.
    pub(crate) fn pulled(&self, result: &str, time: Duration) {
        self.pulls.with_label_values(&[result]).inc();
        if result == "success" {
            self.pull_seconds.observe(time.as_secs_f64());
        }
    }

    fn all(&self) -> [Box<dyn Collector>; 8] {
        let Self {
            calls,
            call_seconds,
            calls_in_flight,
            pulls,
            pull_seconds,
            stage_seconds,
            exits,
            record_seconds,
        } = self.clone();
        [
            Box::new(calls),
            Box::new(call_seconds),
            Box::new(calls_in_flight),
            Box::new(pulls),
            Box::new(pull_seconds),
            Box::new(stage_seconds),
            Box::new(exits),
            Box::new(record_seconds),
        ]
    }
}

/// Everything there is to scrape.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: prometheus::Registry,
}

impl Metrics {
    /// # Errors
    ///
    /// As [`Instruments::new`], or of a name that is there twice.
    pub(crate) fn new(
        instruments: &Instruments,
        node: Weak<Node>,
    ) -> Result<Self, prometheus::Error> {
        let registry = prometheus::Registry::new();
        for instrument in instruments.all() {
            registry.register(instrument)?;
        }
        registry.register(Box::new(node::State::new(node)?))?;
        Ok(Self { registry })
    }

    /// The text that a scrape gets. Takes the time of a few system calls for each pod.
    fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        prometheus::TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text() {
        let instruments = Instruments::new().unwrap();
        let metrics = Metrics::new(&instruments, Weak::new()).unwrap();
        instruments.exited("OOMKilled");
        instruments.pulled("success", Duration::from_secs(2));
        instruments.pulled("not_found", Duration::from_secs(1));
        assert_eq!(instruments.stage(Stage::Network, || 7), 7);
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        for line in [
            "berth_container_exits_total{reason=\"OOMKilled\"} 1",
            "berth_image_pulls_total{result=\"not_found\"} 1",
            "berth_image_pull_duration_seconds_sum 2",
            "berth_image_pull_duration_seconds_count 1",
            "berth_start_stage_duration_seconds_count{stage=\"network\"} 1",
            concat!("berth_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
