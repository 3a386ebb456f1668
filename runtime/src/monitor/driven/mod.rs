//! Containers of another OCI runtime: its program makes them, and this monitor is their parent all the same.
//!
//! The program is run once for each thing to be done and ends; what it starts becomes the monitor's child, because the
//! monitor is the subreaper. So output, exit codes, OOM kills and exit records are the monitor's own, as with containers
//! that it starts itself, and a kill goes by the cgroup: a program that hangs or is broken holds up nothing else.
//!
//! ```text
//!   Drive ─▶ run: create ──▶ pid file ──▶ run: start ──▶ Started          Exec ─▶ run: exec ─▶ pid file ─▶ ExecStarted
//!              └─ fails: run: delete, Failed        └─▶ process ends ─▶ exit record, watchers, run: delete
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `run` | one run of the program: its time limit, its end |
//! | `program` | what the new process does until `execve` |
//! | `place` | the mount namespace in which the container's root is, for the program alone |
//! | `start`, `exec` | the steps above |
//! | `words` | what the program says went wrong |

mod exec;
mod place;
mod program;
mod run;
mod start;
mod words;

pub(crate) use run::Runs;

use crate::events::Key;
use plan::Drive;
use runtime::protocol::Refusal;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// What belongs to a container of another runtime, for as long as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Driven(Rc<Parts>);

#[derive(Debug)]
struct Parts {
    drive: Drive,
    /// The container's name, as the program is told it.
    id: String,
    /// The directory of the bundle.
    bundle: OwnedFd,
    /// The mount namespace in which the paths of the drive are.
    host: OwnedFd,
}

/// What is kept with the container.
#[derive(Debug)]
pub(crate) struct Driving {
    pub(crate) driven: Driven,
    /// While its start is not decided.
    pub(crate) starting: Option<Starting>,
}

/// A start whose process is there and whose program is not yet known to run.
#[derive(Debug)]
pub(crate) struct Starting {
    client: Key,
    /// Why it was given up.
    refusal: Option<Refusal>,
    /// How the process has ended meanwhile.
    ended: Option<i32>,
}
