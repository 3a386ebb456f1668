//! Work that several callers want at the same time and that is done once.

use super::error::PullCause;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What work comes to; every caller gets a copy.
pub(super) type Outcome<T> = Result<T, Arc<PullCause>>;

/// The work under way, by what it is for.
///
/// A piece of work runs in a task of its own. Whoever asks for the same meanwhile gets a seat in it. It goes on as long
/// as one seat is taken; when the last is given up, the task is cancelled and frees what it holds.
pub(super) struct Flights<K, T, P> {
    running: Arc<Mutex<Running<K, T, P>>>,
}

type Running<K, T, P> = HashMap<K, Weak<Flight<T, P>>>;

struct Flight<T, P> {
    outcome: watch::Receiver<Option<Outcome<T>>>,
    progress: watch::Receiver<P>,
    task: AbortHandle,
}

/// A caller's share in a piece of work.
pub(super) struct Seat<T, P> {
    flight: Arc<Flight<T, P>>,
    /// Whether somebody else had begun the work.
    joined: bool,
}

impl<K, T, P> Flights<K, T, P>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
    P: Send + Sync + 'static,
{
    /// A seat in the work for `key`, which is begun with `work` unless it is under way.
    pub(super) fn join<F>(
        &self,
        key: K,
        start: P,
        work: impl FnOnce(watch::Sender<P>) -> F,
    ) -> Seat<T, P>
    where
        F: Future<Output = Result<T, PullCause>> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(flight) = running.get(&key).and_then(Weak::upgrade) {
            return Seat { flight, joined: true };
        }
        let (tell_progress, progress) = watch::channel(start);
        let (tell_outcome, outcome) = watch::channel(None);
        let work = work(tell_progress);
        let leave = Arc::clone(&self.running);
        let flight = Arc::new_cyclic(|this: &Weak<Flight<T, P>>| {
            let (this, key) = (Weak::clone(this), key.clone());
            let task = tokio::spawn(async move {
                let outcome = work.await.map_err(Arc::new);
                // Whoever comes from now on starts anew and does not get an old answer.
                let mut running = lock(&leave);
                if running.get(&key).is_some_and(|flight| flight.ptr_eq(&this)) {
                    running.remove(&key);
                }
                drop(running);
                tell_outcome.send_replace(Some(outcome));
            });
            Flight { outcome, progress, task: task.abort_handle() }
        });
        running.retain(|_, flight| flight.strong_count() > 0);
        running.insert(key, Arc::downgrade(&flight));
        Seat { flight, joined: false }
    }
}

impl<T: Clone, P> Seat<T, P> {
    /// Waits for the outcome; tells each state of progress on the way, the last one certainly.
    pub(super) async fn follow(&self, mut tell: impl FnMut(&P)) -> Outcome<T> {
        let mut outcome = self.flight.outcome.clone();
        let mut progress = self.flight.progress.clone();
        let mut done = std::pin::pin!(async move {
            match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => None,
            }
        });
        loop {
            tell(&progress.borrow_and_update());
            tokio::select! {
                biased;
                Ok(()) = progress.changed() => {}
                outcome = &mut done => {
                    tell(&progress.borrow_and_update());
                    return outcome.unwrap_or_else(|| Err(Arc::new(PullCause::Lost)));
                }
            }
        }
    }

    /// How far the work is, now and from now on.
    pub(super) fn progress(&self) -> watch::Receiver<P> {
        self.flight.progress.clone()
    }

    /// Whether somebody else had begun the work, with credentials of their own.
    pub(super) fn was_joined(&self) -> bool {
        self.joined
    }

    /// Waits for the outcome.
    pub(super) async fn wait(&self) -> Outcome<T> {
        self.follow(|_| {}).await
    }
}

impl<T, P> Clone for Seat<T, P> {
    fn clone(&self) -> Self {
        Self { flight: Arc::clone(&self.flight), joined: self.joined }
    }
}

impl<T, P> Drop for Flight<T, P> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K, T, P> Default for Flights<K, T, P> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

impl<K, T, P> fmt::Debug for Flights<K, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("running", &lock(&self.running).len()).finish()
    }
}

/// The map is whole after every statement that holds the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    type Numbers = Flights<&'static str, u32, u32>;

    /// Work that waits for `go`, counts its starts and tells when it is dropped.
    struct Job {
        starts: Arc<AtomicUsize>,
        go: Arc<Notify>,
        freed: Arc<Notify>,
    }

    impl Job {
        fn new() -> Self {
            Self { starts: Arc::default(), go: Arc::default(), freed: Arc::default() }
        }

        fn seat(&self, flights: &Numbers) -> Seat<u32, u32> {
            struct Tell(Arc<Notify>);
            impl Drop for Tell {
                fn drop(&mut self) {
                    self.0.notify_one();
                }
            }
            let (starts, go, freed) =
                (Arc::clone(&self.starts), Arc::clone(&self.go), Tell(Arc::clone(&self.freed)));
            flights.join("key", 0, |progress| async move {
                let _freed = freed;
                let number = starts.fetch_add(1, Ordering::SeqCst);
                progress.send_replace(50);
                go.notified().await;
                progress.send_replace(100);
                Ok(u32::try_from(number).unwrap())
            })
        }
    }

    #[tokio::test]
    async fn callers_share_one_run_and_later_ones_start_anew() {
        let (flights, job) = (Numbers::default(), Job::new());
        let (one, two) = (job.seat(&flights), job.seat(&flights));
        job.go.notify_one();
        let mut last = 0;
        assert_eq!(one.follow(|progress| last = *progress).await.unwrap(), 0);
        assert_eq!((two.wait().await.unwrap(), last), (0, 100));
        // The old seats are still taken: their outcome is not for newcomers.
        let three = job.seat(&flights);
        job.go.notify_one();
        assert_eq!(three.wait().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn the_survivor_goes_on_and_the_last_one_to_leave_cancels() {
        let (flights, job) = (Numbers::default(), Job::new());
        let (one, two) = (job.seat(&flights), job.seat(&flights));
        tokio::task::yield_now().await;
        drop(one);
        job.go.notify_one();
        assert_eq!(two.wait().await.unwrap(), 0);
        job.freed.notified().await;
        let three = job.seat(&flights);
        tokio::task::yield_now().await;
        drop(three);
        job.freed.notified().await;
        assert_eq!(job.starts.load(Ordering::SeqCst), 2);
        let four = job.seat(&flights);
        job.go.notify_one();
        assert_eq!(four.wait().await.unwrap(), 2);
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_not_a_hang() {
        let flights = Numbers::default();
        let seat = flights.join("key", 0, |_| async { panic!("on purpose") });
        assert!(matches!(*seat.wait().await.unwrap_err(), PullCause::Lost));
    }
}
