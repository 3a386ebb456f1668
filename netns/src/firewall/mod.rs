//! Masquerade, host ports and the identity of pods: two nftables tables of our own, spoken to over nfnetlink.
//!
//! The rules are static. A pod only adds elements to sets and takes them away again, all in one transaction and each
//! carrying its pod's id as comment, so `nft list table inet berth` tells whose a host port is:
//!
//! ```text
//! table inet berth
//!   set networks4     { ipv4_addr, ranges }                                            what pods have addresses of
//!   map ports4        { inet_proto . inet_service             : ipv4_addr . inet_service }   open on every address
//!   map ports_on4     { ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }   open on one address
//!   (and the same with a 6)
//!
//!   chain host_ports4 dnat to ip daddr . protocol . port map @ports_on4
//!                     dnat to protocol . port map @ports4
//!   chain prerouting  (nat, dstnat + 10)  fib daddr type local jump host_ports4
//!   chain output      (nat, dstnat + 10)  fib daddr type local jump host_ports4
//!   chain postrouting (nat, srcnat + 10)  ip saddr @networks4 ip daddr != @networks4 ip daddr != 224.0.0.0/4 masquerade
//!                                         ip saddr @networks4 ip daddr @networks4 ct status dnat masquerade
//!                                         ip saddr 127.0.0.0/8 ip daddr @networks4 masquerade
//!   chain loopback    (filter, raw)       iifname BRIDGE ip saddr or daddr 127.0.0.0/8 drop
//!
//! table bridge berth
//!   set links         { ifname }          that lead to pods
//!   set stations      { ifname . ether_addr }
//!   set senders4      { ifname . ether_addr . ipv4_addr }   (and the same with a 6)
//!
//!   chain prerouting  (filter, raw)       iifname @links jump from_pods
//!   chain from_pods   what is not from one of the link's own addresses is dropped: frames, ARP, IP, neighbour and all
//!                     router advertisements
//! ```
//!
//! - Only packets to the host's own addresses are looked up, so a connection through the host to somebody else's port of
//!   the same number is left alone (CVE-2025-67499).
//! - The chains come behind those of others (`+ 10`): the first translation wins, and services go before host ports
//!   (CVE-2019-9946).
//! - A host port on 127.0.0.1 needs `route_localnet` on the bridge, which opens the host's loopback to neighbours
//!   (CVE-2020-8558). Chain `loopback` closes it again, and the setting is on only while the chain and a host port are there.
//! - The second rule of `postrouting` is for pods that reach a pod of the same bridge, maybe themselves, by a host port: the
//!   answer has to come back through the host to be translated back.

mod event;
mod expression;
mod forward;
mod pod;
mod rule;
mod set;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

pub(crate) use event::Concern;
pub(crate) use pod::protocol_number;

use crate::netlink::{Error, Request, Socket, find, flag};
use crate::network::Attached;
use crate::subnet::Subnet;
use pod::HostPort;
use set::{Element, Set};

const SUBSYSTEM: u8 = 10; // NFNL_SUBSYS_NFTABLES
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const GETRULE: u16 = 7;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

/// NFPROTO_IPV4 and NFPROTO_IPV6.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;

/// Raise with every change to the rules: tables of another layout are replaced when the bridge is opened.
const LAYOUT: u32 = 2;

/// The families of nftables that we meet: our own two, and those that others have chains in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Inet = 1,
    Ip = 2,
    Bridge = 7,
    Ip6 = 10,
}

impl Family {
    const OURS: [Self; 2] = [Self::Inet, Self::Bridge];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Bridge => "bridge",
            Self::Ip6 => "ip6",
        })
    }
}

/// The tables of one bridge.
#[derive(Debug)]
pub(crate) struct Firewall {
    table: String,
    bridge: String,
    /// Kept open, because closing a socket after a transaction that deletes something waits for an RCU grace period, some
    /// 20 ms (nft_rcv_nl_event).
    socket: Mutex<Socket>,
    /// By which our own changes are told from those of others.
    port: u32,
}

/// What is there of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Current,
    /// Of another layout or bridge, or rules are missing.
    Other,
    Missing,
}

impl Firewall {
    pub(crate) fn new(table: &str, bridge: &str) -> Result<Self, Error> {
        let socket = Socket::netfilter()?;
        let port = socket.port()?;
        let socket = Mutex::new(socket);
        Ok(Self { table: table.to_owned(), bridge: bridge.to_owned(), socket, port })
    }

    pub(crate) fn state(&self) -> Result<State, Error> {
        let mut state = State::Current;
        for (family, rules) in rule::counts(&self.table, &self.bridge) {
            let mut question = request(GETTABLE, 0, family);
            question.text(TABLE_NAME, &self.table);
            let described = self.socket().ask(question, |message| {
                let attributes = message.payload.get(4..)?;
                Some(find(attributes, TABLE_USERDATA).and_then(set::comment))
            });
            match described {
                Ok(comment) if comment != Some(self.description()) => state = State::Other,
                Ok(_) if self.count_rules(family)? != rules => state = State::Other,
                Ok(_) => {}
                Err(err) if err.is(Errno::NOENT) => return Ok(State::Missing),
                Err(err) => return Err(err),
            }
        }
        Ok(state)
    }

    fn count_rules(&self, family: Family) -> Result<usize, Error> {
        const RULE_TABLE: u16 = 1;
        let mut question = request(GETRULE, 0, family);
        question.text(RULE_TABLE, &self.table);
        let own = self.table.as_str();
        let rules = self.socket().list(&question, |message| {
            let attributes = message.payload.get(4..).unwrap_or_default();
            let table = find(attributes, RULE_TABLE).and_then(crate::netlink::text);
            // A kernel that does not filter lists the rules of all tables.
            if table.as_deref() == Some(own) { vec![()] } else { Vec::new() }
        })?;
        Ok(rules.len())
    }

    /// Makes the tables with the elements of `pods` and `networks`, in one transaction. Tables that are current stay, with
    /// what is in them of pods, and only get what is missing; others are replaced.
    pub(crate) fn ensure<'a>(
        &self,
        networks: &[Subnet],
        pods: impl Iterator<Item = &'a Attached>,
    ) -> Result<(), Error> {
        let mut wanted: Vec<Element> = pods.flat_map(pod::elements).collect();
        wanted.extend(pod::networks(networks));
        if self.state()? == State::Current {
            let there = self.elements()?;
            let (kept, stale): (Vec<Element>, Vec<Element>) =
                there.into_iter().partition(|there| {
                    // One that leads elsewhere would be refused as existing, and so would a range in another one.
                    let replaced = wanted.iter().any(|element| element.has_key_of(there));
                    wanted.contains(there) || !replaced && !there.set.is_networks()
                });
            wanted.retain(|element| !kept.contains(element));
            let mut batch = set::changes(DELSETELEM, 0, &self.table, &stale);
            batch.extend(set::changes(NEWSETELEM, flag::CREATE, &self.table, &wanted));
            return self.transact(batch);
        }
        // Made first, so that there is always one to delete; otherwise it may vanish before the batch arrives.
        let mut batch = Vec::new();
        for family in Family::OURS {
            let mut delete = request(DELTABLE, 0, family);
            delete.text(TABLE_NAME, &self.table);
            batch.extend([self.new_table(family), delete, self.new_table(family)]);
        }
        batch.extend(Set::ALL.map(|set| set.create(&self.table)));
        batch.extend(rule::chains(&self.table));
        batch.extend(rule::rules(&self.table, &self.bridge));
        batch.extend(set::changes(NEWSETELEM, flag::CREATE, &self.table, &wanted));
        self.transact(batch)
    }

    /// The networks that pods have addresses of, as an earlier daemon noted them.
    pub(crate) fn networks(&self) -> Result<Vec<Subnet>, Error> {
        Ok(pod::read_networks(&self.elements()?))
    }

    /// Opens the pod's host ports and lets it send from its addresses, all or nothing.
    pub(crate) fn admit(&self, pod: &Attached) -> Result<(), Error> {
        self.transact(set::changes(NEWSETELEM, flag::CREATE, &self.table, &pod::elements(pod)))
    }

    /// Takes back what [`admit`](Self::admit) gave, in one transaction. What is not there is no error, and neither is what
    /// is another pod's by now: with `surely` false, the elements are looked at first.
    pub(crate) fn dismiss(&self, pod: &Attached, surely: bool) -> Result<(), Error> {
        if surely {
            match self.remove(&pod::elements(pod)) {
                // One of them is missing, so none was removed.
                Err(err) if err.is(Errno::NOENT) => {}
                result => return result,
            }
        }
        let mut elements = self.elements()?;
        elements.retain(|element| element.owner == pod.owner);
        self.remove(&elements)
    }

    /// Removes the elements of those that are not in `owners`, and names the host ports among them.
    pub(crate) fn sweep(&self, owned: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
        let mut elements = self.elements()?;
        elements.retain(|element| !element.set.is_networks() && !owned(&element.owner));
        self.remove(&elements)?;
        let ports = elements.iter().filter(|element| element.set.is_ports());
        let mut names: Vec<String> = ports.map(|element| HostPort(element).to_string()).collect();
        names.sort();
        names.dedup(); // of both families
        Ok(names)
    }

    fn remove(&self, elements: &[Element]) -> Result<(), Error> {
        self.transact(set::changes(DELSETELEM, 0, &self.table, elements))
    }

    /// All elements of all sets. The owner of one that we did not make is empty.
    fn elements(&self) -> Result<Vec<Element>, Error> {
        let mut socket = self.socket();
        let mut elements = Vec::new();
        for set in Set::ALL {
            let question = set.question(GETSETELEM, 0, &self.table);
            match socket.list(&question, |message| set.read(message)) {
                Ok(found) => elements.extend(found),
                // Somebody flushed the firewall: nothing is there.
                Err(err) if err.is(Errno::NOENT) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(elements)
    }

    /// Sends `changes` as one transaction.
    fn transact(&self, changes: Vec<Request>) -> Result<(), Error> {
        const BATCH_BEGIN: u16 = 0x10;
        const BATCH_END: u16 = 0x11;
        if changes.is_empty() {
            return Ok(());
        }
        let edge = |kind| Request::new(kind, 0, &[0, 0, 0, SUBSYSTEM]);
        let mut batch = vec![edge(BATCH_BEGIN)];
        batch.extend(changes);
        batch.push(edge(BATCH_END));
        self.socket().transact(batch)
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        // A conversation that broke off leaves answers behind that the next one passes over.
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells layouts and bridges apart; people see it as the table's comment.
    fn description(&self) -> String {
        format!("pods of {}, layout {LAYOUT}", self.bridge)
    }

    fn new_table(&self, family: Family) -> Request {
        let mut request = request(NEWTABLE, flag::CREATE, family);
        request.text(TABLE_NAME, &self.table);
        request.attribute(TABLE_USERDATA, &set::as_comment(&self.description()));
        request
    }
}

/// A request about nftables, with its `struct nfgenmsg`.
fn request(kind: u16, flags: u16, family: Family) -> Request {
    Request::new(u16::from_be_bytes([SUBSYSTEM, 0]) | kind, flags, &[family as u8, 0, 0, 0])
}
