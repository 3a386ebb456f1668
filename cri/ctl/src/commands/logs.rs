//! `berth logs`.

use std::path::{Path, PathBuf};

use cri_api::runtime::v1::{ContainerState, ReopenContainerLogRequest};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::containers;
use crate::error::{CliError, OptionError};
use crate::log::{self, Options, Printer, Stream};
use crate::node::Node;
use crate::output::{Out, note};
use crate::{duration, waiting};

#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    #[arg(value_name = "CONTAINER-ID")]
    container: String,

    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,

    /// Only the last N lines
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "stream")]
    tail: Option<i64>,

    /// Put its time before each line
    #[arg(short, long)]
    timestamps: bool,

    /// Only lines since then: 42m ago, 2026-01-02T13:23:37, or seconds since 1970
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Stop after so many bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    limit_bytes: Option<i64>,

    /// Only this stream: stdout, stderr
    #[arg(short, long)]
    stream: Option<String>,

    /// The log of the attempt before this one
    #[arg(short, long)]
    previous: bool,

    /// Have the daemon open the log file anew first
    #[arg(short, long)]
    reopen: bool,
}

impl Logs {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let options = self.options(Timestamp::now())?;
        // Below zero is crictl's "all".
        let last = self.tail.and_then(|count| u64::try_from(count).ok());
        if self.reopen {
            let request = ReopenContainerLogRequest { container_id: self.container.clone() };
            node.reopen_container_log(request)
                .await
                .map_err(CliError::call(format!("reopen the log of {}", self.container)))?;
            note("the daemon has opened the log file anew");
        }
        let (container, _) = containers::status(node, &self.container, false).await?;
        if container.log_path.is_empty() {
            return Err(CliError::NoLog(self.container));
        }
        let mut path = PathBuf::from(&container.log_path);
        if self.previous {
            let attempt = container.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
            path = previous(&path, attempt).ok_or(CliError::NoEarlierAttempt(self.container))?;
        }
        let mut stderr = Out::stderr();
        let mut printer = Printer::new(out, &mut stderr, options);
        let is_running = container.state() == ContainerState::ContainerRunning;
        if !self.follow || self.previous || !is_running {
            return log::print(&path, last, &mut printer);
        }
        match log::follow(&path, last, &mut printer, waiting::ended(node, &container.id)).await? {
            Some(ended) => ended.map(drop),
            None => Ok(()),
        }
    }

    fn options(&self, now: Timestamp) -> Result<Options, CliError> {
        let only = match self.stream.as_deref() {
            None => None,
            Some("stdout") => Some(Stream::Stdout),
            Some("stderr") => Some(Stream::Stderr),
            Some(other) => {
                return Err(CliError::option("--stream", other)(OptionError::OneOf(
                    "stdout, stderr",
                )));
            }
        };
        let since = self.since.as_deref().map(|text| {
            since(text, now).ok_or_else(|| {
                CliError::option("--since", text)(OptionError::Form("42m or 2026-01-02T13:23:37"))
            })
        });
        Ok(Options {
            since: since.transpose()?,
            timestamps: self.timestamps,
            limit_bytes: self.limit_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            only,
        })
    }
}

/// Seconds since 1970, how long ago, or a time, local unless it has a zone.
fn since(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Timestamp::from_duration(SignedDuration::try_from_secs_f64(seconds).ok()?).ok();
    }
    if let Ok(passed) = duration::parse(text) {
        return now.checked_sub(SignedDuration::try_from(passed).ok()?).ok();
    }
    text.parse().ok().or_else(|| {
        let local: DateTime = text.parse().ok()?;
        Some(local.to_zoned(TimeZone::system()).ok()?.timestamp())
    })
}

/// kubelet names log files after the attempt: `…/1.log` comes after `…/0.log`.
fn previous(path: &Path, attempt: u32) -> Option<PathBuf> {
    let extension = path.extension().unwrap_or_default();
    let name = PathBuf::from(attempt.checked_sub(1)?.to_string()).with_extension(extension);
    Some(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_may_be_a_time_or_how_long_ago() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let cases = [
            ("42m", Some(1_800_000_000 - 42 * 60)),
            ("1h30m", Some(1_800_000_000 - 90 * 60)),
            ("1700000000", Some(1_700_000_000)),
            ("1700000000.25", Some(1_700_000_000)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000)),
            ("2023-11-15T00:13:20+02:00", Some(1_700_000_000)),
            ("yesterday", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(since(text, now).map(Timestamp::as_second), want, "{text:?}");
        }
        assert!(since("2023-11-14T22:13:20", now).is_some(), "local time");
        assert!(since("2023-11-14", now).is_some(), "midnight");
    }

    #[test]
    fn the_previous_log_is_that_of_the_attempt_before() {
        let log = Path::new("/var/log/pods/a_b_c/web/2.log");
        assert_eq!(previous(log, 2).unwrap(), Path::new("/var/log/pods/a_b_c/web/1.log"));
        assert_eq!(previous(log, 0), None);
    }
}
