//! CRI log files: `<time> <stdout|stderr> <P|F> <content>`, one record a line.
//!
//! `F` is a line that ended; `P` is a part of one: it was longer than 16 KiB, or the stream ended within it, as containerd
//! writes it. A log that cannot be written never stops a container: what is lost is counted, and when the log can be written
//! again, a record in it says how much is missing there.

use rustix::io::Errno;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest content of a record.
const MAX_LINE: usize = 16 * 1024;
/// Records are written together up to about this size.
const BATCH: usize = 16 * 1024;

/// One of a container's two streams: its name, and the line that has not ended yet.
#[derive(Debug)]
pub(crate) struct Stream {
    name: &'static str,
    pending: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, pending: Vec::new() }
    }
}

/// A container's log.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<OwnedFd>,
    batch: Vec<u8>,
    lost: u64,
    gap: Option<Gap>,
}

/// Records that are missing at the end of the log.
#[derive(Debug)]
struct Gap {
    bytes: u64,
    why: Errno,
    /// Whether somebody was told.
    told: bool,
    /// How long the record is that says so, where it heads the batch.
    marked: usize,
}

#[derive(Clone, Copy)]
enum Tag {
    Partial,
    Full,
}

impl Log {
    /// Without a file all output is thrown away, and not counted as lost.
    pub(crate) fn new(file: Option<OwnedFd>) -> Self {
        Self { file, batch: Vec::new(), lost: 0, gap: None }
    }

    /// Writes to another file from the next record on.
    pub(crate) fn reopen(&mut self, file: OwnedFd) {
        self.file = Some(file);
    }

    /// Bytes of records that could not be written.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Why records are being lost, told once until they are not any more.
    pub(crate) fn take_failure(&mut self) -> Option<Errno> {
        let gap = self.gap.as_mut().filter(|gap| !gap.told)?;
        gap.told = true;
        Some(gap.why)
    }

    /// Takes what a stream has said now.
    pub(crate) fn take(&mut self, stream: &mut Stream, mut bytes: &[u8], now: SystemTime) {
        if self.file.is_none() {
            return;
        }
        let time = Timestamp::of(now);
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let line = &bytes[..end.unwrap_or(bytes.len())];
            let line = self.cut(stream, line, &time);
            match end {
                Some(end) => {
                    self.record(stream, line, Tag::Full, &time);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    stream.pending.extend_from_slice(line);
                    bytes = &[];
                }
            }
        }
        self.flush();
    }

    /// Takes the end of a stream.
    pub(crate) fn end(&mut self, stream: &mut Stream, now: SystemTime) {
        if !stream.pending.is_empty() {
            self.record(stream, &[], Tag::Partial, &Timestamp::of(now));
        }
        self.flush();
        self.batch = Vec::new();
    }

    /// Writes the parts of a line that are too long, and gives the rest.
    fn cut<'a>(&mut self, stream: &mut Stream, mut line: &'a [u8], time: &Timestamp) -> &'a [u8] {
        while stream.pending.len() + line.len() > MAX_LINE {
            let (part, rest) = line.split_at(MAX_LINE - stream.pending.len());
            self.record(stream, part, Tag::Partial, time);
            line = rest;
        }
        line
    }

    /// Adds one record: what is pending of the line, and `rest`.
    fn record(&mut self, stream: &mut Stream, rest: &[u8], tag: Tag, time: &Timestamp) {
        if self.batch.is_empty() {
            self.mark(stream.name, time);
        }
        let tag = match tag {
            Tag::Partial => b" P ",
            Tag::Full => b" F ",
        };
        let parts: [&[u8]; 7] =
            [time.0.as_bytes(), b" ", stream.name.as_bytes(), tag, &stream.pending, rest, b"\n"];
        for part in parts {
            self.batch.extend_from_slice(part);
        }
        // A stream between lines holds no memory.
        stream.pending = Vec::new();
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Begins the batch with a record of what is missing before it.
    fn mark(&mut self, stream: &str, time: &Timestamp) {
        let Some(gap) = &mut self.gap else { return };
        let why = std::io::Error::from(gap.why);
        let Timestamp(time) = time;
        let bytes = gap.bytes;
        // Writing to a vector cannot fail.
        writeln!(
            self.batch,
            "{time} {stream} F berth: {bytes} bytes of log are missing here: {why}"
        )
        .ok();
        gap.marked = self.batch.len();
    }

    /// Writes the batch with one call, and takes half a record back: a reader sees whole ones only.
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        if let Some(file) = &self.file {
            let result = rustix::io::retry_on_intr(|| rustix::io::write(file, &batch));
            let written = result.unwrap_or(0);
            let whole =
                batch[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            if written > whole {
                // Fails where the file is no regular one; then the next record begins within this one.
                take_back(file, (written - whole) as u64).ok();
            }
            // A write that was cut short is one to a disk that is full.
            self.note(batch.len(), whole, result.err().unwrap_or(Errno::NOSPC));
        }
        self.batch = batch;
        self.batch.clear();
    }

    /// Counts what is missing, once `whole` of a batch's bytes are in the file.
    fn note(&mut self, length: usize, whole: usize, why: Errno) {
        let marked = self.gap.as_ref().map_or(0, |gap| gap.marked);
        if whole >= marked && whole > 0 {
            // The record that tells of the gap is written, or there was none.
            self.gap = None;
        }
        let missing = (length - whole.max(marked)) as u64;
        if missing == 0 && whole > 0 {
            return;
        }
        self.lost += missing;
        let new = Gap { bytes: 0, why, told: false, marked: 0 };
        let gap = self.gap.get_or_insert(new);
        gap.bytes += missing;
        gap.marked = 0;
    }
}

/// Nobody else writes to the file, so its end is what was written last.
fn take_back(file: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    if bytes == 0 {
        return Ok(());
    }
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| Errno::INVAL)?;
    rustix::fs::ftruncate(file, size.saturating_sub(bytes))
}

/// A time in UTC with nanoseconds, as RFC 3339 writes it.
#[derive(Debug, PartialEq, Eq)]
struct Timestamp(String);

impl Timestamp {
    fn of(time: SystemTime) -> Self {
        // A clock before 1970 is wrong anyway.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let mut text = Vec::with_capacity(30);
        let nanos = since.subsec_nanos();
        // Writing to a vector cannot fail.
        write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
            .ok();
        Self(String::from_utf8(text).unwrap_or_default())
    }
}

/// Year, month and day of a day since 1970-01-01, by counting from 1 March of year 0, in eras of 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests;
