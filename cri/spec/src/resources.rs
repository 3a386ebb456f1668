//! Resource limits: CRI's to OCI's.

use crate::error::SpecError;
use crate::input::CgroupFacts;
use cri_api::runtime::v1;
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources};
use std::collections::HashMap;

const FIELD: &str = "linux.resources";

/// Reads a request's limits. A field of 0 or "" is unset: at creation there is no such limit then, and in an update
/// the limit stays as it is.
///
/// A memory limit without a swap limit forbids swap, so a memory limit means what it says (as containerd does).
/// CRI has no field for the number of processes; `pids.max` of `unified` is that. The rest of `unified` is carried
/// as it is.
///
/// # Errors
///
/// [`SpecError::Invalid`] for numbers that no cgroup file takes, for keys of `unified` that are no file names, and for
/// any of them on a host with cgroup v1, which has no such files.
pub fn limits(
    resources: &v1::LinuxContainerResources,
    cgroup: &CgroupFacts,
) -> Result<LinuxResources, SpecError> {
    let is_v1 = matches!(cgroup, CgroupFacts::V1 { .. });
    if let Some(key) = resources.unified.keys().next().filter(|_| is_v1) {
        let rule = "is a file of cgroup v2, which this host does not use";
        return Err(SpecError::invalid(format!("{FIELD}.unified"), key, rule));
    }
    let mut limits = LinuxResources::default();
    limits
        .set_devices(None)
        .set_cpu(cpu(resources)?)
        .set_memory(memory(resources)?)
        .set_hugepage_limits(hugepages(resources)?);
    unified(resources, &mut limits)?;
    Ok(limits)
}

/// `oom_score_adj` of a container. A request that is silent means 0, and never what the monitor has: a monitor is
/// protected from the OOM killer, and a container must not inherit that.
pub(crate) fn oom_score_adj(container: &v1::ContainerConfig) -> Result<i32, SpecError> {
    let resources = container.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    checked_score(resources.map_or(0, |resources| resources.oom_score_adj))
}

pub(crate) fn checked_score(asked: i64) -> Result<i32, SpecError> {
    match i32::try_from(asked) {
        Ok(adj @ -1000..=1000) => Ok(adj),
        Ok(_) | Err(_) => {
            let field = format!("{FIELD}.oom_score_adj");
            Err(SpecError::invalid(field, asked.to_string(), "must be from -1000 to 1000"))
        }
    }
}

fn cpu(resources: &v1::LinuxContainerResources) -> Result<Option<LinuxCpu>, SpecError> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(unsigned("cpu_shares", resources.cpu_shares)?)
        .set_period(unsigned("cpu_period", resources.cpu_period)?)
        .set_quota(or_unlimited("cpu_quota", resources.cpu_quota)?)
        .set_cpus(list("cpuset_cpus", &resources.cpuset_cpus)?)
        .set_mems(list("cpuset_mems", &resources.cpuset_mems)?);
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

fn memory(resources: &v1::LinuxContainerResources) -> Result<Option<LinuxMemory>, SpecError> {
    let limit = or_unlimited("memory_limit_in_bytes", resources.memory_limit_in_bytes)?;
    let asked = resources.memory_swap_limit_in_bytes;
    let swap = or_unlimited("memory_swap_limit_in_bytes", asked)?.or(limit);
    if let Some(swap) = swap.filter(|swap| *swap != -1) {
        // OCI and CRI count memory and swap together.
        let rule = match limit {
            None => Some("needs a memory limit"),
            Some(limit) if limit == -1 || swap < limit => Some("is less than the memory limit"),
            Some(_) => None,
        };
        if let Some(rule) = rule {
            let field = format!("{FIELD}.memory_swap_limit_in_bytes");
            return Err(SpecError::invalid(field, swap.to_string(), rule));
        }
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(swap);
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

fn hugepages(
    resources: &v1::LinuxContainerResources,
) -> Result<Option<Vec<LinuxHugepageLimit>>, SpecError> {
    let mut limits = Vec::new();
    for (at, asked) in resources.hugepage_limits.iter().enumerate() {
        // The size becomes part of a file name: hugetlb.2MB.max.
        let size = asked.page_size.as_str();
        let digits = size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
        let is_size = !digits.is_empty()
            && digits.len() + 2 == size.len()
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_size {
            let field = format!("{FIELD}.hugepage_limits[{at}].page_size");
            return Err(SpecError::invalid(field, size, "must be a size such as 2MB"));
        }
        let Ok(bytes) = i64::try_from(asked.limit) else {
            let field = format!("{FIELD}.hugepage_limits[{at}].limit");
            return Err(SpecError::invalid(field, asked.limit.to_string(), "is too large"));
        };
        let mut limit = LinuxHugepageLimit::default();
        limit.set_page_size(size.to_owned()).set_limit(bytes);
        limits.push(limit);
    }
    Ok((!limits.is_empty()).then_some(limits))
}

fn unified(
    resources: &v1::LinuxContainerResources,
    limits: &mut LinuxResources,
) -> Result<(), SpecError> {
    let mut rest = HashMap::new();
    for (key, value) in &resources.unified {
        let field = || format!("{FIELD}.unified[{key:?}]");
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !key.contains('.') || key.starts_with('.') || !key.bytes().all(is_name) {
            return Err(SpecError::invalid(field(), key, "is no file of a cgroup"));
        }
        if key.starts_with("cgroup.") {
            return Err(SpecError::invalid(field(), key, "is no limit"));
        }
        if value.contains(|c: char| c.is_control()) {
            return Err(SpecError::invalid(field(), value, "must be a single line"));
        }
        if key == "pids.max" {
            let mut pids = LinuxPids::default();
            pids.set_limit(match value.as_str() {
                "max" => -1,
                number => number.parse::<u32>().map(i64::from).map_err(|_| {
                    SpecError::invalid(field(), value, "must be a number, or \"max\"")
                })?,
            });
            limits.set_pids(Some(pids));
        } else {
            rest.insert(key.clone(), value.clone());
        }
    }
    limits.set_unified((!rest.is_empty()).then_some(rest));
    Ok(())
}

fn unsigned(name: &str, value: i64) -> Result<Option<u64>, SpecError> {
    match u64::try_from(value) {
        Ok(value) => Ok(Some(value).filter(|value| *value != 0)),
        Err(_) => Err(negative(name, value)),
    }
}

/// -1 is "no limit".
fn or_unlimited(name: &str, value: i64) -> Result<Option<i64>, SpecError> {
    match value {
        ..-1 => Err(negative(name, value)),
        0 => Ok(None),
        -1 | 1.. => Ok(Some(value)),
    }
}

fn negative(name: &str, value: i64) -> SpecError {
    SpecError::invalid(format!("{FIELD}.{name}"), value.to_string(), "must not be negative")
}

/// A list of processors or memory nodes, such as `0-3,7`.
fn list(name: &str, value: &str) -> Result<Option<String>, SpecError> {
    let plain = |byte: u8| byte.is_ascii_digit() || b",-".contains(&byte);
    match value {
        "" => Ok(None),
        list if list.bytes().all(plain) => Ok(Some(list.to_owned())),
        list => {
            let field = format!("{FIELD}.{name}");
            Err(SpecError::invalid(field, list, "must be a list such as 0-3,7"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use v1::LinuxContainerResources as Resources;

    #[test]
    #[rustfmt::skip]
    fn processors_and_memory() {
        let cpu = |cpu_shares, cpu_quota, cpu_period| Resources { cpu_shares, cpu_quota, cpu_period, ..Resources::default() };
        let memory = |memory_limit_in_bytes, memory_swap_limit_in_bytes| {
            Resources { memory_limit_in_bytes, memory_swap_limit_in_bytes, ..Resources::default() }
        };
        let cpuset = |cpus: &str, mems: &str| {
            Resources { cpuset_cpus: cpus.into(), cpuset_mems: mems.into(), ..Resources::default() }
        };
        check(&[
            ("nothing", Resources::default(), json!({})),
            ("cpu", cpu(512, 50_000, 100_000), json!({"cpu": {"shares": 512, "quota": 50_000, "period": 100_000}})),
            ("no cpu limit", cpu(0, -1, 0), json!({"cpu": {"quota": -1}})),
            ("negative shares", cpu(-2, 0, 0), json!("refused")),
            ("cpusets", cpuset("0-1,3", "0"), json!({"cpu": {"cpus": "0-1,3", "mems": "0"}})),
            ("words for cpus", cpuset("all", ""), json!("refused")),
            ("memory alone forbids swap", memory(64, 0), json!({"memory": {"limit": 64, "swap": 64}})),
            ("swap on top", memory(64, 96), json!({"memory": {"limit": 64, "swap": 96}})),
            ("any swap", memory(64, -1), json!({"memory": {"limit": 64, "swap": -1}})),
            ("swap below memory", memory(64, 32), json!("refused")),
            ("swap limit beside unlimited memory", memory(-1, 32), json!("refused")),
            ("swap limit without a memory limit", memory(0, 32), json!("refused")),
            ("negative memory", memory(-2, 0), json!("refused")),
        ]);
    }

    #[test]
    #[rustfmt::skip]
    fn huge_pages_and_files_of_cgroup_v2() {
        let unified = |key: &str, value: &str| {
            Resources { unified: [(key.into(), value.into())].into(), ..Resources::default() }
        };
        let hugepages = |page_size: &str| {
            let limit = v1::HugepageLimit { page_size: page_size.into(), limit: 4 };
            Resources { hugepage_limits: vec![limit], ..Resources::default() }
        };
        check(&[
            ("huge pages", hugepages("2MB"), json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]})),
            ("a path as page size", hugepages("../2MB"), json!("refused")),
            ("a unit as page size", hugepages("MB"), json!("refused")),
            ("processes", unified("pids.max", "20"), json!({"pids": {"limit": 20}})),
            ("any processes", unified("pids.max", "max"), json!({"pids": {"limit": -1}})),
            ("processes in words", unified("pids.max", "many"), json!("refused")),
            ("other files", unified("memory.high", "5"), json!({"unified": {"memory.high": "5"}})),
            ("a path", unified("../cgroup.procs", "1"), json!("refused")),
            ("no limit", unified("cgroup.procs", "1"), json!("refused")),
            ("two lines", unified("memory.high", "5\n6"), json!("refused")),
        ]);
    }

    /// Compares with OCI's JSON, or "refused".
    fn check(cases: &[(&str, Resources, serde_json::Value)]) {
        for (case, resources, want) in cases {
            let got = match limits(resources, &CgroupFacts::V2) {
                Ok(limits) => serde_json::to_value(limits).expect("JSON"),
                Err(_) => json!("refused"),
            };
            assert_eq!(got, *want, "{case}");
        }
    }

    #[test]
    fn files_of_cgroup_v2_are_refused_on_v1() {
        let v1 = CgroupFacts::V1 { hierarchies: Vec::new() };
        let unified = [("pids.max".into(), "20".into())].into();
        let error = limits(&Resources { unified, ..Resources::default() }, &v1).expect_err("v1");
        assert!(error.to_string().contains("cgroup v2"), "{error}");
    }

    #[test]
    fn oom_score_is_never_inherited() {
        let asked = |oom_score_adj| v1::ContainerConfig {
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(Resources { oom_score_adj, ..Resources::default() }),
                ..v1::LinuxContainerConfig::default()
            }),
            ..v1::ContainerConfig::default()
        };
        assert_eq!(oom_score_adj(&v1::ContainerConfig::default()), Ok(0));
        assert_eq!(oom_score_adj(&asked(-997)), Ok(-997));
        assert_eq!(oom_score_adj(&asked(1000)), Ok(1000));
        assert!(oom_score_adj(&asked(1001)).is_err());
        assert!(oom_score_adj(&asked(i64::MIN)).is_err());
    }
}
