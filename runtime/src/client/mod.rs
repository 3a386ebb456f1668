//! The daemon's side of a monitor.

mod attach;
mod calls;
mod connection;
mod drive;
mod exec;
mod mark;
mod spawn;

pub use attach::{AttachRequest, Attachment};
pub use calls::{Launch, Started};
pub use drive::DriveLaunch;
pub use exec::{Exec, ExecRequest, ExecStreams, Program};
pub use mark::Mark;
pub use spawn::{MonitorBinary, Setup};

use crate::id::PodId;
use crate::protocol::{Failure, Refusal, WireError};
use rustix::io::Errno;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A handle of a pod's monitor; its clones are the same.
///
/// Each call makes its own short connection, so a handle never goes stale while the monitor lives. Dropping the last one
/// changes nothing for the monitor. Calls block, each for a bounded time.
#[derive(Clone, Debug)]
pub struct Monitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pod: PodId,
    dir: OwnedFd,
    /// Of the protocol, as the monitor speaks it.
    version: u16,
    pid: i32,
    pidfd: OwnedFd,
}

/// How long a monitor may take to answer what costs it nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a monitor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The monitor's program could not be loaded.
    #[error("load monitor program {}", path.display())]
    Binary {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It could not be started.
    #[error("{step} for the monitor of pod {pod}")]
    Spawn {
        /// The pod.
        pod: PodId,
        /// What was to be done.
        step: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// It ended before it answered.
    #[error("monitor of pod {pod} ended at its start: {message}")]
    Died {
        /// The pod.
        pod: PodId,
        /// Its last words.
        message: String,
    },
    /// It does not exist any more.
    #[error("monitor of pod {pod} is gone")]
    Gone {
        /// The pod.
        pod: PodId,
    },
    /// It exists and does not answer.
    #[error("monitor of pod {pod} does not answer")]
    Silent {
        /// The pod.
        pod: PodId,
    },
    /// It could not be spoken to.
    #[error("speak to the monitor of pod {pod}")]
    Wire {
        /// The pod.
        pod: PodId,
        /// Why.
        source: WireError,
    },
    /// It is of a time when there was not yet what it is asked for; a new pod has a monitor that knows it.
    #[error("monitor of pod {pod} speaks version {version}, and this needs version {needs}")]
    TooOld {
        /// The pod.
        pod: PodId,
        /// What it speaks.
        version: u16,
        /// What it would have to.
        needs: u16,
    },
    /// It answered something else than what was asked.
    #[error("monitor of pod {pod} gave an answer that fits no question")]
    Confused {
        /// The pod.
        pod: PodId,
    },
    /// What the plan or process needs to be sent could not be put into a message.
    #[error("encode a request to the monitor of pod {pod}")]
    Encode {
        /// The pod.
        pod: PodId,
        /// Why.
        source: io::Error,
    },
    /// It refused the request.
    #[error("monitor of pod {pod} refused: {}", describe(failure))]
    Refused {
        /// The pod.
        pod: PodId,
        /// Why.
        failure: Failure,
    },
}

impl MonitorError {
    /// Whether it will be the same the next time, as long as that monitor lives.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Wire { source: WireError::Version(_), .. })
    }
}

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The container's init could not do a step of the plan. The exit record says so too.
    #[error("{step}: {message}")]
    Refused {
        /// The step, such as "mount".
        step: String,
        /// The object of the step, and what the kernel says.
        message: String,
    },
    /// The monitor could not be asked.
    #[error(transparent)]
    Monitor(MonitorError),
}

impl From<MonitorError> for StartError {
    fn from(err: MonitorError) -> Self {
        if let MonitorError::Refused { failure: Failure::Step(refusal), .. } = err {
            let message = message(&refusal);
            return StartError::Refused { step: refusal.step, message };
        }
        StartError::Monitor(err)
    }
}

/// Why an exec did not start.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The container does not run.
    #[error("container is not running")]
    NotRunning,
    /// A step on the way to the program could not be done.
    #[error("{step}: {message}")]
    Refused {
        /// The step, such as "execute".
        step: String,
        /// The object of the step, and what the kernel says.
        message: String,
    },
    /// The monitor could not be asked.
    #[error(transparent)]
    Monitor(MonitorError),
}

impl From<MonitorError> for ExecError {
    fn from(err: MonitorError) -> Self {
        match err {
            MonitorError::Refused { failure: Failure::Step(refusal), .. } => {
                let message = message(&refusal);
                ExecError::Refused { step: refusal.step, message }
            }
            MonitorError::Refused { failure: Failure::NotRunning | Failure::Unknown, .. } => {
                ExecError::NotRunning
            }
            MonitorError::Refused { .. }
            | MonitorError::Binary { .. }
            | MonitorError::Spawn { .. }
            | MonitorError::Died { .. }
            | MonitorError::Gone { .. }
            | MonitorError::Silent { .. }
            | MonitorError::Wire { .. }
            | MonitorError::TooOld { .. }
            | MonitorError::Confused { .. }
            | MonitorError::Encode { .. } => ExecError::Monitor(err),
        }
    }
}

impl Monitor {
    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Refuses what an older monitor would not understand.
    pub(crate) fn require(&self, needs: u16) -> Result<(), MonitorError> {
        let version = self.0.version;
        if version >= needs {
            return Ok(());
        }
        Err(MonitorError::TooOld { pod: self.pod().clone(), version, needs })
    }

    /// What to know it by when it cannot be reached any more.
    ///
    /// # Errors
    ///
    /// As [`Mark::of`].
    pub fn mark(&self) -> io::Result<Mark> {
        Mark::of(self.0.pid)
    }

    pub(crate) fn pod(&self) -> &PodId {
        &self.0.pod
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.pidfd.as_fd()
    }

    /// Takes the dead monitor off the list of processes, where it is this process's child.
    pub(crate) fn reap(&self) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        // ECHILD: started by a daemon before this one, so somebody else reaps it; or reaped already.
        waitid(WaitId::PidFd(self.pidfd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok();
    }
}

/// The words for a step that was refused: on what, and what the kernel says.
fn message(refusal: &Refusal) -> String {
    let reason = match refusal.errno {
        0 => String::new(),
        number => {
            let text = io::Error::from_raw_os_error(number).to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        }
    };
    match (refusal.object.is_empty(), reason.is_empty()) {
        (true, _) => reason,
        (false, true) => refusal.object.clone(),
        (false, false) => format!("{}: {reason}", refusal.object),
    }
}

fn describe(failure: &Failure) -> String {
    match failure {
        Failure::Unknown => "no such container".to_owned(),
        Failure::Exists => "the container exists already".to_owned(),
        Failure::NotRunning => "the container is not running".to_owned(),
        Failure::Running => "the container is running".to_owned(),
        Failure::Ending => "it is ending".to_owned(),
        Failure::Malformed => "the request is malformed".to_owned(),
        Failure::Step(refusal) => format!("{}: {}", refusal.step, message(refusal)),
        Failure::TooMuch => {
            format!(
                "more than {} files to open for one container",
                crate::protocol::MAX_DESCRIPTORS
            )
        }
    }
}

pub(crate) fn wire(pod: &PodId, error: WireError) -> MonitorError {
    let pod = pod.clone();
    match error {
        WireError::Closed
        | WireError::Socket(Errno::CONNREFUSED | Errno::NOENT | Errno::PIPE | Errno::CONNRESET) => {
            MonitorError::Gone { pod }
        }
        WireError::Socket(Errno::AGAIN) => MonitorError::Silent { pod },
        source @ (WireError::Socket(_) | WireError::Malformed(_) | WireError::Version(_)) => {
            MonitorError::Wire { pod, source }
        }
    }
}
