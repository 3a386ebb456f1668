//! Netlink, as little of it as pods need: requests out, acknowledgements and listings in.
//!
//! The kernel handles a request within the `sendto` that carries it (netlink_rcv_skb, nfnetlink_rcv_batch), so every
//! answer is already there when it is asked for. Receiving therefore never waits, and a lost answer is an error and not
//! a hang.

mod decode;
mod encode;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect,
    getsockname, recv, send, socket_with,
};

pub(crate) use decode::{Message, attributes, find, number, text};
pub(crate) use encode::Request;

/// `NLM_F_*` of linux/netlink.h.
pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP_INTR: u16 = 0x10;
    pub(crate) const CAPPED: u16 = 0x100;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const ACK_TLVS: u16 = 0x200;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

/// `NLMSG_*` of linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// The kernel fills at most this much at a time (netlink_recvmsg: max_recvmsg_len), whatever is listed.
const BUFFER_BYTES: usize = 32 * 1024;

/// A listing that another change interrupts is asked for again this often.
const DUMP_ATTEMPTS: usize = 50;

/// Why the kernel's part of a change did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket itself could not be used.
    #[error("{step}")]
    Socket {
        /// The system call.
        step: &'static str,
        /// What it answered.
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("{0}")]
    Refused(Refusal),
    /// The answer does not have the form of linux/netlink.h, or there is none.
    #[error("netlink answer is missing or malformed")]
    Malformed,
    /// The request has an attribute over 64 KiB; sent anyway, it would be read as something else.
    #[error("netlink request has an attribute over 64 KiB")]
    TooLong,
    /// The listing was interrupted by changes each time it was tried.
    #[error("kernel objects kept changing while they were listed")]
    Unsettled,
}

/// What the kernel says to a request it does not carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// The kernel's own sentence (extended acknowledgement), where it has one.
    pub text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{text}: {}", self.errno),
            None => write!(f, "{}", self.errno),
        }
    }
}

impl Error {
    /// Whether the kernel refused with `errno`.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.errno == errno)
    }
}

/// One conversation with the kernel, about the network namespace the socket was opened in.
///
/// May go on after an error: what is left of the answers to an earlier request is passed over.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    /// Numbers requests, so that answers can be told apart.
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket to rtnetlink: links, addresses, routes.
    pub(crate) fn route() -> Result<Self, Error> {
        Self::open(None, 0)
    }

    /// Opens a socket to rtnetlink that hears of every change to a link.
    pub(crate) fn link_events() -> Result<Self, Error> {
        const RTMGRP_LINK: u32 = 1;
        Self::open(None, RTMGRP_LINK)
    }

    /// Opens a socket to rtnetlink that hears of every change to an address of IPv6.
    pub(crate) fn address_events() -> Result<Self, Error> {
        const RTMGRP_IPV6_IFADDR: u32 = 0x100;
        Self::open(None, RTMGRP_IPV6_IFADDR)
    }

    /// Opens a socket to netfilter.
    pub(crate) fn netfilter() -> Result<Self, Error> {
        Self::open(Some(rustix::net::netlink::NETFILTER), 0)
    }

    /// Opens a socket that hears of every change to nftables.
    pub(crate) fn firewall_events() -> Result<Self, Error> {
        const NFNLGRP_NFTABLES: u32 = 7;
        Self::open(Some(rustix::net::netlink::NETFILTER), 1 << (NFNLGRP_NFTABLES - 1))
    }

    /// The number by which the kernel knows the socket, and names it in events that its requests cause.
    pub(crate) fn port(&self) -> Result<u32, Error> {
        let failed = |err: Errno| socket_error("ask for a netlink socket's number", err.into());
        let name = getsockname(&self.fd).map_err(failed)?;
        SocketAddrNetlink::try_from(name).map(|name| name.pid()).map_err(failed)
    }

    fn open(protocol: Option<Protocol>, groups: u32) -> Result<Self, Error> {
        let fd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                .map_err(|err| socket_error("open a netlink socket", err.into()))?;
        sys::netlink::ask_for_reasons(&fd)
            .map_err(|err| socket_error("ask for extended acknowledgements", err))?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))
            .map_err(|err| socket_error("bind a netlink socket", err.into()))?;
        // A connected socket takes no message from anybody but the kernel (netlink_getsockbyportid).
        connect(&fd, &SocketAddrNetlink::new(0, 0))
            .map_err(|err| socket_error("connect a netlink socket", err.into()))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Has the kernel carry out `requests` in order, in one system call, and returns the first refusal.
    ///
    /// The kernel goes on after a refusal, so later requests have to be harmless when an earlier one did not happen.
    pub(crate) fn change(&mut self, requests: &[Request]) -> Result<(), Error> {
        let first = self.post(requests, flag::ACK)?;
        let mut verdict = Ok(());
        let mut waiting_for = first;
        while waiting_for != self.sequence {
            for message in decode::messages(receive(&self.fd, &mut self.buffer)?) {
                let message = message?;
                if message.kind == ERROR && message.sequence == waiting_for {
                    waiting_for = waiting_for.wrapping_add(1);
                    verdict = verdict.and(acknowledgement(&message));
                }
            }
        }
        verdict
    }

    /// Has the kernel carry out `requests` as one transaction of nfnetlink: all of them or none.
    ///
    /// `requests` includes the messages that begin and end the batch. Returns the first refusal.
    pub(crate) fn transact(&mut self, mut requests: Vec<Request>) -> Result<(), Error> {
        // Refusals are sent unasked; the acknowledgement of the last change comes after all of them.
        let last_change = requests.len().saturating_sub(2);
        if let Some(request) = requests.get_mut(last_change) {
            request.add_flags(flag::ACK);
        }
        let begin = self.post(&requests, 0)?;
        let last = self.sequence.wrapping_sub(2);
        loop {
            for message in decode::messages(receive(&self.fd, &mut self.buffer)?) {
                let message = message?;
                let ours = message.sequence.wrapping_sub(begin) <= last.wrapping_sub(begin);
                if message.kind == ERROR && ours {
                    acknowledgement(&message)?;
                    if message.sequence == last {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Asks a question that has one message as its answer.
    pub(crate) fn ask<T>(
        &mut self,
        question: Request,
        read: impl FnOnce(&Message<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let asked = self.post(&[question], 0)?;
        loop {
            for message in decode::messages(receive(&self.fd, &mut self.buffer)?) {
                let message = message?;
                if message.sequence == asked {
                    if message.kind == ERROR {
                        acknowledgement(&message)?;
                    }
                    return read(&message).ok_or(Error::Malformed);
                }
            }
        }
    }

    /// Lists kernel objects; those that `read` makes nothing of are left out.
    ///
    /// A listing during which the kernel's objects changed (NLM_F_DUMP_INTR) may miss some, and is asked for again.
    pub(crate) fn list<T>(
        &mut self,
        question: &Request,
        mut read: impl FnMut(&Message<'_>) -> Vec<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let asked = self.post(std::slice::from_ref(question), flag::DUMP)?;
            let (mut found, mut settled, mut done) = (Vec::new(), true, false);
            while !done {
                for message in decode::messages(receive(&self.fd, &mut self.buffer)?) {
                    let message = message?;
                    if message.sequence != asked {
                        continue;
                    }
                    settled &= message.flags & flag::DUMP_INTR == 0;
                    match message.kind {
                        ERROR => acknowledgement(&message)?,
                        DONE => {
                            done = true;
                            dump_verdict(&message)?;
                        }
                        _ => found.extend(read(&message)),
                    }
                }
            }
            if settled {
                return Ok(found);
            }
        }
        Err(Error::Unsettled)
    }

    /// Whether one of the events that are there now is what `wanted` looks for.
    pub(crate) fn heard(
        &mut self,
        mut wanted: impl FnMut(&Message<'_>) -> bool,
    ) -> Result<bool, Error> {
        let mut found = false;
        for message in decode::messages(receive(&self.fd, &mut self.buffer)?) {
            found |= wanted(&message?);
        }
        Ok(found)
    }

    /// Sends `requests` and returns the sequence number of the first; they are numbered on from it.
    fn post(&mut self, requests: &[Request], flags: u16) -> Result<u32, Error> {
        let first = self.sequence;
        let mut bytes = Vec::new();
        for request in requests {
            request.write_to(&mut bytes, self.sequence, flags)?;
            self.sequence = self.sequence.wrapping_add(1);
        }
        let sent = send(&self.fd, &bytes, SendFlags::empty())
            .map_err(|err| socket_error("send a netlink request", err.into()))?;
        if sent == bytes.len() { Ok(first) } else { Err(Error::TooLong) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn receive<'a>(fd: &OwnedFd, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    let (_, bytes) = rustix::io::retry_on_intr(|| recv(fd, &mut *buffer, flags))
        .map_err(|err| socket_error("receive a netlink answer", err.into()))?;
    // With MSG_TRUNC the length is the message's, also when it did not fit. An empty one would be asked for for ever.
    buffer.get(..bytes).filter(|bytes| !bytes.is_empty()).ok_or(Error::Malformed)
}

/// Reads an NLMSG_ERROR message, which with error 0 is an acknowledgement.
fn acknowledgement(message: &Message<'_>) -> Result<(), Error> {
    const REASON: u16 = 1; // NLMSGERR_ATTR_MSG
    const HEADER: usize = 16;
    let code = number(message.payload).ok_or(Error::Malformed)?;
    if code == 0 {
        return Ok(());
    }
    // The code is followed by the request: its header alone if the socket asked for that, and this flag says so.
    let echo = message.payload.get(4..).unwrap_or_default();
    let echoed = if message.flags & flag::CAPPED != 0 {
        HEADER
    } else {
        number(echo)
            .map_or(HEADER, |length| usize::try_from(length).unwrap_or(HEADER))
            .next_multiple_of(4)
    };
    let reason = if message.flags & flag::ACK_TLVS != 0 {
        find(echo.get(echoed..).unwrap_or_default(), REASON).and_then(text)
    } else {
        None
    };
    Err(refused(code, reason))
}

/// Reads an NLMSG_DONE message, which carries an error when the listing broke off.
fn dump_verdict(message: &Message<'_>) -> Result<(), Error> {
    match number(message.payload) {
        None | Some(0) => Ok(()),
        Some(code) => Err(refused(code, None)),
    }
}

/// `code` is a negative error number in the bits of an unsigned one.
fn refused(code: u32, text: Option<String>) -> Error {
    let errno = Errno::from_raw_os_error(code.cast_signed().saturating_neg());
    Error::Refused(Refusal { errno, text })
}

fn socket_error(step: &'static str, source: io::Error) -> Error {
    Error::Socket { step, source }
}
