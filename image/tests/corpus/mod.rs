//! Layers from raw bytes, the real worker to unpack them, and a canary that must stay as it is.

#![allow(dead_code, reason = "each suite uses its own part of this")]
#![allow(clippy::print_stdout, reason = "a test that does not run says so there")]

use image::layer::wire::Form;
use image::layer::{Choice, Compression, LayerError, LayerStore, Layers};
use image::{ChainId, Digest, Limits};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One entry to write: a header whose every field can be made wrong, with what goes before and after it.
#[derive(Clone)]
pub(crate) struct Entry {
    header: [u8; 512],
    before: Vec<u8>,
    data: Vec<u8>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) fn entry(name: &str, kind: u8) -> Entry {
    let mut header = [0; 512];
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[156] = kind;
    let entry = Entry { header, before: vec![], data: vec![], records: vec![] };
    let entry = entry
        .mode(if kind == b'5' { 0o755 } else { 0o644 })
        .owner(0, 0)
        .mtime(1_000_000_000)
        .size(0);
    if name.len() <= 100 { entry.field(0, name.as_bytes()) } else { entry.pax("path", name) }
}

pub(crate) fn file(name: &str, data: &[u8]) -> Entry {
    entry(name, b'0').data(data)
}

pub(crate) fn dir(name: &str) -> Entry {
    entry(name, b'5')
}

pub(crate) fn symlink(name: &str, target: &str) -> Entry {
    entry(name, b'2').link(target)
}

pub(crate) fn hard_link(name: &str, target: &str) -> Entry {
    entry(name, b'1').link(target)
}

pub(crate) fn device(name: &str, kind: u8, major: u32, minor: u32) -> Entry {
    let (major, minor) = (format!("{major:07o}\0"), format!("{minor:07o}\0"));
    entry(name, kind).field(329, major.as_bytes()).field(337, minor.as_bytes())
}

impl Entry {
    pub(crate) fn field(mut self, at: usize, bytes: &[u8]) -> Self {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn mode(self, mode: u32) -> Self {
        self.field(100, format!("{mode:07o}\0").as_bytes())
    }

    pub(crate) fn owner(self, uid: u32, gid: u32) -> Self {
        self.field(108, format!("{uid:07o}\0{gid:07o}\0").as_bytes())
    }

    pub(crate) fn size(self, size: u64) -> Self {
        self.field(124, format!("{size:011o}\0").as_bytes())
    }

    pub(crate) fn mtime(self, seconds: u64) -> Self {
        self.field(136, format!("{seconds:011o}\0").as_bytes())
    }

    pub(crate) fn link(self, target: &str) -> Self {
        if target.len() <= 100 {
            self.field(157, target.as_bytes())
        } else {
            self.pax("linkpath", target)
        }
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self.size(data.len() as u64)
    }

    /// A record of an extended header before the entry.
    pub(crate) fn pax(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax_bytes(key.as_bytes(), value.as_ref())
    }

    pub(crate) fn pax_bytes(mut self, key: &[u8], value: &[u8]) -> Self {
        self.records.push((key.to_vec(), value.to_vec()));
        self
    }

    pub(crate) fn xattr(self, name: &str, value: &[u8]) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// Bytes right before the entry's own header.
    pub(crate) fn before(mut self, bytes: Vec<u8>) -> Self {
        self.before.extend(bytes);
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.records.is_empty() {
            let records: Vec<u8> =
                self.records.iter().flat_map(|(key, value)| record(key, value)).collect();
            bytes.extend(entry("pax", b'x').data(&records).bytes());
        }
        bytes.extend(self.before);
        let mut header = self.header;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(padded(&self.data));
        bytes
    }
}

/// One record of an extended header.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

pub(crate) fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

/// A whole archive of `entries`.
pub(crate) fn archive(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.into_iter().flat_map(Entry::bytes).collect();
    bytes.extend([0; 1024]);
    bytes
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A store in a directory of its own, beside a canary.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: LayerStore,
    pub(crate) choice: Choice,
    pub(crate) limits: Limits,
}

/// Where the worker is.
pub(crate) fn worker() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_berth-unpack"))
}

/// The name under which a bench commits the layer `n`.
pub(crate) fn chain(n: u8) -> ChainId {
    ChainId::base(&Digest::of(&[n]))
}

/// Runs `test` on a store of directories and on one of images.
pub(crate) fn on_both(test: impl Fn(Bench)) {
    for choice in [Choice::Overlay, Choice::Erofs] {
        test(Bench::new(choice));
    }
}

/// The same, directories where no disk and nobody else's writing decides how long something takes.
pub(crate) fn quickly_on_both(test: impl Fn(Bench)) {
    test(Bench::below(Path::new("/dev/shm"), Choice::Overlay));
    test(Bench::new(Choice::Erofs));
}

impl Bench {
    pub(crate) fn new(choice: Choice) -> Self {
        Self::below(&std::env::temp_dir(), choice)
    }

    fn below(dir: &Path, choice: Choice) -> Self {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let canary = dir.path().join("canary");
        fs::create_dir_all(canary.join("sub")).unwrap();
        for name in ["file", "sub/file"] {
            File::create_new(canary.join(name)).unwrap().write_all(b"alive").unwrap();
        }
        std::os::unix::fs::symlink("file", canary.join("link")).unwrap();
        let root = dir.path().join("root");
        let (choice, store) = match LayerStore::open(&root, worker(), choice) {
            Err(err @ LayerError::NoImages(_)) => {
                println!("NOT RUN on images: {}", with_causes(&err));
                (Choice::Overlay, LayerStore::open(&root, worker(), Choice::Overlay).unwrap())
            }
            opened => (choice, opened.unwrap()),
        };
        Self { dir, store, choice, limits: Limits::default() }
    }

    /// The layers are images.
    pub(crate) fn has_images(&self) -> bool {
        self.store.form() == Form::Erofs
    }

    pub(crate) fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    /// Unpacks and commits `layer`.
    pub(crate) fn unpack_as(
        &self,
        name: &ChainId,
        layer: &[u8],
        compression: Compression,
    ) -> Result<Digest, LayerError> {
        self.unpack_onto(name, layer, compression, &[])
    }

    /// Unpacks and commits the plain `layer`, on top of others, lowest first.
    pub(crate) fn unpack_on(&self, name: &ChainId, layer: &[u8], below: &[ChainId]) {
        self.unpack_onto(name, layer, Compression::Plain, below).unwrap();
    }

    fn unpack_onto(
        &self,
        name: &ChainId,
        layer: &[u8],
        compression: Compression,
        below: &[ChainId],
    ) -> Result<Digest, LayerError> {
        let mut staging = self.store.begin(compression, &self.limits)?;
        let mut input = staging.input().unwrap();
        let mut staged = std::thread::scope(|scope| {
            scope.spawn(move || {
                // A worker that refuses the layer does not read it to its end.
                input.write_all(layer).ok();
            });
            staging.finish()
        })?;
        let diff_id = staged.diff_id().clone();
        image::layer::inherit(&mut *staged, &self.store, below)?;
        staged.commit(name)?;
        if self.has_images() {
            accepted_by_others(&self.place(name));
        }
        Ok(diff_id)
    }

    /// Unpacks the plain `layer` and shows the tree, or why there is none. Checks that the canary is as it was, and that
    /// a refused layer leaves nothing.
    pub(crate) fn unpack(&self, layer: &[u8]) -> Result<String, String> {
        let before = listing(&self.canary(), true);
        let result = self.unpack_as(&chain(0), layer, Compression::Plain);
        assert_eq!(listing(&self.canary(), true), before, "the canary is untouched");
        assert_eq!(fs::read_dir(self.dir.path().join("root/layers/staging")).unwrap().count(), 0);
        let shown = match result {
            Ok(_) => Ok(self.show(&chain(0))),
            Err(err) => {
                assert!(self.store.list().unwrap().is_empty());
                Err(with_causes(&err))
            }
        };
        self.store.remove(&chain(0)).unwrap();
        shown
    }

    pub(crate) fn tree(&self, layer: &ChainId) -> Tree {
        Tree(self.store.open(layer).unwrap())
    }

    /// Where a layer is on disk.
    pub(crate) fn place(&self, layer: &ChainId) -> PathBuf {
        let end = if self.has_images() { ".erofs" } else { "" };
        self.dir.path().join("root/layers").join(format!("{}{end}", layer.digest().hex()))
    }

    /// The tree of a layer on one line, without owners, modes and times.
    pub(crate) fn show(&self, layer: &ChainId) -> String {
        let hides = if self.store.hides_below(layer).unwrap() { "hides below; " } else { "" };
        format!("{hides}{}", listing(&self.tree(layer).path(), false).join("; "))
    }
}

/// The tools of EROFS find nothing wrong with an image.
fn accepted_by_others(image: &Path) {
    for (tool, arguments) in [("fsck.erofs", &["--extract"][..]), ("dump.erofs", &["-s"])] {
        let output = match Command::new(tool).args(arguments).arg(image).output() {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                println!("NOT RUN: {tool} is not installed");
                continue;
            }
            output => output.unwrap(),
        };
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&text));
    }
}

/// An open layer.
pub(crate) struct Tree(pub(crate) OwnedFd);

impl Tree {
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/", self.0.as_raw_fd()).into()
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }
}

pub(crate) fn with_causes(err: &dyn std::error::Error) -> String {
    match err.source() {
        Some(source) => format!("{err}: {}", with_causes(source)),
        None => err.to_string(),
    }
}

/// All that is below `root`, sorted; with everything about each if `exact`.
pub(crate) fn listing(root: &Path, exact: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = root.join(&path);
        let about = fs::symlink_metadata(&full).unwrap();
        let kind = about.file_type();
        let name = path.as_os_str().as_encoded_bytes().escape_ascii().to_string();
        let mut line = if kind.is_dir() {
            left.extend(
                fs::read_dir(&full).unwrap().map(|child| path.join(child.unwrap().file_name())),
            );
            let opaque = attribute(&full, "trusted.overlay.opaque").map_or("", |_| " opaque");
            format!("{name}/{opaque}")
        } else if kind.is_symlink() {
            format!("{name} -> {}", fs::read_link(&full).unwrap().display())
        } else if kind.is_file() {
            format!("{name}={}", fs::read(&full).unwrap().escape_ascii())
        } else if kind.is_fifo() {
            format!("{name} fifo")
        } else if kind.is_char_device() && about.rdev() == 0 {
            format!("{name} whiteout")
        } else {
            let letter = if kind.is_char_device() { 'c' } else { 'b' };
            let (major, minor) = (rustix::fs::major(about.rdev()), rustix::fs::minor(about.rdev()));
            format!("{name} {letter}{major}:{minor}")
        };
        if exact {
            let mode = about.permissions().mode();
            let (uid, gid, inode) = (about.uid(), about.gid(), about.ino());
            line +=
                &format!(" {mode:o} {uid}:{gid} {}.{} {inode}", about.mtime(), about.mtime_nsec());
        }
        if exact || !path.as_os_str().is_empty() {
            lines.push(line);
        }
    }
    lines.sort();
    lines
}

/// An extended attribute of `path` itself.
pub(crate) fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 70_000];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

/// Unpacks each layer and compares the tree, or the reason for refusing it.
pub(crate) fn check<const N: usize>(cases: [(&str, Vec<Entry>, &str); N]) {
    on_both(|bench| {
        let canary = bench.canary().display().to_string();
        for (name, entries, want) in &cases {
            let got = bench.unpack(&archive(entries.clone())).unwrap_or_else(|err| err);
            assert_eq!(got.replace(&canary, "CANARY"), *want, "{:?}: {name}", bench.choice);
        }
    });
}

/// A layer that is refused with this reason.
pub(crate) fn refused(at: &str, why: &str) -> String {
    format!("layer refused: entry \"{at}\": {why}")
}

/// Where something to hurt is, outside every layer.
pub(crate) fn outside(bench: &Bench, name: &str) -> String {
    bench.canary().join(name).display().to_string()
}
