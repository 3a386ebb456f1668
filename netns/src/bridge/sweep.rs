//! Removing what no pod owns: what a killed daemon left between making something and recording it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::delete::delete_link;
use super::{HOST_LINK_PREFIX, Inner, SHAPER_PREFIX, host_link_of, kernel, shaper_of};
use crate::error::NetworkError;
use crate::netlink::{Error, Socket};
use crate::route::{self, Link};

impl Inner {
    pub(super) fn sweep(&self, owners: &BTreeSet<String>) -> Result<Vec<String>, NetworkError> {
        let mut removed = Vec::new();
        let links = self.sweep_links(owners, &mut removed);
        let ports = self.firewall.sweep(|owner| owners.contains(owner));
        // Both are tried, whatever becomes of the other.
        links.map_err(kernel("sweep links of bridge", &self.config.name))?;
        removed.extend(ports.map_err(kernel("sweep nftables table", &self.config.table))?);
        self.ledger().retain(owners);
        self.forget_networks();
        // What was taken away while no daemon listened.
        self.repair()?;
        self.settle_loopback(&self.ledger())?;
        Ok(removed)
    }

    fn sweep_links(
        &self,
        owners: &BTreeSet<String>,
        removed: &mut Vec<String>,
    ) -> Result<(), Error> {
        let owned: BTreeSet<String> =
            owners.iter().flat_map(|owner| [host_link_of(owner), shaper_of(owner)]).collect();
        let mut result = Ok(());
        for link in route::list_links(&mut Socket::route()?)? {
            if !self.is_ours(&link) || owned.contains(&link.name) {
                continue;
            }
            match delete_link(&link.name) {
                Ok(()) => removed.push(format!("link {}", link.name)),
                Err(err) => result = result.and(Err(err)),
            }
        }
        result
    }

    /// Forgets networks that neither new pods get addresses of nor old ones have.
    fn forget_networks(&self) {
        let current = self.subnets();
        let addresses: Vec<IpAddr> =
            self.ledger().pods().flat_map(|pod| pod.addresses.clone()).collect();
        let outside = |ip: &IpAddr| !current.iter().any(|subnet| subnet.contains(*ip));
        self.place().networks.retain(|network| {
            let used = addresses.iter().any(|ip| outside(ip) && network.contains(*ip));
            used || current.contains(network)
        });
    }

    /// Whether a link is a pod's of this bridge: it is on it, or, when the bridge was deleted, the note on it says so.
    fn is_ours(&self, link: &Link) -> bool {
        let noted =
            link.alias.strip_prefix(&self.config.name).is_some_and(|rest| rest.starts_with(' '));
        let named =
            [HOST_LINK_PREFIX, SHAPER_PREFIX].iter().any(|prefix| link.name.starts_with(prefix));
        named && (noted || link.master == Some(self.index()))
    }
}
