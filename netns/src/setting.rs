//! Settings below /proc/sys/net: those of the calling thread's network namespace.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::error::NetworkError;

/// Whether the kernel has IPv6 at all: it can be compiled out, or be off since boot (`ipv6.disable=1`).
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf").exists()
}

/// Sets `name`, such as `ipv4/ip_forward`, to `value`, unless it has it already.
///
/// Reading first keeps writes away that would reset other settings, or that a read-only /proc/sys does not allow.
pub(crate) fn set(name: &str, value: &'static str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/net/{name}");
    let failed = |source| NetworkError::Setting { path: path.clone(), value, source };
    if fs::read_to_string(&path).map_err(failed)?.trim_end() == value {
        return Ok(());
    }
    write(&path, value).map_err(failed)
}

fn write(path: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
