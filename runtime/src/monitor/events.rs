//! What can happen, and to whom: one epoll instance for all of it.

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// Names a connection, container or exec. Never used again in the life of a monitor, so that a late event finds nobody
/// instead of somebody else.
pub(crate) type Key = u32;

/// Something is readable, or has reached its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Somebody wants to connect.
    Listener,
    /// A child has ended.
    Children,
    /// A connection has a request.
    Connection(Key),
    /// A container's init has a word.
    Start(Key),
    /// An exec's process has a word.
    Exec(Key),
    /// A container's standard output, or its terminal.
    Output(Key),
    /// A container's standard error.
    Errors(Key),
}

impl Event {
    fn encode(self) -> EventData {
        let (kind, key) = match self {
            Event::Listener => (0, 0),
            Event::Children => (1, 0),
            Event::Connection(key) => (2, key),
            Event::Start(key) => (3, key),
            Event::Exec(key) => (4, key),
            Event::Output(key) => (5, key),
            Event::Errors(key) => (6, key),
        };
        EventData::new_u64(kind << 32 | u64::from(key))
    }

    fn decode(data: EventData) -> Option<Self> {
        let data = data.u64();
        let key = u32::try_from(data & u64::from(u32::MAX)).ok()?;
        match data >> 32 {
            0 => Some(Event::Listener),
            1 => Some(Event::Children),
            2 => Some(Event::Connection(key)),
            3 => Some(Event::Start(key)),
            4 => Some(Event::Exec(key)),
            5 => Some(Event::Output(key)),
            6 => Some(Event::Errors(key)),
            _ => None,
        }
    }
}

/// The one place where the monitor waits.
#[derive(Debug)]
pub(crate) struct Events(OwnedFd);

/// How many events are served between two waits.
const AT_ONCE: usize = 32;

impl Events {
    pub(crate) fn new() -> Result<Self, Errno> {
        epoll::create(CreateFlags::CLOEXEC).map(Self)
    }

    /// Tells of `source` from now on. Closing it ends that, unless somebody else holds it too.
    pub(crate) fn add(&self, source: impl AsFd, event: Event) -> Result<(), Errno> {
        epoll::add(&self.0, source, event.encode(), EventFlags::IN)
    }

    /// Tells of `source` no more.
    pub(crate) fn remove(&self, source: impl AsFd) {
        // It may not have been added.
        epoll::delete(&self.0, source).ok();
    }

    /// Waits until something has happened, or for as long as `patience` says; nothing is for ever.
    pub(crate) fn wait(&self, patience: Option<&Timespec>) -> Result<Vec<Event>, Errno> {
        let mut events = Vec::with_capacity(AT_ONCE);
        match epoll::wait(&self.0, spare_capacity(&mut events), patience) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(err) => return Err(err),
        }
        Ok(events.iter().filter_map(|event| Event::decode(event.data)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_kernel() {
        let all = [
            Event::Listener,
            Event::Children,
            Event::Connection(1),
            Event::Start(u32::MAX),
            Event::Exec(3),
            Event::Output(4),
            Event::Errors(5),
        ];
        for event in all {
            assert_eq!(Event::decode(event.encode()), Some(event));
        }
    }
}
