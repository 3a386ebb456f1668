//! Who holds which addresses and which host ports, decided in one place under one lock. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::error::NetworkError;
use crate::lease::Leases;
use crate::network::{Attached, Checked, PortMapping};
use crate::subnet::Subnets;

/// The leases and host ports of all pods of one network.
#[derive(Debug)]
pub(crate) struct Ledger {
    pools: Vec<Leases>,
    pods: BTreeMap<String, Attached>,
}

impl Ledger {
    pub(crate) fn new(subnets: Option<&Subnets>) -> Self {
        let mut ledger = Self { pools: Vec::new(), pods: BTreeMap::new() };
        if let Some(subnets) = subnets {
            ledger.move_to(subnets);
        }
        ledger
    }

    /// Leases from other subnets from now on. Pods keep what they have.
    pub(crate) fn move_to(&mut self, subnets: &Subnets) {
        self.pools = subnets.iter().map(Leases::new).collect();
        let (pods, pools) = (&self.pods, &mut self.pools);
        for attached in pods.values() {
            for address in &attached.addresses {
                pools.iter_mut().any(|pool| pool.adopt(&attached.owner, *address));
            }
        }
    }

    /// Refuses a plan whose host ports another pod holds.
    pub(crate) fn check(&self, plan: &Checked) -> Result<(), NetworkError> {
        free_ports(&plan.owner, &plan.ports, self.ports())
    }

    /// Reserves an address of each subnet and the host ports of `plan`, all or nothing, and notes what `make` makes of them.
    pub(crate) fn claim(
        &mut self,
        plan: &Checked,
        make: impl FnOnce(Vec<IpAddr>) -> Attached,
    ) -> Result<Attached, NetworkError> {
        self.check(plan)?;
        if self.pods.contains_key(&plan.owner) {
            return Err(NetworkError::AlreadyAttached(plan.owner.clone()));
        }
        let mut addresses = Vec::new();
        for pool in &mut self.pools {
            let subnet = pool.subnet();
            match pool.lease(&plan.owner) {
                Some(address) => addresses.push(address),
                None => {
                    self.release(&plan.owner);
                    return Err(NetworkError::SubnetFull { subnet });
                }
            }
        }
        if addresses.is_empty() {
            return Err(NetworkError::NoSubnet);
        }
        let attached = make(addresses);
        self.pods.insert(plan.owner.clone(), attached.clone());
        Ok(attached)
    }

    /// Notes what a recorded pod has since before this daemon started.
    pub(crate) fn adopt(&mut self, attached: &Attached) {
        let owner = &attached.owner;
        for address in &attached.addresses {
            if !self.pools.iter_mut().any(|pool| pool.adopt(owner, *address)) {
                // The pod runs with it all the same: an address from outside a changed subnet is nobody else's.
                tracing::warn!(owner, %address, "recorded address is not from this subnet's free ones");
            }
        }
        self.pods.insert(owner.clone(), attached.clone());
    }

    /// Gives back all that `owner` holds.
    pub(crate) fn release(&mut self, owner: &str) {
        self.pools.iter_mut().for_each(|pool| pool.release(owner));
        self.pods.remove(owner);
    }

    /// Gives back what everybody outside `owners` holds.
    pub(crate) fn retain(&mut self, owners: &BTreeSet<String>) {
        let gone: Vec<String> =
            self.pods.keys().filter(|owner| !owners.contains(*owner)).cloned().collect();
        for owner in gone {
            self.release(&owner);
        }
    }

    /// Whether `owner` holds anything.
    pub(crate) fn knows(&self, owner: &str) -> bool {
        self.pods.contains_key(owner)
    }

    /// Every pod that holds something.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Attached> {
        self.pods.values()
    }

    fn ports(&self) -> impl Iterator<Item = (&str, &PortMapping)> {
        self.pods.values().flat_map(|pod| pod.ports.iter().map(|port| (pod.owner.as_str(), port)))
    }
}

/// Refuses `ports` of `owner` that overlap one in `held` of another pod.
pub(crate) fn free_ports<'a>(
    owner: &str,
    ports: &[PortMapping],
    held: impl Iterator<Item = (&'a str, &'a PortMapping)>,
) -> Result<(), NetworkError> {
    if ports.is_empty() {
        return Ok(());
    }
    for (holder, held) in held.filter(|(holder, _)| *holder != owner) {
        if let Some(port) = ports.iter().find(|port| port.overlaps(held)) {
            return Err(NetworkError::PortTaken {
                port: *port,
                owner: owner.to_owned(),
                held: *held,
                holder: holder.to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::wish;

    fn ledger(subnets: &str) -> Ledger {
        Ledger::new(Some(&subnets.parse().unwrap()))
    }

    fn claim(
        ledger: &mut Ledger,
        digit: char,
        host_ports: &[u16],
    ) -> Result<Attached, NetworkError> {
        let plan = Checked::new(&wish(digit, host_ports)).unwrap();
        ledger.claim(&plan, |addresses| Attached {
            owner: plan.owner.clone(),
            addresses,
            ports: plan.ports.clone(),
            ..Attached::default()
        })
    }

    #[test]
    fn a_host_port_has_one_holder_and_the_refusal_names_both() {
        let mut ledger = ledger("192.0.2.0/29");
        claim(&mut ledger, 'a', &[80, 81]).unwrap();
        let refused = claim(&mut ledger, 'b', &[82, 81]).unwrap_err().to_string();
        for part in ["81/tcp", &"a".repeat(64), &"b".repeat(64)] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
        assert!(!ledger.knows(&"b".repeat(64)), "a refused claim holds nothing");
        claim(&mut ledger, 'b', &[82]).unwrap();
        ledger.release(&"a".repeat(64));
        claim(&mut ledger, 'c', &[81]).unwrap();
    }

    #[test]
    fn a_full_subnet_refuses_without_holding_anything() {
        let mut ledger = ledger("fd00::/64,192.0.2.0/30");
        let pod = claim(&mut ledger, 'a', &[]).unwrap();
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["fd00::2", "192.0.2.2"]);
        let refused = claim(&mut ledger, 'b', &[80]).unwrap_err();
        assert_eq!(refused.to_string(), "every address in 192.0.2.0/30 is taken");
        let again = claim(&mut ledger, 'a', &[]).unwrap_err();
        assert!(matches!(again, NetworkError::AlreadyAttached(_)), "{again:?}");
        ledger.release(&"a".repeat(64));
        let addresses = claim(&mut ledger, 'c', &[80]).unwrap().addresses;
        assert_eq!(addresses[0].to_string(), "fd00::4", "the one of the refused pod is free again");
    }

    #[test]
    fn retain_keeps_what_is_owned() {
        let mut ledger = ledger("192.0.2.0/29");
        claim(&mut ledger, 'a', &[80]).unwrap();
        let kept = claim(&mut ledger, 'b', &[81]).unwrap();
        ledger.retain(&BTreeSet::from(["b".repeat(64)]));
        assert_eq!(ledger.pods().collect::<Vec<_>>(), [&kept]);
    }

    #[test]
    fn pods_keep_their_addresses_when_the_subnet_changes() {
        let mut ledger = ledger("192.0.2.0/30");
        let old = claim(&mut ledger, 'a', &[80]).unwrap();
        ledger.move_to(&"198.51.100.0/30,fd00::/64".parse().unwrap());
        let new = claim(&mut ledger, 'b', &[]).unwrap();
        assert_eq!(new.addresses[0].to_string(), "198.51.100.2");
        assert!(claim(&mut ledger, 'c', &[80]).is_err(), "the old pod's host port is taken");
        ledger.move_to(&"192.0.2.0/30".parse().unwrap());
        assert!(claim(&mut ledger, 'c', &[]).is_err(), "the old pod's address is taken");
        assert_eq!(ledger.pods().next(), Some(&old));
    }

    #[test]
    fn without_a_subnet_nobody_is_attached() {
        let refused = claim(&mut Ledger::new(None), 'a', &[]).unwrap_err();
        assert!(matches!(refused, NetworkError::NoSubnet), "{refused:?}");
    }
}
