//! Limits of a spec in the cgroups' own terms.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxHugepageLimit, LinuxResources};
use runtime::cgroup::{DeviceRule, Limits};

/// A limit of a spec that no cgroup takes; specs of ours have none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadSpecLimit(pub(crate) String);

/// The limits of a spec. The spec is ours, made of a checked request.
pub(crate) fn limits(resources: &LinuxResources) -> Result<Limits, BadSpecLimit> {
    let cpu = resources.cpu().as_ref();
    let memory = resources.memory().as_ref();
    let devices = resources.devices().as_deref().map(device_rules).transpose()?;
    let hugepages = resources.hugepage_limits().clone().unwrap_or_default();
    let unified = resources.unified().clone().unwrap_or_default();
    Ok(Limits {
        cpu_shares: cpu.and_then(|cpu| cpu.shares()),
        cpu_quota_us: cpu.and_then(|cpu| cpu.quota()),
        cpu_period_us: cpu.and_then(|cpu| cpu.period()),
        memory_bytes: memory.and_then(|memory| memory.limit()),
        memory_swap_bytes: memory.and_then(|memory| memory.swap()),
        pids: resources.pids().as_ref().map(|pids| pids.limit()),
        cpuset_cpus: cpu.and_then(|cpu| cpu.cpus().clone()),
        cpuset_mems: cpu.and_then(|cpu| cpu.mems().clone()),
        hugepages: hugepages.iter().map(huge_pages).collect::<Result<_, _>>()?,
        unified: unified.into_iter().collect(),
        devices,
    })
}

fn huge_pages(limit: &LinuxHugepageLimit) -> Result<(String, u64), BadSpecLimit> {
    let bytes = u64::try_from(limit.limit()).map_err(|_| {
        BadSpecLimit(format!("hugepage limit of {}: below zero", limit.page_size()))
    })?;
    Ok((limit.page_size().clone(), bytes))
}

fn device_rules(rules: &[LinuxDeviceCgroup]) -> Result<Vec<DeviceRule>, BadSpecLimit> {
    rules.iter().map(device_rule).collect()
}

fn device_rule(rule: &LinuxDeviceCgroup) -> Result<DeviceRule, BadSpecLimit> {
    use oci_spec::runtime::LinuxDeviceType as Oci;
    use runtime::cgroup::{BadDeviceRule, DeviceAccess, DeviceKind};
    // A negative number is OCI's way of writing "any".
    let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    let access = match rule.access().as_deref() {
        None | Some("") => DeviceAccess::ALL,
        Some(letters) => letters
            .parse()
            .map_err(|err: BadDeviceRule| BadSpecLimit(format!("device rule: {err}")))?,
    };
    Ok(DeviceRule {
        allow: rule.allow(),
        kind: match rule.typ().unwrap_or_default() {
            Oci::B => DeviceKind::Block,
            Oci::C | Oci::U | Oci::P => DeviceKind::Char,
            Oci::A => DeviceKind::All,
        },
        major: number(rule.major()),
        minor: number(rule.minor()),
        access,
    })
}
