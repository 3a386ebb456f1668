//! Figures of the kernel in the messages of the CRI.

use super::gauge::Reading;
use crate::host::now_ns;
use cri_api::runtime::v1::{
    CpuUsage, IoUsage, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PsiData, PsiStats,
    SwapUsage, UInt64Value,
};
use netns::LinkStatistics;
use runtime::cgroup::{Pressure, Stall};

/// The interface that a pod's default route goes over.
const DEFAULT: &str = "eth0";

pub(super) fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

pub(super) fn cpu(reading: &Reading) -> Option<CpuUsage> {
    let cpu = reading.usage.cpu.as_ref()?;
    Some(CpuUsage {
        timestamp: reading.at,
        usage_core_nano_seconds: value(cpu.total_ns),
        usage_nano_cores: reading.nano_cores.and_then(value),
        psi: reading.usage.cpu_pressure.map(psi),
    })
}

pub(super) fn memory(reading: &Reading) -> Option<MemoryUsage> {
    let memory = reading.usage.memory.as_ref()?;
    let available = memory.limit.map(|limit| limit.saturating_sub(memory.working_set));
    Some(MemoryUsage {
        timestamp: reading.at,
        working_set_bytes: value(memory.working_set),
        available_bytes: available.and_then(value),
        usage_bytes: value(memory.used),
        rss_bytes: value(memory.anonymous),
        page_faults: value(memory.faults),
        major_page_faults: value(memory.major_faults),
        psi: reading.usage.memory_pressure.map(psi),
    })
}

pub(super) fn swap(reading: &Reading) -> Option<SwapUsage> {
    let swap = reading.usage.swap.as_ref()?;
    let available = swap.limit.map(|limit| limit.saturating_sub(swap.used));
    Some(SwapUsage {
        timestamp: reading.at,
        swap_available_bytes: available.and_then(value),
        swap_usage_bytes: value(swap.used),
    })
}

pub(super) fn io(pressure: Pressure, timestamp: i64) -> IoUsage {
    IoUsage { timestamp, psi: Some(psi(pressure)) }
}

pub(super) fn network(links: &[LinkStatistics]) -> NetworkUsage {
    let usage = |link: &LinkStatistics| NetworkInterfaceUsage {
        name: link.name.clone(),
        rx_bytes: value(link.received.bytes),
        rx_errors: value(link.received.errors),
        tx_bytes: value(link.sent.bytes),
        tx_errors: value(link.sent.errors),
    };
    let (default, others): (Vec<_>, Vec<_>) = links.iter().partition(|link| link.name == DEFAULT);
    NetworkUsage {
        timestamp: now_ns(),
        default_interface: default.into_iter().next().map(usage),
        interfaces: others.into_iter().map(usage).collect(),
    }
}

fn psi(pressure: Pressure) -> PsiStats {
    PsiStats { full: Some(stall(pressure.full)), some: Some(stall(pressure.some)) }
}

fn stall(stall: Stall) -> PsiData {
    PsiData {
        // The kernel counts in µs.
        total: stall.total_us.saturating_mul(1_000),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    }
}
