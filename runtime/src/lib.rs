//! Running a pod's containers.
//!
//! Each pod has a process of its own, `berth-monitor`, which is the parent of the pod's containers: it starts them, owns
//! their output, and records how they end. It outlives the daemon, which reaches it over a socket.
//!
//! ```text
//!   daemon ── monitor::Monitor ── protocol ──▶ berth-monitor ── clone3 ──▶ a container's init ── execve ──▶ program
//!      ▲          start, exec, …                    │
//!      └── watch::Watch ◀── exits ──────────────────┴──▶ exit record, log file
//! ```
//!
//! The daemon makes a cgroup ([`cgroup`]) and an exit record ([`exit::create`]), and asks for a start with a launch plan.
//! Where a step of the plan fails, the caller learns which and why, and nothing of the container is left. Where the
//! daemon dies, the monitor goes on; the next daemon finds it by [`monitor::Monitor::connect`] and misses nothing.

pub mod cgroup;
mod client;
pub mod exit;
pub mod id;
pub mod oom_score;
pub mod protocol;
pub mod watch;

/// The daemon's side of a monitor.
pub mod monitor {
    pub use crate::client::{
        AttachRequest, Attachment, DriveLaunch, Exec, ExecError, ExecRequest, ExecStreams, Launch,
        Mark, Monitor, MonitorBinary, MonitorError, Program, Setup, StartError, Started,
    };
    pub use crate::protocol::{Detached, Failure, Report, Reported};
}
