//! An error with all its causes, on one line.

use std::error::Error;
use std::fmt::Write;

/// `error: its cause: the cause of that`, as logs and clients get it.
pub(crate) fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        write!(text, ": {err}").expect("a string takes every write");
        cause = err.source();
    }
    text
}
