//! The built-in network: a bridge on the host, a pair of links per pod, one nftables table.
//!
//! Everything is a handful of netlink messages, so a pod is connected in about a millisecond; nothing waits, nothing
//! polls, no program is started. IPv4 only: links of pods are made without any IPv6 address, so that a network that is
//! meant to be v4 has no `fe80::` in it (CVE-2024-32473) and takes no router's word (`accept_ra`, CVE-2020-13401).

mod attach;
mod carrier;
mod delete;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::config::BridgeConfig;
use crate::error::NetworkError;
use crate::firewall::{Firewall, State};
use crate::inside::inside;
use crate::ledger::Ledger;
use crate::netlink::{Error, Socket};
use crate::network::{Attached, Checked, NetworkWish, PodNetwork};
use crate::{route, setting};

/// The built-in bridge network.
///
/// Lives in the network namespace of the thread that opened it; all calls have to come from threads of that namespace.
/// Who has which address and host port is kept in memory: after opening, [`adopt`](PodNetwork::adopt) every recorded pod.
#[derive(Debug)]
pub struct Bridge {
    config: BridgeConfig,
    /// The bridge's link index.
    index: u32,
    ipv6: bool,
    firewall: Firewall,
    ledger: Mutex<Ledger>,
}

impl Bridge {
    /// Makes the bridge and its nftables table as configured, or takes over what is there: pods on it keep running, and
    /// their host ports stay open. Turns IPv4 forwarding on.
    ///
    /// A bridge that has another subnet's address keeps it, for the pods that still use it.
    ///
    /// # Errors
    /// A name no kernel object can have, a link of that name that is no bridge, a kernel without nftables, or not being
    /// root.
    pub fn open(config: BridgeConfig) -> Result<Self, NetworkError> {
        config.check()?;
        let ipv6 = setting::has_ipv6();
        let index = make_bridge(&config, ipv6)?;
        setting::set("ipv4/ip_forward", "1")?;
        let firewall = Firewall::new(&config.table, &config.name, config.subnet)
            .and_then(|firewall| firewall.ensure().map(|()| firewall))
            .map_err(kernel("make nftables table", &config.table))?;
        let ledger = Mutex::new(Ledger::new(config.subnet));
        Ok(Self { config, index, ipv6, firewall, ledger })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change to the ledger is complete before anything in it can panic.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodNetwork for Bridge {
    fn check(&self, wish: &NetworkWish) -> Result<Checked, NetworkError> {
        let plan = Checked::new(wish)?;
        self.ledger().check(&plan)?;
        Ok(plan)
    }

    fn attach(&self, netns: BorrowedFd<'_>, plan: Checked) -> Result<Attached, NetworkError> {
        self.attach_pod(netns, plan)
    }

    fn detach(&self, attached: &Attached) -> Result<(), NetworkError> {
        self.detach_pod(attached)
    }

    fn adopt(&self, attached: &Attached) {
        self.ledger().adopt(attached);
    }

    fn sweep(&self, owners: &BTreeSet<String>) -> Result<Vec<String>, NetworkError> {
        self.sweep_unowned(owners)
    }

    fn status(&self) -> Result<(), NetworkError> {
        let broken = |object, name: &str, state| {
            Err(NetworkError::Broken { object, name: name.to_owned(), state })
        };
        let link =
            Socket::route().and_then(|mut socket| route::find_link(&mut socket, &self.config.name));
        match link {
            Ok(link) if link.index != self.index => {
                return broken("bridge", &self.config.name, "replaced");
            }
            Ok(link) if !link.up => return broken("bridge", &self.config.name, "down"),
            Ok(_) => {}
            Err(err) if err.is(Errno::NODEV) => {
                return broken("bridge", &self.config.name, "missing");
            }
            Err(err) => return Err(kernel("look up bridge", &self.config.name)(err)),
        }
        match self.firewall.state().map_err(kernel("look up nftables table", &self.config.table))? {
            State::Current => Ok(()),
            State::Other => {
                broken("nftables table", &self.config.table, "not the one that was made")
            }
            State::Missing => broken("nftables table", &self.config.table, "missing"),
        }
    }
}

/// Brings `lo` up in a network namespace.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refused.
pub fn loopback_up(netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
    inside(netns, || Socket::route()?.change(&[route::bring_up("lo")]))
        .map_err(|source| NetworkError::Enter { source })?
        .map_err(kernel("bring up link", "lo"))
}

/// Makes the bridge or takes over the one that is there; returns its index.
fn make_bridge(config: &BridgeConfig, ipv6: bool) -> Result<u32, NetworkError> {
    let name = config.name.as_str();
    let gateway = config.subnet.gateway();
    let mac = mac_of(gateway);
    let mut socket = Socket::route().map_err(kernel("make bridge", name))?;
    match socket.change(&[route::create_bridge(name, mac, config.mtu)]) {
        Err(err) if !err.is(Errno::EXIST) => return Err(kernel("make bridge", name)(err)),
        Ok(()) | Err(_) => {}
    }
    let link = route::find_link(&mut socket, name).map_err(kernel("look up bridge", name))?;
    if link.kind != "bridge" {
        return Err(NetworkError::NotABridge { name: name.to_owned() });
    }
    // A bridge of somebody else may be the node's own way out: we would change its address and take its IPv6.
    if !link.mac.starts_with(&MAC_PREFIX) {
        return Err(NetworkError::NotOurs { name: name.to_owned() });
    }
    setting::set(&format!("ipv4/conf/{name}/route_localnet"), "0")?;
    if ipv6 {
        setting::set(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
        setting::set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    }
    let mut changes = vec![
        route::add_address(link.index, gateway, config.subnet.prefix(), config.subnet.broadcast()),
        route::bring_up(name),
    ];
    if link.mac != mac {
        changes.push(route::set_mac(name, mac));
    }
    socket.change(&changes).map_err(kernel("set up bridge", name))?;
    Ok(link.index)
}

/// The hardware address that goes with an address: a local one, unique on the bridge because the address is.
///
/// So when an address passes on to another pod, what neighbours remember of it is still true.
fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    let [first, second] = MAC_PREFIX;
    [first, second, a, b, c, d]
}

/// How every hardware address that we give begins: a local one.
const MAC_PREFIX: [u8; 2] = [0x02, 0xbe];

/// The link on the host that leads to `owner`; 15 bytes, as long as a link's name can be.
fn host_link_of(owner: &str) -> String {
    format!("{HOST_LINK_PREFIX}{}", owner.get(..13).unwrap_or(owner))
}

const HOST_LINK_PREFIX: &str = "bv";

/// Names step and object of a netlink error.
fn kernel(step: &'static str, object: &str) -> impl FnOnce(Error) -> NetworkError {
    move |source| NetworkError::Kernel { step, object: object.to_owned(), source }
}
