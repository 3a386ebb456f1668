//! Debian's docker-registry as an independent peer.

use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const BINARY: &str = "/usr/bin/docker-registry";

/// A running registry; ended and reaped when dropped.
struct DockerRegistry {
    process: Child,
    address: SocketAddr,
}

impl DockerRegistry {
    /// Starts it on the data in `root`; `tls`: what to add to the `http` section of its configuration.
    async fn start(root: &Path, tls: &str) -> Self {
        // Free now; somebody else may take it before the registry does, and then it does not start.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = root.join("config.yml");
        let data = root.join("data");
        let text = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"{address}\"{tls} }}\n",
            data.display()
        );
        sys::durable::replace(&config, text.as_bytes(), 0o600).unwrap();
        let process = Command::new(BINARY)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("install docker-registry to run this test");
        let mut registry = Self { process, address };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(registry.process.try_wait().unwrap().is_none(), "{BINARY} ended");
            assert!(tokio::time::Instant::now() < deadline, "{BINARY} does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    /// One request over HTTP/1.0 and its whole answer.
    fn ask(&self, method: &str, target: &str, media_type: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{method} {target} HTTP/1.0\r\nHost: {}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) {
        let begun =
            self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "text/plain", b"");
        let location = begun.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
        let target = location.trim().split_once(&self.address.to_string()).unwrap().1;
        let target = format!("{target}&digest={}", Digest::of(bytes));
        let done = self.ask("PUT", &target, "application/octet-stream", bytes);
        assert!(done.contains(" 201 "), "{done}");
    }

    fn push_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let done = self.ask("PUT", &format!("/v2/{repository}/manifests/{tag}"), media_type, bytes);
        assert!(done.contains(" 201 "), "{done}");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // It has ended already where this fails.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, name, content).unwrap();
    archive.into_inner().unwrap()
}

/// An image of two layers, the second with a file `data` of noise, pushed as `a/b:1`, and as a list `a/b:list`.
struct Pushed {
    archives: [Vec<u8>; 2],
    config: Vec<u8>,
    list: String,
}

impl Pushed {
    fn to(registry: &DockerRegistry) -> Self {
        let archives = [tar("etc/motd", b"hello"), tar("data", &noise(2 << 20))];
        let packed: Vec<Vec<u8>> = archives.iter().map(|archive| gzip(archive)).collect();
        let config = Recipe::new(&[&archives[0], &archives[1]]).config.to_string().into_bytes();
        let layer_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let layers: Vec<Value> = packed.iter().map(|layer| descriptor(layer_type, layer)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::DOCKER_MANIFEST,
            "config": descriptor("application/vnd.docker.container.image.v1+json", &config),
            "layers": layers,
        })
        .to_string();
        for blob in packed.iter().chain([&config]) {
            registry.push_blob("a/b", blob);
        }
        registry.push_manifest("a/b", "1", media::DOCKER_MANIFEST, manifest.as_bytes());
        let mut entry = descriptor(media::DOCKER_MANIFEST, manifest.as_bytes());
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        entry["platform"] = json!({ "os": "linux", "architecture": arch });
        let list =
            json!({ "schemaVersion": 2, "mediaType": media::DOCKER_LIST, "manifests": [entry] })
                .to_string();
        registry.push_manifest("a/b", "list", media::DOCKER_LIST, list.as_bytes());
        Self { archives, config, list }
    }
}

#[tokio::test]
async fn images_come_from_a_real_registry() {
    let root = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(root.path(), "").await;
    let pushed = Pushed::to(&registry);
    let bed = Bed::new();
    let image = bed.pull(&format!("{}/a/b:1", registry.address)).await.unwrap().image;
    assert_eq!(image.id, Digest::of(&pushed.config));
    for (layer, archive) in image.layers.iter().zip(&pushed.archives) {
        assert_eq!(bed.layers.content(&layer.chain_id).as_deref(), Some(&archive[..]));
    }
    let listed = bed.pull(&format!("{}/a/b:list", registry.address)).await.unwrap().image;
    assert_eq!((&listed.id, &listed.manifest), (&image.id, &image.manifest));
    assert!(listed.digests[0].ends_with(Digest::of(pushed.list.as_bytes()).as_str()));
    let by_digest = format!("{}/a/b@{}", registry.address, image.manifest);
    assert_eq!(bed.pull(&by_digest).await.unwrap().image.id, image.id);
    let missing = bed.pull(&format!("{}/a/b:none", registry.address)).await.unwrap_err();
    assert_eq!(missing.fault(), PullFault::NotFound);
}

#[tokio::test]
async fn tls_proves_who_the_registry_is() {
    let root = tempfile::tempdir().unwrap();
    Pushed::to(&DockerRegistry::start(root.path(), "").await);
    let certified = rcgen::generate_simple_self_signed(["registry.example".to_owned()]).unwrap();
    let (cert, key) = (root.path().join("cert.pem"), root.path().join("key.pem"));
    sys::durable::replace(&cert, certified.cert.pem().as_bytes(), 0o600).unwrap();
    sys::durable::replace(&key, certified.signing_key.serialize_pem().as_bytes(), 0o600).unwrap();
    let tls = format!(", tls: {{ certificate: {}, key: {} }}", cert.display(), key.display());
    let registry = DockerRegistry::start(root.path(), &tls).await;

    let own = vec![certified.cert.der().clone()];
    let cases = [
        ("a known authority", "registry.example", own.clone(), None),
        ("an unknown authority", "registry.example", Vec::new(), Some(PullFault::Unavailable)),
        ("another name", "other.example", own, Some(PullFault::Unavailable)),
    ];
    for (name, host, authorities, want) in cases {
        let hosts = vec![(host.to_owned(), registry.address)];
        let bed = Bed::trusting(Trust { authorities, hosts });
        let result = bed.pull(&format!("{host}:{}/a/b:1", registry.address.port())).await;
        let text = result.as_ref().err().map(|err| chain(err)).unwrap_or_default();
        assert_eq!(result.map_err(|err| err.fault()).err(), want, "{name}: {text}");
        assert!(want.is_none() || text.contains("certificate"), "{name}: {text}");
    }
}

/// The whole way: registry, worker, directories.
#[tokio::test]
async fn privileged_images_are_unpacked_for_real() {
    let root = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(root.path(), "").await;
    Pushed::to(&registry);
    let unpack = std::env::current_exe().unwrap().with_file_name("../berth-unpack");
    let config = StoreConfig {
        root: root.path().to_owned(),
        unpack,
        layers: Choice::default(),
        insecure_registries: Vec::new(),
        registry_config: None,
        keep_packed: false,
        policy: None,
        keep_unfinished: Duration::ZERO,
        max_downloads: 3,
        limits: Limits::default(),
    };
    let store = Store::open(config.clone()).unwrap();
    let reference = format!("{}/a/b:1", registry.address).parse().unwrap();
    let request = PullRequest { reference, auth: None };
    let Pulled { image, lease } = store.pull(request, progress()).await.unwrap();
    let lowers = store.lowers(&image).unwrap();
    let read = |lower: &OwnedFd, name: &str| {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(lower, name, flags, rustix::fs::Mode::empty()).unwrap();
        let mut content = Vec::new();
        std::fs::File::from(file).read_to_end(&mut content).unwrap();
        content
    };
    assert_eq!(read(&lowers[0], "data"), noise(2 << 20));
    assert_eq!(read(&lowers[1], "etc/motd"), b"hello");
    drop((lease, lowers, store));

    let reopened = Store::open(config).unwrap();
    assert!(reopened.is_complete(&image));
    assert!(reopened.usage().bytes >= 2 << 20);
    let kept = Arc::new(image.clone());
    assert_eq!(reopened.collect(|| vec![kept]).unwrap(), Reclaimed::default());
    let reclaimed = reopened.collect(Vec::new).unwrap();
    assert_eq!((reclaimed.layers, reclaimed.documents), (2, 2));
    assert!(reclaimed.bytes >= 2 << 20);
    assert_eq!(reopened.usage(), Usage::default());
    assert!(!reopened.is_complete(&image));
}
