//! Images made here, byte by byte, from Debian's busybox-static and generated files.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::process::Process;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// Whose media types a manifest carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Oci,
    Docker,
}

/// The content of a layer.
pub struct Tree {
    archive: tar::Builder<Vec<u8>>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tree of {} bytes", self.archive.get_ref().len())
    }
}

/// What an entry of an archive carries.
enum Content<'a> {
    None,
    Bytes(&'a [u8]),
    Link(&'a str),
}

impl Default for Tree {
    fn default() -> Self {
        Self { archive: tar::Builder::new(Vec::new()) }
    }
}

impl Tree {
    #[must_use]
    pub fn directory(self, path: &str) -> Self {
        self.entry(path, EntryType::Directory, 0o755, Content::None)
    }

    /// A directory with permissions, and a user who owns it together with the group of the same number.
    #[must_use]
    pub fn directory_with(mut self, path: &str, mode: u32, owner: u64) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        let added = self.archive.append_data(&mut header, path, io::empty());
        added.unwrap_or_else(|error| panic!("add {path} to a layer: {error}"));
        self
    }

    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, mode, Content::Bytes(content))
    }

    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, Content::Link(target))
    }

    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, 0o755, Content::Link(target))
    }

    #[must_use]
    pub fn fifo(self, path: &str) -> Self {
        self.entry(path, EntryType::Fifo, 0o644, Content::None)
    }

    /// The mark that a lower layer's file is not there any more.
    #[must_use]
    pub fn whiteout(self, directory: &str, name: &str) -> Self {
        self.file(&format!("{directory}/.wh.{name}"), 0o644, &[])
    }

    /// A small file under a name that no honest archive has: the name is written as it is.
    #[must_use]
    pub fn raw_file(mut self, directory: &str, name: &str) -> Self {
        let mut header = Header::new_gnu();
        let path = format!("{directory}{name}");
        let field = &mut header.as_old_mut().name;
        assert!(path.len() < field.len(), "{path} fits the old header");
        field[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(1);
        header.set_cksum();
        self.archive.append(&header, &b"1"[..]).expect("append in memory");
        self
    }

    fn entry(mut self, path: &str, kind: EntryType, mode: u32, content: Content<'_>) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        let added = match content {
            Content::None => self.archive.append_data(&mut header, path, io::empty()),
            Content::Link(target) => self.archive.append_link(&mut header, path, target),
            Content::Bytes(bytes) => {
                header.set_size(bytes.len() as u64);
                self.archive.append_data(&mut header, path, bytes)
            }
        };
        added.unwrap_or_else(|error| panic!("add {path} to a layer: {error}"));
        self
    }

    /// The bytes of the archive.
    pub fn bytes(self) -> Vec<u8> {
        self.archive.into_inner().expect("end an archive in memory")
    }
}

/// A shell and its tools, users and groups.
pub fn busybox() -> Tree {
    const APPLETS: &str = "ash awk basename cat chmod chown cut date dd df dirname echo env expr \
        false find grep head hostname httpd id ifconfig ip kill ln ls mkdir mknod mktemp mount mv nc nproc \
        ping ps pwd readlink rm rmdir sed seq sh sleep sort stat sync tail tee test \
        timeout touch tr true umount uname unshare usleep wc whoami xargs yes";
    let binary = fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut tree = Tree::default();
    for directory in
        ["bin", "dev", "etc", "home", "home/app", "proc", "root", "sys", "usr", "usr/bin", "var"]
    {
        tree = tree.directory(directory);
    }
    tree = tree.entry("tmp", EntryType::Directory, 0o1777, Content::None);
    tree = tree.file("bin/busybox", 0o755, &binary);
    for applet in APPLETS.split_whitespace() {
        tree = tree.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    tree.symlink("usr/bin/env", "../../bin/busybox")
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .file("etc/group", 0o644, b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
}

/// `count` small files in directories of a hundred.
pub fn many_files(count: usize) -> Tree {
    let mut tree = Tree::default().directory("many");
    for number in 0..count {
        if number.is_multiple_of(100) {
            tree = tree.directory(&format!("many/{}", number / 100));
        }
        let content = format!("file {number}\n").repeat(number % 40);
        tree = tree.file(&format!("many/{}/{number}", number / 100), 0o644, content.as_bytes());
    }
    tree
}

/// One file that does not compress to nothing.
pub fn one_large_file(bytes: usize) -> Tree {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut content = Vec::with_capacity(bytes);
    while content.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Every other word repeats, so that there is something to inflate.
        content.extend_from_slice(&(state >> 32).to_le_bytes());
    }
    content.truncate(bytes);
    Tree::default().file("large", 0o644, &content)
}

/// Content with its name.
#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: String,
    pub media_type: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), media_type: media_type.to_owned(), bytes }
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// An image ready to be pushed.
#[derive(Clone, Debug)]
pub struct Image {
    /// The config's digest: what CRI calls the image's id.
    pub id: String,
    pub manifest: Blob,
    /// Config and layers.
    pub blobs: Vec<Blob>,
}

impl Image {
    /// Puts other JSON in place of the config, with everything above it made to fit.
    pub fn replace_config(&mut self, config: &Value) {
        let blob = Blob::new(&self.blobs[0].media_type, config.to_string().into_bytes());
        let mut manifest: Value =
            serde_json::from_slice(&self.manifest.bytes).expect("our own JSON");
        manifest["config"] = blob.descriptor();
        self.manifest = Blob::new(&self.manifest.media_type, manifest.to_string().into_bytes());
        self.id.clone_from(&blob.digest);
        self.blobs[0] = blob;
    }

    /// An index that offers this image for this machine, and one for another architecture.
    pub fn index(&self, flavour: Flavour) -> Blob {
        let mut ours = self.manifest.descriptor();
        ours["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        let mut other = self.manifest.descriptor();
        other["digest"] = json!(digest(b"nobody has this"));
        other["platform"] = json!({ "architecture": "s390x", "os": "linux" });
        let media_type = match flavour {
            Flavour::Oci => "application/vnd.oci.image.index.v1+json",
            Flavour::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        };
        let index =
            json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [other, ours] });
        Blob::new(media_type, index.to_string().into_bytes())
    }
}

/// Puts an image together, lowest layer first.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    flavour: Flavour,
    layers: Vec<(Compression, Vec<u8>)>,
    config: Value,
}

impl ImageBuilder {
    pub fn new(flavour: Flavour) -> Self {
        Self { flavour, layers: Vec::new(), config: json!({ "Cmd": ["sh"] }) }
    }

    /// The image that most tests run.
    pub fn busybox() -> Self {
        static LAYER: LazyLock<Vec<u8>> = LazyLock::new(|| busybox().bytes());
        let mut builder = Self::new(Flavour::Oci);
        builder.layers.push((Compression::Gzip, LAYER.clone()));
        builder.config["Env"] = json!(["PATH=/bin:/usr/bin", "FROM_IMAGE=yes"]);
        builder
    }

    #[must_use]
    pub fn flavour(mut self, flavour: Flavour) -> Self {
        self.flavour = flavour;
        self
    }

    #[must_use]
    pub fn layer(mut self, compression: Compression, tree: Tree) -> Self {
        self.layers.push((compression, tree.bytes()));
        self
    }

    /// A layer that is an archive already.
    #[must_use]
    pub fn archive(mut self, compression: Compression, archive: Vec<u8>) -> Self {
        self.layers.push((compression, archive));
        self
    }

    /// Compresses every layer in this way.
    #[must_use]
    pub fn compressed(mut self, compression: Compression) -> Self {
        self.layers.iter_mut().for_each(|(way, _)| *way = compression);
        self
    }

    /// Sets a key of the image's runtime config, such as `Entrypoint`.
    #[must_use]
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    pub fn build(&self) -> Image {
        let diff_ids: Vec<String> = self.layers.iter().map(|(_, tar)| digest(tar)).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Blob::new(self.config_type(), config.to_string().into_bytes());
        let layers: Vec<Blob> = self
            .layers
            .iter()
            .map(|(way, tar)| Blob::new(self.layer_type(*way), compress(*way, tar)))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.manifest_type(),
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(self.manifest_type(), manifest.to_string().into_bytes());
        let id = config.digest.clone();
        let blobs = std::iter::once(config).chain(layers).collect();
        Image { id, manifest, blobs }
    }

    fn manifest_type(&self) -> &'static str {
        match self.flavour {
            Flavour::Oci => "application/vnd.oci.image.manifest.v1+json",
            Flavour::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn config_type(&self) -> &'static str {
        match self.flavour {
            Flavour::Oci => "application/vnd.oci.image.config.v1+json",
            Flavour::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer_type(&self, compression: Compression) -> &'static str {
        match (self.flavour, compression) {
            (Flavour::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Flavour::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Flavour::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Flavour::Docker, Compression::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Flavour::Docker, Compression::Gzip) => {
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
            }
            (Flavour::Docker, Compression::Zstd) => {
                "application/vnd.docker.image.rootfs.diff.tar.zstd"
            }
        }
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `sha256:` and the hash.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("write to a string");
    }
    text
}

fn compress(way: Compression, bytes: &[u8]) -> Vec<u8> {
    match way {
        Compression::Plain => bytes.to_vec(),
        Compression::Gzip => filter(Command::new("gzip").args(["-n", "-1"]), bytes),
        Compression::Zstd => filter(Command::new("zstd").args(["-q", "-1"]), bytes),
    }
}

/// What `command` makes of its stdin.
fn filter(command: &mut Command, input: &[u8]) -> Vec<u8> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::spawn(command).unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let mut stdin = process.child().stdin.take().expect("stdin is a pipe");
    let stdout = process.child().stdout.take().expect("stdout is a pipe");
    let mut output = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).expect("feed a compressor"));
        io::copy(&mut { stdout }, &mut output).expect("read from a compressor");
    });
    let status = process.child().wait().expect("wait for a compressor");
    assert!(status.success(), "{command:?}: {status}");
    output
}
