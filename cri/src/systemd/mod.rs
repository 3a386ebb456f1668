//! systemd as the one who makes the cgroups of pods (`org.freedesktop.systemd1(5)`).
//!
//! It is asked once for each pod: for a unit that has its cgroup delegated (`Delegate=yes`), below which Berth does as it
//! likes. A slice cannot be delegated, and a scope or a service loses its cgroup when nothing runs in it, which a pod
//! between two containers may do. So the unit is a service with a process that only waits (`berth-monitor hold`).
//!
//! ```text
//!   kubepods-besteffort-pod1.slice   kubelet's
//!   └─ berth-<pod>.service           systemd's, delegated
//!      └─ <container>                ours
//! ```
//!
//! A connection lives for one request: nothing has to be found out about one that a restarted systemd or bus has broken.
//! The protocol is spoken here, because what systemd sends on its own socket (itself as the sender, by a name that is
//! none of a connection) is refused by zbus 5, with a panic.

mod connection;
mod wire;

use connection::{CallError, Connection};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wire::{Body, Target, Value};

const MANAGER: Target = Target {
    name: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
/// systemd's own socket, for root alone. It works without a bus, which may be restarted or hang.
const PRIVATE: &str = "/run/systemd/private";
const BUS: &str = "/run/dbus/system_bus_socket";
/// What is to be heard of on a bus.
const ENDS_OF_JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',\
    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
/// How long systemd may take for a request, with the job that it starts.
const PATIENCE: Duration = Duration::from_secs(20);

/// The service manager of the host.
#[derive(Clone, Debug)]
pub(crate) struct Systemd {
    /// The program of the process that waits.
    monitor: PathBuf,
}

/// Why systemd did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    #[error("connect to systemd")]
    Connect(#[source] CallError),
    #[error("{step} {unit}")]
    Call { step: &'static str, unit: String, source: CallError },
    #[error("{step} {unit}: the job ended with {result:?}")]
    Job { step: &'static str, unit: String, result: String },
}

/// A change of a unit that systemd makes a job of.
struct Wish<'a> {
    step: &'static str,
    unit: &'a str,
    method: &'static str,
    body: Body,
}

impl Systemd {
    /// Asks systemd to start the slice `parent`, which shows whether it is there at all.
    ///
    /// # Errors
    ///
    /// [`SystemdError::Connect`] where nobody answers, and what systemd says to the slice.
    pub(crate) fn open(monitor: &Path, parent: &str) -> Result<Self, SystemdError> {
        let this = Self { monitor: monitor.to_owned() };
        let body = Body::texts(&[parent, "replace"]);
        job(&Wish { step: "start", unit: parent, method: "StartUnit", body })?;
        Ok(this)
    }

    /// Starts the unit `unit` in the slice `slice`, with its cgroup delegated. One that is there is taken over.
    ///
    /// # Errors
    ///
    /// What systemd says, or that it says nothing.
    pub(crate) fn start(&self, unit: &str, slice: &str, what: &str) -> Result<(), SystemdError> {
        let monitor = self.monitor.to_string_lossy();
        let properties = [
            ("Description", Value::Text(what)),
            ("Slice", Value::Text(slice)),
            ("Delegate", Value::Bool(true)),
            ("Type", Value::Text("exec")),
            ("ExecStart", Value::Command(&monitor, vec![&monitor, "hold"])),
            ("StandardOutput", Value::Text("null")),
            ("StandardError", Value::Text("null")),
            // The pod's containers do not depend on it, should it be killed.
            ("KillMode", Value::Text("process")),
            ("OOMScoreAdjust", Value::I32(-999)),
            // Pods do not hang on the order of the boot, as elsewhere.
            ("DefaultDependencies", Value::Bool(false)),
            ("CollectMode", Value::Text("inactive-or-failed")),
            // Accounting is what makes systemd enable the controllers above the unit.
            ("CPUAccounting", Value::Bool(true)),
            ("MemoryAccounting", Value::Bool(true)),
            ("TasksAccounting", Value::Bool(true)),
            ("IOAccounting", Value::Bool(true)),
            // Otherwise a service gets 15 per cent of what the host can have.
            ("TasksMax", Value::U64(u64::MAX)),
            ("TimeoutStopUSec", Value::U64(5_000_000)),
        ];
        let body = Body::unit(unit, "fail", &properties);
        match job(&Wish { step: "start", unit, method: "StartTransientUnit", body }) {
            Err(SystemdError::Call { source, .. }) if is(&source, "UnitExists") => Ok(()),
            result => result,
        }
    }

    /// Stops the unit `unit`. One that is not there is fine.
    ///
    /// # Errors
    ///
    /// What systemd says, or that it says nothing.
    pub(crate) fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        let body = Body::texts(&[unit, "replace"]);
        match job(&Wish { step: "stop", unit, method: "StopUnit", body }) {
            Err(SystemdError::Call { source, .. }) if is(&source, "NoSuchUnit") => Ok(()),
            result => result,
        }
    }
}

/// Calls the method, and waits for the end of the job that it answers with.
fn job(wish: &Wish<'_>) -> Result<(), SystemdError> {
    let Wish { step, unit, method, body } = wish;
    let unit = || (*unit).to_owned();
    let mut connection = connect().map_err(SystemdError::Connect)?;
    let result = run(&mut connection, method, body);
    let result = result.map_err(|source| SystemdError::Call { step, unit: unit(), source })?;
    match result.as_str() {
        "done" => Ok(()),
        _ => Err(SystemdError::Job { step, unit: unit(), result }),
    }
}

fn run(connection: &mut Connection, method: &str, body: &Body) -> Result<String, CallError> {
    // Before the call: a short job ends before its answer is read.
    connection.call(MANAGER, "Subscribe", &Body::default())?;
    let job = connection.call(MANAGER, method, body)?.text()?;
    connection.end_of(&job)
}

/// As systemctl does for root: systemd's own socket, and where that is not to be had the bus.
fn connect() -> Result<Connection, CallError> {
    let deadline = Instant::now() + PATIENCE;
    match Connection::private(Path::new(PRIVATE), deadline) {
        Err(CallError::Io(err))
            if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            Connection::bus(Path::new(BUS), deadline, ENDS_OF_JOBS)
        }
        connected => connected,
    }
}

/// Whether it is this error of systemd's.
fn is(err: &CallError, name: &str) -> bool {
    let told = match err {
        CallError::Refused { name, .. } => name.as_str(),
        CallError::Io(_) | CallError::Malformed(_) | CallError::Greeting(_) => return false,
    };
    told.strip_prefix("org.freedesktop.systemd1.") == Some(name)
}
