//! Which pod has which address. Pure: the kernel and the records hold the truth, this is rebuilt from them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::subnet::Subnet;

/// The address that the next pod gets: the first free one after `last`, the one handed out most recently, around the
/// subnet's end.
///
/// So an address comes up again only when all others have had their turn, and what peers still remember of a pod
/// (connections, names) seldom meets another one.
pub(crate) fn pick(
    subnet: Subnet,
    last: Option<IpAddr>,
    taken: &BTreeMap<IpAddr, String>,
) -> Option<IpAddr> {
    let mut candidate = subnet.after(last.unwrap_or(subnet.gateway()));
    // More than the taken ones need not be looked at, and no more than there are.
    let looks = (taken.len() as u128 + 1).min(subnet.hosts());
    for _ in 0..looks {
        if !taken.contains_key(&candidate) {
            return Some(candidate);
        }
        candidate = subnet.after(candidate);
    }
    None
}

/// The addresses of a subnet and who has them.
#[derive(Debug)]
pub(crate) struct Leases {
    subnet: Subnet,
    last: Option<IpAddr>,
    holders: BTreeMap<IpAddr, String>,
}

impl Leases {
    pub(crate) fn new(subnet: Subnet) -> Self {
        Self { subnet, last: None, holders: BTreeMap::new() }
    }

    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Leases an address to `owner`; `None` when all are taken.
    pub(crate) fn lease(&mut self, owner: &str) -> Option<IpAddr> {
        let address = pick(self.subnet, self.last, &self.holders)?;
        self.last = Some(address);
        self.holders.insert(address, owner.to_owned());
        Some(address)
    }

    /// Notes that `owner` has `address` since before this daemon started. Leases go on behind it. False if it cannot be had
    /// or is somebody else's.
    pub(crate) fn adopt(&mut self, owner: &str, address: IpAddr) -> bool {
        if !self.subnet.can_lease(address) {
            return false;
        }
        let holder = self.holders.entry(address).or_insert_with(|| owner.to_owned());
        if holder != owner {
            return false;
        }
        self.last = self.last.max(Some(address));
        true
    }

    /// Takes every address of `owner` back.
    pub(crate) fn release(&mut self, owner: &str) {
        self.holders.retain(|_, holder| holder != owner);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn leases() -> Leases {
        Leases::new("192.0.2.0/29".parse().unwrap())
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn last(address: Option<IpAddr>) -> Option<u8> {
        match address? {
            IpAddr::V4(ip) => Some(ip.octets()[3]),
            IpAddr::V6(ip) => Some(ip.octets()[15]),
        }
    }

    #[test]
    fn the_first_free_address_after_the_last_one_is_picked() {
        let subnet = "192.0.2.0/29".parse().unwrap();
        let all: &[u8] = &[2, 3, 4, 5, 6];
        let cases = [
            ("the first pod", None, &[][..], Some(2)),
            ("the next", Some(2), &[2], Some(3)),
            ("not the one just given back", Some(3), &[2], Some(4)),
            ("past taken ones", Some(3), &[4, 5], Some(6)),
            ("around the end", Some(6), &[2], Some(3)),
            ("the one just given back, if it is the only one", Some(4), &[2, 3, 5, 6], Some(4)),
            ("full", Some(4), all, None),
            ("of another subnet", Some(200), &[], Some(2)),
        ];
        for (what, before, taken, expected) in cases {
            let taken = taken.iter().map(|&last| (ip(last), String::new())).collect();
            assert_eq!(last(pick(subnet, before.map(ip), &taken)), expected, "{what}");
        }
    }

    #[test]
    fn hands_out_every_host_once_and_then_is_full() {
        for subnet in ["192.0.2.0/29", "fd00::/125"] {
            let mut leases = Leases::new(subnet.parse().unwrap());
            let got: Vec<_> = (0..6).map(|n| last(leases.lease(&format!("p{n}")))).collect();
            assert_eq!(got, [Some(2), Some(3), Some(4), Some(5), Some(6), None]);
        }
    }

    #[test]
    fn a_vast_subnet_is_not_walked() {
        let mut leases = Leases::new("fd00::/64".parse().unwrap());
        for n in 0..300 {
            assert!(leases.lease(&format!("p{n}")).is_some());
        }
        leases.release("p7");
        assert_eq!(leases.lease("next").unwrap().to_string(), "fd00::12e");
    }

    #[test]
    fn adopted_addresses_are_kept_and_leases_go_on_behind_them() {
        let mut leases = leases();
        let cases = [
            ("recorded", "a", 4, true),
            ("recorded twice", "a", 4, true),
            ("somebody else's", "b", 4, false),
            ("the gateway", "b", 1, false),
            ("the broadcast address", "b", 7, false),
            ("outside", "b", 200, false),
        ];
        for (what, owner, last, expected) in cases {
            assert_eq!(leases.adopt(owner, ip(last)), expected, "{what}");
        }
        let got: Vec<_> = (0..5).map(|n| last(leases.lease(&format!("p{n}")))).collect();
        assert_eq!(got, [Some(5), Some(6), Some(2), Some(3), None]);
    }

    #[test]
    fn no_address_is_lost_or_given_twice_over_many_lives() {
        let mut leases = leases();
        assert!(leases.adopt("adopted", ip(6)));
        let mut alive: VecDeque<String> = VecDeque::from(["adopted".to_owned()]);
        for round in 0..1000_u32 {
            if round % 3 == 0 || alive.len() == 5 {
                leases.release(&alive.pop_front().unwrap());
            }
            let owner = format!("p{round}");
            leases.lease(&owner).unwrap();
            alive.push_back(owner);
            assert_eq!(leases.holders.len(), alive.len());
        }
    }
}
