//! Starting a monitor, and finding one that runs.

use super::{Inner, Monitor, MonitorError, PATIENCE};
use crate::id::PodId;
use crate::protocol::SOCKET;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use sys::{sealed, seqpacket};

/// The monitor's program, in a sealed file in memory: no container can reach it to change it (CVE-2019-5736), and all
/// monitors of the node share its pages.
#[derive(Debug)]
pub struct MonitorBinary(OwnedFd);

impl MonitorBinary {
    /// Copies the program at `path`.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Binary`] where it cannot be read.
    pub fn load(path: &Path) -> Result<Self, MonitorError> {
        let copy = File::open(path)
            .and_then(|file| sealed::create("berth-monitor", file, sealed::Use::Program));
        let wrap = |source| MonitorError::Binary { path: path.to_owned(), source };
        copy.map(Self).map_err(wrap)
    }
}

/// What a monitor sets up before its first container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Size of the pod's `/dev/shm`, a tmpfs in the monitor's own mount namespace.
    pub shm_bytes: u64,
    /// User and group that it belongs to: 0, or what those are outside the pod's user namespace.
    pub shm_owner: (u32, u32),
}

/// The most of a dying monitor's words that we keep.
const MAX_WORDS: u64 = 1024;

impl Monitor {
    /// Starts the monitor of `pod`, and returns once it answers. `dir` is the pod's run directory, of mode 0700.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Spawn`], [`MonitorError::Died`], [`MonitorError::Silent`]; then nothing of it is left.
    pub fn spawn(
        binary: &MonitorBinary,
        pod: &PodId,
        dir: &Path,
        setup: &Setup,
    ) -> Result<Monitor, MonitorError> {
        let failed = |step| {
            let pod = pod.clone();
            move |source: io::Error| MonitorError::Spawn { pod, step, source }
        };
        let dir =
            seqpacket::directory(dir).map_err(|err| failed("open run directory")(err.into()))?;
        let listener =
            seqpacket::listen(dir.as_fd(), SOCKET).map_err(|err| failed("listen")(err.into()))?;
        let (words, stderr) = io::pipe().map_err(failed("make a pipe"))?;
        let mut child = command(binary, pod, setup, listener)
            .stderr(stderr)
            .spawn()
            .map_err(failed("start program"))?;
        let met = last_words(words.into())
            .map_err(failed("wait"))
            .and_then(|words| match words {
                Some(message) => Err(MonitorError::Died { pod: pod.clone(), message }),
                None => Ok(()),
            })
            .and_then(|()| dir.try_clone().map_err(failed("copy a descriptor")))
            .and_then(|dir| Inner::meet(pod, dir, PATIENCE));
        if met.is_err() {
            put_down(&mut child);
            // The error to report is the one above.
            rustix::fs::unlinkat(&dir, SOCKET, rustix::fs::AtFlags::empty()).ok();
        }
        met.map(|inner| Monitor(Arc::new(inner)))
    }

    /// Finds the monitor that an earlier daemon started in `dir`.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Gone`] where nobody listens, [`MonitorError::Silent`] where somebody does who does not answer.
    pub fn connect(pod: &PodId, dir: &Path) -> Result<Monitor, MonitorError> {
        let dir = seqpacket::directory(dir).map_err(|err| super::wire(pod, err.into()))?;
        Inner::meet(pod, dir, PATIENCE).map(|inner| Monitor(Arc::new(inner)))
    }
}

/// Without hooks between fork and exec the standard library starts it by posix_spawn(3), so that the daemon, which has
/// many threads, never forks. The listening socket is its standard input.
fn command(binary: &MonitorBinary, pod: &PodId, setup: &Setup, listener: OwnedFd) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.0.as_raw_fd()));
    command
        .arg0("berth-monitor")
        .arg(pod.as_str())
        .arg(setup.shm_bytes.to_string())
        .arg(setup.shm_owner.0.to_string())
        .arg(setup.shm_owner.1.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(listener)
        .stdout(Stdio::null());
    command
}

/// What the new monitor says on standard error; `None` where it closes that without a word, which is how it says that it
/// is ready.
fn last_words(pipe: OwnedFd) -> io::Result<Option<String>> {
    let until = Instant::now() + PATIENCE;
    let mut words = Vec::new();
    let mut file = File::from(pipe);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if seqpacket::wait(&[file.as_fd()], left)? != [true] {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let before = words.len();
        Read::by_ref(&mut file).take(MAX_WORDS).read_to_end(&mut words)?;
        if words.len() == before || words.len() as u64 >= MAX_WORDS {
            let text = String::from_utf8_lossy(&words).trim().to_owned();
            return Ok((!text.is_empty()).then_some(text));
        }
    }
}

fn put_down(child: &mut Child) {
    // It may have ended by itself.
    child.kill().ok();
    // Nothing is left to be done about a child that cannot be waited for.
    child.wait().ok();
}
