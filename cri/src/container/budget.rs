//! Memory for the outputs of execs: each may fill one answer, and many at once must not fill the node (CVE-2022-31030).
//!
//! What probes say is small, and never waits for anybody. An answer that grows beyond that needs one of a few places; who
//! finds none is told so at once, since those who hold them may never end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many answers can be large at a time. Each has 16 MiB at most, and the message that it is sent in as much again.
const LARGE: usize = 8;

/// What an answer may have in bytes without a place.
const SMALL: usize = 256 << 10;

/// The places for large answers.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Semaphore>);

/// What one answer has of that. Its place is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    places: Arc<Semaphore>,
    place: Mutex<Option<OwnedSemaphorePermit>>,
    small: AtomicUsize,
    refused: AtomicBool,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE)))
    }
}

impl Budget {
    pub(crate) fn share(&self) -> Share {
        Share {
            places: Arc::clone(&self.0),
            place: Mutex::default(),
            small: AtomicUsize::new(SMALL),
            refused: AtomicBool::new(false),
        }
    }
}

impl Share {
    /// Whether `bytes` more may be kept.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        if self.small.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return true;
        }
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_none() {
            *place = Arc::clone(&self.places).try_acquire_owned().ok();
        }
        if place.is_none() {
            self.refused.store(true, Ordering::Relaxed);
        }
        place.is_some()
    }

    /// Whether it was ever told that it may not.
    pub(crate) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_answers_are_free_and_large_ones_need_one_of_a_few_places() {
        let budget = Budget::default();
        let shares: Vec<_> = (0..=LARGE).map(|_| budget.share()).collect();
        assert!(shares.iter().all(|share| share.take(SMALL)));
        assert!(shares[..LARGE].iter().all(|share| share.take(1)));
        assert!(!shares[LARGE].take(1) && shares[LARGE].was_refused());
        assert!(shares[0].take(16 << 20), "it has its place");
        drop(shares);
        assert!(budget.share().take(SMALL + 1), "they are free again");
    }
}
