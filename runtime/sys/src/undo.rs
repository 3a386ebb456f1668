//! The undo stack: refuse first, then acquire; each acquired thing pushes the step that gives it back.

use std::error::Error;
use std::fmt;

/// The steps that would take back what a half-done operation has built so far.
///
/// Push one step right after each resource is acquired. [`commit`](Self::commit) forgets them all; dropping the stack
/// instead runs them, last first.
#[derive(Default)]
#[must_use = "dropping the stack takes back what was built"]
pub struct Undo {
    steps: Vec<Step>,
}

type Failure = Box<dyn Error + Send + Sync>;

struct Step {
    what: &'static str,
    run: Box<dyn FnOnce() -> Result<(), Failure> + Send>,
}

impl Undo {
    /// Adds the step that gives back what was just acquired; `what` names it in the log.
    pub fn push<E: Into<Failure>>(
        &mut self,
        what: &'static str,
        run: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) {
        self.steps.push(Step { what, run: Box::new(|| run().map_err(Into::into)) });
    }

    /// Forgets every step: somebody else owns the resources now.
    pub fn commit(mut self) {
        self.steps.clear();
    }

    /// Runs every step, even after one fails, and names those that failed, so that the caller can record what is still
    /// to be cleaned up.
    pub fn roll_back(mut self) -> Vec<&'static str> {
        self.run_all()
    }

    fn run_all(&mut self) -> Vec<&'static str> {
        let mut left_behind = Vec::new();
        while let Some(Step { what, run }) = self.steps.pop() {
            if let Err(err) = run() {
                tracing::warn!(what, err, "undo failed");
                left_behind.push(what);
            }
        }
        left_behind
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        self.run_all();
    }
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|step| step.what)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    fn stack(fails: &'static str) -> (Undo, Arc<Mutex<Vec<&'static str>>>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for what in ["first", "second", "third"] {
            let log = Arc::clone(&log);
            undo.push(what, move || {
                log.lock().unwrap().push(what);
                if what == fails { Err(io::Error::other("no")) } else { Ok(()) }
            });
        }
        (undo, log)
    }

    #[test]
    fn steps_run_last_first_when_the_stack_is_dropped() {
        let (undo, log) = stack("");
        drop(undo);
        assert_eq!(*log.lock().unwrap(), ["third", "second", "first"]);
    }

    #[test]
    fn a_committed_stack_runs_nothing() {
        let (undo, log) = stack("");
        undo.commit();
        assert!(log.lock().unwrap().is_empty());
    }

    #[test]
    fn a_failed_step_is_named_and_the_rest_still_run() {
        let (undo, log) = stack("second");
        assert_eq!(undo.roll_back(), ["second"]);
        assert_eq!(*log.lock().unwrap(), ["third", "second", "first"]);
    }
}
