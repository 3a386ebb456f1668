//! Connecting one pod to the bridge, and taking the connection down.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::carrier::await_carrier;
use super::delete::delete_link;
use super::{Bridge, host_link_of, kernel, mac_of};
use crate::error::NetworkError;
use crate::inside::inside;
use crate::ledger::Entry;
use crate::netlink::{Error, Socket};
use crate::network::{Attached, Checked};
use crate::route::{self, Pair};
use crate::setting;

/// The name pods know their interface by.
const INTERFACE: &str = "eth0";

impl Bridge {
    pub(super) fn attach_pod(
        &self,
        netns: BorrowedFd<'_>,
        plan: Checked,
    ) -> Result<Attached, NetworkError> {
        let address = self.ledger().claim(&plan)?;
        let [a, b, c, d, e, f] = mac_of(address);
        let attached = Attached {
            interface: INTERFACE.to_owned(),
            host_link: host_link_of(&plan.owner),
            mac: format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
            addresses: vec![IpAddr::V4(address)],
            gateway: Some(IpAddr::V4(self.config.subnet.gateway())),
            owner: plan.owner,
            ports: plan.ports,
        };
        match self.connect(netns, &attached, address) {
            Ok(()) => Ok(attached),
            Err(err) => {
                if let Err(left) = self.detach_pod(&attached) {
                    let owner = &attached.owner;
                    tracing::warn!(owner, error = %left, "half-made attachment left behind");
                }
                Err(err)
            }
        }
    }

    /// Closes the host ports and deletes the links before the address is given back, so that nobody gets it too early.
    pub(super) fn detach_pod(&self, attached: &Attached) -> Result<(), NetworkError> {
        let link = attached.host_link.as_str();
        let ports = self.ports_of(attached).and_then(|entries| self.firewall.close(&entries));
        let deleted = delete_link(link);
        // Both are tried, whatever becomes of the other.
        ports.map_err(kernel("close host ports of pod", &attached.owner))?;
        deleted.map_err(kernel("delete link", link))?;
        self.ledger().release(&attached.owner);
        Ok(())
    }

    fn connect(
        &self,
        netns: BorrowedFd<'_>,
        attached: &Attached,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let mut pod = self.prepare_namespace(netns)?;
        let pair = Pair {
            host_link: &attached.host_link,
            bridge: self.index,
            netns,
            interface: &attached.interface,
            mac: mac_of(address),
            mtu: self.config.mtu,
        };
        let mut host = Socket::route().map_err(kernel("make link", &attached.host_link))?;
        make_pair(&mut host, &pair, self.ipv6).map_err(kernel("make link", &attached.host_link))?;
        if self.ipv6 {
            // A port hands all packets to the bridge, so this only tells those who look that nobody listens here.
            setting::set(&format!("ipv6/conf/{}/accept_ra", attached.host_link), "0")?;
        }
        self.configure_pod(&mut pod, &attached.interface, address)
            .map_err(kernel("configure the pod's", &attached.interface))?;
        for link in [&attached.host_link, &self.config.name] {
            await_carrier(&mut host, link).map_err(kernel("bring up link", link))?;
        }
        let entries: Vec<Entry> = entries_of(attached, address).collect();
        self.firewall.open(&entries).map_err(kernel("open host ports of pod", &attached.owner))
    }

    /// Has links appear without IPv6 in the pod, and opens a netlink socket there. What the socket does, it does in the
    /// namespace it was opened in, whichever thread uses it.
    fn prepare_namespace(&self, netns: BorrowedFd<'_>) -> Result<Socket, NetworkError> {
        let ipv6 = self.ipv6;
        inside(netns, || {
            if ipv6 {
                // The default for new links, because setting it for a link would wait for the kernel's network lock.
                setting::set("ipv6/conf/default/disable_ipv6", "1")?;
                setting::set("ipv6/conf/default/accept_ra", "0")?;
            }
            Socket::route().map_err(kernel("configure the pod's", INTERFACE))
        })
        .map_err(|source| NetworkError::Enter { source })?
    }

    fn configure_pod(
        &self,
        pod: &mut Socket,
        interface: &str,
        address: Ipv4Addr,
    ) -> Result<(), Error> {
        let subnet = self.config.subnet;
        let index = route::find_link(pod, interface)?.index;
        pod.change(&[
            route::bring_up("lo"),
            route::add_address(index, address, subnet.prefix(), subnet.broadcast()),
            route::bring_up(interface),
            route::add_default_route(index, subnet.gateway()),
        ])
    }

    /// The open host ports that are surely this pod's: detaching may be repeated when another pod has them already.
    fn ports_of(&self, attached: &Attached) -> Result<Vec<Entry>, Error> {
        if attached.ports.is_empty() {
            return Ok(Vec::new());
        }
        if self.ledger().knows(&attached.owner) {
            // Closing goes by host port alone, so the address does not matter.
            return Ok(entries_of(attached, Ipv4Addr::UNSPECIFIED).collect());
        }
        let mut entries = self.firewall.list()?;
        entries.retain(|entry| entry.owner == attached.owner);
        Ok(entries)
    }
}

fn entries_of(attached: &Attached, address: Ipv4Addr) -> impl Iterator<Item = Entry> {
    attached.ports.iter().map(move |port| Entry {
        owner: attached.owner.clone(),
        port: *port,
        address,
    })
}

/// Makes the pair and puts its host end on the bridge. One left over by a crash is deleted first.
fn make_pair(host: &mut Socket, pair: &Pair<'_>, ipv6: bool) -> Result<(), Error> {
    let requests = [
        route::create_pair(pair),
        route::prepare_port(pair.host_link, ipv6),
        route::bring_up(pair.host_link),
    ];
    match host.change(&requests) {
        // It may also be the pod's interface that exists: then there is nothing to delete, and it is refused again.
        Err(err) if err.is(Errno::EXIST) => {
            delete_link(pair.host_link)?;
            host.change(&requests)
        }
        result => result,
    }
}
