//! The life of a container, as a pure function. Nothing here touches the kernel.
//!
//! ```text
//!   Created ──Started──▶ Running ──Exited──▶ Exited
//!      └───────────────Exited────────────────▲   (start refused, or gone before the start was answered)
//! ```

use runtime::exit::{Cause, Exit};
use serde::{Deserialize, Serialize};

/// The exit code of a container whose start was refused, as other runtimes give it.
pub(crate) const START_ERROR: i32 = 128;
/// The exit code of a container of which nobody can know how it ended.
pub(crate) const UNKNOWN: i32 = 255;

/// Where a container is in its life. Times are nanoseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Created,
    Running { pid: i32, started_at: i64 },
    Exited(Exited),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exited {
    /// Nothing where it never started.
    pub(crate) started_at: Option<i64>,
    pub(crate) finished_at: i64,
    pub(crate) code: i32,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

/// Why a container ended, in the words that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reason {
    Completed,
    Error,
    OOMKilled,
    StartError,
    /// Nobody was there to see it; the code is made up and says so.
    Unknown,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Completed => "Completed",
            Reason::Error => "Error",
            Reason::OOMKilled => "OOMKilled",
            Reason::StartError => "StartError",
            Reason::Unknown => "Unknown",
        }
    }
}

impl Exited {
    /// An end as the monitor saw it, at `finished_at`.
    pub(crate) fn seen(exit: &Exit, finished_at: i64) -> Self {
        let reason = match exit.cause {
            Cause::Ended if exit.code == 0 => Reason::Completed,
            Cause::Ended => Reason::Error,
            Cause::OutOfMemory => Reason::OOMKilled,
            Cause::StartFailed => Reason::StartError,
        };
        Self {
            started_at: None,
            finished_at,
            code: exit.code,
            reason,
            message: exit.message.clone(),
        }
    }

    /// Whether its program ran at all.
    pub(crate) fn has_run(&self) -> bool {
        self.reason != Reason::StartError
    }

    /// An end that nobody saw.
    pub(crate) fn unseen(noticed_at: i64, why: &str) -> Self {
        Self {
            started_at: None,
            finished_at: noticed_at,
            code: UNKNOWN,
            reason: Reason::Unknown,
            message: why.to_owned(),
        }
    }
}

/// What happens to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Started { pid: i32, at: i64 },
    Exited(Exited),
}

impl State {
    /// The state after `event`; nothing where it changes nothing.
    ///
    /// The first end wins, because the monitor's word and a stop may both tell of it. A start that is heard of after
    /// the end, as with a program of a millisecond, adds its time.
    pub(crate) fn after(&self, event: Event) -> Option<State> {
        match (self, event) {
            (State::Created, Event::Started { pid, at }) => {
                Some(State::Running { pid, started_at: at })
            }
            (State::Created, Event::Exited(exited)) => Some(State::Exited(exited)),
            (State::Running { started_at, .. }, Event::Exited(exited)) => {
                Some(State::Exited(exited.begun(*started_at)))
            }
            (State::Exited(exited), Event::Started { at, .. }) if exited.started_at.is_none() => {
                Some(State::Exited(exited.clone().begun(at)))
            }
            (State::Running { .. } | State::Exited(_), Event::Started { .. })
            | (State::Exited(_), Event::Exited(_)) => None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self, State::Running { .. })
    }

    pub(crate) fn is_exited(&self) -> bool {
        matches!(self, State::Exited(_))
    }

    /// What the table of records shows: state and exit code.
    pub(crate) fn columns(&self) -> (&'static str, Option<i32>) {
        match self {
            State::Created => ("created", None),
            State::Running { .. } => ("running", None),
            State::Exited(exited) => ("exited", Some(exited.code)),
        }
    }
}

impl Exited {
    /// A clock that was set back must not make an end come before its beginning.
    fn begun(mut self, at: i64) -> Self {
        self.started_at = Some(at);
        self.finished_at = self.finished_at.max(at);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, finished_at: i64) -> Exited {
        Exited {
            started_at: None,
            finished_at,
            code,
            reason: Reason::Error,
            message: String::new(),
        }
    }

    #[test]
    fn every_event_in_every_state() {
        let running = State::Running { pid: 7, started_at: 10 };
        let exited = |started_at, code, finished_at| {
            Some(State::Exited(Exited { started_at, ..ended(code, finished_at) }))
        };
        let started = Event::Started { pid: 7, at: 10 };
        let cases = [
            ("start", State::Created, started.clone(), Some(running.clone())),
            (
                "end before the start was heard",
                State::Created,
                Event::Exited(ended(1, 20)),
                exited(None, 1, 20),
            ),
            ("end", running.clone(), Event::Exited(ended(1, 20)), exited(Some(10), 1, 20)),
            (
                "end under a clock set back",
                running.clone(),
                Event::Exited(ended(1, 5)),
                exited(Some(10), 1, 10),
            ),
            (
                "start heard late",
                State::Exited(ended(1, 20)),
                started.clone(),
                exited(Some(10), 1, 20),
            ),
            ("start twice", running, started, None),
            ("second end", State::Exited(ended(1, 20)), Event::Exited(ended(2, 30)), None),
        ];
        for (name, state, event, want) in cases {
            assert_eq!(state.after(event), want, "{name}");
        }
    }
}
