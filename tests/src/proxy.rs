//! A proxy of ours before a registry that does to answers what networks and broken servers do.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::http::{find, head};

/// What happens to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(u64),
    /// Nothing comes after so many bytes of the body, until the proxy is mended or dropped.
    Stall(u64),
    /// One byte of the body is another.
    Flip(u64),
    /// The head promises so many bytes more than come.
    Longer(u64),
    /// Another status, without the registry being asked; with a `Retry-After` of so many seconds.
    Status(u16, Option<u64>),
    /// A redirect to the same place.
    Loop,
    /// The head comes a byte at a time, so slowly.
    SlowHead(Duration),
}

/// A fault of answers to requests that contain a text, so many times.
#[derive(Clone, Debug)]
struct Rule {
    about: String,
    fault: Fault,
    times: usize,
}

/// What was asked, and how much of an answer went to the client.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The first line of the request.
    pub request: String,
    /// Its `Range`.
    pub range: String,
    /// Bytes of the body that were sent.
    pub sent: u64,
}

/// A running proxy. It ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<Asked>>,
    ended: AtomicBool,
    /// Wakes those that stall.
    mended: Condvar,
}

impl Proxy {
    /// Starts one before the registry at `upstream`.
    ///
    /// # Panics
    ///
    /// When there is no port for it.
    pub fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            upstream,
            rules: Mutex::default(),
            asked: Mutex::default(),
            ended: AtomicBool::new(false),
            mended: Condvar::new(),
        });
        let server = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.ended.load(Ordering::Relaxed) {
                    return;
                }
                let server = Arc::clone(&server);
                // Either side may go away at any time.
                thread::spawn(move || server.serve(&stream, address).ok());
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// The reference of a repository and tag, through the proxy.
    pub fn reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Does `fault` to the next `times` answers to requests that contain `about`.
    pub fn fail(&self, about: &str, fault: Fault, times: usize) {
        let rule = Rule { about: about.to_owned(), fault, times };
        lock(&self.shared.rules).push(rule);
    }

    /// Everything is well from now on.
    pub fn mend(&self) {
        lock(&self.shared.rules).clear();
        self.shared.mended.notify_all();
    }

    /// What was asked that contains `about`.
    pub fn asked(&self, about: &str) -> Vec<Asked> {
        let asked = lock(&self.shared.asked);
        asked.iter().filter(|asked| asked.request.contains(about)).cloned().collect()
    }

    /// Bytes of bodies that were sent for requests that contain `about`.
    pub fn sent(&self, about: &str) -> u64 {
        self.asked(about).iter().map(|asked| asked.sent).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.mend();
        // Wakes the accept; that nobody listens any more would be as good.
        TcpStream::connect(self.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream, address: SocketAddr) -> io::Result<()> {
        let (request, headers) = head(&mut BufReader::new(client.try_clone()?))?;
        let range = find(&headers, "range").unwrap_or_default().to_owned();
        let index = {
            let mut asked = lock(&self.asked);
            asked.push(Asked { request: request.clone(), range, sent: 0 });
            asked.len() - 1
        };
        let fault = self.take(&request);
        let mut client = client;
        match &fault {
            Some(Fault::Status(status, retry_after)) => {
                let wait = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n"));
                let wait = wait.unwrap_or_default();
                return write!(
                    client,
                    "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n{wait}\r\n"
                );
            }
            Some(Fault::Loop) => {
                let target = request.split(' ').nth(1).unwrap_or_default();
                return write!(
                    client,
                    "HTTP/1.1 307 X\r\nLocation: http://{address}{target}\r\n\
                     Content-Length: 0\r\nConnection: close\r\n\r\n"
                );
            }
            Some(_) | None => {}
        }
        let mut upstream = TcpStream::connect(self.upstream)?;
        write!(upstream, "{request}\r\n")?;
        for (name, value) in &headers {
            if !name.eq_ignore_ascii_case("connection") {
                write!(upstream, "{name}: {value}\r\n")?;
            }
        }
        write!(upstream, "Connection: close\r\n\r\n")?;
        let mut upstream = BufReader::new(upstream);
        let (status, headers) = head(&mut upstream)?;
        let mut text = format!("{status}\r\n");
        for (name, value) in &headers {
            let longer = match (&fault, name.eq_ignore_ascii_case("content-length")) {
                (Some(Fault::Longer(more)), true) => value.parse().ok().map(|n: u64| n + more),
                _ => None,
            };
            let value = longer.map_or_else(|| value.clone(), |longer| longer.to_string());
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        if let Some(Fault::SlowHead(pace)) = &fault {
            for byte in text.as_bytes() {
                client.write_all(&[*byte])?;
                crate::patience::pause(*pace);
            }
        } else {
            client.write_all(text.as_bytes())?;
        }
        self.body(&mut upstream, client, (fault.as_ref(), index))
    }

    fn body(
        &self,
        from: &mut impl Read,
        mut to: &TcpStream,
        (fault, index): (Option<&Fault>, usize),
    ) -> io::Result<()> {
        let mut buffer = vec![0; 32 << 10];
        let mut sent = 0;
        loop {
            let most = if let Some(Fault::Cut(at) | Fault::Stall(at)) = fault {
                buffer.len().min(usize::try_from(at - sent).unwrap_or(usize::MAX))
            } else {
                buffer.len()
            };
            if most == 0 {
                if matches!(fault, Some(Fault::Stall(_))) {
                    self.stall();
                }
                return to.shutdown(Shutdown::Both);
            }
            let count = from.read(&mut buffer[..most])?;
            if count == 0 {
                return Ok(());
            }
            if let Some(Fault::Flip(at)) = fault
                && (sent..sent + count as u64).contains(at)
            {
                buffer[usize::try_from(at - sent).unwrap_or(0)] ^= 1;
            }
            to.write_all(&buffer[..count])?;
            sent += count as u64;
            lock(&self.asked)[index].sent = sent;
        }
    }

    /// The next fault for a request, if one is left.
    fn take(&self, request: &str) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| rule.times > 0 && request.contains(&rule.about))?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    fn stall(&self) {
        let rules = lock(&self.rules);
        let still =
            |rules: &mut Vec<Rule>| !rules.is_empty() && !self.ended.load(Ordering::Relaxed);
        drop(self.mended.wait_while(rules, still));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
