//! Sockets that belong to another network namespace.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::inside::inside;

/// Makes a TCP socket in `netns`, where it stays whatever thread uses it. It does not block. `family` is
/// `AddressFamily::INET` or `INET6`.
///
/// # Errors
///
/// Those of `setns(2)` and `socket(2)`; `EAFNOSUPPORT` where the kernel has no such addresses.
pub fn tcp_socket(netns: BorrowedFd<'_>, family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(inside(netns, || socket_with(family, SocketType::STREAM, flags, None))??)
}
