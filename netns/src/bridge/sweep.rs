//! Removing what no pod owns: what a killed daemon left between making something and recording it.

use std::collections::BTreeSet;

use super::delete::delete_link;
use super::{Bridge, HOST_LINK_PREFIX, host_link_of, kernel};
use crate::error::NetworkError;
use crate::ledger::Entry;
use crate::netlink::{Error, Socket};
use crate::route;

impl Bridge {
    pub(super) fn sweep_unowned(
        &self,
        owners: &BTreeSet<String>,
    ) -> Result<Vec<String>, NetworkError> {
        let mut removed = Vec::new();
        let links = self.sweep_links(owners, &mut removed);
        let ports = self.sweep_ports(owners, &mut removed);
        // Both are tried, whatever becomes of the other.
        links.map_err(kernel("sweep links of bridge", &self.config.name))?;
        ports.map_err(kernel("sweep host ports in nftables table", &self.config.table))?;
        self.ledger().retain(owners);
        Ok(removed)
    }

    fn sweep_links(
        &self,
        owners: &BTreeSet<String>,
        removed: &mut Vec<String>,
    ) -> Result<(), Error> {
        let owned: BTreeSet<String> = owners.iter().map(|owner| host_link_of(owner)).collect();
        let mut result = Ok(());
        for link in route::list_links(&mut Socket::route()?)? {
            let ours = link.master == Some(self.index) && link.name.starts_with(HOST_LINK_PREFIX);
            if !ours || owned.contains(&link.name) {
                continue;
            }
            match delete_link(&link.name) {
                Ok(()) => removed.push(format!("link {}", link.name)),
                Err(err) => result = result.and(Err(err)),
            }
        }
        result
    }

    fn sweep_ports(
        &self,
        owners: &BTreeSet<String>,
        removed: &mut Vec<String>,
    ) -> Result<(), Error> {
        self.firewall.ensure()?;
        let (owned, unowned): (Vec<Entry>, Vec<Entry>) =
            self.firewall.list()?.into_iter().partition(|entry| owners.contains(&entry.owner));
        self.firewall.close(&unowned)?;
        removed.extend(unowned.iter().map(Entry::to_string));
        let missing: Vec<Entry> = self
            .ledger()
            .entries()
            .filter(|entry| owners.contains(&entry.owner))
            .filter(|entry| !owned.iter().any(|there| there.opens_the_same_as(entry)))
            .collect();
        self.firewall.open(&missing)
    }
}
