//! Log lines to the two output streams, as the options want them.

use std::ops::ControlFlow;

use jiff::Timestamp;

use super::line::{self, Line, Stream};
use crate::error::CliError;
use crate::output::{Out, note};

#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Leave out lines that are older.
    pub(crate) since: Option<Timestamp>,
    /// Put each line's time before it.
    pub(crate) timestamps: bool,
    /// Stop after so many bytes.
    pub(crate) limit_bytes: Option<u64>,
    /// Only this stream.
    pub(crate) only: Option<Stream>,
}

pub(crate) struct Printer<'a> {
    stdout: &'a mut Out,
    stderr: &'a mut Out,
    options: Options,
    /// Whether the next text of stdout, of stderr, begins a line.
    is_line_start: [bool; 2],
    has_complained: bool,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(stdout: &'a mut Out, stderr: &'a mut Out, options: Options) -> Self {
        Self { stdout, stderr, options, is_line_start: [true; 2], has_complained: false }
    }

    /// Breaks when the limit is reached. `line` comes without its line end; an empty one is nothing.
    pub(super) fn print(&mut self, line: &[u8]) -> Result<ControlFlow<()>, CliError> {
        if line.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let Some(line) = line::parse(line) else {
            if !self.has_complained {
                self.has_complained = true;
                note("some lines are left out: they are not in the format of CRI logs");
            }
            return Ok(ControlFlow::Continue(()));
        };
        if self.is_wanted(&line) {
            self.write(&line)?;
        }
        let is_enough = self.options.limit_bytes == Some(0);
        Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        self.stdout.flush()?;
        self.stderr.flush()
    }

    fn is_wanted(&self, line: &Line<'_>) -> bool {
        let is_old = |since: Timestamp| line.time.parse().is_ok_and(|time: Timestamp| time < since);
        self.options.only.is_none_or(|stream| stream == line.stream)
            && !self.options.since.is_some_and(is_old)
    }

    fn write(&mut self, line: &Line<'_>) -> Result<(), CliError> {
        let (out, is_line_start) = match line.stream {
            Stream::Stdout => (&mut *self.stdout, &mut self.is_line_start[0]),
            Stream::Stderr => (&mut *self.stderr, &mut self.is_line_start[1]),
        };
        let mut text = Vec::with_capacity(line.text.len() + 32);
        if self.options.timestamps && *is_line_start {
            text.extend_from_slice(line::fixed_width(line.time).as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.text);
        if !line.is_partial {
            text.push(b'\n');
        }
        *is_line_start = !line.is_partial;
        if let Some(left) = &mut self.options.limit_bytes {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
        out.bytes(&text)
    }
}
