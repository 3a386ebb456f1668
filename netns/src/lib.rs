//! Pod networking: links, addresses, routes and firewall entries, all in process.
//!
//! ```text
//!   host                                    pod's network namespace
//!   ┌───────────────────────────────┐      ┌──────────────────────┐
//!   │ berth0 10.88.0.1/16 ── bv0123…│──────│ eth0 10.88.0.2/16    │
//!   │   nftables table berth:       │      │ lo                   │
//!   │   masquerade, host ports      │      └──────────────────────┘
//!   └───────────────────────────────┘
//! ```
//!
//! [`PodNetwork`] is the seam: the daemon [checks](PodNetwork::check) a wish before it creates anything,
//! [attaches](PodNetwork::attach) the pod's pinned namespace, records what it got, and can detach from that record alone.
//! Every kernel object carries its pod's id (host links in their name, host ports in the comment of their map element),
//! so that after a crash [`sweep`](PodNetwork::sweep) finds what no record claims.

mod bridge;
mod choice;
mod cni;
mod config;
mod conntrack;
#[cfg(any(test, feature = "fake"))]
pub mod contract;
mod error;
#[cfg(any(test, feature = "fake"))]
mod fake;
mod firewall;
mod inside;
mod lease;
mod ledger;
mod mac;
mod netlink;
mod network;
mod route;
mod setting;
mod shaping;
mod socket;
mod statistics;
mod subnet;

pub use bridge::{Bridge, loopback_up};
pub use choice::{Mode, Networks};
pub use cni::{Cni, CniConfig, CniError, Command as CniCommand};
pub use config::{BridgeConfig, Forward};
pub use error::NetworkError;
#[cfg(any(test, feature = "fake"))]
pub use fake::Fake;
pub use netlink::{Error as NetlinkError, Refusal};
pub use network::{
    About, Attached, Bandwidth, Checked, Dns, Kind, NetworkWish, PodNetwork, PortMapping, Protocol,
};
pub use socket::tcp_socket;
pub use statistics::{Direction, LinkStatistics, statistics};
pub use subnet::{BadSubnet, Subnet, Subnets};
