//! What the kernel tells of changes to nftables, as far as it concerns us.

use super::{Family, Firewall, SUBSYSTEM};
use crate::netlink::{Message, find, text};

/// NFT_MSG_* that take something away, whose first attribute is the table's name.
const DELETIONS: [u16; 5] = [2, 5, 8, 11, 14];
const NEWCHAIN: u16 = 3;

/// What a change of somebody else asks of us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Concern {
    /// Something of ours was taken away.
    pub(crate) ours: bool,
    /// A chain of others came or changed its policy, or rules went, and ours may have been among them.
    pub(crate) others: bool,
}

impl Concern {
    pub(crate) fn and(self, other: Self) -> Self {
        Self { ours: self.ours | other.ours, others: self.others | other.others }
    }
}

impl Firewall {
    /// What the change that `event` tells of means for us. Our own changes mean nothing.
    pub(crate) fn concern(&self, event: &Message<'_>) -> Concern {
        const TABLE: u16 = 1;
        let [subsystem, kind] = event.kind.to_be_bytes();
        if subsystem != SUBSYSTEM || event.port == self.port {
            return Concern::default();
        }
        let kind = u16::from(kind);
        let deletion = DELETIONS.contains(&kind);
        let family = event.payload.first().copied().unwrap_or_default();
        let attributes = event.payload.get(4..).unwrap_or_default();
        let our_table = find(attributes, TABLE).and_then(text).as_deref() == Some(&self.table)
            && Family::OURS.iter().any(|ours| *ours as u8 == family);
        Concern {
            ours: deletion && our_table,
            others: !our_table && (deletion || kind == NEWCHAIN),
        }
    }
}
