//! A client of the streaming server: what kubectl and crictl do, and what they would never do.

use cri_api::runtime::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use remote::message::Status as Ending;
use remote::spdy::Spdy;
use remote::websocket::{self, Encoding, Form};
use remote::{Incoming, Link, Outgoing, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Status;

use crate::patience::patience;
use crate::world::World;

/// Which streams are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub stdin: bool,
    pub tty: bool,
}

pub const OUTPUT: Wanted = Wanted { stdin: false, tty: false };
pub const BOTH: Wanted = Wanted { stdin: true, tty: false };
pub const TERMINAL: Wanted = Wanted { stdin: true, tty: true };

/// What a client speaks, with the subprotocol that it asks for.
#[derive(Clone, Copy, Debug)]
pub enum Speak {
    Spdy(&'static str),
    WebSocket(&'static str),
}

pub const SPDY: Speak = Speak::Spdy("v4.channel.k8s.io");
pub const V5: Speak = Speak::WebSocket("v5.channel.k8s.io");

/// An answer that is no switch of protocols.
#[derive(Debug)]
pub struct Refusal {
    pub code: u16,
    pub text: String,
}

/// The client's side of an exec or an attach.
#[derive(Debug)]
pub struct Session {
    pub link: Link,
    pub stdin: Option<Outgoing>,
    pub stdout: Option<Incoming>,
    pub stderr: Option<Incoming>,
    pub error: Incoming,
    pub resize: Option<Outgoing>,
}

impl World {
    /// # Errors
    ///
    /// The daemon's.
    pub fn try_exec_url(
        &self,
        id: &str,
        command: &[&str],
        wanted: Wanted,
    ) -> Result<String, Status> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: true,
            stderr: !wanted.tty,
        };
        Ok(self.cri().exec(request)?.url)
    }

    pub fn exec_url(&self, id: &str, command: &[&str], wanted: Wanted) -> String {
        self.try_exec_url(id, command, wanted).unwrap_or_else(|status| panic!("exec: {status}"))
    }

    pub fn attach_url(&self, id: &str, wanted: Wanted) -> String {
        let request = AttachRequest {
            container_id: id.to_owned(),
            stdin: wanted.stdin,
            tty: wanted.tty,
            stdout: true,
            stderr: !wanted.tty,
        };
        self.cri().attach(request).unwrap_or_else(|status| panic!("attach: {status}")).url
    }

    pub fn forward_url(&self, pod: &str, ports: &[i32]) -> String {
        let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: ports.to_vec() };
        self.cri().port_forward(request).unwrap_or_else(|status| panic!("forward: {status}")).url
    }
}

/// Asks the server to switch protocols. `headers` are lines without their ends.
///
/// # Errors
///
/// What it answered instead.
///
/// # Panics
///
/// When there is no server.
pub async fn request(url: &str, headers: &[String]) -> Result<TcpStream, Refusal> {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("not http: {url}"));
    let (host, path) = rest.split_once('/').expect("an address has a path");
    let mut io = TcpStream::connect(host).await.expect("connect to the streaming server");
    let head = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\n{}\r\n\r\n", headers.join("\r\n"));
    io.write_all(head.as_bytes()).await.expect("write a request");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) => panic!("the server hung up: {error}"),
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("an HTTP answer");
    if code == 101 { Ok(io) } else { Err(Refusal { code, text }) }
}

/// As [`request`], for a client of `how`.
///
/// # Errors
///
/// As [`request`].
pub async fn switch(url: &str, how: Speak) -> Result<TcpStream, Refusal> {
    let (upgrade, more) = match how {
        Speak::Spdy(protocol) => {
            ("SPDY/3.1", vec![format!("X-Stream-Protocol-Version: {protocol}")])
        }
        Speak::WebSocket(protocol) => {
            let key = format!("Sec-WebSocket-Key: {}", websocket::key());
            let mut lines = vec!["Sec-WebSocket-Version: 13".to_owned(), key];
            if !protocol.is_empty() {
                lines.push(format!("Sec-WebSocket-Protocol: {protocol}"));
            }
            ("websocket", lines)
        }
    };
    let first = ["Connection: Upgrade".to_owned(), format!("Upgrade: {upgrade}")];
    request(url, &[&first[..], &more].concat()).await
}

/// The form that a subprotocol over WebSocket has.
#[must_use]
pub fn form(protocol: &str) -> Form {
    let encoding = if protocol.contains("base64") { Encoding::Base64 } else { Encoding::Binary };
    Form { encoding, ends: protocol.starts_with("v5") }
}

/// Begins an exec or an attach.
///
/// # Panics
///
/// When the server does not let us.
pub async fn session(url: &str, how: Speak, wanted: Wanted) -> Session {
    let io = switch(url, how).await.unwrap_or_else(|refusal| panic!("{how:?}: {refusal:?}"));
    match how {
        Speak::Spdy(_) => over_spdy(Spdy::client(io), wanted).await,
        Speak::WebSocket(protocol) => {
            let client = websocket::Side::Client;
            let mut channels = websocket::channels(io, client, form(protocol), 5);
            let mut take = |number| channels.take(number).expect("there are five");
            let (stdin, stdout, stderr) = (take(0), take(1), take(2));
            Session {
                stdin: wanted.stdin.then_some(stdin.outgoing),
                stdout: Some(stdout.incoming),
                stderr: (!wanted.tty).then_some(stderr.incoming),
                error: take(3).incoming,
                resize: wanted.tty.then_some(take(4).outgoing),
                link: channels.link,
            }
        }
    }
}

async fn over_spdy(mut spdy: Spdy, wanted: Wanted) -> Session {
    let mut open = async |wanted: bool, kind| {
        if !wanted {
            return None;
        }
        Some(spdy.open(&[("streamType", kind)]).await.expect("open a stream"))
    };
    let error = open(true, "error").await.expect("it is always opened").incoming;
    let stdin = open(wanted.stdin, "stdin").await.map(|stream| stream.outgoing);
    let stdout = open(true, "stdout").await.map(|stream| stream.incoming);
    let stderr = open(!wanted.tty, "stderr").await.map(|stream| stream.incoming);
    let resize = open(wanted.tty, "resize").await.map(|stream| stream.outgoing);
    Session { link: spdy.link, stdin, stdout, stderr, error, resize }
}

impl Session {
    /// Types something.
    ///
    /// # Panics
    ///
    /// When there is no input.
    pub async fn say(&self, text: &str) {
        let stdin = self.stdin.as_ref().expect("a session with input");
        stdin.send(text.as_bytes().to_vec()).await.expect("write to the session");
    }

    /// Says that no more input comes.
    pub async fn end_input(&mut self) {
        if let Some(stdin) = self.stdin.take() {
            stdin.finish().await.expect("end the input");
        }
    }

    /// Reads output until `word` is in it.
    ///
    /// # Panics
    ///
    /// When it ends without.
    pub async fn hear(&mut self, word: &str) -> String {
        let stdout = self.stdout.as_mut().expect("a session with output");
        let mut heard = String::new();
        while !heard.contains(word) {
            match in_time(stdout.next()).await {
                Some(piece) => heard.push_str(&String::from_utf8_lossy(&piece)),
                None => panic!("the output ended without {word:?}: {heard:?}"),
            }
        }
        heard
    }

    /// Types on a terminal until it shows `word`.
    ///
    /// # Panics
    ///
    /// As [`Session::hear`].
    pub async fn type_until(&mut self, word: &str) {
        let mut heard = String::new();
        while !heard.contains(word) {
            // The terminal shows every key at least, so that there is always something to hear.
            self.say("\n").await;
            let stdout = self.stdout.as_mut().expect("a session with output");
            let piece = in_time(stdout.next()).await.expect("the terminal is there");
            heard.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    /// Reads everything to its end: output, errors, and how it ended.
    pub async fn rest(self) -> (String, String, String) {
        let (out, err, error) = in_time(async {
            tokio::join!(all(self.stdout), all(self.stderr), all(Some(self.error)))
        })
        .await;
        (out, err, error)
    }
}

/// Waits for what a test cannot do without.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let limit = 3 * patience();
    tokio::time::timeout(limit, work).await.expect("the server goes on in time")
}

/// Everything that comes on a stream.
pub async fn all(incoming: Option<Incoming>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut incoming) = incoming {
        while let Some(piece) = incoming.next().await {
            bytes.extend_from_slice(&piece);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The exit code in a status of version 4 and later.
#[must_use]
pub fn exit_code(status: &str) -> Option<i32> {
    serde_json::from_str::<Ending>(status).ok()?.exit_code()
}

/// Opens the two streams of a forwarded connection.
///
/// # Panics
///
/// When the server is gone.
pub async fn forwarded(spdy: &mut Spdy, port: u16, id: u32) -> (Stream, Stream) {
    let (port, id) = (port.to_string(), id.to_string());
    let mut open = async |kind| {
        let headers = [("streamType", kind), ("port", port.as_str()), ("requestID", id.as_str())];
        spdy.open(&headers).await.expect("open a stream")
    };
    let error = open("error").await;
    (open("data").await, error)
}
