//! Which control files of cgroup v2 get which text (kernel documentation, `cgroup-v2.rst`). Nothing is written here.

use super::error::BadLimits;
use super::limits::{Amount, Limits, Setting};

/// The controllers that limits and statistics need, in the order in which they are enabled.
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "pids", "hugetlb"];

/// The settings that put further files in force. The name of a file begins with its controller's.
pub(super) fn further(limits: &Limits) -> Result<Vec<Setting>, BadLimits> {
    let controller = |file: &str| {
        let (name, _) = file.split_once('.')?;
        CONTROLLERS.into_iter().find(|controller| *controller == name)
    };
    limits
        .unified
        .iter()
        .map(|(file, value)| match controller(file) {
            Some(controller) if !file.contains('/') => {
                Ok(Setting::new(controller, file.clone(), value))
            }
            Some(_) | None => Err(BadLimits::NoLimit(file.clone())),
        })
        .collect()
}

/// The settings that put `limits` in force. `quota` gives the first word of `cpu.max` now; it is asked for only if the
/// period changes alone, because the file cannot be written without a quota.
pub(super) fn settings<E>(
    limits: &Limits,
    quota: impl FnOnce() -> Result<String, E>,
) -> Result<Vec<Setting>, E> {
    let mut settings = Vec::new();
    if let Some(shares) = limits.shares() {
        settings.push(Setting::new("cpu", "cpu.weight", weight(shares)));
    }
    match (limits.quota(), limits.period()) {
        (None, None) => {}
        (Some(quota), None) => settings.push(Setting::new("cpu", "cpu.max", text(quota))),
        (Some(quota), Some(period)) => {
            settings.push(Setting::new("cpu", "cpu.max", format!("{} {period}", text(quota))));
        }
        (None, Some(period)) => {
            settings.push(Setting::new("cpu", "cpu.max", format!("{} {period}", quota()?)));
        }
    }
    settings.extend(limits.cpusets().map(|(file, list)| Setting::new("cpuset", file, list)));
    settings.extend(swap(limits));
    settings
        .extend(limits.memory().map(|memory| Setting::new("memory", "memory.max", text(memory))));
    settings.extend(limits.pids().map(|pids| Setting::new("pids", "pids.max", text(pids))));
    settings.extend(limits.huge_pages("max"));
    Ok(settings)
}

/// OCI counts memory and swap together, v2 counts swap alone. [`Limits::check`] has seen to their order.
fn swap(limits: &Limits) -> Option<Setting> {
    let swap = match (limits.memory_swap()?, limits.memory()) {
        (Amount::AtMost(both), Some(Amount::AtMost(memory))) => {
            Amount::AtMost(both.saturating_sub(memory))
        }
        (Amount::AtMost(_) | Amount::Unlimited, _) => Amount::Unlimited,
    };
    let setting = Setting::new("memory", "memory.swap.max", text(swap));
    Some(match swap {
        Amount::AtMost(1..) => setting,
        Amount::AtMost(0) | Amount::Unlimited => setting.accept_absent(),
    })
}

/// Which controllers a parent does not yet give to its children, though it could.
pub(super) fn to_enable(available: &str, enabled: &str) -> Vec<&'static str> {
    let has = |list: &str, name: &str| list.split_whitespace().any(|own| own == name);
    CONTROLLERS.into_iter().filter(|name| has(available, name) && !has(enabled, name)).collect()
}

/// Whether a parent gives its children all there can be, so that nobody needs to ask what it has.
pub(super) fn all_enabled(enabled: &str) -> bool {
    CONTROLLERS.into_iter().all(|name| enabled.split_whitespace().any(|own| own == name))
}

fn text(amount: Amount) -> String {
    match amount {
        Amount::AtMost(number) => number.to_string(),
        Amount::Unlimited => "max".to_owned(),
    }
}

/// `cpu.weight` (1 to 10,000) for `cpu.shares` (2 to 262,144).
///
/// The quadratic through minimum, default (1,024 is 100) and maximum that runc uses since 1.3.2;
/// the linear one before gave the default share a weight of 39 (opencontainers/runc#4772).
#[expect(clippy::cast_precision_loss, reason = "262,144 and below are exact in a double")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the exponent lies between 0 and 4"
)]
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: i64 = 1 << 20;

    fn written(limits: &Limits) -> Vec<String> {
        let settings = settings(limits, || Ok::<_, ()>("50000".to_owned())).unwrap();
        settings.into_iter().map(|setting| format!("{} {}", setting.file, setting.value)).collect()
    }

    #[test]
    fn shares_become_weights_as_in_runc() {
        let cases = [
            ("below the minimum", 1, 1),
            ("minimum, what kubelet gives best effort", 2, 1),
            ("100 mCPU", 102, 17),
            ("default", 1_024, 100),
            ("runc's example", 2_000, 170),
            ("maximum", 262_144, 10_000),
            ("above the maximum", 1 << 40, 10_000),
        ];
        for (name, shares, want) in cases {
            assert_eq!(weight(shares), want, "{name}");
        }
    }

    #[test]
    fn limits_become_texts() {
        let none = Limits::default;
        let memory = |memory, swap| Limits {
            memory_bytes: Some(memory),
            memory_swap_bytes: Some(swap),
            ..Limits::default()
        };
        let cpu = |quota, period| Limits {
            cpu_quota_us: quota,
            cpu_period_us: period,
            ..Limits::default()
        };
        let cases: &[(&str, Limits, &[&str])] = &[
            ("nothing", none(), &[]),
            ("zero is not set", Limits { cpu_shares: Some(0), pids: Some(0), ..memory(0, 0) }, &[]),
            ("weight", Limits { cpu_shares: Some(1_024), ..none() }, &["cpu.weight 100"]),
            ("quota", cpu(Some(20_000), None), &["cpu.max 20000"]),
            ("quota and period", cpu(Some(20_000), Some(50_000)), &["cpu.max 20000 50000"]),
            ("no quota", cpu(Some(-1), Some(50_000)), &["cpu.max max 50000"]),
            ("period alone keeps the quota", cpu(None, Some(200_000)), &["cpu.max 50000 200000"]),
            ("memory", memory(MIB, 0), &["memory.max 1048576"]),
            ("no swap", memory(MIB, MIB), &["memory.swap.max 0", "memory.max 1048576"]),
            (
                "half is swap",
                memory(MIB, 2 * MIB),
                &["memory.swap.max 1048576", "memory.max 1048576"],
            ),
            ("any swap", memory(MIB, -1), &["memory.swap.max max", "memory.max 1048576"]),
            ("unlimited", memory(-1, -1), &["memory.swap.max max", "memory.max max"]),
            (
                "huge pages",
                Limits { hugepages: vec![("2MB".to_owned(), 1 << 21)], ..none() },
                &["hugetlb.2MB.max 2097152"],
            ),
            ("pids", Limits { pids: Some(100), ..none() }, &["pids.max 100"]),
            ("pids unlimited", Limits { pids: Some(-1), ..none() }, &["pids.max max"]),
            (
                "cpuset",
                Limits {
                    cpuset_cpus: Some("0-1".to_owned()),
                    cpuset_mems: Some(String::new()),
                    ..none()
                },
                &["cpuset.cpus 0-1"],
            ),
        ];
        for (name, limits, want) in cases {
            assert_eq!(written(limits), *want, "{name}");
        }
    }

    #[test]
    fn further_files_belong_to_a_controller() {
        let of = |file: &str| {
            let unified = vec![(file.to_owned(), "1".to_owned())];
            further(&Limits { unified, ..Limits::default() })
        };
        assert_eq!(
            of("memory.oom.group").unwrap(),
            [Setting::new("memory", "memory.oom.group", 1)]
        );
        for bad in ["cgroup.procs", "memory", "memory./../cgroup.procs", "nope.max"] {
            assert_eq!(of(bad), Err(BadLimits::NoLimit(bad.to_owned())));
        }
    }

    #[test]
    fn only_a_real_swap_limit_needs_swap_accounting() {
        let cases = [("none", MIB, true), ("some", 2 * MIB, false), ("any", -1, true)];
        for (name, both, accepted) in cases {
            let limits = Limits {
                memory_bytes: Some(MIB),
                memory_swap_bytes: Some(both),
                ..Limits::default()
            };
            let absent = swap(&limits).unwrap().absent;
            assert_eq!(absent == super::super::limits::Absent::Accept, accepted, "{name}");
        }
    }

    #[test]
    fn what_is_available_and_not_enabled_is_enabled() {
        let all = "cpuset cpu io memory hugetlb pids rdma misc\n";
        let cases: &[(&str, &str, &str, &[&str])] = &[
            ("an empty root", all, "\n", &["cpuset", "cpu", "io", "memory", "pids", "hugetlb"]),
            ("some are on", all, "cpu pids\n", &["cpuset", "io", "memory", "hugetlb"]),
            ("a delegated root", "memory pids\n", "pids\n", &["memory"]),
            ("nothing there", "\n", "\n", &[]),
        ];
        for (name, available, enabled, want) in cases {
            assert_eq!(to_enable(available, enabled), *want, "{name}");
        }
        assert!(all_enabled(all) && !all_enabled("cpu memory\n"));
    }
}
