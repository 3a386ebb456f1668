//! Connecting one pod to the bridge, and taking the connection down.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::carrier::{await_addresses, await_carrier};
use super::delete::delete_link;
use super::{Inner, host_link_of, kernel, shaper_of};
use crate::conntrack;
use crate::error::NetworkError;
use crate::inside::inside;
use crate::netlink::{Error, Socket};
use crate::network::{Attached, Checked, Kind, NetworkWish};
use crate::route::{self, Pair};
use crate::subnet::Subnet;
use crate::{mac, setting, shaping};

/// The name pods know their interface by.
const INTERFACE: &str = "eth0";

impl Inner {
    pub(super) fn check(&self, wish: &NetworkWish) -> Result<Checked, NetworkError> {
        let plan = Checked::new(wish)?;
        let subnets = self.subnets();
        if subnets.is_empty() {
            return Err(NetworkError::NoSubnet);
        }
        for port in &plan.ports {
            if !subnets.iter().any(|subnet| port.is_for(subnet.is_ipv6())) {
                return Err(NetworkError::HostAddress(*port));
            }
        }
        for bits in [plan.bandwidth.ingress, plan.bandwidth.egress].into_iter().flatten() {
            if !shaping::LIMITS.contains(&bits) {
                return Err(NetworkError::Bandwidth(bits));
            }
        }
        self.ledger().check(&plan)?;
        Ok(plan)
    }

    pub(super) fn attach(
        &self,
        netns: BorrowedFd<'_>,
        plan: Checked,
    ) -> Result<Attached, NetworkError> {
        let gateway = self.subnets().first().map(Subnet::gateway);
        let attached = self.ledger().claim(&plan, |addresses| Attached {
            kind: Kind::Builtin,
            interface: INTERFACE.to_owned(),
            host_link: host_link_of(&plan.owner),
            mac: addresses.first().map(|first| mac::text(mac::of(*first))).unwrap_or_default(),
            addresses,
            gateway,
            owner: plan.owner.clone(),
            ports: plan.ports.clone(),
            bandwidth: plan.bandwidth,
        })?;
        match self.connect(netns, &attached) {
            Ok(()) => Ok(attached),
            Err(err) => {
                if let Err(left) = self.detach(&attached) {
                    let owner = &attached.owner;
                    tracing::warn!(owner, error = %left, "half-made attachment left behind");
                }
                Err(err)
            }
        }
    }

    /// Deletes the links and closes the host ports before the address is given back, so that nobody gets it too early.
    pub(super) fn detach(&self, attached: &Attached) -> Result<(), NetworkError> {
        let link = attached.host_link.as_str();
        let mut deleted = delete_link(link).map_err(kernel("delete link", link));
        if attached.bandwidth.egress.is_some() {
            let shaper = shaper_of(&attached.owner);
            deleted = deleted.and(delete_link(&shaper).map_err(kernel("delete link", &shaper)));
        }
        // Both are tried, whatever becomes of the other. The ledger is held: see `ensure_rules`.
        let mut ledger = self.ledger();
        let known = ledger.knows(&attached.owner);
        let failed = kernel("close host ports of pod", &attached.owner);
        self.firewall.dismiss(attached, known).map_err(failed)?;
        deleted?;
        ledger.release(&attached.owner);
        self.settle_loopback(&ledger)?;
        drop(ledger);
        conntrack::forget(attached).map_err(kernel("forget connections of pod", &attached.owner))
    }

    fn connect(&self, netns: BorrowedFd<'_>, attached: &Attached) -> Result<(), NetworkError> {
        let link = attached.host_link.as_str();
        let ipv6 = attached.addresses.iter().any(IpAddr::is_ipv6);
        let mut pod = self.prepare_namespace(netns, ipv6)?;
        let mut host = Socket::route().map_err(kernel("make link", link))?;
        self.make_pair(&mut host, netns, attached).map_err(kernel("make link", link))?;
        // What comes in a frame to a link-local group address is the one thing that a port does not hand to the bridge: no
        // packet for this node is to come that way, because nothing there looks at who sent it.
        setting::set(&format!("ipv4/conf/{link}/drop_unicast_in_l2_multicast"), "1")?;
        if self.ipv6 {
            setting::set(&format!("ipv6/conf/{link}/drop_unicast_in_l2_multicast"), "1")?;
            // Everything else goes to the bridge, so this only tells those who look that nobody listens here.
            setting::set(&format!("ipv6/conf/{link}/accept_ra"), "0")?;
        }
        self.configure_pod(&mut pod, netns, attached)
            .map_err(kernel("configure the pod's", &attached.interface))?;
        shape(&mut host, attached).map_err(kernel("limit the traffic of link", link))?;
        for link in [link, &self.config.name] {
            await_carrier(&mut host, link, Socket::link_events)
                .map_err(kernel("bring up link", link))?;
        }
        let failed = || kernel("open host ports of pod", &attached.owner);
        self.firewall.admit(attached).map_err(failed())?;
        if !attached.ports.is_empty() {
            self.settle_loopback(&self.ledger())?;
        }
        conntrack::forget(attached).map_err(kernel("forget connections of pod", &attached.owner))
    }

    /// Has links appear without IPv6 in a pod that is to have none, and opens netlink sockets there. What a socket does, it
    /// does in the namespace it was opened in, whichever thread uses it.
    fn prepare_namespace(&self, netns: BorrowedFd<'_>, ipv6: bool) -> Result<Pod, NetworkError> {
        inside(netns, || {
            if self.ipv6 {
                // The default for new links, because setting it for a link would wait for the kernel's network lock.
                setting::set("ipv6/conf/default/disable_ipv6", if ipv6 { "0" } else { "1" })?;
                setting::set("ipv6/conf/default/accept_ra", "0")?;
            }
            let open = || -> Result<Pod, Error> {
                let addresses = if ipv6 { Some(Socket::address_events()?) } else { None };
                Ok(Pod { socket: Socket::route()?, addresses })
            };
            open().map_err(kernel("configure the pod's", INTERFACE))
        })
        .map_err(|source| NetworkError::Enter { source })?
    }

    /// Makes the pair and puts its host end on the bridge. One left over by a crash is deleted first.
    fn make_pair(
        &self,
        host: &mut Socket,
        netns: BorrowedFd<'_>,
        attached: &Attached,
    ) -> Result<(), Error> {
        let link = attached.host_link.as_str();
        let bridge = route::find_link(host, &self.config.name)?;
        let pair = Pair {
            host_link: link,
            bridge: bridge.index,
            netns,
            interface: &attached.interface,
            mac: mac::parse(&attached.mac).unwrap_or(mac::NOBODY),
            mtu: bridge.mtu,
        };
        let requests = [
            route::create_pair(&pair),
            route::prepare_port(link, &self.note(&attached.owner), self.ipv6),
            route::bring_up(link),
        ];
        match host.change(&requests) {
            // It may also be the pod's interface that exists: then there is nothing to delete, and it is refused again.
            Err(err) if err.is(Errno::EXIST) => {
                delete_link(link)?;
                host.change(&requests)
            }
            result => result,
        }
    }

    fn configure_pod(
        &self,
        Pod { socket: pod, addresses: events }: &mut Pod,
        netns: BorrowedFd<'_>,
        attached: &Attached,
    ) -> Result<(), Error> {
        let interface = attached.interface.as_str();
        let index = route::find_link(pod, interface)?.index;
        let subnets = self.subnets();
        let leases: Vec<(IpAddr, &Subnet)> = attached
            .addresses
            .iter()
            .filter_map(|ip| Some((*ip, subnets.iter().find(|subnet| subnet.contains(*ip))?)))
            .collect();
        let mut requests = vec![route::bring_up("lo")];
        let own = mac::parse(&attached.mac).unwrap_or(mac::NOBODY);
        let ipv6 = attached.addresses.iter().any(IpAddr::is_ipv6);
        if ipv6 {
            requests.push(route::no_link_local(interface));
        }
        requests.push(route::bring_up(interface));
        if ipv6 {
            pod.change(&std::mem::take(&mut requests))?;
            await_carrier(pod, interface, || {
                inside(netns, Socket::link_events)
                    .unwrap_or_else(|source| Err(Error::Socket { step: "enter the pod", source }))
            })?;
            requests.push(route::add_address(index, mac::link_local(own).into(), 64));
        }
        let addresses =
            leases.iter().map(|(ip, subnet)| route::add_address(index, *ip, subnet.prefix()));
        requests.extend(addresses);
        let routes =
            leases.iter().map(|(_, subnet)| route::add_default_route(index, subnet.gateway()));
        requests.extend(routes);
        pod.change(&requests)?;
        events.as_mut().map_or(Ok(()), |events| await_addresses(events, &attached.addresses))
    }

    /// What is noted on a link of a pod.
    pub(super) fn note(&self, owner: &str) -> String {
        format!("{} {owner}", self.config.name)
    }
}

/// Conversations about a pod's namespace.
struct Pod {
    socket: Socket,
    /// Hears of addresses; there for pods with IPv6.
    addresses: Option<Socket>,
}

/// Holds the pod to its limits.
fn shape(host: &mut Socket, attached: &Attached) -> Result<(), Error> {
    let bandwidth = attached.bandwidth;
    if bandwidth.ingress.is_none() && bandwidth.egress.is_none() {
        return Ok(());
    }
    let link = route::find_link(host, &attached.host_link)?;
    if let Some(bits) = bandwidth.ingress {
        host.change(&[shaping::limit(link.index, bits)])?;
    }
    let Some(bits) = bandwidth.egress else { return Ok(()) };
    let shaper = shaper_of(&attached.owner);
    let create = shaping::create_shaper(&shaper, link.mtu);
    match host.change(std::slice::from_ref(&create)) {
        Err(err) if err.is(Errno::EXIST) => {
            delete_link(&shaper)?;
            host.change(&[create])?;
        }
        result => result?,
    }
    let through = route::find_link(host, &shaper)?.index;
    host.change(&[route::note(&shaper, &link.alias), route::bring_up(&shaper)])?;
    host.change(&[shaping::limit(through, bits)])?;
    host.change(&shaping::redirect(link.index, through))
}
