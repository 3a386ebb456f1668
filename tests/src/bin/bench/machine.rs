//! What the numbers were measured on.

use std::fs;

use serde_json::{Value, json};

/// Above this many runnable processes before the start, numbers only indicate.
const QUIET: f64 = 1.0;

/// The machine, and a sentence about it.
pub(crate) fn describe(versions: &[String]) -> (Value, String) {
    let kernel = first_line("/proc/sys/kernel/osrelease");
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cgroups = if suite::cgroup::is_v2() { "v2" } else { "v1" };
    let load = load();
    let disk = disk();
    let mut text = format!(
        "{processors} processors, kernel {kernel}, cgroup {cgroups}, disk {disk}, load {load:.1} before the start; {}",
        versions.join(", ")
    );
    if load > QUIET {
        text.push_str("\nThe machine was busy: these numbers indicate, they do not measure.");
    }
    let value = json!({
        "processors": processors, "kernel": kernel, "cgroup": cgroups, "disk": disk,
        "load_before": load, "quiet": load <= QUIET, "versions": versions,
    });
    if disk == "ext4" && !has_journal() {
        text.push_str(
            "\nThis ext4 has no journal. It passes over every inode that was deleted in the last minutes, one by one \
             (recently_deleted),\nand files of a pull come after those of another that were removed: read the rows of the \
             disk beside plain tar's.",
        );
    }
    (value, text)
}

/// Whether some ext4 here has one: each has a directory then.
fn has_journal() -> bool {
    fs::read_dir("/proc/fs/jbd2").is_ok_and(|mut journals| journals.next().is_some())
}

/// The load average of the last minute.
fn load() -> f64 {
    let text = first_line("/proc/loadavg");
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(f64::INFINITY)
}

/// The file system that temporary files are on: the longest mount point that leads there.
fn disk() -> String {
    let directory = std::env::temp_dir();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let here = fields.filter(|(point, _)| directory.starts_with(point));
    here.max_by_key(|(point, _)| point.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
