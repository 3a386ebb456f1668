//! ExecSync: a command in a running container, its output and its exit code.
//!
//! The pipes lead straight from the command to this daemon; the monitor only starts and watches it. Dropping the exec,
//! which is also what a client's hanging up comes to, makes the monitor kill all of it.

use super::budget::Share;
use super::streams::{Pipes, exec_ended};
use super::{Container, ContainerError, Containers};
use crate::host::blocking;
use runtime::monitor::ExecError;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, timeout, timeout_at};

/// The most of both outputs that is kept; the rest is read and dropped. It has to fit into one gRPC message of 16 MiB
/// (`ExecSyncResponse` in the CRI), with some room for its other fields.
const MOST_TOGETHER: usize = (16 << 20) - (64 << 10);

/// What each output has of that in any case: the last words of one are not lost in the flood of the other.
const OF_ITS_OWN: usize = 256 << 10;

/// Longer than any exec lives, and short enough to be added to any clock.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What to run.
#[derive(Debug)]
pub(crate) struct ExecSync {
    pub(crate) command: Vec<String>,
    /// Nothing waits for ever.
    pub(crate) timeout: Option<Duration>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct ExecOutput {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) code: i32,
    /// Held until the answer is made.
    share: Share,
}

impl Containers {
    /// Runs a command in a running container and waits for its end.
    ///
    /// # Errors
    ///
    /// [`ContainerError::ExecTimeout`] when the time is up: the monitor kills everything that the command started.
    pub(crate) async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        exec: ExecSync,
    ) -> Result<ExecOutput, ContainerError> {
        let container = self.resolve(id)?;
        if !container.state().is_running() {
            return Err(container.wrong_state("running"));
        }
        let deadline = exec.timeout.map(|timeout| Instant::now() + timeout.min(LONGEST_TIMEOUT));
        let drain = Duration::from_millis(self.host.config.container.exec_drain_ms);
        let this = Arc::clone(self);
        let of = Arc::clone(&container);
        let work = async {
            // A session that comes too late is dropped, and with it the exec.
            let session = blocking(move || this.exec_on_pipes(&of, &exec.command, false)).await?;
            let output = session.finish(drain, self.exec_memory.share()).await;
            let output = output.map_err(|source| ContainerError::ExecIo {
                container: container.id.clone(),
                step: "read output",
                source,
            })?;
            if output.share.was_refused() {
                return Err(ContainerError::ExecMemory { container: container.id.clone() });
            }
            Ok(output)
        };
        match deadline {
            None => work.await,
            Some(deadline) => match timeout_at(deadline, work).await {
                Ok(output) => output,
                Err(_) => Err(ContainerError::ExecTimeout {
                    container: container.id.clone(),
                    seconds: exec.timeout.map_or(0, |t| i64::try_from(t.as_secs()).unwrap_or(0)),
                }),
            },
        }
    }
}

impl Container {
    /// Why an exec in it did not start.
    pub(super) fn no_exec(&self, err: ExecError) -> ContainerError {
        match err {
            ExecError::NotRunning => self.wrong_state("running"),
            ExecError::Refused { step, message } => ContainerError::Exec {
                container: self.id.clone(),
                message: format!("{step}: {message}"),
            },
            ExecError::Monitor(source) => {
                ContainerError::Monitor { container: self.id.clone(), source }
            }
        }
    }
}

impl Pipes {
    /// Reads both outputs until the command has ended and they are at their end, or `drain` after it.
    async fn finish(self, drain: Duration, share: Share) -> io::Result<ExecOutput> {
        let Self { exec, stdin: _, stdout, stderr } = self;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = {
            let outputs = async {
                let room = AtomicUsize::new(MOST_TOGETHER - 2 * OF_ITS_OWN);
                let (out, err) =
                    (read(stdout, &mut out, &room, &share), read(stderr, &mut err, &room, &share));
                tokio::try_join!(out, err).map(drop)
            };
            tokio::pin!(outputs);
            let ended = exec_ended(&exec);
            tokio::pin!(ended);
            tokio::select! {
                done = &mut outputs => {
                    done?;
                    ended.await?
                }
                code = &mut ended => {
                    // A child of the command may hold the outputs open for as long as it likes.
                    match timeout(drain, &mut outputs).await {
                        Ok(done) => done?,
                        Err(_) => tracing::debug!("exec has ended and its output is held open"),
                    }
                    code?
                }
            }
        };
        Ok(ExecOutput { stdout: out, stderr: err, code, share })
    }
}

/// Reads to the end, and keeps as much as there is `room` for, which both outputs share, and a `share` of, as all do.
async fn read(
    pipe: OwnedFd,
    into: &mut Vec<u8>,
    room: &AtomicUsize,
    share: &Share,
) -> io::Result<()> {
    let mut pipe = Receiver::from_owned_fd(pipe)?;
    let (mut chunk, mut own) = (vec![0; 64 << 10], OF_ITS_OWN);
    loop {
        let count = pipe.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        // Both readers are one task's, so nobody comes in between.
        let shared = count.min(room.load(Ordering::Relaxed));
        room.fetch_sub(shared, Ordering::Relaxed);
        let more = (count - shared).min(own);
        own -= more;
        if share.take(shared + more) {
            into.extend_from_slice(&chunk[..shared + more]);
        }
    }
}
