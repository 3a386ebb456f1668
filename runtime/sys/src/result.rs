//! The C convention of system calls: -1, and the reason in `errno`.

use std::io;

/// Turns the result of a call of the C library into a result.
pub(crate) fn check<T: Copy + PartialEq + From<i8>>(result: T) -> io::Result<T> {
    if result == T::from(-1) { Err(io::Error::last_os_error()) } else { Ok(result) }
}
