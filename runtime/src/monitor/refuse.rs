//! Errors in words: the step, its object, and what the kernel says.

use runtime::protocol::Refusal;
use std::io;

/// The longest object that is told; paths in plans are as long as their authors like.
const MAX_OBJECT: usize = 512;

/// Says which step failed, and on what.
pub(crate) trait Explain<T> {
    /// `step` is an imperative, such as "mount"; `object` what it was to be done to, or empty.
    fn step(self, step: &str, object: impl AsRef<str>) -> Result<T, Refusal>;
}

impl<T, E: Into<io::Error>> Explain<T> for Result<T, E> {
    fn step(self, step: &str, object: impl AsRef<str>) -> Result<T, Refusal> {
        self.map_err(|err| {
            refusal(step, object.as_ref(), err.into().raw_os_error().unwrap_or(libc_einval()))
        })
    }
}

/// Errors of the standard library without a number are those of its own checks of arguments.
fn libc_einval() -> i32 {
    rustix::io::Errno::INVAL.raw_os_error()
}

/// A refusal of our own, where the kernel was not asked.
pub(crate) fn refusal(step: &str, object: &str, errno: i32) -> Refusal {
    let mut object = object.to_owned();
    while object.len() > MAX_OBJECT {
        object.pop();
    }
    Refusal { step: step.to_owned(), object, errno }
}
