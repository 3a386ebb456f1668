//! Limits on how fast a pod sends and receives, by the kernel's token buckets (tc-tbf(8)).
//!
//! What goes to a pod leaves the host by the link that leads there, and a queue can hold it. What comes from a pod arrives,
//! and only what leaves can be queued: so it is redirected through a link of its own that leads nowhere (ifb), and the queue
//! is there. Both are on the host, out of the pod's reach.

use crate::netlink::{Request, flag};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// TC_H_ROOT, TC_H_INGRESS, and the handle that the latter always has.
const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;

/// The smallest and the largest limit there is, in bits per second: those that kubelet allows.
pub(crate) const LIMITS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// A new link of kind ifb, with a note by which it is known again.
pub(crate) fn create_shaper(name: &str, mtu: u32) -> Request {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_NUM_TX_QUEUES: u16 = 31;
    const IFLA_NUM_RX_QUEUES: u16 = 32;
    let mut request = Request::new(RTM_NEWLINK, flag::CREATE | flag::EXCL, &[0; 16]);
    request.text(IFLA_IFNAME, name).attribute(IFLA_MTU, &mtu.to_ne_bytes());
    request.attribute(IFLA_NUM_TX_QUEUES, &1_u32.to_ne_bytes());
    request.attribute(IFLA_NUM_RX_QUEUES, &1_u32.to_ne_bytes());
    request.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "ifb");
    });
    request
}

/// Has link `index` send at most `bits` per second.
pub(crate) fn limit(index: u32, bits: u64) -> Request {
    const TBF_PARMS: u16 = 1;
    const TBF_RATE64: u16 = 4;
    const TBF_BURST: u16 = 6;
    const LINKLAYER_ETHERNET: u8 = 1;
    let Bucket { rate, burst, queue } = Bucket::of(bits);
    // struct tc_tbf_qopt: rate and peak rate as struct tc_ratespec, then limit, buffer, mtu
    let mut parameters = [0; 36];
    parameters[1] = LINKLAYER_ETHERNET;
    let short_rate = u32::try_from(rate).unwrap_or(u32::MAX);
    parameters[8..12].copy_from_slice(&short_rate.to_ne_bytes());
    parameters[24..28].copy_from_slice(&queue.to_ne_bytes());
    let mut request =
        Request::new(RTM_NEWQDISC, flag::CREATE | flag::REPLACE, &header(index, ROOT));
    request.text(TCA_KIND, "tbf").nest(TCA_OPTIONS, |options| {
        options.attribute(TBF_PARMS, &parameters);
        options.attribute(TBF_RATE64, &rate.to_ne_bytes());
        options.attribute(TBF_BURST, &burst.to_ne_bytes());
    });
    request
}

/// Sends all that arrives on link `index` out by link `shaper`, from where it goes on as if it had just arrived.
pub(crate) fn redirect(index: u32, shaper: u32) -> [Request; 2] {
    const U32_SELECTOR: u16 = 5;
    const U32_ACTION: u16 = 7;
    const ACTION_KIND: u16 = 1;
    const ACTION_OPTIONS: u16 = 2;
    const MIRRED_PARMS: u16 = 2;
    const STOLEN: u32 = 4;
    const EGRESS_REDIRECT: u32 = 1;
    const TERMINAL: u8 = 1;
    /// Priority, and ETH_P_ALL as it is on the wire.
    const EVERYTHING: u32 = 1 << 16 | 0x0003_u16.to_be() as u32;
    let mut ingress = Request::new(RTM_NEWQDISC, flag::CREATE | flag::REPLACE, &{
        let mut header = header(index, INGRESS);
        header[8..12].copy_from_slice(&INGRESS_HANDLE.to_ne_bytes());
        header
    });
    ingress.text(TCA_KIND, "ingress");
    let mut header = header(index, INGRESS_HANDLE);
    header[16..20].copy_from_slice(&EVERYTHING.to_ne_bytes());
    let mut filter = Request::new(RTM_NEWTFILTER, flag::CREATE | flag::EXCL, &header);
    filter.text(TCA_KIND, "u32").nest(TCA_OPTIONS, |options| {
        // struct tc_u32_sel with one struct tc_u32_key, whose mask of zero fits everything
        let mut selector = [0; 32];
        selector[0] = TERMINAL;
        selector[2] = 1;
        options.attribute(U32_SELECTOR, &selector);
        options.nest(U32_ACTION, |actions| {
            actions.nest(1, |action| {
                action.text(ACTION_KIND, "mirred").nest(ACTION_OPTIONS, |options| {
                    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
                    let numbers = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, shaper];
                    options.attribute(MIRRED_PARMS, &numbers.map(u32::to_ne_bytes).concat());
                });
            });
        });
    });
    [ingress, filter]
}

/// What may go at once at `bits` per second, in bits.
pub(crate) fn burst_bits(bits: u64) -> u64 {
    u64::from(Bucket::of(bits).burst) * 8
}

/// `struct tcmsg`.
fn header(index: u32, parent: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

/// A token bucket, in bytes and bytes per second.
#[derive(Debug, PartialEq, Eq)]
struct Bucket {
    rate: u64,
    /// What may go at once: 10 ms of the rate, and never less than the largest packet that the kernel cuts later.
    burst: u32,
    /// What may wait: 50 ms of the rate, and the burst.
    queue: u32,
}

impl Bucket {
    fn of(bits: u64) -> Self {
        const LARGEST_PACKET: u64 = 64 * 1024;
        let rate = (bits / 8).max(1);
        let burst = (rate / 100).clamp(LARGEST_PACKET, 1 << 30);
        let queue = (rate / 20 + burst).min(1 << 31);
        let short = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self { rate, burst: short(burst), queue: short(queue) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_take_the_largest_packet_and_fit_their_fields() {
        let cases = [
            ("least", 1_000, Bucket { rate: 125, burst: 65_536, queue: 65_542 }),
            (
                "100 Mbit/s",
                100_000_000,
                Bucket { rate: 12_500_000, burst: 125_000, queue: 750_000 },
            ),
            (
                "most",
                1_000_000_000_000_000,
                Bucket { rate: 125_000_000_000_000, burst: 1 << 30, queue: 1 << 31 },
            ),
        ];
        for (what, bits, expected) in cases {
            assert_eq!(Bucket::of(bits), expected, "{what}");
        }
    }
}
