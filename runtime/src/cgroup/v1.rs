//! Which control files of cgroup v1 get which text, in which order (kernel documentation, `cgroup-v1/`). Nothing is
//! written here.

use super::device::{Allowed, BadDeviceRule, allowed};
use super::limits::{Amount, Limits, Setting};

/// What a cgroup has now, as far as it decides the order of changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) quota: Amount,
    pub(super) period_us: u64,
    /// The limit of memory and swap together; unlimited where swap is not accounted.
    pub(super) both: Amount,
}

impl Now {
    /// A cgroup that was just made.
    pub(super) const FRESH: Self =
        Self { quota: Amount::Unlimited, period_us: 100_000, both: Amount::Unlimited };
}

/// The settings that put `limits` in force in a cgroup that has `now`.
pub(super) fn settings(limits: &Limits, now: &Now) -> Result<Vec<Setting>, BadDeviceRule> {
    let mut settings = Vec::new();
    settings.extend(limits.shares().map(|shares| Setting::new("cpu", "cpu.shares", shares)));
    settings.extend(cpu(limits, now));
    settings.extend(limits.cpusets().map(|(file, list)| Setting::new("cpuset", file, list)));
    settings.extend(memory(limits, now));
    settings.extend(limits.huge_pages("limit_in_bytes"));
    settings.extend(limits.pids().map(|pids| {
        let value = match pids {
            Amount::AtMost(number) => number.to_string(),
            Amount::Unlimited => "max".to_owned(),
        };
        Setting::new("pids", "pids.max", value)
    }));
    if let Some(rules) = &limits.devices {
        settings.extend(devices(&allowed(rules)?));
    }
    Ok(settings)
}

/// A child's share of time (quota by period) must not exceed its parent's at any moment, so the first of the two writes
/// must not make it larger than both the old and the new one.
fn cpu(limits: &Limits, now: &Now) -> Vec<Setting> {
    let quota = limits.quota().map(|quota| Setting::new("cpu", "cpu.cfs_quota_us", text(quota)));
    let period = limits.period().map(|period| Setting::new("cpu", "cpu.cfs_period_us", period));
    let quota_first = match (limits.quota(), now.quota, limits.period()) {
        (Some(Amount::AtMost(new)), Amount::AtMost(old), Some(period)) => {
            new <= old || period <= now.period_us
        }
        (Some(Amount::Unlimited), _, _) => true,
        _ => false,
    };
    let ordered = if quota_first { [quota, period] } else { [period, quota] };
    ordered.into_iter().flatten().collect()
}

/// The kernel refuses a memory limit above that of memory and swap together, at any moment.
fn memory(limits: &Limits, now: &Now) -> Vec<Setting> {
    let memory =
        limits.memory().map(|memory| Setting::new("memory", "memory.limit_in_bytes", text(memory)));
    let both = match (limits.memory_swap(), limits.memory()) {
        // No limit for memory cannot be had below one for both.
        (None, Some(Amount::Unlimited)) => Some(Amount::Unlimited),
        (both, _) => both,
    };
    let swap_is_limited = matches!((both, limits.memory()),
        (Some(Amount::AtMost(both)), Some(Amount::AtMost(memory))) if both > memory);
    let both = both
        .map(|both| Setting::new("memory", "memory.memsw.limit_in_bytes", text(both)))
        .map(|setting| if swap_is_limited { setting } else { setting.accept_absent() });
    let grows = match (limits.memory(), now.both) {
        (Some(Amount::AtMost(new)), Amount::AtMost(old)) => new > old,
        (Some(Amount::Unlimited), _) => true,
        (Some(Amount::AtMost(_)) | None, _) => false,
    };
    let ordered = if grows { [both, memory] } else { [memory, both] };
    ordered.into_iter().flatten().collect()
}

fn devices(allowed: &Allowed) -> Vec<Setting> {
    let mut settings = vec![Setting::new("devices", "devices.deny", "a")];
    match allowed {
        Allowed::Everything => settings.push(Setting::new("devices", "devices.allow", "a")),
        Allowed::These(devices) => {
            settings.extend(
                devices.iter().map(|device| Setting::new("devices", "devices.allow", device)),
            );
        }
    }
    settings
}

fn text(amount: Amount) -> String {
    match amount {
        Amount::AtMost(number) => number.to_string(),
        Amount::Unlimited => "-1".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::device::tests::rule;

    const MIB: i64 = 1 << 20;

    fn written(limits: &Limits, now: &Now) -> Vec<String> {
        let settings = settings(limits, now).unwrap();
        settings.into_iter().map(|setting| format!("{} {}", setting.file, setting.value)).collect()
    }

    #[test]
    fn limits_become_texts() {
        let none = Limits::default;
        let cases: &[(&str, Limits, &[&str])] = &[
            ("nothing", none(), &[]),
            ("shares", Limits { cpu_shares: Some(512), ..none() }, &["cpu.shares 512"]),
            ("pids", Limits { pids: Some(100), ..none() }, &["pids.max 100"]),
            ("pids unlimited", Limits { pids: Some(-1), ..none() }, &["pids.max max"]),
            (
                "memory",
                Limits { memory_bytes: Some(MIB), ..none() },
                &["memory.limit_in_bytes 1048576"],
            ),
            (
                "memory unlimited",
                Limits { memory_bytes: Some(-1), ..none() },
                &["memory.memsw.limit_in_bytes -1", "memory.limit_in_bytes -1"],
            ),
            (
                "cpuset",
                Limits {
                    cpuset_cpus: Some("0-1".to_owned()),
                    cpuset_mems: Some("0".to_owned()),
                    ..none()
                },
                &["cpuset.cpus 0-1", "cpuset.mems 0"],
            ),
            ("no devices", Limits { devices: Some(Vec::new()), ..none() }, &["devices.deny a"]),
            (
                "all devices",
                Limits { devices: Some(vec![rule("allow a *:* rwm")]), ..none() },
                &["devices.deny a", "devices.allow a"],
            ),
            (
                "some devices",
                Limits {
                    devices: Some(vec![
                        rule("deny a *:* rwm"),
                        rule("allow c 1:3 rwm"),
                        rule("allow b *:* m"),
                    ]),
                    ..none()
                },
                &["devices.deny a", "devices.allow c 1:3 rwm", "devices.allow b *:* m"],
            ),
        ];
        for (name, limits, want) in cases {
            assert_eq!(written(limits, &Now::FRESH), *want, "{name}");
        }
    }

    #[test]
    fn the_share_of_time_is_never_above_both_the_old_and_the_new_one() {
        let values = [1_000_u64, 10_000, 50_000, 100_000];
        for old_quota in values {
            for old_period in values {
                for new_quota in values {
                    for new_period in values {
                        let limits = Limits {
                            cpu_quota_us: i64::try_from(new_quota).ok(),
                            cpu_period_us: Some(new_period),
                            ..Limits::default()
                        };
                        let now = Now {
                            quota: Amount::AtMost(old_quota),
                            period_us: old_period,
                            ..Now::FRESH
                        };
                        let first = cpu(&limits, &now).swap_remove(0).file;
                        let between = match &*first {
                            "cpu.cfs_quota_us" => (new_quota, old_period),
                            _ => (old_quota, new_period),
                        };
                        let above = |a: (u64, u64), b: (u64, u64)| a.0 * b.1 > b.0 * a.1;
                        let bad = above(between, (old_quota, old_period))
                            && above(between, (new_quota, new_period));
                        assert!(
                            !bad,
                            "{old_quota}/{old_period} to {new_quota}/{new_period}: {first} first"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_quota_starts_after_its_period_and_ends_before_it() {
        let cpu = |quota| Limits {
            cpu_quota_us: Some(quota),
            cpu_period_us: Some(50_000),
            ..Limits::default()
        };
        assert_eq!(
            written(&cpu(9_000), &Now::FRESH),
            ["cpu.cfs_period_us 50000", "cpu.cfs_quota_us 9000"]
        );
        assert_eq!(
            written(&cpu(-1), &Now::FRESH),
            ["cpu.cfs_quota_us -1", "cpu.cfs_period_us 50000"]
        );
    }

    #[test]
    fn memory_never_exceeds_memory_and_swap() {
        let (memory, both) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
        let at_most = Amount::AtMost;
        let cases = [
            ("a fresh cgroup", Amount::Unlimited, 4, 4, [memory, both]),
            ("growing", at_most(2), 4, 4, [both, memory]),
            ("growing within", at_most(8), 4, 8, [memory, both]),
            ("shrinking", at_most(8), 4, 4, [memory, both]),
        ];
        for (name, now, new, new_both, want) in cases {
            let limits = Limits {
                memory_bytes: Some(new),
                memory_swap_bytes: Some(new_both),
                ..Limits::default()
            };
            let files: Vec<_> = super::memory(&limits, &Now { both: now, ..Now::FRESH })
                .into_iter()
                .map(|setting| setting.file)
                .collect();
            assert_eq!(files, want, "{name}");
        }
    }
}
