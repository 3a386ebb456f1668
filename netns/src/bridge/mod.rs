//! The built-in network: a bridge on the host, a pair of links per pod, two nftables tables.
//!
//! Everything is a handful of netlink messages, so a pod is connected in about a millisecond; nothing waits, nothing
//! polls, no program is started. Where the network is IPv4 only, links of pods are made without any IPv6 address, so that no
//! `fe80::` is in it (CVE-2024-32473); and never do they take a router's word (`accept_ra`, CVE-2020-13401).
//!
//! A thread of its own hears of what others take away, the bridge or rules, and puts it back (`repair.rs`).

mod attach;
mod carrier;
mod delete;
mod repair;
mod sweep;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::host as testing;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::config::BridgeConfig;
use crate::error::NetworkError;
use crate::firewall::{Firewall, State};
use crate::inside::inside;
use crate::ledger::Ledger;
use crate::netlink::{Error, Socket};
use crate::network::{Attached, Checked, NetworkWish, PodNetwork};
use crate::subnet::{Subnet, Subnets};
use crate::{mac, route, setting};
use repair::Watch;

/// The built-in bridge network.
///
/// Lives in the network namespace of the thread that opened it; all calls have to come from threads of that namespace.
/// Who has which address and host port is kept in memory: after opening, [`adopt`](PodNetwork::adopt) every recorded pod.
#[derive(Debug)]
pub struct Bridge {
    inner: Arc<Inner>,
    _watch: Watch,
}

/// What the watching thread works on as well.
#[derive(Debug)]
struct Inner {
    config: BridgeConfig,
    /// The kernel has IPv6, whether pods do or not.
    ipv6: bool,
    /// The bridge's link index; another one when it was made anew.
    index: AtomicU32,
    firewall: Firewall,
    ledger: Mutex<Ledger>,
    place: Mutex<Place>,
}

/// Where pods get their addresses from.
#[derive(Debug, Default)]
struct Place {
    subnets: Option<Subnets>,
    /// Those that pods may have addresses of: these, and earlier ones.
    networks: Vec<Subnet>,
}

impl Bridge {
    /// Makes the bridge and its nftables tables as configured, or takes over what is there: pods on it keep running, and
    /// their host ports stay open. Turns forwarding on.
    ///
    /// A bridge that has another subnet's address keeps it, for the pods that still use it.
    ///
    /// # Errors
    /// A name no kernel object can have, a link of that name that is no bridge, a kernel without nftables, or not being
    /// root.
    pub fn open(config: BridgeConfig) -> Result<Self, NetworkError> {
        config.check()?;
        let failed = || kernel("make nftables tables", &config.table);
        let firewall = Firewall::new(&config.table, &config.name).map_err(failed())?;
        // Pods of an earlier daemon may have addresses of other networks.
        let mut networks = firewall.networks().map_err(failed())?;
        networks.extend(config.subnets.iter().flat_map(Subnets::iter));
        let inner = Arc::new(Inner {
            ipv6: setting::has_ipv6(),
            index: AtomicU32::new(0),
            firewall,
            ledger: Mutex::new(Ledger::new(config.subnets.as_ref())),
            place: Mutex::new(Place { subnets: config.subnets.clone(), networks }),
            config,
        });
        // Listens before it looks, so that nothing is missed in between.
        let watch = Watch::start(&inner).map_err(kernel("watch bridge", &inner.config.name))?;
        inner.establish()?;
        inner.settle_forwarding();
        Ok(Self { inner, _watch: watch })
    }

    /// Leases addresses from other subnets from now on, as kubelet says with `UpdateRuntimeConfig`. Pods keep what they have.
    ///
    /// # Errors
    /// The bridge cannot be given the subnets' first addresses.
    pub fn move_to(&self, subnets: &Subnets) -> Result<(), NetworkError> {
        {
            let mut place = self.inner.place();
            if place.subnets.as_ref() == Some(subnets) {
                return Ok(());
            }
            place.subnets = Some(subnets.clone());
            for subnet in subnets.iter() {
                if !place.networks.contains(&subnet) {
                    place.networks.push(subnet);
                }
            }
        }
        self.inner.ledger().move_to(subnets);
        self.inner.establish()
    }

    /// Where pods get their addresses from; `None` while nobody has said so.
    pub fn subnets(&self) -> Option<Subnets> {
        self.inner.place().subnets.clone()
    }
}

impl PodNetwork for Bridge {
    fn check(&self, wish: &NetworkWish) -> Result<Checked, NetworkError> {
        self.inner.check(wish)
    }

    fn attach(&self, netns: BorrowedFd<'_>, plan: Checked) -> Result<Attached, NetworkError> {
        self.inner.attach(netns, plan)
    }

    fn detach(&self, attached: &Attached) -> Result<(), NetworkError> {
        self.inner.detach(attached)
    }

    fn adopt(&self, attached: &Attached) {
        self.inner.ledger().adopt(attached);
    }

    fn sweep(&self, owners: &BTreeSet<String>) -> Result<Vec<String>, NetworkError> {
        self.inner.sweep(owners)
    }

    fn status(&self) -> Result<Vec<String>, NetworkError> {
        self.inner.status()
    }

    fn verify(&self, attached: &Attached) -> Result<(), NetworkError> {
        let link = attached.host_link.as_str();
        let found = Socket::route().and_then(|mut socket| route::find_link(&mut socket, link));
        let broken =
            |state| Err(NetworkError::Broken { object: "link", name: link.to_owned(), state });
        match found {
            Ok(found) if found.master != Some(self.inner.index()) => broken("not on the bridge"),
            Ok(found) if !found.up => broken("down"),
            Ok(_) => Ok(()),
            Err(err) if err.is(Errno::NODEV) => broken("missing"),
            Err(err) => Err(kernel("look up link", link)(err)),
        }
    }
}

impl Inner {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change to the ledger is complete before anything in it can panic.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    fn subnets(&self) -> Vec<Subnet> {
        self.place().subnets.iter().flat_map(Subnets::iter).collect()
    }

    /// Makes the bridge, forwarding and the tables, or what is missing of them.
    fn establish(&self) -> Result<(), NetworkError> {
        let subnets = self.subnets();
        self.index.store(make_bridge(&self.config, &subnets, self.ipv6)?, Ordering::Relaxed);
        if subnets.iter().any(|subnet| !subnet.is_ipv6()) {
            setting::set("ipv4/ip_forward", "1")?;
        }
        if subnets.iter().any(Subnet::is_ipv6) {
            setting::forward_ipv6()?;
        }
        self.ensure_rules()
    }

    /// Makes the tables, or what is missing of them.
    fn ensure_rules(&self) -> Result<(), NetworkError> {
        let networks = self.place().networks.clone();
        // Held, so that no pod is dismissed while its elements are put back.
        let ledger = self.ledger();
        self.firewall
            .ensure(&networks, ledger.pods())
            .map_err(kernel("make nftables tables", &self.config.table))
    }

    /// Looks for rules of others that drop what pods send. What cannot be found out is no reason not to go on.
    fn settle_forwarding(&self) -> Vec<String> {
        match self.firewall.settle_forwarding(self.config.forward) {
            Ok(remarks) => remarks,
            Err(err) => {
                tracing::warn!(%err, "rules of others cannot be looked at or preceded");
                Vec::new()
            }
        }
    }

    /// Lets the host's own connections from 127.0.0.1 reach pods while there is a host port, and not otherwise: the setting
    /// is one more thing that has to be guarded (CVE-2020-8558). The ledger is held, so that it is right for what is in it.
    fn settle_loopback(&self, ledger: &Ledger) -> Result<(), NetworkError> {
        let wanted = ledger.pods().any(|pod| {
            pod.ports.iter().any(|port| port.is_for(false))
                && pod.addresses.iter().any(IpAddr::is_ipv4)
        });
        let name = format!("ipv4/conf/{}/route_localnet", self.config.name);
        setting::set(&name, if wanted { "1" } else { "0" })
    }

    fn status(&self) -> Result<Vec<String>, NetworkError> {
        let name = self.config.name.as_str();
        let broken = |object, name: &str, state| {
            Err(NetworkError::Broken { object, name: name.to_owned(), state })
        };
        let subnets = self.subnets();
        if subnets.is_empty() {
            return Err(NetworkError::NoSubnet);
        }
        let looked_up = Socket::route().and_then(|mut socket| {
            let link = route::find_link(&mut socket, name)?;
            Ok((link, route::list_addresses(&mut socket)?))
        });
        let (link, addresses) = match looked_up {
            Ok(found) => found,
            Err(err) if err.is(Errno::NODEV) => return broken("bridge", name, "missing"),
            Err(err) => return Err(kernel("look up bridge", name)(err)),
        };
        if link.index != self.index() {
            return broken("bridge", name, "replaced");
        }
        if !link.up {
            return broken("bridge", name, "down");
        }
        let has = |ip| addresses.iter().any(|has| has.index == link.index && has.ip == ip);
        if !subnets.iter().all(|subnet| has(subnet.gateway())) {
            return broken("bridge", name, "without its address");
        }
        for (setting, family) in [("ipv4/ip_forward", false), ("ipv6/conf/all/forwarding", true)] {
            let needed = subnets.iter().any(|subnet| subnet.is_ipv6() == family);
            if needed && !setting::is(setting, "1") {
                return broken(
                    "forwarding",
                    setting,
                    "off: pods reach nothing outside of the node",
                );
            }
        }
        let table = self.config.table.as_str();
        match self.firewall.state().map_err(kernel("look up nftables tables", table))? {
            State::Current => {}
            State::Other => return broken("nftables table", table, "not the one that was made"),
            State::Missing => return broken("nftables table", table, "missing"),
        }
        Ok(self.settle_forwarding())
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
fn make_bridge(config: &BridgeConfig, subnets: &[Subnet], ipv6: bool) -> Result<u32, NetworkError> {
    let name = config.name.as_str();
    let failed = |step| kernel(step, name);
    let mut socket = Socket::route().map_err(failed("make bridge"))?;
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => uplink_mtu(&mut socket).map_err(failed("find the uplink of bridge"))?,
    };
    let own = subnets.first().map_or(mac::NOBODY, |subnet| mac::of(subnet.gateway()));
    match socket.change(&[route::create_bridge(name, own, mtu)]) {
        Err(err) if !err.is(Errno::EXIST) => return Err(failed("make bridge")(err)),
        Ok(()) | Err(_) => {}
    }
    let link = route::find_link(&mut socket, name).map_err(failed("look up bridge"))?;
    if link.kind != "bridge" {
        return Err(NetworkError::NotABridge { name: name.to_owned() });
    }
    // A bridge of somebody else may be the node's own way out: we would change its address and take its IPv6.
    if !mac::is_ours(&link.mac) {
        return Err(NetworkError::NotOurs { name: name.to_owned() });
    }
    let with_ipv6 = subnets.iter().any(Subnet::is_ipv6);
    if ipv6 {
        setting::set(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
        setting::set(&format!("ipv6/conf/{name}/disable_ipv6"), if with_ipv6 { "0" } else { "1" })?;
    }
    let mut changes = vec![route::learn_from_no_link_local(name)];
    if link.mac != own && !subnets.is_empty() {
        changes.push(route::set_mac(name, own));
    }
    if link.mtu != mtu {
        changes.push(route::set_mtu(name, mtu));
    }
    if with_ipv6 {
        changes.push(route::no_link_local(name));
    }
    changes.push(route::bring_up(name));
    if with_ipv6 {
        changes.push(route::add_address(link.index, mac::link_local(own).into(), 64));
    }
    for subnet in subnets {
        changes.push(route::add_address(link.index, subnet.gateway(), subnet.prefix()));
    }
    socket.change(&changes).map_err(failed("set up bridge"))?;
    Ok(link.index)
}

/// The largest packet that the link with the default route takes, in bytes; without one, that of Ethernet.
fn uplink_mtu(socket: &mut Socket) -> Result<u32, Error> {
    const ETHERNET: u32 = 1500;
    let Some(index) = route::uplink(socket)? else { return Ok(ETHERNET) };
    let links = route::list_links(socket)?;
    Ok(links.iter().find(|link| link.index == index).map_or(ETHERNET, |link| link.mtu))
}

/// The link on the host that leads to `owner`; 15 bytes, as long as a link's name can be.
fn host_link_of(owner: &str) -> String {
    format!("{HOST_LINK_PREFIX}{}", owner.get(..13).unwrap_or(owner))
}

const HOST_LINK_PREFIX: &str = "bv";

/// The link that what `owner` sends goes through when it is limited.
fn shaper_of(owner: &str) -> String {
    format!("{SHAPER_PREFIX}{}", owner.get(..13).unwrap_or(owner))
}

const SHAPER_PREFIX: &str = "bs";

/// Names step and object of a netlink error.
fn kernel(step: &'static str, object: &str) -> impl FnOnce(Error) -> NetworkError {
    move |source| NetworkError::Kernel { step, object: object.to_owned(), source }
}
