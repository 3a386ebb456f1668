//! Whether a lower memory limit leaves room for what a cgroup uses.

use super::error::CgroupError;
use super::group::Cgroup;
use super::limits::{Amount, Limits};

impl Cgroup {
    /// Refuses a memory limit that the kernel could only put in force by killing.
    ///
    /// What is file cache may be thrown out, so it does not count. v1 does that by itself and answers EBUSY where it does
    /// not suffice; v2 would kill (opencontainers/runc#3509), so there it is done before the limit is written, by
    /// `memory.reclaim` (Linux 5.19).
    pub(super) fn refuse_memory_in_use(&self, limits: &Limits) -> Result<(), CgroupError> {
        let Some(Amount::AtMost(limit_bytes)) = limits.memory() else { return Ok(()) };
        let refuse = |used_bytes| {
            let path = self.path().clone();
            Err(CgroupError::MemoryInUse { path, limit_bytes, used_bytes })
        };
        let Some(used) = self.memory_in_use()? else { return Ok(()) };
        if used <= limit_bytes {
            return Ok(());
        }
        let cache = self.file_cache()?;
        if used.saturating_sub(cache) > limit_bytes {
            return refuse(used);
        }
        if !self.is_v2() {
            return Ok(());
        }
        if let Some(place) = self.place_of("memory") {
            // That it could not reclaim all of it (EAGAIN), or is not there, shows in what is in use after it.
            place.directory.write("memory.reclaim", &(used - limit_bytes).to_string()).ok();
        }
        match self.memory_in_use()? {
            Some(used) if used > limit_bytes => refuse(used),
            Some(_) | None => Ok(()),
        }
    }

    fn memory_in_use(&self) -> Result<Option<u64>, CgroupError> {
        let file = if self.is_v2() { "memory.current" } else { "memory.usage_in_bytes" };
        match self.read_amount("memory", file)? {
            Some(Amount::AtMost(bytes)) => Ok(Some(bytes)),
            Some(Amount::Unlimited) | None => Ok(None),
        }
    }

    /// Memory that holds nothing but copies of files, in bytes.
    fn file_cache(&self) -> Result<u64, CgroupError> {
        let text = self.read("memory", "memory.stat")?.unwrap_or_default();
        let keys = if self.is_v2() {
            ["inactive_file", "active_file"]
        } else {
            ["total_inactive_file", "total_active_file"]
        };
        Ok(sum(&text, &keys))
    }
}

/// The sum of some lines of a `memory.stat`.
fn sum(text: &str, keys: &[&str]) -> u64 {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let wanted = lines.filter(|(key, _)| keys.contains(key));
    wanted.filter_map(|(_, value)| value.parse::<u64>().ok()).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_lines_are_summed() {
        let text =
            "cache 9\ninactive_file 4\nactive_file 2\ntotal_inactive_file 400\nbroken\nanon x\n";
        assert_eq!(sum(text, &["inactive_file", "active_file"]), 6);
        assert_eq!(sum("", &["inactive_file"]), 0);
    }
}
