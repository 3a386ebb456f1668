//! Waiting for the kernel to let packets through a link that is up.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::netlink::{Error, Socket};
use crate::route;

/// A link that takes longer is left to come up by itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns once packets pass the link called `name`. `listen` opens a socket that hears of links in the namespace of `host`.
///
/// Carrier reaches a bridge port's state and its queue by a worker of the kernel (linkwatch), a moment after the far end
/// came up. What is sent in that moment is dropped, and with it a pod's first ARP request, which is only repeated a second
/// later. Asking for the link has the kernel do that work at once (since Linux 6.8, facd15dfd691); before, its event is
/// waited for. A pod's end, too: IPv6 does not take part before (addrconf_link_ready).
pub(super) fn await_carrier(
    host: &mut Socket,
    name: &str,
    listen: impl FnOnce() -> Result<Socket, Error>,
) -> Result<(), Error> {
    if route::find_link(host, name)?.carries {
        return Ok(());
    }
    let mut events = listen()?;
    let deadline = Instant::now() + PATIENCE;
    while !route::find_link(host, name)?.carries {
        if !hear(&events, deadline)? {
            tracing::warn!(link = name, "link is up and has no carrier yet");
            break;
        }
        // What the event says does not matter, nor whether some were lost: the kernel is asked again.
        events.heard(|_| false).ok();
    }
    Ok(())
}

/// Returns once the addresses of IPv6 among `addresses` are listened to. `events` has heard of addresses since before they were
/// given.
///
/// A worker of the kernel has the link listen to the groups that neighbours ask in (addrconf_dad_work), and tells of the
/// address only then. A question that comes before is lost, and only repeated a second later.
pub(super) fn await_addresses(events: &mut Socket, addresses: &[IpAddr]) -> Result<(), Error> {
    let mut missing: Vec<IpAddr> = addresses.iter().copied().filter(IpAddr::is_ipv6).collect();
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        if !hear(events, deadline)? {
            tracing::warn!(?missing, "addresses are there and not listened to yet");
            break;
        }
        let heard = events.heard(|event| {
            if let Some(told) = route::new_address(event) {
                missing.retain(|address| *address != told.ip);
            }
            false
        });
        // More events than the socket can hold, and ours may be among the lost.
        if heard.is_err() {
            break;
        }
    }
    Ok(())
}

/// Waits for an event; false when `deadline` has passed.
fn hear(events: &Socket, deadline: Instant) -> Result<bool, Error> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(left) = Timespec::try_from(left).ok().filter(|_| !left.is_zero()) else {
            return Ok(false);
        };
        match poll(&mut [PollFd::new(events, PollFlags::IN)], Some(&left)) {
            Ok(1..) => return Ok(true),
            Ok(0) | Err(Errno::INTR) => {}
            Err(source) => return Err(Error::Socket { step: "wait", source: source.into() }),
        }
    }
}
