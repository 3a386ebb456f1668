//! Running one plugin: a program that reads JSON and writes JSON, may hang, crash, or never stop talking, and leaves nothing
//! behind of itself.

use std::fmt;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;

use super::error::CniError;

/// The most that a plugin may print.
const MOST: usize = 1 << 20;

/// What of a plugin's words goes into an error.
const SHOWN: usize = 1000;

/// What a plugin is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect a pod.
    Add,
    /// Disconnect it.
    Del,
    /// Say whether it is still connected.
    Check,
    /// Remove what belongs to pods that are not there any more.
    Gc,
    /// Say whether pods can be connected.
    Status,
    /// Say which versions of the specification it knows.
    Version,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        })
    }
}

/// One call of a plugin.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) kind: &'a str,
    pub(super) program: &'a Path,
    pub(super) command: Command,
    /// `CNI_*` beside the command.
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) input: Vec<u8>,
    /// After which it is killed.
    pub(super) limit: Duration,
}

/// How a plugin ended, and what it said.
struct Ended {
    status: ExitStatus,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Call<'_> {
    /// Runs the plugin to its end; `None` is an empty answer.
    ///
    /// It gets nothing of ours: an environment of its own, `/` as its directory, three pipes, and a process group by which
    /// it is killed with whatever it started.
    pub(super) fn run(&self) -> Result<Option<Value>, CniError> {
        let ended = self.execute()?;
        let answer: Option<Value> = serde_json::from_slice(&ended.output).ok();
        if ended.status.success() {
            let blank = ended.output.iter().all(u8::is_ascii_whitespace);
            return match answer {
                Some(answer) if answer.is_object() => Ok(Some(answer)),
                None if blank => Ok(None),
                Some(_) | None => {
                    Err(self.garbage(format!("no JSON object: {}", shown(&ended.output))))
                }
            };
        }
        let said = |key| answer.as_ref().and_then(|answer| answer.get(key));
        match said("msg").and_then(Value::as_str) {
            Some(message) => {
                let details =
                    said("details").and_then(Value::as_str).filter(|text| !text.is_empty());
                let text = details.map_or(message.to_owned(), |more| format!("{message}: {more}"));
                Err(CniError::Failed {
                    kind: self.kind.to_owned(),
                    command: self.command,
                    text: shown(text.as_bytes()),
                    code: said("code").and_then(Value::as_u64).unwrap_or_default(),
                })
            }
            None => Err(CniError::Crashed {
                kind: self.kind.to_owned(),
                command: self.command,
                status: ended.status,
                output: shown(if ended.errors.is_empty() { &ended.output } else { &ended.errors }),
            }),
        }
    }

    pub(super) fn garbage(&self, what: String) -> CniError {
        CniError::Garbage { kind: self.kind.to_owned(), command: self.command, what }
    }

    fn execute(&self) -> Result<Ended, CniError> {
        let failed =
            |step| move |source| CniError::Run { step, kind: self.kind.to_owned(), source };
        let (output, their_output) = io::pipe().map_err(failed("make a pipe for"))?;
        let (errors, their_errors) = io::pipe().map_err(failed("make a pipe for"))?;
        // The program itself, not a shell; the standard library starts it with posix_spawn(3), as a process of many threads has
        // to, and all our descriptors close on exec.
        let mut command = std::process::Command::new(self.program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", self.command.to_string())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(their_output)
            .stderr(their_errors);
        let mut running = Running { child: command.spawn().map_err(failed("start"))? };
        drop(command); // and with it our ends of theirs
        let talk = running.talk(self, [output, errors]);
        let (output, errors) = talk.map_err(|stopped| match stopped {
            Stopped::Late => CniError::TimedOut {
                kind: self.kind.to_owned(),
                command: self.command,
                after: self.limit,
            },
            Stopped::TooMuch => {
                CniError::TooMuch { kind: self.kind.to_owned(), command: self.command, most: MOST }
            }
            Stopped::Io(source) => failed("speak with")(source),
        })?;
        let status = running.child.wait().map_err(failed("wait for"))?;
        Ok(Ended { status, output, errors })
    }
}

/// Why a plugin is not waited for any longer.
enum Stopped {
    Late,
    TooMuch,
    Io(io::Error),
}

/// A plugin at work; dropped before it has ended, it is killed with all that it started.
struct Running {
    child: Child,
}

impl Running {
    /// Hands the plugin its input and takes what it prints, until it has ended. What it started and left running may hold the
    /// pipes open; nobody waits for that.
    fn talk(
        &mut self,
        call: &Call<'_>,
        pipes: [PipeReader; 2],
    ) -> Result<(Vec<u8>, Vec<u8>), Stopped> {
        let deadline = Instant::now() + call.limit;
        let ended = self.pidfd().map_err(Stopped::Io)?;
        let mut input = self.child.stdin.take();
        for fd in pipes.iter().map(AsFd::as_fd).chain(input.iter().map(AsFd::as_fd)) {
            rustix::io::ioctl_fionbio(fd, true).map_err(|err| Stopped::Io(err.into()))?;
        }
        let mut unsent = call.input.as_slice();
        let mut heard = [Vec::new(), Vec::new()];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left =
                Timespec::try_from(left).ok().filter(|_| !left.is_zero()).ok_or(Stopped::Late)?;
            let mut ready = vec![PollFd::new(&ended, PollFlags::IN)];
            ready.extend(pipes.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            ready.extend(input.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
            match poll(&mut ready, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(err) => return Err(Stopped::Io(err.into())),
            }
            let over = !ready[0].revents().is_empty();
            drop(ready);
            if let Some(pipe) = &mut input
                && !send(pipe, &mut unsent)
            {
                input = None; // The end of the input is what plugins wait for.
            }
            let mut open = false;
            for (pipe, heard) in pipes.iter().zip(&mut heard) {
                open |= take(pipe, heard)?;
            }
            if over {
                let [output, errors] = heard;
                return Ok((output, errors));
            }
            if !open {
                // It has closed both, and would make poll return for ever.
                wait(&ended, deadline)?;
            }
        }
    }

    fn pidfd(&self) -> io::Result<OwnedFd> {
        Ok(pidfd_open(self.pid(), PidfdFlags::empty())?)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        // Not reaped yet, so the number is still its own.
        kill_process_group(self.pid(), Signal::KILL).ok();
        if let Err(err) = self.child.wait() {
            tracing::warn!(%err, "wait for a killed network plugin");
        }
    }
}

/// Writes what fits. False when there is nothing left to write, or nobody reads.
fn send(pipe: &mut impl Write, unsent: &mut &[u8]) -> bool {
    while !unsent.is_empty() {
        match pipe.write(unsent) {
            Ok(0) => return false,
            Ok(sent) => *unsent = unsent.get(sent..).unwrap_or_default(),
            Err(err) => return err.kind() == io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// Reads what is there. False at the end.
fn take(mut pipe: &PipeReader, heard: &mut Vec<u8>) -> Result<bool, Stopped> {
    let mut buffer = [0; 8192];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => heard.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(Stopped::Io(err)),
        }
        if heard.len() > MOST {
            return Err(Stopped::TooMuch);
        }
    }
}

fn wait(ended: &OwnedFd, deadline: Instant) -> Result<(), Stopped> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| Stopped::Late)?;
    match poll(&mut [PollFd::new(ended, PollFlags::IN)], Some(&left)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(err) => Err(Stopped::Io(err.into())),
    }
}

/// The beginning of what a plugin said, for an error.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.trim().chars().take(SHOWN).collect();
    if shown.is_empty() {
        shown = "it said nothing".to_owned();
    }
    shown.retain(|c| !c.is_control() || c == ' ');
    shown
}

/// Where the program of a plugin is.
pub(super) fn find(kind: &str, directories: &[PathBuf]) -> Result<PathBuf, CniError> {
    directories
        .iter()
        .map(|directory| directory.join(kind))
        .find(|program| program.is_file())
        .ok_or_else(|| CniError::NotInstalled {
            kind: kind.to_owned(),
            directories: directories.to_vec(),
        })
}
