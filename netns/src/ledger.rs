//! Who holds which address and which host ports, decided in one place under one lock. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::error::NetworkError;
use crate::lease::{Leases, Refused};
use crate::network::{Attached, Checked, PortMapping};
use crate::subnet::Subnet;

/// The leases and host ports of all pods of one network.
#[derive(Debug)]
pub(crate) struct Ledger {
    subnet: Subnet,
    leases: Leases,
    ports: BTreeMap<String, Vec<PortMapping>>,
}

/// A host port and the pod it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) owner: String,
    pub(crate) port: PortMapping,
    pub(crate) address: Ipv4Addr,
}

impl Entry {
    /// Whether both lead the same host port to the same place, however "all addresses" is written.
    pub(crate) fn opens_the_same_as(&self, other: &Self) -> bool {
        self.owner == other.owner
            && self.address == other.address
            && self.port.overlaps(&other.port)
            && self.port.only_on() == other.port.only_on()
            && self.port.container_port == other.port.container_port
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = if self.owner.is_empty() { "nobody" } else { &self.owner };
        write!(f, "host port {} of {owner}", self.port)
    }
}

impl Ledger {
    pub(crate) fn new(subnet: Subnet) -> Self {
        Self { subnet, leases: Leases::new(subnet), ports: BTreeMap::new() }
    }

    /// Refuses a plan whose host ports another pod holds.
    pub(crate) fn check(&self, plan: &Checked) -> Result<(), NetworkError> {
        for port in &plan.ports {
            let holder = self.others(&plan.owner).find(|(_, held)| held.overlaps(port));
            if let Some((holder, held)) = holder {
                return Err(NetworkError::PortTaken {
                    port: *port,
                    owner: plan.owner.clone(),
                    held: *held,
                    holder: holder.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Reserves an address and the host ports of `plan`, all or nothing.
    pub(crate) fn claim(&mut self, plan: &Checked) -> Result<Ipv4Addr, NetworkError> {
        self.check(plan)?;
        let address = self.leases.lease(&plan.owner).map_err(|refused| match refused {
            Refused::Full => NetworkError::SubnetFull { subnet: self.subnet },
            Refused::HasOne | Refused::NotFree => NetworkError::AlreadyAttached(plan.owner.clone()),
        })?;
        self.ports.insert(plan.owner.clone(), plan.ports.clone());
        Ok(address)
    }

    /// Notes what a recorded pod has since before this daemon started.
    pub(crate) fn adopt(&mut self, attached: &Attached) {
        let owner = &attached.owner;
        for address in &attached.addresses {
            let noted = match address {
                IpAddr::V4(address) => self.leases.adopt(owner, *address),
                IpAddr::V6(_) => Err(Refused::NotFree),
            };
            if let Err(reason) = noted {
                // The pod runs with it all the same: an address from outside a changed subnet is nobody else's.
                tracing::warn!(owner, %address, ?reason, "recorded address is not from this subnet's free ones");
            }
        }
        self.ports.insert(owner.clone(), attached.ports.clone());
    }

    /// Gives back all that `owner` holds.
    pub(crate) fn release(&mut self, owner: &str) {
        self.leases.release(owner);
        self.ports.remove(owner);
    }

    /// Gives back what everybody outside `owners` holds.
    pub(crate) fn retain(&mut self, owners: &BTreeSet<String>) {
        let gone: Vec<String> = self
            .leases
            .owners()
            .chain(self.ports.keys())
            .filter(|o| !owners.contains(*o))
            .cloned()
            .collect();
        for owner in gone {
            self.release(&owner);
        }
    }

    /// Whether `owner` holds anything.
    pub(crate) fn knows(&self, owner: &str) -> bool {
        self.leases.of(owner).is_some() || self.ports.contains_key(owner)
    }

    /// Every host port with the address it leads to.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.ports.iter().flat_map(|(owner, ports)| {
            let address = self.leases.of(owner);
            ports.iter().filter_map(move |port| {
                Some(Entry { owner: owner.clone(), port: *port, address: address? })
            })
        })
    }

    fn others(&self, owner: &str) -> impl Iterator<Item = (&str, &PortMapping)> {
        self.ports
            .iter()
            .filter(move |(holder, _)| *holder != owner)
            .flat_map(|(holder, ports)| ports.iter().map(move |port| (holder.as_str(), port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{NetworkWish, Protocol};

    fn plan(digit: &str, host_ports: &[u16]) -> Checked {
        let ports = host_ports
            .iter()
            .map(|&host_port| PortMapping {
                protocol: Protocol::Tcp,
                host_ip: None,
                host_port,
                container_port: 80,
            })
            .collect();
        Checked::new(&NetworkWish { owner: digit.repeat(64), ports }).unwrap()
    }

    #[test]
    fn a_host_port_has_one_holder_and_the_refusal_names_both() {
        let mut ledger = Ledger::new("192.0.2.0/29".parse().unwrap());
        ledger.claim(&plan("a", &[80, 81])).unwrap();
        let refused = ledger.claim(&plan("b", &[82, 81])).unwrap_err().to_string();
        for part in ["81/tcp", &"a".repeat(64), &"b".repeat(64)] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
        assert!(!ledger.knows(&"b".repeat(64)), "a refused claim holds nothing");
        ledger.claim(&plan("b", &[82])).unwrap();
        ledger.release(&"a".repeat(64));
        ledger.claim(&plan("c", &[81])).unwrap();
    }

    #[test]
    fn a_full_subnet_refuses_without_holding_ports() {
        let mut ledger = Ledger::new("192.0.2.0/30".parse().unwrap());
        ledger.claim(&plan("a", &[])).unwrap();
        let refused = ledger.claim(&plan("b", &[80])).unwrap_err();
        assert!(matches!(refused, NetworkError::SubnetFull { .. }), "{refused:?}");
        ledger.check(&plan("c", &[80])).unwrap();
        let again = ledger.claim(&plan("a", &[])).unwrap_err();
        assert!(matches!(again, NetworkError::AlreadyAttached(_)), "{again:?}");
    }

    #[test]
    fn retain_keeps_what_is_owned() {
        let mut ledger = Ledger::new("192.0.2.0/29".parse().unwrap());
        ledger.claim(&plan("a", &[80])).unwrap();
        let kept = ledger.claim(&plan("b", &[81])).unwrap();
        ledger.retain(&BTreeSet::from(["b".repeat(64)]));
        let entries: Vec<_> = ledger.entries().collect();
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].owner.as_str(), entries[0].address), (&*"b".repeat(64), kept));
    }
}
