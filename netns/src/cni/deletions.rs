//! Deletions of attachments, tried again until they succeed.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Work;

/// Deletions that were not successful at once run on so many threads.
const LANES: usize = 8;

/// The first pause before another try, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Attachments that are to go.
#[derive(Debug)]
pub(super) struct Deletions {
    queue: Arc<Queue>,
    work: Arc<Work>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<String, Try>,
    running: usize,
    over: bool,
}

/// The next try.
#[derive(Clone, Copy, Debug)]
struct Try {
    due: Instant,
    /// Before the one after it.
    pause: Duration,
}

impl Deletions {
    pub(super) fn new(work: &Arc<Work>) -> Self {
        Self { queue: Arc::default(), work: Arc::clone(work), threads: Mutex::default() }
    }

    /// Deletes an attachment now or, if that fails, later.
    pub(super) fn delete(&self, owner: &str) {
        if let Err(err) = self.work.delete(owner) {
            tracing::warn!(owner, error = %err, "network attachment is not deleted yet; tried again");
            let again = Try { due: Instant::now() + PAUSE, pause: PAUSE * 2 };
            self.enqueue([(owner.to_owned(), again)]);
        }
    }

    /// Deletes attachments side by side, and waits for at most `patience` for them to go.
    pub(super) fn delete_all(&self, owners: &[String], patience: Duration) {
        if owners.is_empty() {
            return;
        }
        let now = Try { due: Instant::now(), pause: PAUSE };
        self.enqueue(owners.iter().map(|owner| (owner.clone(), now)));
        let deadline = Instant::now() + patience;
        let mut state = self.queue.state();
        // A first try of each is waited for, not the pauses between later ones.
        let at_work = |state: &State| {
            state.running > 0 || state.waiting.values().any(|next| next.due <= Instant::now())
        };
        while at_work(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.queue.wait(state, left);
        }
    }

    fn enqueue(&self, tries: impl IntoIterator<Item = (String, Try)>) {
        self.queue.state().waiting.extend(tries);
        self.queue.changed.notify_all();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while threads.len() < LANES {
            let (queue, work) = (Arc::clone(&self.queue), Arc::clone(&self.work));
            let started = thread::Builder::new()
                .name("cni-deletion".into())
                .stack_size(256 * 1024)
                .spawn(move || queue.serve(&work));
            match started {
                Ok(thread) => threads.push(thread),
                Err(err) => {
                    tracing::error!(%err, "start a thread that deletes network attachments");
                    break;
                }
            }
        }
    }
}

impl Drop for Deletions {
    /// Waits for plugins that run; what is left is noted, and the next daemon's.
    fn drop(&mut self) {
        self.queue.state().over = true;
        self.queue.changed.notify_all();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic of the thread has been printed; there is nothing else of it.
            thread.join().ok();
        }
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }

    fn serve(&self, work: &Work) {
        let mut state = self.state();
        while !state.over {
            let Some((owner, next)) = state.next() else {
                let pause = state.pause();
                state = self.wait(state, pause);
                continue;
            };
            state.running += 1;
            drop(state);
            let deleted = work.delete(&owner);
            state = self.state();
            state.running -= 1;
            match deleted {
                Ok(()) => tracing::info!(owner, "network attachment deleted"),
                Err(err) => {
                    tracing::warn!(owner, error = %err, "network attachment is not deleted yet; tried again");
                    let pause = (next.pause * 2).min(LONGEST_PAUSE);
                    state.waiting.insert(owner, Try { due: Instant::now() + next.pause, pause });
                }
            }
            self.changed.notify_all();
        }
    }
}

impl State {
    /// Takes one that is due.
    fn next(&mut self) -> Option<(String, Try)> {
        let now = Instant::now();
        let owner = self.waiting.iter().find(|(_, next)| next.due <= now)?.0.clone();
        self.waiting.remove_entry(&owner)
    }

    /// How long there is nothing to do, unless something new comes.
    fn pause(&self) -> Duration {
        let due = self.waiting.values().map(|next| next.due).min();
        due.map_or(LONGEST_PAUSE, |due| due.saturating_duration_since(Instant::now()))
    }
}
