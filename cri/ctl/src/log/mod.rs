//! CRI log files: read, followed while they are written and rotated, printed.

mod line;
mod printer;
mod reader;
mod tail;
mod watch;

use std::ops::ControlFlow;
use std::path::Path;
use std::pin::pin;

use crate::error::CliError;
pub(crate) use line::Stream;
pub(crate) use printer::{Options, Printer};
use reader::Reader;
use watch::Watch;

/// Prints what is in the file now; `last` is how many lines of it.
pub(crate) fn print(
    path: &Path,
    last: Option<u64>,
    printer: &mut Printer<'_>,
) -> Result<(), CliError> {
    let mut reader = Reader::open(path, last).map_err(read_error(path))?;
    if pass_on(&mut reader, path, printer)?.is_continue() {
        // Nobody writes the rest of it any more, or it is not there yet.
        let _ended = printer.print(reader.incomplete())?;
    }
    printer.flush()
}

/// Prints the file and what is added to it until `end` is there, and then what is still in it. `None` when the
/// printer had enough before that.
pub(crate) async fn follow<T>(
    path: &Path,
    last: Option<u64>,
    printer: &mut Printer<'_>,
    end: impl Future<Output = T>,
) -> Result<Option<T>, CliError> {
    let watch_error = |source| CliError::Watch { path: path.to_owned(), source };
    let mut watch = Watch::new(path).map_err(watch_error)?;
    let mut reader = Reader::open(path, last).map_err(read_error(path))?;
    let mut end = pin!(end);
    let mut ended = None;
    loop {
        if pass_on(&mut reader, path, printer)?.is_break() {
            printer.flush()?;
            return Ok(None);
        }
        if ended.is_some() {
            let _enough = printer.print(reader.incomplete())?;
            printer.flush()?;
            return Ok(ended);
        }
        printer.flush()?;
        tokio::select! {
            result = &mut end => ended = Some(result),
            changed = watch.changed() => changed.map_err(watch_error)?,
        }
    }
}

fn pass_on(
    reader: &mut Reader,
    path: &Path,
    printer: &mut Printer<'_>,
) -> Result<ControlFlow<()>, CliError> {
    let mut result = Ok(ControlFlow::Continue(()));
    reader
        .read(|line| {
            result = printer.print(line);
            if matches!(result, Ok(ControlFlow::Continue(()))) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })
        .map_err(read_error(path))?;
    result
}

fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::Read { path, source }
}

#[cfg(test)]
mod tests;
