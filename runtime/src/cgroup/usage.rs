//! What a cgroup uses, out of the texts of its files (kernel documentation, `cgroup-v2.rst`, `cgroup-v1/`, `psi.rst`).

use std::collections::BTreeMap;

/// What a cgroup uses. What this kernel, or this version of cgroups, does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time.
    pub cpu: Option<CpuTime>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap.
    pub swap: Option<Swap>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// The most of those there can be; absent without a limit.
    pub most_tasks: Option<u64>,
    /// Waiting for a processor (v2).
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory (v2).
    pub memory_pressure: Option<Pressure>,
    /// Waiting for a disk (v2).
    pub io_pressure: Option<Pressure>,
}

/// Processor time since the cgroup was made, over all processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// All of it, in ns.
    pub total_ns: u64,
    /// In programs, in ns.
    pub user_ns: u64,
    /// In the kernel for them, in ns.
    pub system_ns: u64,
    /// Periods of the quota in which something ran.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// How long that kept it waiting, in ns.
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it, with copies of files.
    pub used: u64,
    /// `used` without copies of files that nobody has used for a while: what kubelet evicts by.
    pub working_set: u64,
    /// What belongs to no file.
    pub anonymous: u64,
    /// Copies of files.
    pub cache: u64,
    /// Files mapped into processes.
    pub mapped: u64,
    /// The kernel's own, for the cgroup; 0 where it does not say.
    pub kernel: u64,
    /// The most that was ever used; 0 where the kernel does not say.
    pub peak: u64,
    /// The limit; absent without one.
    pub limit: Option<u64>,
    /// Page faults, and those that needed a disk: numbers, not bytes.
    pub faults: u64,
    /// See `faults`.
    pub major_faults: u64,
    /// How often the limit was hit.
    pub hits: u64,
    /// Processes that were killed for want of memory.
    pub kills: u64,
}

/// Swap, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// In use.
    pub used: u64,
    /// The limit; absent without one.
    pub limit: Option<u64>,
}

/// Pressure stall information of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// How much of the time was waited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Per cent of the last 10 s.
    pub avg10: f64,
    /// Of the last 60 s.
    pub avg60: f64,
    /// Of the last 300 s.
    pub avg300: f64,
    /// Since the cgroup was made, in µs.
    pub total_us: u64,
}

/// The texts of the files that were read.
#[derive(Debug, Default)]
pub(super) struct Texts(BTreeMap<&'static str, String>);

impl Texts {
    pub(super) fn add(&mut self, file: &'static str, text: String) {
        self.0.insert(file, text);
    }

    fn text(&self, file: &str) -> Option<&str> {
        self.0.get(file).map(String::as_str)
    }

    /// The number in a file; none for "max".
    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    /// The number behind a key in a file of many.
    fn value(&self, file: &str, key: &str) -> Option<u64> {
        let mut lines = self.text(file)?.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(found, _)| *found == key)?.1.trim().parse().ok()
    }

    fn value_or_0(&self, file: &str, key: &str) -> u64 {
        self.value(file, key).unwrap_or(0)
    }
}

pub(super) fn v2(texts: &Texts) -> Usage {
    let stat = |key| texts.value_or_0("memory.stat", key);
    let cpu = |key| texts.value_or_0("cpu.stat", key).saturating_mul(1_000);
    Usage {
        cpu: texts.value("cpu.stat", "usage_usec").map(|_| CpuTime {
            total_ns: cpu("usage_usec"),
            user_ns: cpu("user_usec"),
            system_ns: cpu("system_usec"),
            periods: texts.value_or_0("cpu.stat", "nr_periods"),
            throttled_periods: texts.value_or_0("cpu.stat", "nr_throttled"),
            throttled_ns: cpu("throttled_usec"),
        }),
        memory: texts.number("memory.current").map(|used| Memory {
            used,
            working_set: used.saturating_sub(stat("inactive_file")),
            anonymous: stat("anon"),
            cache: stat("file"),
            mapped: stat("file_mapped"),
            kernel: stat("kernel"),
            peak: texts.number("memory.peak").unwrap_or(0),
            limit: texts.number("memory.max"),
            faults: stat("pgfault"),
            major_faults: stat("pgmajfault"),
            hits: texts.value_or_0("memory.events", "max"),
            kills: texts.value_or_0("memory.events", "oom_kill"),
        }),
        swap: texts
            .number("memory.swap.current")
            .map(|used| Swap { used, limit: texts.number("memory.swap.max") }),
        tasks: texts.number("pids.current"),
        most_tasks: texts.number("pids.max"),
        cpu_pressure: texts.text("cpu.pressure").map(pressure),
        memory_pressure: texts.text("memory.pressure").map(pressure),
        io_pressure: texts.text("io.pressure").map(pressure),
    }
}

pub(super) fn v1(texts: &Texts) -> Usage {
    /// `cpuacct.stat` counts in ticks of USER_HZ, which is 100 on all of Linux' own interfaces.
    const TICK_NS: u64 = 10_000_000;
    /// "No limit" is the largest number of whole pages, whatever the size of a page.
    const UNLIMITED: u64 = 1 << 62;
    let stat = |key| texts.value_or_0("memory.stat", key);
    let ticks = |key| texts.value_or_0("cpuacct.stat", key).saturating_mul(TICK_NS);
    let memory = texts.number("memory.usage_in_bytes").map(|used| Memory {
        used,
        working_set: used.saturating_sub(stat("total_inactive_file")),
        anonymous: stat("total_rss"),
        cache: stat("total_cache"),
        mapped: stat("total_mapped_file"),
        kernel: 0,
        peak: texts.number("memory.max_usage_in_bytes").unwrap_or(0),
        limit: texts.number("memory.limit_in_bytes").filter(|limit| *limit < UNLIMITED),
        faults: stat("total_pgfault"),
        major_faults: stat("total_pgmajfault"),
        hits: texts.number("memory.failcnt").unwrap_or(0),
        kills: texts.value_or_0("memory.oom_control", "oom_kill"),
    });
    Usage {
        cpu: texts.number("cpuacct.usage").map(|total_ns| CpuTime {
            total_ns,
            user_ns: ticks("user"),
            system_ns: ticks("system"),
            periods: texts.value_or_0("cpu.stat", "nr_periods"),
            throttled_periods: texts.value_or_0("cpu.stat", "nr_throttled"),
            throttled_ns: texts.value_or_0("cpu.stat", "throttled_time"),
        }),
        memory,
        // Both are counted together here; where swap is not accounted, neither file nor line is there.
        swap: texts.value("memory.stat", "total_swap").map(|used| Swap { used, limit: None }),
        tasks: texts.number("pids.current"),
        most_tasks: texts.number("pids.max"),
        ..Usage::default()
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`, which not every kernel has for processors.
fn pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            Some(_) | None => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let number = || value.parse().unwrap_or(0.0);
            match key {
                "avg10" => stall.avg10 = number(),
                "avg60" => stall.avg60 = number(),
                "avg300" => stall.avg300 = number(),
                "total" => stall.total_us = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    pressure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(files: &[(&'static str, &str)]) -> Texts {
        let mut texts = Texts::default();
        files.iter().for_each(|(file, text)| texts.add(file, (*text).to_owned()));
        texts
    }

    #[test]
    fn figures_of_v2() {
        let usage = v2(&texts(&[
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
            ),
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 300\nfile 600\ninactive_file 400\npgfault 5\npgmajfault 1\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "50\n"),
            ("memory.swap.max", "60\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "io.pressure",
                "some avg10=1.50 avg60=0.10 avg300=0.00 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
            ),
        ]));
        let cpu = usage.cpu.unwrap();
        assert_eq!((cpu.total_ns, cpu.user_ns, cpu.throttled_ns), (30_000, 20_000, 7_000));
        let memory = usage.memory.unwrap();
        assert_eq!((memory.used, memory.working_set, memory.anonymous), (1000, 600, 300));
        assert_eq!((memory.limit, memory.faults, memory.major_faults), (None, 5, 1));
        assert_eq!(usage.swap, Some(Swap { used: 50, limit: Some(60) }));
        assert_eq!((usage.tasks, usage.most_tasks), (Some(3), None));
        let io = usage.io_pressure.unwrap();
        assert_eq!((io.some.total_us, io.full.total_us), (99, 9));
        assert!((io.some.avg10 - 1.5).abs() < f64::EPSILON);
        assert_eq!(usage.cpu_pressure, None);
    }

    #[test]
    fn figures_of_v1() {
        let usage = v1(&texts(&[
            ("cpuacct.usage", "30000\n"),
            ("cpuacct.stat", "user 2\nsystem 1\n"),
            ("cpu.stat", "nr_periods 4\nnr_throttled 2\nthrottled_time 7000\n"),
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.stat", "rss 1\ntotal_rss 300\ntotal_inactive_file 1400\ntotal_swap 50\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("pids.current", "3\n"),
        ]));
        let cpu = usage.cpu.unwrap();
        assert_eq!((cpu.total_ns, cpu.user_ns, cpu.throttled_ns), (30_000, 20_000_000, 7_000));
        let memory = usage.memory.unwrap();
        assert_eq!((memory.working_set, memory.anonymous, memory.limit), (0, 300, None));
        assert_eq!(usage.swap, Some(Swap { used: 50, limit: None }));
        assert_eq!(usage.io_pressure, None);
    }

    #[test]
    fn what_is_not_there_is_absent() {
        assert_eq!(v1(&Texts::default()), Usage::default());
        assert_eq!(v2(&Texts::default()), Usage::default());
        let broken = texts(&[("memory.current", "many"), ("cpu.stat", "usage_usec\n\n")]);
        assert_eq!(v2(&broken), Usage::default());
    }
}
