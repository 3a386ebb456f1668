//! A registry on loopback that does what a test tells it to, and remembers what it was asked.

use crate::digest::Digest;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a client asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    /// Names in lowercase.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The first byte of a `Range` header.
    pub(super) fn range_start(&self) -> Option<usize> {
        self.header("range").strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// How the server answers.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Whole(Vec<u8>),
    /// The head promises all of it; the connection ends after so many bytes.
    Cut(Vec<u8>, usize),
    /// In chunks, without a length.
    Chunked(Vec<u8>),
    /// For ever.
    Endless,
    /// So many bytes, then silence.
    Silent(Vec<u8>, usize),
    /// Not even a head.
    Nothing,
}

impl Reply {
    pub(super) fn ok(body: &[u8]) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Whole(body.to_vec()) }
    }

    pub(super) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(Vec::new()) }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(super) fn body(mut self, body: &[u8]) -> Self {
        self.body = Body::Whole(body.to_vec());
        self
    }

    pub(super) fn cut(mut self, after: usize) -> Self {
        self.body = Body::Cut(self.take(), after);
        self
    }

    pub(super) fn silent(mut self, after: usize) -> Self {
        self.body = Body::Silent(self.take(), after);
        self
    }

    pub(super) fn chunked(mut self) -> Self {
        self.body = Body::Chunked(self.take());
        self
    }

    pub(super) fn endless(mut self) -> Self {
        self.body = Body::Endless;
        self
    }

    pub(super) fn nothing() -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Nothing }
    }

    fn take(&mut self) -> Vec<u8> {
        let Body::Whole(body) = std::mem::replace(&mut self.body, Body::Nothing) else {
            panic!("the body has its shape already")
        };
        body
    }
}

/// What a registry holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    blobs: HashMap<String, Vec<u8>>,
    /// By tag and by digest, with the media type.
    manifests: HashMap<String, (String, Vec<u8>)>,
}

impl Shelf {
    pub(super) fn blob(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.blobs.insert(digest.to_string(), bytes.to_vec());
        digest
    }

    pub(super) fn manifest(&mut self, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        for name in [tag, digest.as_str()] {
            self.manifests.insert(name.into(), (media_type.into(), bytes.to_vec()));
        }
        digest
    }

    /// What an honest registry answers, ranges included.
    pub(super) fn answer(&self, asked: &Asked) -> Reply {
        let path = asked.path.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if asked.path.contains("/manifests/") {
            return match self.manifests.get(name) {
                Some((media_type, bytes)) => Reply::ok(bytes).header("Content-Type", media_type),
                None => Reply::status(404)
                    .body(br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#),
            };
        }
        let Some(bytes) = self.blobs.get(name) else { return Reply::status(404) };
        match asked.range_start() {
            Some(start) if start >= bytes.len() => Reply::status(416),
            Some(start) => {
                let mut reply = Reply::ok(&bytes[start..]);
                reply.status = 206;
                reply.header(
                    "Content-Range",
                    &format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
                )
            }
            None => Reply::ok(bytes),
        }
    }
}

/// A test's own answers: what was asked, and how often the same path was asked before. Nothing: the shelf answers.
type Script = dyn Fn(&Asked, usize) -> Option<Reply> + Send + Sync;

/// The server; it ends when this is dropped.
pub(super) struct Registry {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _server: JoinSet<()>,
}

impl Registry {
    pub(super) async fn start(
        shelf: Shelf,
        script: impl Fn(&Asked, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (shelf, script): (_, Arc<Script>) = (Arc::new(shelf), Arc::new(script));
        let mut server = JoinSet::new();
        let log = Arc::clone(&asked);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, shelf, script) =
                    (Arc::clone(&log), Arc::clone(&shelf), Arc::clone(&script));
                connections.spawn(async move { serve(stream, &log, &shelf, &*script).await });
            }
        });
        Self { address, asked, _server: server }
    }

    /// An honest one.
    pub(super) async fn honest(shelf: Shelf) -> Self {
        Self::start(shelf, |_, _| None).await
    }

    /// Everything that was asked so far, in order.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// As if nothing had been asked.
    pub(super) fn forget(&self) {
        self.asked.lock().unwrap().clear();
    }

    /// How often something with `part` in its path was asked for.
    pub(super) fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path.contains(part)).count()
    }
}

async fn serve(mut stream: TcpStream, log: &Mutex<Vec<Asked>>, shelf: &Shelf, script: &Script) {
    let Some(asked) = read_request(&mut stream).await else { return };
    let before = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|other| other.path == asked.path).count();
        log.push(asked.clone());
        before
    };
    let reply = script(&asked, before).unwrap_or_else(|| shelf.answer(&asked));
    // A client that hangs up is none of the server's business.
    write_reply(&mut stream, reply).await.ok();
}

async fn read_request(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { method, path, headers, body: String::from_utf8(body).unwrap() })
}

async fn write_reply(stream: &mut TcpStream, reply: Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    match &reply.body {
        Body::Whole(body) | Body::Cut(body, _) | Body::Silent(body, _) => {
            write!(head, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
        }
        Body::Chunked(_) | Body::Endless => head.push_str("Transfer-Encoding: chunked\r\n\r\n"),
        Body::Nothing => return std::future::pending().await,
    }
    stream.write_all(head.as_bytes()).await?;
    match reply.body {
        Body::Whole(body) => stream.write_all(&body).await,
        Body::Cut(body, after) => stream.write_all(&body[..after]).await,
        Body::Silent(body, after) => {
            stream.write_all(&body[..after]).await?;
            std::future::pending().await
        }
        Body::Chunked(body) => {
            for chunk in body.chunks(1000) {
                write_chunk(stream, chunk).await?;
            }
            stream.write_all(b"0\r\n\r\n").await
        }
        Body::Endless => loop {
            write_chunk(stream, &[b' '; 4096]).await?;
        },
        Body::Nothing => Ok(()),
    }
}

async fn write_chunk(stream: &mut TcpStream, chunk: &[u8]) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
    stream.write_all(chunk).await?;
    stream.write_all(b"\r\n").await
}
