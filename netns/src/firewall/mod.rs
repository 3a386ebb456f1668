//! Masquerade and host ports: one nftables table of our own, spoken to over nfnetlink.
//!
//! The rules are static. A pod only adds elements to two maps and takes them away again, each carrying its pod's id as
//! comment, so `nft list table ip berth` tells whose a host port is:
//!
//! ```text
//! map ports    { inet_proto . inet_service             : ipv4_addr . inet_service }   open on every host address
//! map ports_on { ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }   open on one host address
//!
//! chain host_ports  dnat to ip daddr . protocol . port map @ports_on
//!                   dnat to protocol . port map @ports
//! chain prerouting  (nat, dstnat + 10)  fib daddr type local jump host_ports
//! chain output      (nat, dstnat + 10)  ip daddr != 127.0.0.0/8 fib daddr type local jump host_ports
//! chain postrouting (nat, srcnat + 10)  ip saddr SUBNET ip daddr != SUBNET ip daddr != 224.0.0.0/4 masquerade
//!                                       ip saddr SUBNET ip daddr SUBNET ct status dnat masquerade
//! ```
//!
//! - Only packets to the host's own addresses are looked up, so a connection through the host to somebody else's port of
//!   the same number is left alone (CVE-2025-67499).
//! - The chains come behind those of others (`+ 10`): the first translation wins, and services go before host ports
//!   (CVE-2019-9946).
//! - 127.0.0.0/8 is left alone: it would need `route_localnet` (CVE-2020-8558).
//! - The last rule is for pods that reach a pod of the same bridge, maybe themselves, by a host port: the answer has to
//!   come back through the host to be translated back.

mod element;
mod expression;

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::ledger::Entry;
use crate::netlink::{Error, Request, Socket, find, flag};
use crate::subnet::Subnet;
use expression::Expressions;

const SUBSYSTEM: u8 = 10; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = u16::from_be_bytes([SUBSYSTEM, 0]);
const GETTABLE: u16 = u16::from_be_bytes([SUBSYSTEM, 1]);
const DELTABLE: u16 = u16::from_be_bytes([SUBSYSTEM, 2]);
const NEWCHAIN: u16 = u16::from_be_bytes([SUBSYSTEM, 3]);
const NEWRULE: u16 = u16::from_be_bytes([SUBSYSTEM, 6]);
const NEWSET: u16 = u16::from_be_bytes([SUBSYSTEM, 9]);
const NEWSETELEM: u16 = u16::from_be_bytes([SUBSYSTEM, 12]);
const GETSETELEM: u16 = u16::from_be_bytes([SUBSYSTEM, 13]);
const DELSETELEM: u16 = u16::from_be_bytes([SUBSYSTEM, 14]);

const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;

/// Raise with every change to the rules: a table of another layout is replaced when the bridge is opened.
const LAYOUT: u32 = 1;

/// The table of one bridge.
#[derive(Debug)]
pub(crate) struct Firewall {
    table: String,
    bridge: String,
    subnet: Subnet,
    /// Kept open, because closing a socket after a transaction that deletes something waits for an RCU grace period, some
    /// 20 ms (nft_rcv_nl_event).
    socket: Mutex<Socket>,
}

/// What is there of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Current,
    /// Of another layout, bridge or subnet.
    Other,
    Missing,
}

/// The hooks of linux/netfilter.h that the chains hang on.
#[derive(Clone, Copy)]
enum Hook {
    Prerouting = 0,
    Output = 3,
    Postrouting = 4,
}

impl Firewall {
    pub(crate) fn new(table: &str, bridge: &str, subnet: Subnet) -> Result<Self, Error> {
        let socket = Mutex::new(Socket::netfilter()?);
        Ok(Self { table: table.to_owned(), bridge: bridge.to_owned(), subnet, socket })
    }

    pub(crate) fn state(&self) -> Result<State, Error> {
        let mut question = request(GETTABLE, 0);
        question.text(TABLE_NAME, &self.table);
        let described = self.socket().ask(question, |message| {
            let attributes = message.payload.get(4..)?;
            Some(find(attributes, TABLE_USERDATA).and_then(element::comment))
        });
        match described {
            Ok(comment) if comment == Some(self.description()) => Ok(State::Current),
            Ok(_) => Ok(State::Other),
            Err(err) if err.is(Errno::NOENT) => Ok(State::Missing),
            Err(err) => Err(err),
        }
    }

    /// Makes the table, in one transaction. One that is current stays, with the host ports in it; another one is replaced.
    pub(crate) fn ensure(&self) -> Result<(), Error> {
        if self.state()? == State::Current {
            return Ok(());
        }
        let mut delete = request(DELTABLE, 0);
        delete.text(TABLE_NAME, &self.table);
        // Made first, so that there is always one to delete; otherwise it may vanish before the batch arrives.
        let mut batch = vec![self.new_table(), delete, self.new_table()];
        batch.extend(element::Map::ALL.map(|map| map.create(&self.table)));
        batch.push(self.chain("host_ports", None));
        batch.push(self.chain("prerouting", Some((Hook::Prerouting, -90))));
        batch.push(self.chain("output", Some((Hook::Output, -90))));
        batch.push(self.chain("postrouting", Some((Hook::Postrouting, 110))));
        batch.extend(self.rules());
        self.transact(batch)
    }

    /// Opens host ports, all or none. One that is open to the same pod already is no error.
    pub(crate) fn open(&self, entries: &[Entry]) -> Result<(), Error> {
        self.change(NEWSETELEM, flag::CREATE, entries)
    }

    /// Closes host ports; those that are not open are no error.
    pub(crate) fn close(&self, entries: &[Entry]) -> Result<(), Error> {
        match self.change(DELSETELEM, 0, entries) {
            // One of them is missing, so none was closed.
            Err(err) if err.is(Errno::NOENT) => entries.iter().try_for_each(|entry| {
                match self.change(DELSETELEM, 0, std::slice::from_ref(entry)) {
                    Err(err) if err.is(Errno::NOENT) => Ok(()),
                    result => result,
                }
            }),
            result => result,
        }
    }

    /// All open host ports. The owner of an entry that we did not make is empty.
    pub(crate) fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut socket = self.socket();
        let mut entries = Vec::new();
        for map in element::Map::ALL {
            let mut question = request(GETSETELEM, 0);
            map.name_in(&mut question, &self.table);
            match socket.list(&question, |message| map.read(message)) {
                Ok(found) => entries.extend(found),
                // Somebody flushed the firewall: nothing is open.
                Err(err) if err.is(Errno::NOENT) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(entries)
    }

    fn change(&self, kind: u16, flags: u16, entries: &[Entry]) -> Result<(), Error> {
        // Keeps each message's element list well below an attribute's 64 KiB.
        const ELEMENTS: usize = 200;
        let mut batch = Vec::new();
        for map in element::Map::ALL {
            let elements: Vec<&Entry> = entries.iter().filter(|entry| map.holds(entry)).collect();
            for some in elements.chunks(ELEMENTS) {
                let mut request = request(kind, flags);
                map.name_in(&mut request, &self.table);
                map.write(&mut request, some);
                batch.push(request);
            }
        }
        if batch.is_empty() { Ok(()) } else { self.transact(batch) }
    }

    /// Sends `changes` as one transaction.
    fn transact(&self, changes: Vec<Request>) -> Result<(), Error> {
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

    fn rules(&self) -> [Request; 6] {
        use element::Map;
        let (network, mask) = (self.subnet.network(), self.subnet.mask());
        [
            self.rule("host_ports", |packet| {
                packet.load_destination(0).load_protocol(1).load_destination_port(2);
                packet.look_up(Map::OneAddress.name()).translate_destination();
            }),
            self.rule("host_ports", |packet| {
                packet.load_protocol(0).load_destination_port(1);
                packet.look_up(Map::AllAddresses.name()).translate_destination();
            }),
            self.rule("prerouting", |packet| {
                packet.is_for_this_host().jump("host_ports");
            }),
            self.rule("output", |packet| {
                packet.destination_outside([127, 0, 0, 0].into(), [255, 0, 0, 0].into());
                packet.is_for_this_host().jump("host_ports");
            }),
            self.rule("postrouting", |packet| {
                packet.source_inside(network, mask).destination_outside(network, mask);
                packet.destination_outside([224, 0, 0, 0].into(), [240, 0, 0, 0].into());
                packet.masquerade();
            }),
            self.rule("postrouting", |packet| {
                packet.source_inside(network, mask).destination_inside(network, mask);
                packet.destination_was_translated().masquerade();
            }),
        ]
    }

    /// Tells layouts, bridges and subnets apart; people see it as the table's comment.
    fn description(&self) -> String {
        format!("pods of {} in {}, layout {LAYOUT}", self.bridge, self.subnet)
    }

    fn new_table(&self) -> Request {
        let mut request = request(NEWTABLE, flag::CREATE);
        request.text(TABLE_NAME, &self.table);
        request.attribute(TABLE_USERDATA, &element::as_comment(&self.description()));
        request
    }

    /// A chain; with a hook and priority, one that the kernel runs packets through.
    fn chain(&self, name: &str, hook: Option<(Hook, i32)>) -> Request {
        const CHAIN_TABLE: u16 = 1;
        const CHAIN_NAME: u16 = 3;
        const CHAIN_HOOK: u16 = 4;
        const CHAIN_TYPE: u16 = 7;
        const HOOK_NUMBER: u16 = 1;
        const HOOK_PRIORITY: u16 = 2;
        let mut request = request(NEWCHAIN, flag::CREATE);
        request.text(CHAIN_TABLE, &self.table).text(CHAIN_NAME, name);
        if let Some((hook, priority)) = hook {
            request.nest(CHAIN_HOOK, |attributes| {
                attributes.attribute(HOOK_NUMBER, &(hook as u32).to_be_bytes());
                attributes.attribute(HOOK_PRIORITY, &priority.to_be_bytes());
            });
            request.text(CHAIN_TYPE, "nat");
        }
        request
    }

    fn rule(&self, chain: &str, write: impl FnOnce(&mut Expressions<'_>)) -> Request {
        const RULE_TABLE: u16 = 1;
        const RULE_CHAIN: u16 = 2;
        const RULE_EXPRESSIONS: u16 = 4;
        let mut request = request(NEWRULE, flag::CREATE | flag::APPEND);
        request.text(RULE_TABLE, &self.table).text(RULE_CHAIN, chain);
        request.nest(RULE_EXPRESSIONS, |list| write(&mut Expressions::new(list)));
        request
    }
}

/// A request about nftables' family `ip`, with its `struct nfgenmsg`.
fn request(kind: u16, flags: u16) -> Request {
    const NFPROTO_IPV4: u8 = 2;
    Request::new(kind, flags, &[NFPROTO_IPV4, 0, 0, 0])
}

impl element::Map {
    /// The map itself, empty.
    fn create(self, table: &str) -> Request {
        const SET_TABLE: u16 = 1;
        const SET_NAME: u16 = 2;
        const SET_FLAGS: u16 = 3;
        const SET_KEY_TYPE: u16 = 4;
        const SET_KEY_LEN: u16 = 5;
        const SET_DATA_TYPE: u16 = 6;
        const SET_DATA_LEN: u16 = 7;
        const SET_ID: u16 = 10;
        const IS_MAP: u32 = 0x8;
        let shape = self.shape();
        let mut request = request(NEWSET, flag::CREATE);
        request.text(SET_TABLE, table).text(SET_NAME, self.name());
        let numbers = [
            (SET_FLAGS, IS_MAP),
            (SET_KEY_TYPE, shape.key_type),
            (SET_KEY_LEN, shape.key_bytes),
            (SET_DATA_TYPE, shape.data_type),
            (SET_DATA_LEN, shape.data_bytes),
            (SET_ID, shape.id),
        ];
        for (kind, number) in numbers {
            request.attribute(kind, &number.to_be_bytes());
        }
        request
    }
}
