//! Settings below /proc/sys/net: those of the calling thread's network namespace.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::error::NetworkError;

/// Whether the kernel has IPv6 at all: it can be compiled out, or be off since boot (`ipv6.disable=1`).
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf").exists()
}

/// Whether `name`, such as `ipv4/ip_forward`, has `value`. One that is not there has none.
pub(crate) fn is(name: &str, value: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/{name}")).is_ok_and(|text| text.trim_end() == value)
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

/// Has the host forward IPv6.
///
/// A host that forwards takes no router's word any more, and would lose a default route that it has from one. So the links
/// that listen to routers now are told to go on doing so (`accept_ra` 2).
pub(crate) fn forward_ipv6() -> Result<(), NetworkError> {
    const FORWARDING: &str = "ipv6/conf/all/forwarding";
    if is(FORWARDING, "1") {
        return Ok(());
    }
    for link in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let name = link.file_name();
        let Some(name) = name.to_str().filter(|name| !matches!(*name, "all" | "lo")) else {
            continue;
        };
        let setting = format!("ipv6/conf/{name}/accept_ra");
        if is(&setting, "1") {
            set(&setting, "2")?;
        }
    }
    set(FORWARDING, "1")
}

fn write(path: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
