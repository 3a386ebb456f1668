//! A connection to systemd, for one request and with one deadline.

use super::wire::{Body, HEAD, Kind, Malformed, Message, Target, call, whole};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest line of the greeting.
const LINE: usize = 512;

const BUS: Target = Target {
    name: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("speak to systemd")]
    Io(#[from] io::Error),
    #[error("speak to systemd")]
    Malformed(#[from] Malformed),
    #[error("systemd does not let us in: {0:?}")]
    Greeting(String),
    #[error("{name}: {text}")]
    Refused { name: String, text: String },
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
    /// Jobs that have ended while something else was waited for, with their results.
    ended: Vec<(String, String)>,
}

impl Connection {
    /// Connects to systemd's own socket.
    pub(super) fn private(socket: &Path, deadline: Instant) -> Result<Self, CallError> {
        let stream = open(socket, left(deadline)?)?;
        let mut this = Self { stream, deadline, serial: 0, ended: Vec::new() };
        this.greet()?;
        Ok(this)
    }

    /// Connects to a bus that systemd is on; `signals` is what is to be heard of there.
    pub(super) fn bus(socket: &Path, deadline: Instant, signals: &str) -> Result<Self, CallError> {
        let mut this = Self::private(socket, deadline)?;
        this.call(BUS, "Hello", &Body::default())?;
        this.call(BUS, "AddMatch", &Body::texts(&[signals]))?;
        Ok(this)
    }

    /// `EXTERNAL`: we are who the kernel says we are.
    ///
    /// All of it is said at once, as systemctl does. A `BEGIN` by itself may be read together with the first message, and
    /// systemd (252) then does not look at that before another one comes.
    fn greet(&mut self) -> Result<(), CallError> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.push(byte[0]);
            if line.len() > LINE {
                break;
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(CallError::Greeting(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        Ok(())
    }

    /// Calls a method, and gives its answer.
    pub(super) fn call(
        &mut self,
        target: Target,
        method: &str,
        body: &Body,
    ) -> Result<Message, CallError> {
        self.serial += 1;
        let serial = self.serial;
        self.write(&call(serial, target, method, body))?;
        loop {
            let message = self.receive()?;
            if message.answers != Some(serial) {
                continue;
            }
            if message.kind == Kind::Error {
                let name = message.error.clone().unwrap_or_default();
                // An error may be without words.
                return Err(CallError::Refused { name, text: message.text().unwrap_or_default() });
            }
            return Ok(message);
        }
    }

    /// Waits for the end of a job, and gives its result.
    pub(super) fn end_of(&mut self, job: &str) -> Result<String, CallError> {
        loop {
            if let Some(at) = self.ended.iter().position(|(ended, _)| ended == job) {
                return Ok(self.ended.swap_remove(at).1);
            }
            self.receive()?;
        }
    }

    /// The next message; ends of jobs are noted down.
    fn receive(&mut self) -> Result<Message, CallError> {
        let mut bytes = vec![0; HEAD];
        self.read(&mut bytes)?;
        bytes.resize(whole(&bytes)?.max(HEAD), 0);
        self.read(&mut bytes[HEAD..])?;
        let message = Message::parse(&bytes)?;
        if message.kind == Kind::Signal && message.member.as_deref() == Some("JobRemoved") {
            self.ended.push(message.removed_job()?);
        }
        Ok(message)
    }

    fn read(&mut self, mut into: &mut [u8]) -> Result<(), CallError> {
        while !into.is_empty() {
            self.stream.set_read_timeout(Some(left(self.deadline)?))?;
            match self.stream.read(into) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => into = &mut into[count..],
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                // The next round finds out whether the time is up.
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        Ok(self.stream.write_all(bytes)?)
    }
}

/// The time until the deadline, which is never none.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Connects, within a time: the backlog of a service manager that hangs may be full.
fn open(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::wire::tests::received;
    use std::os::unix::net::UnixListener;
    use std::thread;

    const TARGET: Target = Target { name: "n.n", path: "/p", interface: "i.i" };

    /// A peer that greets, reads calls and says what it is told to say after the first.
    fn peer(greeting: &'static str, says: Vec<u8>) -> (tempfile::TempDir, thread::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let work = move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).unwrap();
            assert!(bytes[..count].starts_with(b"\0AUTH EXTERNAL 3"));
            stream.write_all(greeting.as_bytes()).unwrap();
            // Until the client leaves.
            let mut said = false;
            while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
                if !said && bytes.contains(&b'M') {
                    stream.write_all(&says).unwrap();
                    said = true;
                }
            }
        };
        (dir, thread::spawn(work))
    }

    fn asked(
        greeting: &'static str,
        says: Vec<u8>,
        patience: Duration,
    ) -> Result<String, CallError> {
        let (dir, peer) = peer(greeting, says);
        let asked = || {
            let deadline = Instant::now() + patience;
            let mut connection = Connection::private(&dir.path().join("s"), deadline)?;
            connection.serial = 6;
            let job = connection.call(TARGET, "M", &Body::default())?.text()?;
            connection.end_of(&job)
        };
        let result = asked();
        peer.join().unwrap();
        result
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_job_is_waited_for_even_if_it_ends_before_its_answer() {
        let answer = received(2, "x", &["/job/2"]);
        let other = received(4, "JobRemoved", &["/job/1", "u", "failed"]);
        let ours = received(4, "JobRemoved", &["/job/2", "u", "done"]);
        for order in [[&answer, &other, &ours], [&ours, &answer, &other], [&other, &ours, &answer]]
        {
            let says = order.into_iter().flatten().copied().collect();
            assert_eq!(asked("OK 1\r\n", says, LONG).unwrap(), "done");
        }
    }

    #[test]
    fn what_goes_wrong_is_told_and_takes_no_longer_than_it_may() {
        let short = Duration::from_millis(200);
        let refused = received(3, "a.NoSuchUnit", &["no unit"]);
        let job = received(2, "x", &["/job/2"]);
        let cases: [(&str, &'static str, Vec<u8>, Duration, &str); 5] = [
            ("refused", "OK 1\r\n", refused, LONG, "a.NoSuchUnit: no unit"),
            ("not let in", "REJECTED EXTERNAL\r\n", Vec::new(), LONG, "does not let us in"),
            ("silent", "OK 1\r\n", Vec::new(), short, "speak to systemd"),
            ("a job without an end", "OK 1\r\n", job, short, "speak to systemd"),
            ("nonsense", "OK 1\r\n", vec![b'x'; 64], LONG, "speak to systemd"),
        ];
        for (name, greeting, says, patience, want) in cases {
            let err = asked(greeting, says, patience).unwrap_err();
            assert!(err.to_string().contains(want), "{name}: {err}");
        }
        let none = Connection::private(Path::new("/nonexistent"), Instant::now() + LONG);
        assert!(matches!(none, Err(CallError::Io(_))));
    }
}
