//! The netlink socket options that rustix does not know.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Asks the kernel to say in words why it refuses a request (NETLINK_EXT_ACK, Linux 4.12), and not to send the refused
/// request back with it (NETLINK_CAP_ACK, Linux 4.3). See netlink(7).
///
/// # Errors
/// What setsockopt(2) answers: `socket` is no netlink socket.
pub fn ask_for_reasons(socket: impl AsFd) -> io::Result<()> {
    const INT_BYTES: libc::socklen_t = 4;
    const { assert!(size_of::<libc::c_int>() == 4) };
    let socket = socket.as_fd();
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is borrowed for the whole call; the kernel reads one c_int from `on`, which is that
        // large and outlives the call, and writes nothing.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                INT_BYTES,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
