//! A pod network in memory, for tests of crates that use one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::NetworkError;
use crate::ledger::Ledger;
use crate::network::{Attached, Checked, Kind, NetworkWish, PodNetwork};
use crate::subnet::Subnet;

/// A [`PodNetwork`] that keeps the books and leaves the kernel alone. The namespaces it is given are not looked at.
#[derive(Debug)]
pub struct Fake {
    subnet: Subnet,
    ledger: Mutex<Ledger>,
    kernel: Arc<Mutex<Kernel>>,
}

/// What the kernel would have, by owner; it survives the daemon.
type Kernel = BTreeMap<String, Attached>;

impl Fake {
    /// A network nobody is attached to.
    pub fn new(subnet: Subnet) -> Self {
        Self { subnet, ledger: ledger(subnet), kernel: Arc::default() }
    }

    /// The same network as a restarted daemon finds it: the links are there, and nothing is known of them.
    pub fn reopen(&self) -> Self {
        let (subnet, kernel) = (self.subnet, Arc::clone(&self.kernel));
        Self { subnet, ledger: ledger(subnet), kernel }
    }

    /// All links and host ports there are, for censuses of leaks.
    pub fn census(&self) -> Vec<String> {
        lock(&self.kernel).values().flat_map(names).collect()
    }
}

fn ledger(subnet: Subnet) -> Mutex<Ledger> {
    Mutex::new(Ledger::new(Some(&subnet.into())))
}

fn names(pod: &Attached) -> Vec<String> {
    let ports = pod.ports.iter().map(|port| format!("host port {port} of {}", pod.owner));
    std::iter::once(format!("link {}", pod.host_link)).chain(ports).collect()
}

impl PodNetwork for Fake {
    fn check(&self, wish: &NetworkWish) -> Result<Checked, NetworkError> {
        let plan = Checked::new(wish)?;
        lock(&self.ledger).check(&plan)?;
        Ok(plan)
    }

    fn attach(&self, _netns: BorrowedFd<'_>, plan: Checked) -> Result<Attached, NetworkError> {
        let attached = lock(&self.ledger).claim(&plan, |addresses| Attached {
            kind: Kind::Builtin,
            interface: "eth0".to_owned(),
            host_link: format!("fake-{}", &plan.owner[..10]),
            mac: "02:00:00:00:00:01".to_owned(),
            addresses,
            gateway: Some(self.subnet.gateway()),
            owner: plan.owner.clone(),
            ports: plan.ports.clone(),
            bandwidth: plan.bandwidth,
        })?;
        lock(&self.kernel).insert(attached.owner.clone(), attached.clone());
        Ok(attached)
    }

    fn detach(&self, attached: &Attached) -> Result<(), NetworkError> {
        lock(&self.kernel).remove(&attached.owner);
        lock(&self.ledger).release(&attached.owner);
        Ok(())
    }

    fn adopt(&self, attached: &Attached) {
        lock(&self.ledger).adopt(attached);
    }

    fn sweep(&self, owners: &BTreeSet<String>) -> Result<Vec<String>, NetworkError> {
        let mut removed = Vec::new();
        lock(&self.kernel).retain(|owner, pod| {
            let owned = owners.contains(owner);
            if !owned {
                removed.extend(names(pod));
            }
            owned
        });
        lock(&self.ledger).retain(owners);
        Ok(removed)
    }

    fn status(&self) -> Result<Vec<String>, NetworkError> {
        Ok(Vec::new())
    }

    fn verify(&self, attached: &Attached) -> Result<(), NetworkError> {
        let there = lock(&self.kernel).contains_key(&attached.owner);
        let name = attached.host_link.clone();
        let gone = NetworkError::Broken { object: "link", name, state: "missing" };
        if there { Ok(()) } else { Err(gone) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::IpAddr;
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
        assert_eq!(attached.addresses, [IpAddr::from([192, 0, 2, 2])]);
        let port = format!("host port 8080/tcp of {}", wish.owner);
        assert_eq!(fake.census(), [format!("link {}", attached.host_link), port]);
    }
}
