//! `berth-monitor`: the parent of one pod's containers.
//!
//! Started by the daemon from a sealed file in memory, with a listening socket as its standard input; see
//! [`runtime::protocol`] for what it is asked. One thread, one loop:
//!
//! ```text
//!   world ──▶ monitor ──▶ serve ──▶ start ──clone3──▶ init/ ──execve──▶ program
//!              loop        requests   └▶ exec
//!                │                   pids ──clone3──▶ process 1, where containers share a PID namespace
//!                │                   driven ──clone3──▶ another runtime's program, where the pod's handler is one
//!                └──▶ container: output ▶ log, attached clients; end ▶ exit record ▶ watchers
//! ```

mod attach;
mod container;
mod driven;
mod events;
mod exec;
mod init;
mod log;
mod monitor;
mod pids;
mod refuse;
mod serve;
mod start;
mod streams;
mod users;
mod world;

use refuse::Explain;
use runtime::id::PodId;
use runtime::protocol::Refusal;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == HOLD) {
        hold();
    }
    let begun = begin();
    match begun {
        Ok(monitor) => match monitor.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(Refusal { step, object, errno }) => {
            // The starter reads this; the pod's events tell the rest of the world.
            let reason = std::io::Error::from_raw_os_error(errno);
            eprintln!("{step} {object}: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Asks for a process that is only there: systemd removes the cgroup of a unit in which nothing runs. It is no monitor, has
/// nothing, and a pod loses nothing with it.
const HOLD: &str = "hold";

fn hold() -> ! {
    loop {
        std::thread::park();
    }
}

/// Closing standard error tells the starter that the monitor is ready.
fn begin() -> Result<monitor::Monitor, Refusal> {
    let shm = arguments()
        .ok_or(rustix::io::Errno::INVAL)
        .step("read", "arguments: POD SHM_BYTES SHM_UID SHM_GID")?;
    let (world, listener) = world::World::make(&shm)?;
    let monitor = monitor::Monitor::new(world, listener).step("make", "event loop")?;
    rustix::stdio::dup2_stderr(&monitor.world.null).step("close", "standard error")?;
    Ok(monitor)
}

/// The pod's id is there for people who look at the list of processes.
fn arguments() -> Option<world::Shm> {
    let mut arguments = std::env::args().skip(1);
    arguments.next()?.parse::<PodId>().ok()?;
    Some(world::Shm {
        bytes: arguments.next()?.parse().ok()?,
        uid: arguments.next()?.parse().ok()?,
        gid: arguments.next()?.parse().ok()?,
    })
}
