//! A thread that owns one thing to be measured, with the namespaces it lives in.

use std::any::Any;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Work is sent to it; one piece at a time. Dropping it takes the thing down, on its own thread.
pub(crate) struct Actor<S> {
    inbox: Option<Sender<Work<S>>>,
    thread: Option<JoinHandle<()>>,
}

/// The thread has panicked: what it said.
#[derive(Debug)]
pub(crate) struct Gone(pub(crate) String);

impl<S: 'static> Actor<S> {
    /// Starts the thread, and has it make what it owns.
    ///
    /// # Errors
    ///
    /// When that panics.
    pub(crate) fn start(
        name: &str,
        make: impl FnOnce() -> S + Send + 'static,
    ) -> Result<Self, Gone> {
        let (inbox, work) = mpsc::channel::<Work<S>>();
        let live = move || {
            let mut owned = make();
            while let Ok(work) = work.recv() {
                work(&mut owned);
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(live);
        let thread = thread.map_err(|err| Gone(err.to_string()))?;
        let mut actor = Self { inbox: Some(inbox), thread: Some(thread) };
        actor.ask(|_| ())?;
        Ok(actor)
    }

    /// Has it do `work`, and waits for the result.
    ///
    /// # Errors
    ///
    /// When the thread has panicked, now or before.
    pub(crate) fn ask<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, result) = mpsc::channel();
        let work = Box::new(move |owned: &mut S| {
            // Nobody waits any more only when this whole program is on its way out.
            answer.send(work(owned)).ok();
        });
        let sent = self.inbox.as_ref().is_some_and(|inbox| inbox.send(work).is_ok());
        match result.recv() {
            Ok(result) if sent => Ok(result),
            Ok(_) | Err(_) => Err(self.bury()),
        }
    }

    fn bury(&mut self) -> Gone {
        self.inbox = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => Gone(text_of(panic.as_ref())),
            Some(Ok(())) | None => Gone("has ended".into()),
        }
    }
}

impl<S> Drop for Actor<S> {
    fn drop(&mut self) {
        self.inbox = None;
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; whoever asks it the next time would be told.
            thread.join().ok();
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_answer_to_who_asks() {
        let mut actor = Actor::start("counts", || 1).expect("starts");
        assert_eq!(actor.ask(|number| *number + 1).expect("answers"), 2);
        let gone = actor.ask(|_| panic!("no more")).expect_err("panics");
        assert_eq!(gone.0, "no more");
        assert_eq!(actor.ask(|_| ()).expect_err("is gone").0, "has ended");
    }
}
