//! Which pod has which address. Pure: the kernel and the records hold the truth, this is rebuilt from them.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use crate::subnet::Subnet;

/// The addresses of a subnet and who has them.
///
/// Addresses are handed out in order; when all have been, the one given back longest ago comes next, so that what peers
/// still remember of a pod (connections, names) seldom meets another pod.
#[derive(Debug)]
pub(crate) struct Leases {
    subnet: Subnet,
    /// The next address that has not been handed out yet, and how many there are from it on, around the subnet's end.
    next: Ipv4Addr,
    untried: u32,
    released: VecDeque<Ipv4Addr>,
    holders: BTreeMap<Ipv4Addr, String>,
    addresses: BTreeMap<String, Ipv4Addr>,
}

/// Why a lease could not be noted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No address is left.
    Full,
    /// The pod has one.
    HasOne,
    /// The address is outside the subnet, or somebody else's.
    NotFree,
}

impl Leases {
    pub(crate) fn new(subnet: Subnet) -> Self {
        let mut leases = Self {
            subnet,
            next: Ipv4Addr::from_bits(subnet.gateway().to_bits() + 1),
            untried: 0,
            released: VecDeque::new(),
            holders: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        leases.untried = leases.hosts();
        leases
    }

    /// How many addresses there are for pods.
    fn hosts(&self) -> u32 {
        self.subnet.broadcast().to_bits() - self.subnet.gateway().to_bits() - 1
    }

    /// Leases an address to `owner`.
    pub(crate) fn lease(&mut self, owner: &str) -> Result<Ipv4Addr, Refused> {
        if self.addresses.contains_key(owner) {
            return Err(Refused::HasOne);
        }
        let address = self.find_free().ok_or(Refused::Full)?;
        self.note(owner, address);
        Ok(address)
    }

    /// Notes that `owner` has `address` since before this daemon started. Leases go on behind it.
    pub(crate) fn adopt(&mut self, owner: &str, address: Ipv4Addr) -> Result<(), Refused> {
        match self.addresses.get(owner) {
            Some(known) if *known == address => return Ok(()),
            Some(_) => return Err(Refused::HasOne),
            None => {}
        }
        if !self.subnet.can_lease(address) || self.holders.contains_key(&address) {
            return Err(Refused::NotFree);
        }
        self.note(owner, address);
        // What lies before it is not lost: none has been handed out yet, so `untried` counts once around.
        if self.untried == self.hosts() && self.next <= address {
            self.next = self.after(address);
        }
        Ok(())
    }

    /// Takes the address of `owner` back, if it has one.
    pub(crate) fn release(&mut self, owner: &str) {
        if let Some(address) = self.addresses.remove(owner) {
            self.holders.remove(&address);
            self.released.push_back(address);
        }
    }

    /// The address of `owner`.
    pub(crate) fn of(&self, owner: &str) -> Option<Ipv4Addr> {
        self.addresses.get(owner).copied()
    }

    /// Everybody who has an address.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &String> {
        self.addresses.keys()
    }

    fn note(&mut self, owner: &str, address: Ipv4Addr) {
        self.addresses.insert(owner.to_owned(), address);
        self.holders.insert(address, owner.to_owned());
    }

    fn find_free(&mut self) -> Option<Ipv4Addr> {
        while self.untried > 0 {
            let candidate = self.next;
            self.next = self.after(candidate);
            self.untried -= 1;
            if !self.holders.contains_key(&candidate) {
                return Some(candidate);
            }
        }
        // An adopted address can be both released and come up as untried, and so be in use again here.
        std::iter::from_fn(|| self.released.pop_front())
            .find(|candidate| !self.holders.contains_key(candidate))
    }

    fn after(&self, address: Ipv4Addr) -> Ipv4Addr {
        let next = Ipv4Addr::from_bits(address.to_bits() + 1);
        if self.subnet.can_lease(next) {
            next
        } else {
            Ipv4Addr::from_bits(self.subnet.gateway().to_bits() + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> Leases {
        Leases::new("192.0.2.0/29".parse().unwrap())
    }

    fn last(address: Result<Ipv4Addr, Refused>) -> Result<u8, Refused> {
        address.map(|address| address.octets()[3])
    }

    #[test]
    fn hands_out_every_host_once_and_then_is_full() {
        let mut leases = leases();
        let got: Vec<_> = (0..6).map(|n| last(leases.lease(&format!("p{n}")))).collect();
        assert_eq!(got, [Ok(2), Ok(3), Ok(4), Ok(5), Ok(6), Err(Refused::Full)]);
    }

    #[test]
    fn an_address_given_back_is_reused_last() {
        let mut leases = leases();
        for owner in ["a", "b", "c"] {
            leases.lease(owner).unwrap();
        }
        leases.release("b");
        leases.release("a");
        leases.release("a");
        let got: Vec<_> =
            ["d", "e", "f", "g", "h"].map(|owner| last(leases.lease(owner))).into_iter().collect();
        assert_eq!(got, [Ok(5), Ok(6), Ok(3), Ok(2), Err(Refused::Full)]);
        assert_eq!(leases.of("a"), None);
        assert_eq!(leases.owners().collect::<Vec<_>>(), ["c", "d", "e", "f", "g"]);
    }

    #[test]
    fn a_pod_gets_one_address() {
        let mut leases = leases();
        leases.lease("a").unwrap();
        assert_eq!(leases.lease("a"), Err(Refused::HasOne));
    }

    #[test]
    fn adopted_addresses_are_kept_and_leases_go_on_behind_them() {
        let mut leases = leases();
        let address = |last| Ipv4Addr::new(192, 0, 2, last);
        let cases = [
            ("recorded", "a", 4, Ok(())),
            ("recorded twice", "a", 4, Ok(())),
            ("another one of the same pod", "a", 5, Err(Refused::HasOne)),
            ("somebody else's", "b", 4, Err(Refused::NotFree)),
            ("the gateway", "b", 1, Err(Refused::NotFree)),
            ("the broadcast address", "b", 7, Err(Refused::NotFree)),
            ("outside", "b", 200, Err(Refused::NotFree)),
        ];
        for (what, owner, last, expected) in cases {
            assert_eq!(leases.adopt(owner, address(last)), expected, "{what}");
        }
        let got: Vec<_> = (0..5).map(|n| last(leases.lease(&format!("p{n}")))).collect();
        assert_eq!(got, [Ok(5), Ok(6), Ok(2), Ok(3), Err(Refused::Full)]);
    }

    #[test]
    fn adopting_late_loses_no_address() {
        let mut leases = leases();
        for owner in ["a", "b", "c"] {
            leases.lease(owner).unwrap();
        }
        leases.adopt("d", Ipv4Addr::new(192, 0, 2, 6)).unwrap();
        assert_eq!(last(leases.lease("e")), Ok(5));
    }

    #[test]
    fn no_address_is_lost_or_given_twice_over_many_lives() {
        let mut leases = leases();
        leases.adopt("adopted", Ipv4Addr::new(192, 0, 2, 6)).unwrap();
        let mut alive: VecDeque<String> = VecDeque::from(["adopted".to_owned()]);
        for round in 0..1000_u32 {
            if round % 3 == 0 || alive.len() == 5 {
                leases.release(&alive.pop_front().unwrap());
            }
            let owner = format!("p{round}");
            leases.lease(&owner).unwrap();
            alive.push_back(owner);
            assert_eq!(leases.holders.len(), alive.len());
            assert_eq!(leases.addresses.len(), alive.len());
            assert!(leases.released.len() <= 10, "released addresses pile up");
        }
    }
}
