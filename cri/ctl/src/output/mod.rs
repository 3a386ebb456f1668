//! The one writer for standard output, and the words on standard error.

pub(crate) mod document;
mod escape;
pub(crate) mod human;
mod table;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value;

use crate::error::CliError;
pub(crate) use escape::escape;
pub(crate) use table::Table;

/// The form in which a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Json,
    Yaml,
    Table,
}

/// A stream that people or programs read. Text from images, containers and the daemon is not trusted: on a
/// terminal its control bytes are shown, not obeyed (CVE-2021-25743).
pub(crate) struct Out {
    stream: BufWriter<Box<dyn Write>>,
    is_terminal: bool,
}

impl Out {
    pub(crate) fn stdout() -> Self {
        let stream = io::stdout();
        let is_terminal = stream.is_terminal();
        Self { stream: BufWriter::new(Box::new(stream)), is_terminal }
    }

    pub(crate) fn stderr() -> Self {
        let stream = io::stderr();
        let is_terminal = stream.is_terminal();
        Self { stream: BufWriter::new(Box::new(stream)), is_terminal }
    }

    /// Not a terminal, but for what is written to it.
    #[cfg(test)]
    pub(crate) fn to(stream: impl Write + 'static) -> Self {
        Self { stream: BufWriter::new(Box::new(stream)), is_terminal: false }
    }

    /// Writes one line; line ends inside `text` stay.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), CliError> {
        let text = text.to_string();
        let text = if self.is_terminal { escape(&text, "\n\t") } else { text.into() };
        writeln!(self.stream, "{text}").map_err(CliError::Output)
    }

    /// Writes what a container wrote: byte for byte, but for control bytes on a terminal.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        if self.is_terminal {
            let text = String::from_utf8_lossy(bytes);
            self.stream.write_all(escape(&text, "\n\t\r").as_bytes())
        } else {
            self.stream.write_all(bytes)
        }
        .map_err(CliError::Output)
    }

    /// Writes labels and the like, indented below `name`; nothing when there are none.
    pub(crate) fn map(
        &mut self,
        name: &str,
        map: &BTreeMap<String, String>,
    ) -> Result<(), CliError> {
        if map.is_empty() {
            return Ok(());
        }
        self.line(format_args!("{name}:"))?;
        map.iter().try_for_each(|(key, value)| self.line(format_args!("\t{key} -> {value}")))
    }

    pub(crate) fn table(&mut self, table: &Table) -> Result<(), CliError> {
        table.lines().try_for_each(|line| self.line(line))
    }

    /// Writes a document; the caller has dealt with [`Format::Table`].
    pub(crate) fn document(&mut self, value: &Value, format: Format) -> Result<(), CliError> {
        let text = match format {
            Format::Json | Format::Table => format!("{value:#}"),
            Format::Yaml => serde_saphyr::to_string(value)
                .map_err(|error| CliError::Output(io::Error::other(error)))?,
        };
        self.line(text.trim_end_matches('\n'))
    }

    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.stream.flush().map_err(CliError::Output)
    }
}

/// Tells the user something beside the answer.
pub(crate) fn note(text: impl Display) {
    let text = text.to_string();
    let text = escape(&text, "");
    // Nobody is left to tell when standard error is closed.
    writeln!(io::stderr(), "{text}").ok();
}
