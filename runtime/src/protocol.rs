//! What the daemon and a monitor say to each other, on a `SOCK_SEQPACKET` socket in the pod's run directory.
//!
//! A message is the sender's version in two bytes and one [`Request`] or [`Response`] in postcard. Descriptors travel
//! beside it; those that do not fit one message go ahead of it in [`Request::Descriptors`]. What may be large (a plan,
//! a process) travels as a sealed memory file. A connection carries one request and its answers:
//!
//! ```text
//!   Start ─▶ Started                      Watch ─▶ Done, then Exited … until one side leaves
//!   Exec ─▶ ExecStarted, then ExecEnded; leaving earlier, or KillExec, ends the exec
//!   Report ─▶ Reports … until `last`      all others ─▶ Done;  instead of any of these: Failed
//! ```
//!
//! # Versions
//!
//! A monitor lives as long as its pod, and daemons come and go: a newer daemon speaks to the monitors of older ones, also
//! to start containers there. What makes it work ([`plan::OLDEST`] and later):
//!
//! - Variants are only ever added at the end of an enum, fields at the end of a message: of a variant here, or of the plan.
//! - Whoever receives more than it knows ignores the rest. Whoever receives less reads what is missing as nothing: `false`,
//!   0, `None`, empty (in postcard each is the byte 0). So a field's zero must mean what was before there was the field.
//! - The daemon knows each monitor's version from its greeting. It sends no plan that needs a newer one
//!   ([`plan::LaunchPlan::needs`]), and a request that the monitor does not know is
//!   [`Failure::Malformed`], which a monitor answers and goes on.
//! - The monitor answers a client in words that the client's version has: events that came later are told to later
//!   watchers only.

use crate::exit::Exit;
use crate::id::ContainerId;
use plan::{IdRange, NamespaceKind, Terminal};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;
use sys::seqpacket;

/// The name of the socket in the pod's run directory.
pub const SOCKET: &str = "monitor.sock";
/// The longest message.
pub const MAX_MESSAGE: usize = 32 * 1024;
/// The largest plan, encoded. An environment alone can have 2 MiB and more.
pub const MAX_PLAN: usize = 8 << 20;
/// The most descriptors of one request.
pub const MAX_DESCRIPTORS: usize = 2_000;
/// How many containers one [`Response::Reports`] tells of.
pub const REPORTS_A_MESSAGE: usize = 32;

/// What the daemon asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who is there? Answered by [`Response::Hello`] with a pidfd of the monitor.
    Hello,
    /// Descriptors of the request that follows on this connection. Not answered.
    Descriptors,
    /// Start a container. Descriptors: plan, exit record, log (where there is one), cgroup, the plan's own.
    Start {
        /// The container's name.
        container: ContainerId,
        /// Whether a log comes along.
        log: bool,
        /// What the cgroup's descriptors are; `None` for a container without a cgroup of its own.
        cgroup: Option<Vec<String>>,
    },
    /// Send a signal to a container's first process.
    Signal {
        /// The container's name.
        container: ContainerId,
        /// The signal's number.
        signal: i32,
    },
    /// Kill all processes of a container.
    Kill {
        /// The container's name.
        container: ContainerId,
    },
    /// Run one more process in a container. Descriptors: process, standard output, standard error, and standard input
    /// (where there is one). Only the process where that has a terminal.
    Exec {
        /// The container's name.
        container: ContainerId,
        /// Whether a standard input comes along.
        stdin: bool,
    },
    /// Kill the exec of this connection.
    KillExec,
    /// Log to another file from now on. Descriptor: the file.
    ReopenLog {
        /// The container's name.
        container: ContainerId,
    },
    /// A container that has ended needs no more reports.
    Forget {
        /// The container's name.
        container: ContainerId,
    },
    /// Tell of every container.
    Report,
    /// Tell of every exit: first those that were, then those to come.
    Watch,
    /// Kill everything and end.
    Shutdown,
    /// Follow a running container's output, from now on, and write to its input. Descriptors: the write ends of pipes,
    /// for its standard output and its standard error, where they are asked for. A terminal is all output.
    Attach {
        /// The container's name.
        container: ContainerId,
        /// Whether its input is wanted.
        stdin: bool,
        /// Whether a pipe for its output comes along.
        stdout: bool,
        /// Whether a pipe for its errors comes along.
        stderr: bool,
    },
    /// The attached client of this connection writes no more. Not answered.
    EndInput,
    /// Give a container's terminal another size.
    Resize {
        /// The container's name.
        container: ContainerId,
        /// The size.
        size: Terminal,
    },
    /// Make a user namespace, and namespaces that it owns.
    Namespaces {
        /// Its users.
        uids: Vec<IdRange>,
        /// Its groups.
        gids: Vec<IdRange>,
        /// What it owns; may be empty.
        kinds: Vec<NamespaceKind>,
    },
    /// Start a container by another runtime's program. Descriptors: the [`plan::Drive`], exit record, log (where there
    /// is one), cgroup, the bundle, the mount namespace that the program runs in, those of the drive's plan.
    Drive {
        /// The container's name.
        container: ContainerId,
        /// Whether a log comes along.
        log: bool,
        /// What the cgroup's descriptors are.
        cgroup: Option<Vec<String>>,
    },
    /// Have the runtime's program of a driven container change its limits. Descriptor: OCI's resources as JSON.
    UpdateDriven {
        /// The container's name.
        container: ContainerId,
    },
}

/// What the monitor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The monitor of this version is here.
    Hello {
        /// Its process number.
        pid: i32,
    },
    /// It is done.
    Done,
    /// The container's program runs.
    Started {
        /// Its first process, in the monitor's PID namespace.
        pid: i32,
        /// Since when.
        at: SystemTime,
    },
    /// The process of the exec runs. Comes with our side of its terminal, where it has one.
    ExecStarted {
        /// Its number, in the monitor's PID namespace.
        pid: i32,
    },
    /// The process of the exec has ended.
    ExecEnded {
        /// What it returned, or 128 + N where signal N ended it.
        code: i32,
    },
    /// What is known of some containers.
    Reports {
        /// Of these.
        reports: Vec<Report>,
        /// Whether no more messages follow.
        last: bool,
    },
    /// A container has ended.
    Exited {
        /// Which.
        container: ContainerId,
        /// How.
        exit: Exit,
    },
    /// The request could not be served.
    Failed(Failure),
    /// The client of this connection is attached. Comes with what leads to the container's input, if that was asked for
    /// and is there to be had.
    Attached,
    /// The client is not attached any more, and everything it was sent is in its pipes.
    Detached {
        /// Why.
        why: Detached,
    },
    /// A container's log cannot be written; its output is counted and lost until it can. Told once until then.
    LogFails {
        /// Which.
        container: ContainerId,
        /// What the kernel says.
        errno: i32,
    },
    /// They are made. Descriptors: the user namespace, then the others in the order they were asked for.
    Namespaces,
}

/// Why a client is not attached any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detached {
    /// The container has ended.
    Ended,
    /// The client's pipe was full when there was more to say: nobody waits for a reader that does not keep up.
    TooSlow,
    /// The client's pipes are closed.
    Left,
}

/// A step that could not be done, of a container's or an exec's start for the most part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was to be done, such as "mount".
    pub step: String,
    /// On what, such as "/data"; may be empty.
    pub object: String,
    /// What the kernel says; 0 where it was not asked.
    pub errno: i32,
}

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// There is no such container.
    Unknown,
    /// There is one of that name already.
    Exists,
    /// It does not run.
    NotRunning,
    /// It runs.
    Running,
    /// The monitor is ending.
    Ending,
    /// The request or its descriptors do not fit the protocol.
    Malformed,
    /// A step of it could not be done.
    Step(Refusal),
    /// It comes with more descriptors than [`MAX_DESCRIPTORS`].
    TooMuch,
}

/// What a monitor knows of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which.
    pub container: ContainerId,
    /// Its state.
    pub state: Reported,
    /// Bytes of its output that could not be written to the log.
    pub lost_log_bytes: u64,
}

/// The state of a container, as its monitor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reported {
    /// It runs, or is being started.
    Running {
        /// Its first process, in the monitor's PID namespace.
        pid: i32,
        /// Since when.
        since: SystemTime,
    },
    /// It has ended.
    Exited(Exit),
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed; `EAGAIN` where the peer took too long.
    #[error("use socket")]
    Socket(#[from] Errno),
    /// The peer has left.
    #[error("connection closed")]
    Closed,
    /// The message is not one of ours, or too long.
    #[error("malformed message")]
    Malformed(#[from] postcard::Error),
    /// The peer's version is before [`plan::OLDEST`], and stays so as long as it lives.
    #[error(
        "protocol version {0} is older than this berthd speaks ({oldest}): stop the pod and let it be made anew",
        oldest = plan::OLDEST
    )]
    Version(u16),
}

/// Sends one message with descriptors.
///
/// # Errors
///
/// Those of [`seqpacket::send`]; [`WireError::Malformed`] where it is longer than [`MAX_MESSAGE`].
pub fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), WireError> {
    let bytes = postcard::to_extend(message, plan::VERSION.to_le_bytes().to_vec())?;
    if bytes.len() > MAX_MESSAGE {
        return Err(WireError::Malformed(postcard::Error::SerializeBufferFull));
    }
    Ok(seqpacket::send(socket, &bytes, descriptors)?)
}

/// Receives one message with its descriptors.
///
/// # Errors
///
/// Any of [`WireError`].
pub fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> Result<Received<T>, WireError> {
    let message = seqpacket::receive(socket, buffer)?.ok_or(WireError::Closed)?;
    let descriptors = message.descriptors;
    let (version, message) = decode(&buffer[..message.bytes])?;
    Ok(Received { version, message, descriptors })
}

/// A message as it came in.
#[derive(Debug)]
pub struct Received<T> {
    /// The version that its sender speaks.
    pub version: u16,
    /// What it says.
    pub message: T,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(u16, T), WireError> {
    let (version, rest) =
        bytes.split_first_chunk().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
    let version = u16::from_le_bytes(*version);
    if version < plan::OLDEST {
        return Err(WireError::Version(version));
    }
    Ok((version, body(rest, version)?))
}

/// The most bytes of fields that a version can add to a message, each being one where it is nothing.
const MOST_ADDED: usize = 64;

/// Reads a message or a plan that a peer of this version wrote. What came after that version reads as nothing.
///
/// # Errors
///
/// [`WireError::Malformed`].
pub fn body<T: DeserializeOwned>(bytes: &[u8], version: u16) -> Result<T, WireError> {
    if version >= plan::VERSION {
        return Ok(postcard::from_bytes(bytes)?);
    }
    let filled = [bytes, &[0; MOST_ADDED]].concat();
    Ok(postcard::from_bytes(&filled)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Cause;
    use std::time::{Duration, UNIX_EPOCH};

    fn exchange<T: Serialize + DeserializeOwned>(message: &T) -> Result<T, WireError> {
        let (ours, theirs) = seqpacket::pair()?;
        send(&theirs, message, &[])?;
        receive(&ours, &mut [0; MAX_MESSAGE]).map(|received| received.message)
    }

    #[test]
    fn requests_arrive_as_they_were() {
        let container = ContainerId::generate();
        let requests = [
            Request::Hello,
            Request::Start {
                container: container.clone(),
                log: true,
                cgroup: Some(vec!["v2".into()]),
            },
            Request::Signal { container: container.clone(), signal: 15 },
            Request::Exec { container, stdin: true },
            Request::Shutdown,
        ];
        for request in requests {
            assert_eq!(exchange(&request).unwrap(), request);
        }
    }

    #[test]
    fn the_fullest_report_fits_a_message() {
        let exit = Exit {
            code: i32::MIN,
            at: UNIX_EPOCH + Duration::new(u64::MAX / 4, 999_999_999),
            cause: Cause::StartFailed,
            message: "m".repeat(crate::exit::MAX_MESSAGE),
        };
        let report = Report {
            container: ContainerId::generate(),
            state: Reported::Exited(exit),
            lost_log_bytes: u64::MAX,
        };
        let message = Response::Reports { reports: vec![report; REPORTS_A_MESSAGE], last: true };
        assert_eq!(exchange(&message).unwrap(), message);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let cases: [(&str, &[u8]); 4] = [
            ("too short", &[2]),
            ("a version before all", &[1, 0, 0]),
            ("no such request", &[2, 0, 200]),
            ("cut short", &[2, 0, 3]),
        ];
        for (name, bytes) in cases {
            assert!(decode::<Request>(bytes).is_err(), "{name}");
        }
        let long = Request::Start {
            container: ContainerId::generate(),
            log: false,
            cgroup: Some(vec!["x".repeat(MAX_MESSAGE)]),
        };
        assert!(matches!(exchange(&long), Err(WireError::Malformed(_))));
    }

    #[test]
    fn a_version_that_is_too_old_is_told_with_what_to_do() {
        let err = decode::<Request>(&[1, 0, 0]).unwrap_err();
        assert!(matches!(err, WireError::Version(1)), "{err:?}");
        let text = err.to_string();
        assert!(text.contains("version 1 is older") && text.contains("stop the pod"), "{text}");
        let pod = crate::id::PodId::generate();
        assert!(crate::client::wire(&pod, err).is_final());
        assert!(!crate::client::wire(&pod, WireError::Socket(Errno::AGAIN)).is_final());
    }

    /// A request as the next version might have it: one more field, one more variant.
    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    enum Next {
        Resize { rows: u16, columns: u16, why: Option<String>, again: bool },
        Dance,
    }

    /// The same today.
    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    enum Today {
        Resize { rows: u16, columns: u16 },
    }

    fn message<T: Serialize>(version: u16, message: &T) -> Vec<u8> {
        postcard::to_extend(message, version.to_le_bytes().to_vec()).unwrap()
    }

    #[test]
    fn versions_understand_what_they_share() {
        let next = plan::VERSION + 1;
        let newer = Next::Resize { rows: 4, columns: 5, why: Some("x".into()), again: true };
        let got = decode::<Today>(&message(next, &newer)).unwrap();
        assert_eq!(got, (next, Today::Resize { rows: 4, columns: 5 }), "more than is known");
        let older = message(plan::VERSION - 1, &Today::Resize { rows: 4, columns: 5 });
        let older = body::<Next>(&older[2..], plan::VERSION - 1).unwrap();
        let want = Next::Resize { rows: 4, columns: 5, why: None, again: false };
        assert_eq!(older, want, "less than is known");
        assert!(decode::<Today>(&message(next, &Next::Dance)).is_err(), "another word");
        let own = message(plan::VERSION, &Today::Resize { rows: 4, columns: 5 });
        assert!(body::<Next>(&own[2..], plan::VERSION).is_err(), "cut short");
    }
}
