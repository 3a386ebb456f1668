//! Rules of others that drop what is forwarded: found, explained, and where the configuration says so, preceded by ours.
//!
//! An accept in one table does not keep another table from dropping, so the only place for it is the other's own chain:
//! iptables' `FORWARD`, say, whose policy Docker and many an administrator set to DROP. Our two rules there say which bridge
//! they are for, and iptables shows them as its own.

use super::expression::Verdict;
use super::rule::first_rule;
use super::set::comment;
use super::{Family, Firewall, request};
use crate::config::Forward;
use crate::netlink::{Error, Message, Request, find, text};

const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;

/// Others' chain that drops what no rule of it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dropping {
    family: Family,
    table: String,
    chain: String,
    /// Our rules in it, by handle.
    ours: Vec<u64>,
}

impl Dropping {
    /// What an operator should know of it.
    fn explain(&self, bridge: &str) -> String {
        let Self { family, table, chain, .. } = self;
        format!(
            "chain {chain} of table {family} {table} drops what none of its rules accepts, maybe what pods send and get \
             through the host; accept {bridge} there, or set network.forward = \"accept\""
        )
    }
}

impl Firewall {
    /// Makes the others' chains as `forward` says, and tells of those that pods may suffer from.
    pub(crate) fn settle_forwarding(&self, forward: Forward) -> Result<Vec<String>, Error> {
        let mut remarks = Vec::new();
        for dropping in self.dropping()? {
            match forward {
                Forward::Report if dropping.ours.is_empty() => {}
                Forward::Report => self.transact(self.without_ours(&dropping))?,
                Forward::Accept if dropping.ours.len() == 2 => continue,
                Forward::Accept => {
                    let mut batch = self.without_ours(&dropping);
                    batch.extend(self.accepting(&dropping));
                    self.transact(batch)?;
                    continue;
                }
            }
            remarks.push(dropping.explain(&self.bridge));
        }
        Ok(remarks)
    }

    /// The chains on the forward hook whose policy is to drop. Those of iptables-legacy are not among them: nftables does not
    /// know them.
    fn dropping(&self) -> Result<Vec<Dropping>, Error> {
        let mut chains = Vec::new();
        for family in [Family::Inet, Family::Ip, Family::Ip6] {
            let question = request(GETCHAIN, 0, family);
            let listed = self
                .socket()
                .list(&question, |message| dropping_chain(message, family).into_iter().collect());
            chains.extend(listed?);
        }
        for chain in &mut chains {
            chain.ours = self.own_rules(chain)?;
        }
        Ok(chains)
    }

    fn own_rules(&self, dropping: &Dropping) -> Result<Vec<u64>, Error> {
        const RULE_TABLE: u16 = 1;
        const RULE_CHAIN: u16 = 2;
        const RULE_HANDLE: u16 = 3;
        const RULE_USERDATA: u16 = 7;
        let mut question = request(GETRULE, 0, dropping.family);
        question.text(RULE_TABLE, &dropping.table).text(RULE_CHAIN, &dropping.chain);
        let note = self.note();
        self.socket().list(&question, |message| {
            let attributes = message.payload.get(4..).unwrap_or_default();
            let own = find(attributes, RULE_USERDATA).and_then(comment).as_deref() == Some(&note);
            let handle =
                find(attributes, RULE_HANDLE).and_then(|bytes| bytes.first_chunk().copied());
            handle.filter(|_| own).map(u64::from_be_bytes).into_iter().collect()
        })
    }

    fn accepting(&self, dropping: &Dropping) -> [Request; 2] {
        let chain = (dropping.family, dropping.table.as_str(), dropping.chain.as_str());
        [
            first_rule(chain, &self.note(), |packet| {
                packet.came_by(&self.bridge).count().verdict(Verdict::Accept);
            }),
            first_rule(chain, &self.note(), |packet| {
                packet.leaves_by(&self.bridge).count().verdict(Verdict::Accept);
            }),
        ]
    }

    fn without_ours(&self, dropping: &Dropping) -> Vec<Request> {
        const RULE_TABLE: u16 = 1;
        const RULE_CHAIN: u16 = 2;
        const RULE_HANDLE: u16 = 3;
        let delete = |handle: &u64| {
            let mut request = request(DELRULE, 0, dropping.family);
            request.text(RULE_TABLE, &dropping.table).text(RULE_CHAIN, &dropping.chain);
            request.attribute(RULE_HANDLE, &handle.to_be_bytes());
            request
        };
        dropping.ours.iter().map(delete).collect()
    }

    /// The comment of our rules in others' chains.
    fn note(&self) -> String {
        format!("berth: pods of {}", self.bridge)
    }
}

fn dropping_chain(message: &Message<'_>, family: Family) -> Option<Dropping> {
    const CHAIN_TABLE: u16 = 1;
    const CHAIN_NAME: u16 = 3;
    const CHAIN_HOOK: u16 = 4;
    const CHAIN_POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    const FORWARD: [u8; 4] = 2_u32.to_be_bytes();
    const DROP: [u8; 4] = 0_u32.to_be_bytes();
    let attributes = message.payload.get(4..)?;
    let hook = find(attributes, CHAIN_HOOK).and_then(|hook| find(hook, HOOK_NUMBER))?;
    let policy = find(attributes, CHAIN_POLICY)?;
    (hook == FORWARD && policy == DROP).then_some(())?;
    Some(Dropping {
        family,
        table: find(attributes, CHAIN_TABLE).and_then(text)?,
        chain: find(attributes, CHAIN_NAME).and_then(text)?,
        ours: Vec::new(),
    })
}
