//! Addresses that work once: what somebody may do, under a name that nobody can guess.

use crate::container::Container;
use crate::sandbox::Sandbox;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What a client may do.
#[derive(Clone, Debug)]
pub(crate) enum Errand {
    Exec {
        container: Arc<Container>,
        command: Vec<String>,
        wanted: Wanted,
    },
    Attach {
        container: Arc<Container>,
        wanted: Wanted,
    },
    /// The ports are those of a WebSocket client, which has no other way to say which it means.
    Forward {
        sandbox: Arc<Sandbox>,
        ports: Vec<u16>,
    },
}

/// Which streams a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

/// Too many addresses were handed out and not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many streaming requests are waiting for their clients")]
pub(crate) struct TooMany;

/// How long a ticket is good for, and how many there are at a time: as with other runtimes.
const LIFETIME: Duration = Duration::from_secs(60);
const MOST: usize = 1000;

/// The tickets that were not used yet.
#[derive(Debug)]
pub(super) struct Tickets<T = Errand> {
    open: Mutex<HashMap<String, (Instant, T)>>,
}

impl Errand {
    /// The first part of its address.
    pub(super) fn path(&self) -> &'static str {
        match self {
            Errand::Exec { .. } => "exec",
            Errand::Attach { .. } => "attach",
            Errand::Forward { .. } => "portforward",
        }
    }
}

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self { open: Mutex::default() }
    }
}

impl<T> Tickets<T> {
    /// A new ticket: 128 bits that cannot be foreseen.
    pub(super) fn issue(&self, errand: T) -> Result<String, TooMany> {
        let mut secret = [0; 16];
        let got = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
        if got != Ok(secret.len()) {
            return Err(TooMany); // never a ticket that could be guessed
        }
        let name = BASE64_URL_SAFE_NO_PAD.encode(secret);
        let now = Instant::now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, (until, _)| *until > now);
        if open.len() >= MOST {
            return Err(TooMany);
        }
        open.insert(name.clone(), (now + LIFETIME, errand));
        Ok(name)
    }

    /// What the ticket is good for. It is good for nothing afterwards.
    pub(super) fn redeem(&self, name: &str) -> Option<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, errand) = open.remove(name)?;
        (until > Instant::now()).then_some(errand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ticket_works_once_and_not_for_long() {
        let tickets = Tickets::default();
        let (first, second) = (tickets.issue(1).unwrap(), tickets.issue(2).unwrap());
        assert_eq!(first.len(), 22);
        assert_ne!(first, second);
        assert_eq!(tickets.redeem(&first), Some(1));
        assert_eq!(tickets.redeem(&first), None, "used");
        assert_eq!(tickets.redeem("guess"), None);
        tokio::time::advance(LIFETIME).await;
        assert_eq!(tickets.redeem(&second), None, "too old");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_only_so_many() {
        let tickets = Tickets::default();
        for number in 0..MOST {
            tickets.issue(number).unwrap();
        }
        assert_eq!(tickets.issue(0), Err(TooMany));
        tokio::time::advance(LIFETIME).await;
        assert!(tickets.issue(0).is_ok(), "the old ones are forgotten");
    }
}
