//! Waiting for the kernel to let packets through a link that is up.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::netlink::{Error, Socket};
use crate::route;

/// A link that takes longer is left to come up by itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns once packets pass the link called `name`.
///
/// Carrier reaches a bridge port's state and its queue by a worker of the kernel (linkwatch), a moment after the far end
/// came up. What is sent in that moment is dropped, and with it a pod's first ARP request, which is only repeated a second
/// later. Asking for the link has the kernel do that work at once (since Linux 6.8, facd15dfd691); before, its event is
/// waited for.
pub(super) fn await_carrier(host: &mut Socket, name: &str) -> Result<(), Error> {
    if route::find_link(host, name)?.carries {
        return Ok(());
    }
    let mut events = Socket::link_events()?;
    let deadline = Instant::now() + PATIENCE;
    while !route::find_link(host, name)?.carries {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(left) = Timespec::try_from(left).ok().filter(|_| !left.is_zero()) else {
            tracing::warn!(link = name, "link is up and has no carrier yet");
            break;
        };
        match poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&left)) {
            // What the event says does not matter, nor whether some were lost: the kernel is asked again.
            Ok(1..) => {
                events.heard(|_| false).ok();
            }
            Ok(0) | Err(Errno::INTR) => {}
            Err(source) => return Err(Error::Socket { step: "wait", source: source.into() }),
        }
    }
    Ok(())
}
