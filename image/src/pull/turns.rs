//! Whose turn it is: so many layers are under way at a time, and each pull gets its share of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Names a pull for as long as it lasts.
pub(super) type PullNumber = u64;

/// Gives turns: the next goes to the pull that has the fewest, of equals to who came first. So an image of two layers does
/// not wait for the hundred of another.
#[derive(Debug)]
pub(super) struct Turns {
    books: Arc<Mutex<Books>>,
}

#[derive(Debug)]
struct Books {
    free: usize,
    running: HashMap<PullNumber, usize>,
    /// In the order of their coming.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    pull: PullNumber,
    give: oneshot::Sender<Turn>,
}

/// A turn; the next one in line gets it when this is dropped.
#[derive(Debug)]
#[must_use = "the turn is over when this is dropped"]
pub(super) struct Turn {
    books: Option<Arc<Mutex<Books>>>,
    pull: PullNumber,
}

impl Turns {
    pub(super) fn new(count: usize) -> Self {
        let books = Books { free: count.max(1), running: HashMap::new(), waiting: Vec::new() };
        Self { books: Arc::new(Mutex::new(books)) }
    }

    /// Waits for a turn. Dropping the future gives the place in the line up.
    pub(super) async fn take(&self, pull: PullNumber) -> Turn {
        loop {
            let (give, given) = oneshot::channel();
            lock(&self.books).waiting.push(Waiting { pull, give });
            hand_out(&self.books);
            // The sender is dropped without a turn only if somebody panicked; then there is a new place in the line.
            if let Ok(turn) = given.await {
                return turn;
            }
        }
    }
}

/// Gives away all turns that are free.
fn hand_out(books: &Arc<Mutex<Books>>) {
    loop {
        // In a statement of its own: the lock must not be held in what follows.
        let next = lock(books).next();
        let Some((pull, give)) = next else { return };
        let turn = Turn { books: Some(Arc::clone(books)), pull };
        if let Err(mut refused) = give.send(turn) {
            // Whoever waited has left. The turn must not hand out on its own account, which would go ever deeper.
            refused.books = None;
            lock(books).give_back(pull);
        }
    }
}

impl Books {
    fn next(&mut self) -> Option<(PullNumber, oneshot::Sender<Turn>)> {
        if self.free == 0 {
            return None;
        }
        let count = |pull: &PullNumber| self.running.get(pull).copied().unwrap_or(0);
        let (index, _) =
            self.waiting.iter().enumerate().min_by_key(|(_, waiting)| count(&waiting.pull))?;
        let Waiting { pull, give } = self.waiting.remove(index);
        self.free -= 1;
        *self.running.entry(pull).or_default() += 1;
        Some((pull, give))
    }

    fn give_back(&mut self, pull: PullNumber) {
        self.free += 1;
        if let Some(count) = self.running.get_mut(&pull) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(&pull);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(books) = self.books.take() else { return };
        lock(&books).give_back(self.pull);
        hand_out(&books);
    }
}

/// The books are whole after every statement that holds the lock.
fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Poll;

    /// Whether the future is ready now.
    async fn ready<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn the_pull_with_the_fewest_turns_is_next() {
        let turns = Turns::new(2);
        let first = turns.take(1).await;
        let second = turns.take(1).await;
        let mut third = pin!(turns.take(1));
        let mut other = pin!(turns.take(2));
        assert!(ready(&mut third).await.is_none() && ready(&mut other).await.is_none());
        drop(first);
        assert!(ready(&mut third).await.is_none(), "it was there first, but has one already");
        let other = ready(&mut other).await.expect("it has none");
        drop(second);
        assert!(ready(&mut third).await.is_some());
        drop(other);
    }

    #[tokio::test]
    async fn who_leaves_the_line_costs_nobody_a_turn() {
        let turns = Turns::new(1);
        let first = turns.take(1).await;
        {
            let mut leaver = pin!(turns.take(2));
            assert!(ready(&mut leaver).await.is_none());
        }
        let mut next = pin!(turns.take(3));
        assert!(ready(&mut next).await.is_none());
        drop(first);
        drop(ready(&mut next).await.expect("the leaver's turn"));
        assert!(lock(&turns.books).running.is_empty());
        assert_eq!(lock(&turns.books).free, 1);
    }
}
