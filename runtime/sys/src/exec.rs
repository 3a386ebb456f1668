//! Becoming another program.

use crate::result::check;
use std::ffi::{CStr, CString};
use std::io;

/// Arguments or environment in the form `execve(2)` takes.
#[derive(Debug)]
pub struct Strings {
    texts: Vec<CString>,
}

impl Strings {
    /// Copies `texts`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where one of them contains a NUL byte.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        let texts = texts.into_iter().map(CString::new).collect::<Result<_, _>>()?;
        Ok(Self { texts })
    }

    fn pointers(&self) -> Vec<*const libc::c_char> {
        self.texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    }
}

/// Becomes `program`; returns only what went wrong.
#[must_use]
pub fn execve(program: &CStr, arguments: &Strings, environment: &Strings) -> io::Error {
    let arguments = arguments.pointers();
    let environment = environment.pointers();
    // SAFETY: both arrays end with a null pointer and point to NUL-terminated strings that live in the borrowed
    // `Strings`; the kernel copies them before it replaces this memory.
    let result =
        check(unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) });
    result.map_or_else(|err| err, |_| rustix::io::Errno::IO.into())
}
