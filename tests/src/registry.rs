//! Debian's docker-registry, on loopback of the test's own network.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::daemon::write;
use crate::http;
use crate::image::{Blob, Image};
use crate::patience::until;
use crate::process::Process;

/// A running registry. It ends, and forgets, when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    _process: Process,
    _storage: TempDir,
}

impl Registry {
    /// Starts one on a free port.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn start() -> Self {
        Self::with("", "")
    }

    /// Starts one that is spoken to over TLS, with `certificate` and `key` (paths of files in PEM), and that lets in only
    /// who is in `users`: lines of an htpasswd file, in bcrypt.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn guarded(certificate: &str, key: &str, users: &str) -> Self {
        Self::with(&format!(", tls: {{certificate: {certificate}, key: {key}}}"), users)
    }

    fn with(http: &str, users: &str) -> Self {
        let storage = TempDir::with_prefix("berth-registry-").expect("directory of a registry");
        let address = free_address();
        let config = storage.path().join("config.yml");
        let passwords = storage.path().join("htpasswd");
        write(&passwords, users);
        let auth = match users {
            "" => String::new(),
            _ => format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display()),
        };
        write(
            &config,
            &format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: \"{address}\"{http}}}\n{auth}",
                storage.path().join("data").display()
            ),
        );
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::spawn(&mut command).expect("start docker-registry (hack/setup)");
        until("docker-registry listens", || TcpStream::connect(address).is_ok());
        Self { address, _process: process, _storage: storage }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `127.0.0.1:port`, the first part of a reference.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// The reference of a repository and tag here.
    pub fn reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Puts an image there under a tag, and gives its reference.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        image.blobs.iter().for_each(|blob| self.push_blob(repository, blob));
        self.push_manifest(repository, tag, &image.manifest)
    }

    /// Puts a signature as cosign makes them under a tag.
    pub fn push_signature(&self, repository: &str, tag: &str, payload: &[u8], signature: &str) {
        let config = Blob::new("application/vnd.oci.image.config.v1+json", b"{}".to_vec());
        let kind = "application/vnd.dev.cosign.simplesigning.v1+json";
        let payload = Blob::new(kind, payload.to_vec());
        for blob in [&config, &payload] {
            self.push_blob(repository, blob);
        }
        let mut layer = payload.descriptor();
        layer["annotations"] =
            serde_json::json!({ "dev.cosignproject.cosign/signature": signature });
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": config.descriptor(), "layers": [layer],
        });
        let manifest = Blob::new(kind, manifest.to_string().into_bytes());
        self.push_manifest(repository, tag, &manifest);
    }

    /// Copies what one tag names to another repository and tag; small images only.
    pub fn copy_tag(&self, (from, tag): (&str, &str), (to, new): (&str, &str)) {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false"]);
        skopeo.args(["--dest-tls-verify=false", "--preserve-digests"]);
        skopeo.arg(format!("docker://{}", self.reference(&format!("{from}:{tag}"))));
        skopeo.arg(format!("docker://{}", self.reference(&format!("{to}:{new}"))));
        crate::process::succeed(&mut skopeo);
    }

    fn push_manifest(&self, repository: &str, tag: &str, manifest: &Blob) -> String {
        let target = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.send("PUT", &target, &manifest.media_type, &manifest.bytes);
        assert_eq!(answer.status, 201, "push {target}: {}", answer.text());
        self.reference(&format!("{repository}:{tag}"))
    }

    fn push_blob(&self, repository: &str, blob: &Blob) {
        let started = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[]);
        let place = started.header("location").expect("a place to upload to").to_owned();
        let path = place.split_once("/v2/").map_or(place.as_str(), |(_, rest)| rest);
        let mark = if path.contains('?') { '&' } else { '?' };
        let target = format!("/v2/{path}{mark}digest={}", blob.digest);
        let answer = self.send("PUT", &target, "application/octet-stream", &blob.bytes);
        assert_eq!(answer.status, 201, "push {target}: {}", answer.text());
    }

    fn send(&self, method: &str, target: &str, kind: &str, body: &[u8]) -> http::Response {
        let answer = http::send(self.address, method, target, kind, body);
        answer.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }
}

/// A certificate for 127.0.0.1 that vouches for itself, and its key.
pub fn certificate(directory: &Path) -> (String, String) {
    let path = |name: &str| directory.join(name).to_str().expect("a path in UTF-8").to_owned();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    command.args(["-nodes", "-days", "2", "-subj", "/CN=registry of a test"]);
    command.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.args(["-keyout", &key, "-out", &certificate]);
    crate::process::succeed(&mut command);
    (certificate, key)
}

/// A port that nobody listens on, in a network that nobody else is in.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address")
}
