//! Content in use by somebody who has no record of it yet.
//!
//! A pull leases what it is going to need before it looks whether that is there, so that the collector cannot take it
//! away in between; and whoever records the image drops the lease only then.

use crate::digest::{ChainId, Digest};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A piece of content the collector may remove.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Content {
    /// A file of the blob store.
    Blob(Digest),
    /// A layer of the layer store.
    Layer(ChainId),
}

/// What is leased, and what is being removed.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    books: Mutex<Books>,
    removed: Notify,
}

#[derive(Debug, Default)]
struct Books {
    held: HashMap<Content, usize>,
    /// The collector is at it; whoever wants to lease such a piece waits.
    doomed: HashSet<Content>,
    /// Everything that was leased at any time since the running collection began.
    seen: Option<HashSet<Content>>,
}

/// Keeps pieces of content from being collected until it, and all its clones, are dropped.
#[derive(Clone)]
#[must_use = "the content may be collected as soon as this is dropped"]
pub struct Lease(Arc<Held>);

struct Held {
    leases: Arc<Leases>,
    pieces: Vec<Content>,
}

impl Leases {
    /// Leases `pieces`, whether they are there or not. Waits for the collector where it is removing one of them.
    pub(crate) async fn acquire(self: &Arc<Self>, pieces: Vec<Content>) -> Lease {
        loop {
            let removed = self.removed.notified();
            tokio::pin!(removed);
            // From here on a removal that ends is not missed.
            removed.as_mut().enable();
            if self.try_hold(&pieces) {
                return Lease(Arc::new(Held { leases: Arc::clone(self), pieces }));
            }
            removed.await;
        }
    }

    /// Leases `pieces` before anybody collects: for what an earlier process left.
    pub(crate) fn acquire_first(self: &Arc<Self>, pieces: Vec<Content>) -> Lease {
        self.try_hold(&pieces);
        Lease(Arc::new(Held { leases: Arc::clone(self), pieces }))
    }

    fn try_hold(&self, pieces: &[Content]) -> bool {
        let mut books = self.lock();
        if pieces.iter().any(|piece| books.doomed.contains(piece)) {
            return false;
        }
        for piece in pieces {
            *books.held.entry(piece.clone()).or_default() += 1;
            if let Some(seen) = &mut books.seen {
                seen.insert(piece.clone());
            }
        }
        true
    }

    /// From now until [`end_collection`](Self::end_collection), a piece that was leased once stays safe.
    ///
    /// The list of recorded images is to be taken after this: whatever lost its lease before is in that list.
    pub(crate) fn begin_collection(&self) {
        let mut books = self.lock();
        books.seen = Some(books.held.keys().cloned().collect());
    }

    pub(crate) fn end_collection(&self) {
        self.lock().seen = None;
    }

    /// Runs `remove` unless `piece` was leased since the collection began; says whether it ran.
    pub(crate) fn unless_held<E>(
        &self,
        piece: &Content,
        remove: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        {
            let mut books = self.lock();
            let seen = books.seen.as_ref().is_some_and(|seen| seen.contains(piece));
            if seen || books.held.contains_key(piece) {
                return Ok(false);
            }
            books.doomed.insert(piece.clone());
        }
        let result = remove();
        self.lock().doomed.remove(piece);
        self.removed.notify_waiters();
        result.map(|()| true)
    }

    /// The books are whole after every statement that holds the lock, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leases of pulls that were cut off: what they had got stays for a while, so that the next try has a head start.
#[derive(Debug)]
pub(crate) struct Lingering {
    time: Duration,
    leases: Mutex<Vec<(Instant, Lease)>>,
}

/// A pull under way. Dropped before its [`end`](Self::end), it leaves its lease behind for a while.
#[derive(Debug)]
pub(crate) struct HeadStart<'a> {
    lingering: &'a Lingering,
    lease: Option<Lease>,
}

impl Lingering {
    /// `time`: how long a lease is kept.
    pub(crate) fn new(time: Duration) -> Self {
        Self { time, leases: Mutex::default() }
    }

    pub(crate) fn unless_ended(&self, lease: &Lease) -> HeadStart<'_> {
        HeadStart { lingering: self, lease: Some(lease.clone()) }
    }

    /// Keeps a lease for the time.
    pub(crate) fn keep(&self, lease: Lease) {
        if !self.time.is_zero() {
            self.lock().push((Instant::now() + self.time, lease));
        }
    }

    /// Drops the leases whose time is over.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        self.lock().retain(|(until, _)| now < *until);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, Lease)>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeadStart<'_> {
    /// Nothing of it is wanted any more, or all of it is recorded.
    pub(crate) fn end(mut self) {
        self.lease = None;
    }
}

impl Drop for HeadStart<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.lingering.keep(lease);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut books = self.leases.lock();
        for piece in &self.pieces {
            if let Some(count) = books.held.get_mut(piece) {
                *count -= 1;
                if *count == 0 {
                    books.held.remove(piece);
                }
            }
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.0.pieces).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn blob(name: &str) -> Content {
        Content::Blob(Digest::of(name.as_bytes()))
    }

    fn removed(leases: &Leases, name: &str) -> bool {
        leases.unless_held(&blob(name), || Ok::<_, Infallible>(())).unwrap()
    }

    #[tokio::test]
    async fn a_piece_is_safe_until_the_last_lease_on_it_is_dropped() {
        let leases = Arc::new(Leases::default());
        let first = leases.acquire(vec![blob("a"), blob("a")]).await;
        let second = leases.acquire(vec![blob("a")]).await;
        let clone = first.clone();
        drop((first, second));
        assert!(!removed(&leases, "a"));
        assert!(removed(&leases, "b"));
        drop(clone);
        assert!(removed(&leases, "a"));
    }

    #[tokio::test]
    async fn a_lease_dropped_during_a_collection_counts_until_its_end() {
        let leases = Arc::new(Leases::default());
        let before = leases.acquire(vec![blob("a")]).await;
        leases.begin_collection();
        let during = leases.acquire(vec![blob("b")]).await;
        drop((before, during));
        assert!(!removed(&leases, "a"));
        assert!(!removed(&leases, "b"));
        leases.end_collection();
        assert!(removed(&leases, "a") && removed(&leases, "b"));
    }

    #[tokio::test]
    async fn what_a_pull_that_was_cut_off_had_lingers() {
        let leases = Arc::new(Leases::default());
        for (time, ends, stays) in [(60, false, true), (60, true, false), (0, false, false)] {
            let lingering = Lingering::new(Duration::from_secs(time));
            let lease = leases.acquire(vec![blob("a")]).await;
            let head_start = lingering.unless_ended(&lease);
            if ends {
                head_start.end();
            } else {
                drop(head_start);
            }
            drop(lease);
            lingering.expire();
            assert_eq!(removed(&leases, "a"), !stays, "{time} s, ended: {ends}");
        }
    }

    #[tokio::test]
    async fn a_lease_waits_for_a_removal_under_way() {
        let leases = Arc::new(Leases::default());
        let mut waiting = None;
        leases
            .unless_held(&blob("a"), || {
                let leases = Arc::clone(&leases);
                let acquire = tokio::spawn(async move { leases.acquire(vec![blob("a")]).await });
                waiting = Some(acquire);
                Ok::<_, Infallible>(())
            })
            .unwrap();
        let lease = waiting.unwrap().await.unwrap();
        assert!(!removed(&leases, "a"));
        drop(lease);
    }
}
