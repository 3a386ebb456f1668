//! What a container reads and writes: its output goes to the log and to whoever is attached, its input comes from there.
//!
//! Nobody waits for a client: it has a pipe, and when that is full it is cut off. So neither the container nor its log nor
//! another client notices a slow one. Input does not pass through here at all: a client gets the descriptor itself.

use crate::events::{Events, Key};
use crate::log::{Log, Stream};
use runtime::protocol::Detached;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

/// A container's streams, and who follows them.
#[derive(Debug)]
pub(crate) struct Streams {
    output: Option<Output>,
    errors: Option<Output>,
    /// Whether `output` is a terminal, and so the input too.
    terminal: bool,
    input: Input,
    pub(crate) log: Log,
    clients: Vec<Client>,
    /// Clients that were cut off and have not heard of it.
    cut: Vec<Cut>,
}

/// Where a container's input comes from.
#[derive(Debug, Default)]
struct Input {
    /// Whether there is any to be had.
    open: bool,
    /// Our end of the pipe, which keeps it open between clients. None where it is the terminal.
    pipe: Option<OwnedFd>,
    /// Whether its first writer is its only one.
    once: bool,
    /// That one.
    writer: Option<Key>,
}

/// The read end of one of its streams.
#[derive(Debug)]
struct Output {
    pipe: OwnedFd,
    stream: Stream,
}

/// An attached client: its connection, and the write ends of its pipes.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) connection: Key,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// A client that is not attached any more.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) connection: Key,
    pub(crate) why: Detached,
}

/// Our ends of a container's pipes, all `None` where it has a terminal.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// Standard output, or the terminal.
    Output,
    /// Standard error.
    Errors,
}

/// Whether more can come from a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Some(usize),
    Empty,
    Ended,
}

/// The most that is read from a pipe whose writer has ended: what the largest pipe holds (`/proc/sys/fs/pipe-max-size`).
const MAX_REST: usize = 1 << 20;

impl Streams {
    /// Those of a container that never ran.
    pub(crate) fn none(log: Log) -> Self {
        let (input, clients, cut) = (Input::default(), Vec::new(), Vec::new());
        Self { output: None, errors: None, terminal: false, input, log, clients, cut }
    }

    pub(crate) fn new(process: &plan::Process, ends: Ends, log: Log) -> Self {
        let output = |pipe, name| Output { pipe, stream: Stream::new(name) };
        let input =
            Input { open: process.stdin, pipe: ends.stdin, once: process.stdin_once, writer: None };
        Self {
            output: ends.stdout.map(|pipe| output(pipe, "stdout")),
            errors: ends.stderr.map(|pipe| output(pipe, "stderr")),
            terminal: process.terminal.is_some(),
            input,
            ..Self::none(log)
        }
    }

    /// Takes our side of the terminal, which its first process has opened.
    pub(crate) fn set_terminal(&mut self, terminal: OwnedFd) {
        self.output = Some(Output { pipe: terminal, stream: Stream::new("stdout") });
    }

    /// What its output and its errors are read from.
    pub(crate) fn pipes(&self) -> (Option<&OwnedFd>, Option<&OwnedFd>) {
        (self.output.as_ref().map(|it| &it.pipe), self.errors.as_ref().map(|it| &it.pipe))
    }

    pub(crate) fn terminal(&self) -> Option<&OwnedFd> {
        self.output.as_ref().filter(|_| self.terminal).map(|output| &output.pipe)
    }

    /// Reads one stream once: a container that says a lot waits for the others.
    pub(crate) fn read(&mut self, voice: Voice, buffer: &mut [u8], events: &Events) {
        if self.take(voice, buffer) == Flow::Ended {
            self.close(voice, events);
        }
        self.end_left_input();
    }

    /// Reads what is left in the pipes. Nobody can write to them any more but those they were handed to, for whom
    /// nothing waits. Then nobody is attached any more.
    pub(crate) fn end(&mut self, buffer: &mut [u8], events: &Events) {
        self.drain(Voice::Output, buffer, events);
        self.drain(Voice::Errors, buffer, events);
        self.input = Input::default();
        let left = self.clients.drain(..);
        self.cut.extend(left.map(|it| Cut { connection: it.connection, why: Detached::Ended }));
    }

    /// Attaches a client. Gives what leads to the container's input, where `stdin` is wanted and is to be had.
    pub(crate) fn attach(&mut self, client: Client, stdin: bool) -> Option<OwnedFd> {
        let connection = client.connection;
        self.clients.push(client);
        if !stdin || !self.input.open || (self.input.once && self.input.writer.is_some()) {
            return None;
        }
        let input = self.input.pipe.as_ref().or(self.terminal())?.try_clone().ok()?;
        self.input.writer = Some(connection);
        Some(input)
    }

    /// A client has gone.
    pub(crate) fn leave(&mut self, connection: Key) {
        self.clients.retain(|client| client.connection != connection);
        self.end_input(connection);
    }

    /// A client writes no more. For a container that reads one client's input, that was all. A terminal has no end but to
    /// be hung up, which would end the session that the client may want to come back to: the next one may type.
    pub(crate) fn end_input(&mut self, connection: Key) {
        if self.input.writer != Some(connection) {
            return;
        }
        if self.terminal {
            self.input.writer = None;
        } else if self.input.once {
            self.input.open = false;
            self.input.pipe = None;
        }
    }

    /// Who was cut off, told once.
    pub(crate) fn take_cut(&mut self) -> Vec<Cut> {
        std::mem::take(&mut self.cut)
    }

    fn end_left_input(&mut self) {
        let writer = self.input.writer;
        if let Some(writer) = writer
            && self.cut.iter().any(|cut| cut.connection == writer)
        {
            self.end_input(writer);
        }
    }

    fn slot(&mut self, voice: Voice) -> &mut Option<Output> {
        match voice {
            Voice::Output => &mut self.output,
            Voice::Errors => &mut self.errors,
        }
    }

    fn take(&mut self, voice: Voice, buffer: &mut [u8]) -> Flow {
        // Not by `slot`, which would borrow the log as well.
        let slot = match voice {
            Voice::Output => &mut self.output,
            Voice::Errors => &mut self.errors,
        };
        let Some(output) = slot else { return Flow::Empty };
        match rustix::io::read(&output.pipe, &mut *buffer) {
            Ok(0) => Flow::Ended,
            Ok(count) => {
                self.log.take(&mut output.stream, &buffer[..count], SystemTime::now());
                self.share(voice, &buffer[..count]);
                Flow::Some(count)
            }
            Err(Errno::AGAIN | Errno::INTR) => Flow::Empty,
            // EIO is how a terminal says that its other side is closed.
            Err(_) => Flow::Ended,
        }
    }

    fn share(&mut self, voice: Voice, bytes: &[u8]) {
        let cut = &mut self.cut;
        self.clients.retain(|client| match client.give(voice, bytes) {
            Ok(()) => true,
            Err(why) => {
                cut.push(Cut { connection: client.connection, why });
                false
            }
        });
    }

    fn drain(&mut self, voice: Voice, buffer: &mut [u8], events: &Events) {
        let mut rest = 0;
        while rest < MAX_REST
            && let Flow::Some(count) = self.take(voice, buffer)
        {
            rest += count;
        }
        self.close(voice, events);
    }

    /// A client may hold the terminal too, so that closing it here does not end its events.
    fn close(&mut self, voice: Voice, events: &Events) {
        if let Some(mut output) = self.slot(voice).take() {
            events.remove(&output.pipe);
            self.log.end(&mut output.stream, SystemTime::now());
        }
    }
}

impl Client {
    fn give(&self, voice: Voice, bytes: &[u8]) -> Result<(), Detached> {
        let pipe = match voice {
            Voice::Output => &self.stdout,
            Voice::Errors => &self.stderr,
        };
        let Some(pipe) = pipe else { return Ok(()) };
        match rustix::io::retry_on_intr(|| rustix::io::write(pipe.as_fd(), bytes)) {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) | Err(Errno::AGAIN) => Err(Detached::TooSlow),
            Err(_) => Err(Detached::Left),
        }
    }
}

#[cfg(test)]
mod tests;
