//! Retries that join.
//!
//! A client whose call times out asks again while the first call is still at work, and a call whose client has gone
//! still runs to its end. So an operation that creates something is a *flight*, known by what it creates: an equal
//! request joins the flight, or takes the result that nobody was there to take. A retry never finds its own name
//! "reserved".

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The operations in flight, and those that have landed and whose result nobody has taken.
pub(crate) struct Flights<K, T> {
    flights: Mutex<HashMap<K, Flight<T>>>,
}

struct Flight<T> {
    request: Vec<u8>,
    result: watch::Receiver<Option<T>>,
}

/// What a request means for an operation that may be in flight already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Boarding<T> {
    /// The result of an equal request.
    Landed(T),
    /// A different request for the same thing is in flight.
    Taken,
    /// The operation ended without a result (it panicked).
    Lost,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { flights: Mutex::default() }
    }
}

impl<K, T> std::fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

impl<K, T, E> Flights<K, Result<T, E>>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    fn flights(&self) -> MutexGuard<'_, HashMap<K, Flight<Result<T, E>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight of `key` if `request` equals the one that began it, or begins one that does `work`.
    ///
    /// `work` runs to its end in a task of its own, whoever still waits. A failure is told to all who wait and then
    /// forgotten; a success is kept until somebody has taken it.
    pub(crate) async fn join<F>(
        self: &Arc<Self>,
        key: K,
        request: Vec<u8>,
        work: impl FnOnce() -> F,
    ) -> Boarding<Result<T, E>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let mut result = {
            let mut flights = self.flights();
            match flights.get(&key) {
                Some(flight) if flight.request == request => flight.result.clone(),
                Some(_) => return Boarding::Taken,
                None => {
                    let (land, result) = watch::channel(None);
                    flights.insert(key.clone(), Flight { request, result: result.clone() });
                    self.take_off(key.clone(), land, work());
                    result
                }
            }
        };
        let landed = match result.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone(),
            Err(_) => None,
        };
        // From here on the caller has the answer: nothing awaits between this line and its response.
        self.leave(&key, &result);
        landed.map_or(Boarding::Lost, Boarding::Landed)
    }

    /// Drops a result that nobody took, because what it speaks of is gone.
    pub(crate) fn forget(&self, key: &K) {
        self.flights().remove(key);
    }

    /// Drops a flight, but not one that has begun since under the same key.
    fn leave(&self, key: &K, result: &watch::Receiver<Option<Result<T, E>>>) {
        let mut flights = self.flights();
        if flights.get(key).is_some_and(|flight| flight.result.same_channel(result)) {
            flights.remove(key);
        }
    }

    fn take_off(
        self: &Arc<Self>,
        key: K,
        land: watch::Sender<Option<Result<T, E>>>,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) {
        let flights = Arc::clone(self);
        let own = land.subscribe();
        tokio::spawn(async move {
            let result = work.await;
            if result.is_err() {
                flights.leave(&key, &own);
            }
            land.send_replace(Some(result));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    type Pods = Arc<Flights<&'static str, Result<u32, &'static str>>>;

    #[tokio::test]
    async fn an_equal_request_joins_and_gets_the_same_result() {
        let pods = Pods::default();
        let (go, count) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let work = || {
            let (go, count) = (Arc::clone(&go), Arc::clone(&count));
            async move {
                go.notified().await;
                Ok(count.fetch_add(1, Ordering::SeqCst))
            }
        };
        let first = pods.join("pod", b"request".to_vec(), work);
        let second = pods.join("pod", b"request".to_vec(), work);
        let ((first, second), ()) = tokio::join!(async { tokio::join!(first, second) }, async {
            tokio::task::yield_now().await;
            go.notify_one();
        });
        assert_eq!(first, Boarding::Landed(Ok(0)));
        assert_eq!(second, Boarding::Landed(Ok(0)));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_different_request_for_the_same_thing_is_refused() {
        let pods = Pods::default();
        let first = pods.join("pod", b"one".to_vec(), std::future::pending);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), first).await.is_err());
        let second = pods.join("pod", b"two".to_vec(), || async { Ok(2) }).await;
        assert_eq!(second, Boarding::Taken);
    }

    #[tokio::test]
    async fn a_result_that_nobody_took_waits_for_the_retry() {
        let pods = Pods::default();
        let go = Arc::new(Notify::new());
        let gone = {
            let go = Arc::clone(&go);
            pods.join("pod", b"r".to_vec(), move || async move {
                go.notified().await;
                Ok(7)
            })
        };
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), gone).await.is_err());
        go.notify_one();
        let retry = pods.join("pod", b"r".to_vec(), || async { Ok(8) }).await;
        assert_eq!(retry, Boarding::Landed(Ok(7)));
        let later = pods.join("pod", b"r".to_vec(), || async { Ok(9) }).await;
        assert_eq!(later, Boarding::Landed(Ok(9)), "a result is handed out once");
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let pods = Pods::default();
        let failed = pods.join("pod", b"r".to_vec(), || async { Err("disk full") }).await;
        assert_eq!(failed, Boarding::Landed(Err("disk full")));
        let retry = pods.join("pod", b"r".to_vec(), || async { Ok(1) }).await;
        assert_eq!(retry, Boarding::Landed(Ok(1)));
    }
}
