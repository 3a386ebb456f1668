//! What has gone over the links of a network namespace.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::inside::on_a_thread;
use crate::netlink::{Error, Message, Socket, find, text};
use crate::route::{self, LINK_HEADER, RTM_NEWLINK};

/// The counters of one link, as the kernel keeps them for the namespace that the link is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStatistics {
    /// Such as `eth0`.
    pub name: String,
    /// Received.
    pub received: Direction,
    /// Sent.
    pub sent: Direction,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with an error.
    pub errors: u64,
    /// Packets for which there was no room.
    pub dropped: u64,
}

/// The links of each of some network namespaces, but for the loopbacks. One that cannot be read costs only its own.
///
/// One short-lived thread visits them all.
///
/// # Errors
///
/// The thread could not be started.
pub fn statistics(
    namespaces: &[BorrowedFd<'_>],
) -> io::Result<Vec<Result<Vec<LinkStatistics>, Error>>> {
    on_a_thread(|| namespaces.iter().map(|namespace| visit(*namespace)).collect())
}

fn visit(namespace: BorrowedFd<'_>) -> Result<Vec<LinkStatistics>, Error> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
        .map_err(|err| Error::Socket { step: "setns", source: err.into() })?;
    let mut socket = Socket::route()?;
    let links =
        socket.list(&route::with_statistics(), |message| read(message).into_iter().collect())?;
    Ok(links.into_iter().filter(|link: &LinkStatistics| link.name != "lo").collect())
}

fn read(message: &Message<'_>) -> Option<LinkStatistics> {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_STATS64: u16 = 23;
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let attributes = message.payload.get(LINK_HEADER..)?;
    let counters = find(attributes, IFLA_STATS64)?;
    Some(LinkStatistics {
        name: text(find(attributes, IFLA_IFNAME)?)?,
        received: direction(counters, 0)?,
        sent: direction(counters, 1)?,
    })
}

/// `struct rtnl_link_stats64` begins with pairs: received and sent.
fn direction(counters: &[u8], side: usize) -> Option<Direction> {
    let pair = |number: usize| {
        let at = (number * 2 + side) * 8;
        Some(u64::from_ne_bytes(*counters.get(at..)?.first_chunk()?))
    };
    Some(Direction { packets: pair(0)?, bytes: pair(1)?, errors: pair(2)?, dropped: pair(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_pairs_of_both_directions() {
        let bytes: Vec<u8> = (1_u64..=8).flat_map(u64::to_ne_bytes).collect();
        let received = direction(&bytes, 0).unwrap();
        assert_eq!(received, Direction { packets: 1, bytes: 3, errors: 5, dropped: 7 });
        let sent = direction(&bytes, 1).unwrap();
        assert_eq!(sent, Direction { packets: 2, bytes: 4, errors: 6, dropped: 8 });
        assert_eq!(direction(&bytes[..60], 1), None, "cut short");
    }
}
