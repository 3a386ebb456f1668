//! Hardware addresses that follow from a pod's address.

use std::net::{IpAddr, Ipv6Addr};

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// How every hardware address that we give begins: a local one, of pods that have IPv4 and of those that have not.
const PREFIXES: [[u8; 2]; 2] = [[0x02, 0xbe], [0x02, 0xbf]];

/// The hardware address of a bridge that has no address yet.
pub(crate) const NOBODY: Mac = [0x02, 0xbe, 0, 0, 0, 0];

/// The hardware address that goes with a pod's first address: a local one, unique on the bridge because the address is.
///
/// So when an address passes on to another pod, what neighbours remember of it is still true.
pub(crate) fn of(address: IpAddr) -> Mac {
    let ([first, second], low) = match address {
        IpAddr::V4(ip) => (PREFIXES[0], ip.octets()),
        // Leases go up from the subnet's beginning, so the lowest bits tell pods apart.
        IpAddr::V6(ip) => (PREFIXES[1], *ip.octets().last_chunk().unwrap_or(&[0; 4])),
    };
    let [a, b, c, d] = low;
    [first, second, a, b, c, d]
}

/// Whether `mac` is one that we give.
pub(crate) fn is_ours(mac: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| mac.starts_with(prefix))
}

/// The link-local address that the kernel makes of a hardware address (EUI-64, RFC 4291 appendix A).
pub(crate) fn link_local([a, b, c, d, e, f]: Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The usual text form.
pub(crate) fn text([a, b, c, d, e, f]: Mac) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Reads the usual text form.
pub(crate) fn parse(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
        .collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_follows_from_an_address_and_reads_back() {
        let cases = [
            ("10.88.0.2", "02:be:0a:58:00:02", "fe80::be:aff:fe58:2"),
            ("fd00::1:2", "02:bf:00:01:00:02", "fe80::bf:ff:fe01:2"),
        ];
        for (address, mac, local) in cases {
            let found = of(address.parse().unwrap());
            assert_eq!((text(found).as_str(), is_ours(&found)), (mac, true));
            assert_eq!(parse(mac), Some(found));
            assert_eq!(link_local(found).to_string(), local);
        }
        for bad in
            ["", "02:be:0a:58:00", "02:be:0a:58:00:2", "02:be:0a:58:00:02:00", "zz:be:0a:58:00:02"]
        {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
