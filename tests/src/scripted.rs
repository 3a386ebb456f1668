//! A registry that does what a test wants, good or bad, and remembers what it was asked for.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::http::{find, head};
use crate::image::{Blob, Image};

/// What the registry holds and demands.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// By path below /v2/, such as `app/blobs/sha256:…`.
    content: BTreeMap<String, Blob>,
    /// Paths whose answer breaks off after this many bytes; each only the first time.
    cut: BTreeMap<String, usize>,
    /// `user:password` in base64: then only a bearer token opens anything, and this gets one.
    credentials: Option<String>,
}

const TOKEN: &str = "token-of-the-scripted-registry";

impl Script {
    #[must_use]
    pub fn image(mut self, repository: &str, tag: &str, image: &Image) -> Self {
        for name in [tag, &image.manifest.digest] {
            self.content.insert(format!("{repository}/manifests/{name}"), image.manifest.clone());
        }
        for blob in &image.blobs {
            self.content.insert(format!("{repository}/blobs/{}", blob.digest), blob.clone());
        }
        self
    }

    /// Puts a manifest, or an index, there under a tag.
    #[must_use]
    pub fn manifest(mut self, repository: &str, tag: &str, manifest: &Blob) -> Self {
        for name in [tag, &manifest.digest] {
            self.content.insert(format!("{repository}/manifests/{name}"), manifest.clone());
        }
        self
    }

    /// Answers with other bytes than the digest in the request names.
    #[must_use]
    pub fn lie_about(mut self, digest: &str, bytes: &[u8]) -> Self {
        for (path, blob) in &mut self.content {
            if path.ends_with(digest) {
                blob.bytes = bytes.to_vec();
            }
        }
        self
    }

    /// Breaks the connection after some bytes of this content, once.
    #[must_use]
    pub fn cut_once(mut self, digest: &str, after: usize) -> Self {
        let paths = self.content.keys().filter(|path| path.ends_with(digest)).cloned();
        self.cut = paths.map(|path| (path, after)).collect();
        self
    }

    /// Demands a bearer token, given for basic credentials (in base64).
    #[must_use]
    pub fn guarded_by(mut self, credentials: &str) -> Self {
        self.credentials = Some(credentials.to_owned());
        self
    }

    pub fn serve(self) -> Scripted {
        Scripted::start(self)
    }
}

/// The running registry. It ends when dropped.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    requests: Mutex<Vec<String>>,
    ended: AtomicBool,
}

impl Scripted {
    fn start(script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            requests: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let server = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.ended.load(Ordering::Relaxed) {
                    return;
                }
                let server = Arc::clone(&server);
                // A client that goes away in the middle is no failure of the registry.
                thread::spawn(move || server.answer(stream, address).ok());
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    pub fn reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// How often something was asked for with GET.
    pub fn asked_for(&self, what: &str) -> usize {
        let requests = self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().filter(|line| line.starts_with("GET") && line.contains(what)).count()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the accept; that nobody listens any more would be as good.
        TcpStream::connect(self.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn answer(&self, stream: TcpStream, address: SocketAddr) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (request, headers) = head(&mut reader)?;
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let mut words = request.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let path = target.split('?').next().unwrap_or(target);
        let authorization = find(&headers, "authorization").unwrap_or("");
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner).clone();

        if path == "/token" {
            let wanted = script.credentials.map(|text| format!("Basic {text}"));
            return match wanted.as_deref() == Some(authorization) {
                true => {
                    reply(&stream, "200 OK", &[], format!("{{\"token\":\"{TOKEN}\"}}").as_bytes())
                }
                false => reply(&stream, "401 Unauthorized", &[], b"{}"),
            };
        }
        if script.credentials.is_some() && authorization != format!("Bearer {TOKEN}") {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"scripted\",\
                 scope=\"repository:app:pull\""
            );
            return reply(&stream, "401 Unauthorized", &[challenge], b"{}");
        }
        let Some(name) = path.strip_prefix("/v2/") else {
            return reply(&stream, "404 Not Found", &[], b"{}");
        };
        if name.is_empty() {
            return reply(&stream, "200 OK", &[], b"{}");
        }
        let Some(blob) = script.content.remove(name) else {
            let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}"#;
            return reply(&stream, "404 Not Found", &[], body);
        };
        let cut = self.script.lock().unwrap_or_else(PoisonError::into_inner).cut.remove(name);
        send_blob(&stream, &blob, Wanted { method, range: find(&headers, "range"), cut })
    }
}

struct Wanted<'a> {
    method: &'a str,
    range: Option<&'a str>,
    cut: Option<usize>,
}

fn send_blob(mut stream: &TcpStream, blob: &Blob, wanted: Wanted<'_>) -> io::Result<()> {
    let from = wanted
        .range
        .and_then(|text| text.strip_prefix("bytes=")?.split('-').next()?.parse().ok())
        .unwrap_or(0)
        .min(blob.bytes.len());
    let total = blob.bytes.len();
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let mut fields = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
         Accept-Ranges: bytes\r\n",
        blob.media_type,
        total - from
    );
    if from > 0 {
        fields += &format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
    }
    write!(stream, "{fields}\r\n")?;
    if wanted.method == "HEAD" {
        return Ok(());
    }
    let end = wanted.cut.map_or(total, |after| (from + after).min(total));
    stream.write_all(&blob.bytes[from..end])
}

fn reply(mut stream: &TcpStream, status: &str, headers: &[String], body: &[u8]) -> io::Result<()> {
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{more}\r\n"
    )?;
    stream.write_all(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;
    use crate::image::{Compression, Flavour, ImageBuilder, Tree};

    fn get(server: &Scripted, target: &str) -> http::Response {
        http::send(server.address, "GET", target, "", &[]).unwrap()
    }

    #[test]
    fn content_is_served_lied_about_and_cut_as_scripted() {
        let tree = Tree::default().file("f", 0o644, b"content");
        let image = ImageBuilder::new(Flavour::Oci).layer(Compression::Plain, tree).build();
        let layer = &image.blobs[1];
        let target = format!("/v2/app/blobs/{}", layer.digest);

        let honest =
            Script::default().image("app", "1", &image).cut_once(&layer.digest, 10).serve();
        assert_eq!(get(&honest, "/v2/app/manifests/1").body, image.manifest.bytes);
        assert_eq!(get(&honest, &target).body.len(), 10, "cut");
        assert_eq!(get(&honest, &target).body, layer.bytes, "the second time whole");
        assert_eq!(get(&honest, "/v2/app/manifests/2").status, 404);
        assert_eq!(honest.asked_for(&layer.digest), 2);

        let liar =
            Script::default().image("app", "1", &image).lie_about(&layer.digest, b"x").serve();
        assert_eq!(get(&liar, &target).body, b"x");
    }

    #[test]
    fn a_guarded_registry_says_where_to_get_a_token() {
        let image = ImageBuilder::new(Flavour::Docker).build();
        let server = Script::default().image("app", "1", &image).guarded_by("eDp5").serve();
        let answer = get(&server, "/v2/app/manifests/1");
        assert_eq!(answer.status, 401);
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer realm="));
        assert_eq!(get(&server, "/token").status, 401, "not for nothing");
    }
}
