//! Child processes of the harness, and what it inherits.
//!
//! A monitor outlives its daemon. The harness is a child subreaper, so such a process becomes
//! its child, and it has to reap it as the node's init would. It never waits for "any child":
//! tests run side by side in one process, and each waits for its own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

pub use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::patience::eventually;

/// Children that some test waits for itself.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<u32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` in the namespaces of the calling thread.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        become_subreaper();
        let mut own = own();
        let child = command.spawn()?;
        own.insert(child.id());
        Ok(Self { child })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The way it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("look at a child of our own")
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill a child of our own");
        self.child.wait().expect("wait for a child of our own");
    }

    /// SIGTERM, and its end; `None` when it does not end in time.
    pub fn terminate(&mut self) -> Option<ExitStatus> {
        signal(self.id(), Signal::SIGTERM);
        eventually(|| self.ended())
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has been reaped before.
        self.child.kill().ok();
        self.child.wait().ok();
        own().remove(&self.child.id());
    }
}

/// Runs a command to its end with its output collected.
///
/// # Panics
///
/// When the program cannot be started.
pub fn output(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process =
        Process::spawn(command).unwrap_or_else(|error| panic!("start {shown}: {error}"));
    let stdout = process.child.stdout.take().expect("stdout is a pipe");
    let stderr = process.child.stderr.take().expect("stderr is a pipe");
    let reader = std::thread::spawn(move || io::read_to_string(stderr).unwrap_or_default());
    let stdout = read_all(stdout);
    let stderr = reader.join().expect("reader of stderr").into_bytes();
    let status = process.child.wait().expect("wait for a child of our own");
    Output { status, stdout, stderr }
}

fn read_all(mut from: impl io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("read the output of a child");
    bytes
}

/// Runs a command that must succeed, and gives its stdout.
///
/// # Panics
///
/// When it does not succeed, with what it wrote.
pub fn succeed(command: &mut Command) -> String {
    let output = output(command);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}\n{stdout}{}",
        output.status,
        output.status.signal().map(|n| format!(" signal {n}")).unwrap_or_default(),
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Sends a signal to one process; one that is gone already is fine.
pub fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), signal).ok();
}

/// A line of /proc: a process as anybody can see it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub pid: u32,
    pub parent: u32,
    pub name: String,
    pub zombie: bool,
}

/// All processes of the machine.
pub fn all() -> Vec<Seen> {
    let entries = fs::read_dir("/proc").expect("read /proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(look)
        .collect()
}

/// One process; `None` when there is none.
pub fn look(pid: u32) -> Option<Seen> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may itself hold brackets and blanks.
    let (name, rest) = (stat.find('(')? + 1, stat.rfind(')')?);
    let mut fields = stat.get(rest + 2..)?.split(' ');
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    Some(Seen { pid, parent, name: stat.get(name..rest)?.to_owned(), zombie })
}

/// Reaps every ended process that was left to the harness by its parent.
pub fn reap_orphans() {
    let own = own();
    let me = std::process::id();
    for seen in all() {
        if seen.zombie && seen.parent == me && !own.contains(&seen.pid) {
            let pid = Pid::from_raw(seen.pid.cast_signed());
            // Another test may have been quicker.
            waitpid(pid, Some(WaitPidFlag::WNOHANG)).ok();
        }
    }
}

/// Whether some test of this harness waits for this process itself.
pub fn is_own(pid: u32) -> bool {
    own().contains(&pid)
}

fn become_subreaper() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        nix::sys::prctl::set_child_subreaper(true).expect("become a child subreaper");
    });
}
