//! What a cgroup may use.

use super::device::{DeviceRule, allowed};
use super::error::BadLimits;
use std::borrow::Cow;

/// Limits of a cgroup, in OCI's terms. What is absent, zero or empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Share of the processor relative to siblings: 2 to 262,144, where 1,024 is the default of the kernel.
    pub cpu_shares: Option<u64>,
    /// Processor time per period, in µs, summed over all processors; negative is no limit.
    pub cpu_quota_us: Option<i64>,
    /// The period of `cpu_quota_us`, in µs: 1,000 to 1,000,000, where 100,000 is the kernel's default.
    pub cpu_period_us: Option<u64>,
    /// Memory, in bytes; negative is no limit.
    pub memory_bytes: Option<i64>,
    /// Memory *and* swap together, in bytes, as OCI counts it; negative is no limit.
    pub memory_swap_bytes: Option<i64>,
    /// Processes and threads; negative is no limit.
    pub pids: Option<i64>,
    /// Processors, as a list such as `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list such as `0,1`.
    pub cpuset_mems: Option<String>,
    /// Memory in huge pages, in bytes, by the size of the pages as the kernel writes it: `2MB`.
    pub hugepages: Vec<(String, u64)>,
    /// Further files of cgroup v2 with their texts, such as `memory.oom.group` and `1`; v1 has no such thing.
    pub unified: Vec<(String, String)>,
    /// Devices that may be used: none but what these rules allow. Absent, all may.
    pub devices: Option<Vec<DeviceRule>>,
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    AtMost(u64),
    Unlimited,
}

impl Amount {
    /// OCI's way of writing one: negative is no limit, zero is not set.
    fn of(number: Option<i64>) -> Option<Self> {
        match number? {
            0 => None,
            number => Some(u64::try_from(number).map_or(Self::Unlimited, Self::AtMost)),
        }
    }
}

impl Limits {
    pub(super) fn shares(&self) -> Option<u64> {
        self.cpu_shares.filter(|shares| *shares > 0)
    }

    pub(super) fn quota(&self) -> Option<Amount> {
        Amount::of(self.cpu_quota_us)
    }

    pub(super) fn period(&self) -> Option<u64> {
        self.cpu_period_us.filter(|period| *period > 0)
    }

    pub(super) fn memory(&self) -> Option<Amount> {
        Amount::of(self.memory_bytes)
    }

    pub(super) fn memory_swap(&self) -> Option<Amount> {
        Amount::of(self.memory_swap_bytes)
    }

    pub(super) fn pids(&self) -> Option<Amount> {
        Amount::of(self.pids)
    }

    /// The settings for huge pages, in files of this ending. Kubelet sends 0 for every size it knows of; where there are no
    /// huge pages that holds anyway.
    pub(super) fn huge_pages(&self, ending: &str) -> impl Iterator<Item = Setting> {
        self.hugepages.iter().map(move |(size, bytes)| {
            let setting = Setting::new("hugetlb", format!("hugetlb.{size}.{ending}"), bytes);
            if *bytes == 0 { setting.accept_absent() } else { setting }
        })
    }

    /// File and list of processors and memory nodes; the files are called the same on v1 and v2.
    pub(super) fn cpusets(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let sets = [("cpuset.cpus", &self.cpuset_cpus), ("cpuset.mems", &self.cpuset_mems)];
        sets.into_iter().filter_map(|(file, list)| {
            Some((file, list.as_deref().filter(|list| !list.is_empty())?))
        })
    }

    /// Refuses what no kernel can do, before anything is touched.
    pub(super) fn check(&self) -> Result<(), BadLimits> {
        if let Some(Amount::AtMost(both)) = self.memory_swap() {
            match self.memory() {
                Some(Amount::AtMost(memory)) if memory <= both => {}
                _ => {
                    let memory_bytes = self.memory_bytes.filter(|bytes| *bytes > 0);
                    let swap_bytes = self.memory_swap_bytes.unwrap_or_default();
                    return Err(BadLimits::SwapBelowMemory { memory_bytes, swap_bytes });
                }
            }
        }
        if let Some(rules) = &self.devices {
            allowed(rules)?;
        }
        Ok(())
    }
}

/// A text for a control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: &'static str,
    pub(super) file: Cow<'static, str>,
    pub(super) value: String,
    /// What it means that the kernel does not have the file.
    pub(super) absent: Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// The limit cannot be put in force.
    Refuse,
    /// It is in force anyway: without swap accounting nothing needs to be said about no swap, or about any.
    Accept,
}

impl Setting {
    pub(super) fn new(
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), absent: Absent::Refuse }
    }

    pub(super) fn accept_absent(self) -> Self {
        Self { absent: Absent::Accept, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_needs_a_memory_limit_at_or_below_it() {
        const MIB: i64 = 1 << 20;
        let cases = [
            ("neither", 0, 0, true),
            ("memory alone", MIB, 0, true),
            ("any swap", MIB, -1, true),
            ("no swap", MIB, MIB, true),
            ("half is swap", MIB, 2 * MIB, true),
            ("both unlimited", -1, -1, true),
            ("below memory", MIB, MIB - 1, false),
            ("memory not set", 0, MIB, false),
            ("memory unlimited", -1, MIB, false),
        ];
        for (name, memory, swap, fits) in cases {
            let limits = Limits {
                memory_bytes: Some(memory),
                memory_swap_bytes: Some(swap),
                ..Limits::default()
            };
            assert_eq!(limits.check().is_ok(), fits, "{name}");
        }
    }
}
