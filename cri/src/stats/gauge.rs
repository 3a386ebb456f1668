//! What is kept for the statistics of one pod or container: an open meter, the last sample, the size of its layer.

use super::layer::{self, Size, Sized};
use crate::host::now_ns;
use runtime::cgroup::{CgroupError, CgroupPath, Cgroups, Meter, Usage};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Two samples closer than this say nothing about a rate.
const APART: Duration = Duration::from_millis(100);

/// Kept for statistics.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    kept: Mutex<Kept>,
    layer: Arc<Mutex<Sized>>,
}

#[derive(Debug, Default)]
struct Kept {
    meter: Option<Meter>,
    last: Option<Sample>,
}

/// A point in the life of a processor's counter.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    total_ns: u64,
    nano_cores: Option<u64>,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// Nanoseconds since the epoch.
    pub(crate) at: i64,
    pub(crate) usage: Usage,
    /// Core-nanoseconds a second since the reading before; none at the first.
    pub(crate) nano_cores: Option<u64>,
}

/// Why statistics could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Path(#[from] runtime::cgroup::BadCgroupPath),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("read statistics of its cgroup")]
    Read(#[from] std::io::Error),
}

impl Gauge {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a cgroup; none where it is not there.
    pub(super) fn read(
        &self,
        cgroups: &Cgroups,
        cgroup: &str,
    ) -> Result<Option<Reading>, ReadError> {
        let mut kept = self.kept();
        if kept.meter.is_none() {
            let path: CgroupPath = cgroup.parse()?;
            let Some(cgroup) = cgroups.open(&path)? else { return Ok(None) };
            kept.meter = Some(cgroup.meter()?);
        }
        let usage = kept.meter.as_ref().map(Meter::read).transpose()?.flatten();
        let Some(usage) = usage else {
            // Removed, and perhaps made again since: the next call looks anew.
            *kept = Kept::default();
            return Ok(None);
        };
        let now = Instant::now();
        if let Some(cpu) = &usage.cpu {
            kept.last = Some(Sample::after(kept.last, now, cpu.total_ns));
        }
        let nano_cores = kept.last.and_then(|sample| sample.nano_cores);
        Ok(Some(Reading { at: now_ns(), usage, nano_cores }))
    }

    /// The size of the writable layer in `directory`, as of a while ago.
    pub(super) fn layer(&self, directory: &Path) -> Option<Size> {
        layer::size(&self.layer, directory)
    }

    /// Closes what is open, when the object has ended.
    pub(crate) fn close(&self) {
        *self.kept() = Kept::default();
    }
}

impl Sample {
    fn after(last: Option<Self>, at: Instant, total_ns: u64) -> Self {
        let Some(last) = last else { return Self { at, total_ns, nano_cores: None } };
        let passed = at.saturating_duration_since(last.at);
        if passed < APART && last.nano_cores.is_some() {
            return last;
        }
        let used = u128::from(total_ns.saturating_sub(last.total_ns));
        let rate = used * 1_000_000_000 / passed.as_nanos().max(1);
        Self { at, total_ns, nano_cores: u64::try_from(rate).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_samples_that_are_apart() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let first = Sample::after(None, at(0), 1_000);
        assert_eq!(first.nano_cores, None);
        let second = Sample::after(Some(first), at(1_000), 500_001_000);
        assert_eq!(second.nano_cores, Some(500_000_000), "half a processor");
        let soon = Sample::after(Some(second), at(1_010), 510_001_000);
        assert_eq!(soon.nano_cores, Some(500_000_000), "too soon for another");
        let reset = Sample::after(Some(second), at(2_000), 0);
        assert_eq!(reset.nano_cores, Some(0), "a counter that began anew");
    }
}
