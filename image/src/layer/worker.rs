//! The unpack worker, seen from the store: started, fed, listened to, ended.

use super::wire::{self, Form, Refusal, Report, Unpacked};
use super::{Compression, LayerError};
use crate::limits::Limits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The worker says something at least once a second while it gets on; a disk may keep it waiting much longer than that.
const STALLED: Duration = Duration::from_secs(120);

/// Time to end after the report, or after a kill: more only if the kernel is stuck in its disk.
const END: Duration = Duration::from_secs(10);

/// Compressed bytes that may wait in the pipe.
const PIPE: usize = 1 << 20;

/// A running worker; dropping it kills it.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    pidfd: OwnedFd,
    input: Option<File>,
    output: File,
    /// The longest silence.
    patience: Duration,
}

/// What a worker fills.
#[derive(Debug)]
pub(super) enum Target<'a> {
    /// An empty directory.
    Directory(&'a Path),
    /// An empty file, open to read and write; `nothing` is a directory that is empty and stays so.
    Image { file: File, nothing: &'a Path },
}

impl Worker {
    /// Starts `binary` on what is to be filled.
    pub(super) fn start(
        binary: &Path,
        target: Target<'_>,
        compression: Compression,
        limits: &Limits,
    ) -> Result<Self, LayerError> {
        let (form, root, image) = match target {
            Target::Directory(tree) => (Form::Directories, tree, Stdio::null()),
            Target::Image { file, nothing } => (Form::Erofs, nothing, Stdio::from(file)),
        };
        let mut child = Command::new(binary)
            .arg(form.as_str())
            .arg(root)
            .arg(compression.as_str())
            .arg(limits.layer_bytes.to_string())
            .arg(limits.layer_entries.to_string())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(image)
            .spawn()
            .map_err(|source| LayerError::Worker {
                step: format!("start of {}", binary.display()),
                source,
            })?;
        let prepared = Self::adopt(&mut child);
        match prepared {
            Ok((pidfd, input, output)) => {
                Ok(Self { child, pidfd, input: Some(input), output, patience: STALLED })
            }
            Err(source) => {
                // It has nothing to read from, so it ends even if this fails.
                child.kill().and_then(|()| child.wait()).ok();
                Err(LayerError::Worker { step: "start".into(), source })
            }
        }
    }

    fn adopt(child: &mut Child) -> io::Result<(OwnedFd, File, File)> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        // The number cannot be anybody else's: the child has not been waited for.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let input = child.stdin.take().ok_or(Errno::BADF)?;
        let output = child.stdout.take().ok_or(Errno::BADF)?;
        // A larger pipe saves switches between reader and writer; the limit for users may forbid it.
        rustix::pipe::fcntl_setpipe_size(&input, PIPE).ok();
        Ok((pidfd, File::from(OwnedFd::from(input)), File::from(OwnedFd::from(output))))
    }

    /// The write end of the worker's pipe, once.
    pub(super) fn input(&mut self) -> Option<File> {
        self.input.take()
    }

    /// Waits for the report and for the end.
    pub(super) fn finish(mut self) -> Result<Unpacked, LayerError> {
        drop(self.input.take());
        let report = self.read_report()?;
        let status = self.wait(END)?.ok_or(LayerError::Stalled(END))?;
        match report {
            Some(Report::Unpacked(unpacked)) if status.success() => Ok(unpacked),
            Some(Report::Refused(refusal)) => Err(refusal.into()),
            Some(Report::Unpacked(_)) | None => Err(LayerError::Died(status)),
        }
    }

    /// The report; none where the worker ended without one.
    fn read_report(&mut self) -> Result<Option<Report>, LayerError> {
        let mut byte = [0];
        loop {
            if !self.read_exact(&mut byte)? {
                return Ok(None);
            }
            match byte[0] {
                wire::BEAT => {}
                wire::REPORT => break,
                _ => return Err(garbled()),
            }
        }
        let mut length = [0; 4];
        if !self.read_exact(&mut length)? {
            return Ok(None);
        }
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > wire::MAX_REPORT {
            return Err(garbled());
        }
        let mut text = vec![0; length];
        if !self.read_exact(&mut text)? {
            return Ok(None);
        }
        postcard::from_bytes(&text).map(Some).map_err(|_| garbled())
    }

    /// Fills `into`; false where the stream ends before.
    fn read_exact(&mut self, mut into: &mut [u8]) -> Result<bool, LayerError> {
        while !into.is_empty() {
            if !is_ready(&self.output, self.patience).map_err(listening)? {
                return Err(LayerError::Stalled(self.patience));
            }
            match self.output.read(into) {
                Ok(0) => return Ok(false),
                Ok(count) => into = &mut into[count..],
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(listening(err)),
            }
        }
        Ok(true)
    }

    /// How the worker ended; none where it does not within `time`.
    fn wait(&mut self, time: Duration) -> Result<Option<ExitStatus>, LayerError> {
        if !is_ready(&self.pidfd, time).map_err(listening)? {
            return Ok(None);
        }
        self.child.try_wait().map_err(listening)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Gone already is fine.
        self.child.kill().ok();
        match self.wait(END) {
            Ok(Some(_)) => {}
            Ok(None) => {
                tracing::warn!(pid = self.child.id(), "unpack worker does not end after SIGKILL")
            }
            Err(err) => tracing::warn!(pid = self.child.id(), %err, "unpack worker not waited for"),
        }
    }
}

/// Waits until `fd` can be read.
fn is_ready(fd: impl AsFd, time: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

fn listening(source: io::Error) -> LayerError {
    LayerError::Worker { step: "report".into(), source }
}

fn garbled() -> LayerError {
    listening(io::ErrorKind::InvalidData.into())
}

impl From<Refusal> for LayerError {
    fn from(refusal: Refusal) -> Self {
        let source = io::Error::from_raw_os_error;
        match refusal {
            Refusal::Content(text) => Self::Content(text),
            Refusal::Limit(bound, limit) => Self::Limit { what: bound.as_str(), limit },
            Refusal::Disk(step, number) => Self::Unpack { step, source: source(number) },
            Refusal::Worker(step, number) => Self::Worker { step, source: source(number) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::wire::Bound;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    /// What the store makes of a worker that runs `script` with the file `report` at hand.
    fn finish(script: &str, report: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            File::create_new(&path).unwrap().write_all(content).unwrap();
            path
        };
        let report = file("report", report);
        let script = file("script", script.replace("REPORT", report.to_str().unwrap()).as_bytes());
        // The second argument, meant to be the tree, is the script.
        let (limits, shell) =
            (Limits::default(), file("shell", b"#!/bin/sh\nexec /bin/sh \"$2\"\n"));
        std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o700)).unwrap();
        let tree = Target::Directory(&script);
        let mut worker = Worker::start(&shell, tree, Compression::Plain, &limits).unwrap();
        worker.patience = Duration::from_millis(300);
        match worker.finish() {
            Ok(unpacked) => format!("{} inodes", unpacked.inodes),
            Err(err) => err.to_string(),
        }
    }

    fn framed(length: u32, text: &[u8]) -> Vec<u8> {
        [&[wire::REPORT][..], &length.to_le_bytes(), text].concat()
    }

    fn report(report: &Report) -> Vec<u8> {
        let text = postcard::to_allocvec(report).unwrap();
        framed(u32::try_from(text.len()).unwrap(), &text)
    }

    #[test]
    fn a_worker_is_believed_only_as_far_as_its_words_go() {
        let good = report(&Report::Unpacked(Unpacked { inodes: 7, ..Unpacked::default() }));
        let refused = report(&Report::Refused(Refusal::Limit(Bound::Entries, 9)));
        let died = "the unpack worker ended early: ";
        let garbled = "report by the unpack worker";
        let cases = [
            ("good", "cat REPORT", good.clone(), "7 inodes".to_owned()),
            ("with beats", "echo -n ...; cat REPORT", good.clone(), "7 inodes".to_owned()),
            ("refused", "cat REPORT", refused, "layer refused: more than 9 entries".to_owned()),
            (
                "good, then failed",
                "cat REPORT; exit 3",
                good.clone(),
                format!("{died}exit status: 3"),
            ),
            ("nothing", "exit 0", vec![], format!("{died}exit status: 0")),
            (
                "half",
                "cat REPORT",
                good[..good.len() - 1].to_vec(),
                format!("{died}exit status: 0"),
            ),
            ("killed", "kill -SYS $$", vec![], format!("{died}signal: 31 (SIGSYS)")),
            ("something else", "echo hello", vec![], garbled.to_owned()),
            ("no report", "cat REPORT", framed(3, b"\xff\xff\xff"), garbled.to_owned()),
            ("too long", "cat REPORT", framed(u32::MAX, b""), garbled.to_owned()),
            (
                "still",
                "exec sleep 1000",
                vec![],
                "the unpack worker stood still for 0 s".to_owned(),
            ),
        ];
        for (name, script, report, want) in cases {
            assert_eq!(finish(script, &report), want, "{name}");
        }
    }
}
