//! A pod network in memory, for tests of crates that use one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::NetworkError;
use crate::ledger::{Entry, Ledger};
use crate::network::{Attached, Checked, NetworkWish, PodNetwork};
use crate::subnet::Subnet;

/// A [`PodNetwork`] that keeps the books and leaves the kernel alone. The namespaces it is given are not looked at.
#[derive(Debug)]
pub struct Fake {
    subnet: Subnet,
    ledger: Mutex<Ledger>,
    kernel: Arc<Mutex<Kernel>>,
}

/// What the kernel would have; it survives the daemon.
#[derive(Debug, Default)]
struct Kernel {
    /// Host links and their owners.
    links: BTreeMap<String, String>,
    ports: Vec<Entry>,
}

impl Fake {
    /// A network nobody is attached to.
    pub fn new(subnet: Subnet) -> Self {
        Self { subnet, ledger: Mutex::new(Ledger::new(subnet)), kernel: Arc::default() }
    }

    /// The same network as a restarted daemon finds it: the links are there, and nothing is known of them.
    pub fn reopen(&self) -> Self {
        let ledger = Mutex::new(Ledger::new(self.subnet));
        Self { subnet: self.subnet, ledger, kernel: Arc::clone(&self.kernel) }
    }

    /// All links and host ports there are, for censuses of leaks.
    pub fn census(&self) -> Vec<String> {
        let kernel = lock(&self.kernel);
        let links = kernel.links.keys().map(|link| format!("link {link}"));
        links.chain(kernel.ports.iter().map(Entry::to_string)).collect()
    }
}

impl PodNetwork for Fake {
    fn check(&self, wish: &NetworkWish) -> Result<Checked, NetworkError> {
        let plan = Checked::new(wish)?;
        lock(&self.ledger).check(&plan)?;
        Ok(plan)
    }

    fn attach(&self, _netns: BorrowedFd<'_>, plan: Checked) -> Result<Attached, NetworkError> {
        let address = lock(&self.ledger).claim(&plan)?;
        let host_link = format!("fake-{}", &plan.owner[..10]);
        let mut kernel = lock(&self.kernel);
        kernel.links.insert(host_link.clone(), plan.owner.clone());
        let entry = |port| Entry { owner: plan.owner.clone(), port, address };
        kernel.ports.extend(plan.ports.iter().copied().map(entry));
        Ok(Attached {
            interface: "eth0".to_owned(),
            host_link,
            mac: "02:00:00:00:00:01".to_owned(),
            addresses: vec![IpAddr::V4(address)],
            gateway: Some(IpAddr::V4(self.subnet.gateway())),
            owner: plan.owner,
            ports: plan.ports,
        })
    }

    fn detach(&self, attached: &Attached) -> Result<(), NetworkError> {
        let mut kernel = lock(&self.kernel);
        kernel.links.remove(&attached.host_link);
        kernel.ports.retain(|entry| entry.owner != attached.owner);
        lock(&self.ledger).release(&attached.owner);
        Ok(())
    }

    fn adopt(&self, attached: &Attached) {
        lock(&self.ledger).adopt(attached);
    }

    fn sweep(&self, owners: &BTreeSet<String>) -> Result<Vec<String>, NetworkError> {
        let mut kernel = lock(&self.kernel);
        let mut removed = Vec::new();
        kernel.links.retain(|link, owner| {
            let owned = owners.contains(owner);
            if !owned {
                removed.push(format!("link {link}"));
            }
            owned
        });
        let (owned, unowned): (Vec<_>, Vec<_>) =
            kernel.ports.drain(..).partition(|entry| owners.contains(&entry.owner));
        kernel.ports = owned;
        removed.extend(unowned.iter().map(Entry::to_string));
        lock(&self.ledger).retain(owners);
        Ok(removed)
    }

    fn status(&self) -> Result<(), NetworkError> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::Ipv4Addr;
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;
    use crate::contract::{self, World};

    impl World for Fake {
        fn open(&self) -> Box<dyn PodNetwork> {
            Box::new(self.reopen())
        }

        fn namespace(&self) -> OwnedFd {
            File::open("/dev/null").unwrap().into()
        }

        fn census(&self) -> Vec<String> {
            Fake::census(self)
        }
    }

    #[test]
    fn keeps_the_contract() {
        contract::run(Fake::new);
    }

    #[test]
    fn host_ports_lead_to_the_pod() {
        let fake = Fake::new("192.0.2.0/29".parse().unwrap());
        let wish = contract::wish('a', &[8080]);
        let netns = World::namespace(&fake);
        let attached = fake.attach(netns.as_fd(), fake.check(&wish).unwrap()).unwrap();
        assert_eq!(attached.addresses, [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))]);
        let port = format!("host port 8080/tcp of {}", wish.owner);
        assert_eq!(fake.census(), [format!("link {}", attached.host_link), port]);
    }
}
