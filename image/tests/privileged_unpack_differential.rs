//! Generated trees, packed by GNU tar and unpacked by it and by us, on both stores, with everything about every file
//! compared. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "the count is part of the result")]

mod corpus;

use corpus::{attribute, chain, on_both};
use image::layer::Compression;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Trees that are made for each format of archives.
const TREES: u64 = 6;

/// A generator of Marsaglia's: a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    /// Bytes that are neither all equal nor worth keeping.
    fn bytes(&mut self, count: u64) -> Vec<u8> {
        let start = self.below(1 << 32);
        let words =
            (start..).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        words.take(usize::try_from(count).unwrap()).collect()
    }

    fn name(&mut self) -> OsString {
        let length = self.pick(&[1, 1, 3, 8, 8, 20, 99, 100, 101, 180]);
        let mut name: Vec<u8> = (0..length)
            .map(|_| self.pick(b"abcdefghijklmnopqrstuvwxyz0123456789._-+ !#~\n\xff\xc3\xa4"))
            .collect();
        if name.starts_with(b".") {
            name[0] = b'_';
        }
        OsString::from_vec(name)
    }
}

/// Makes a tree of so many things below `root`; `rich` formats carry extended attributes and fractions of seconds.
fn grow(root: &Path, random: &mut Random, things: u64, rich: bool) {
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut dressed: Vec<PathBuf> = vec![root.to_owned()];
    for _ in 0..things {
        let parent =
            directories[usize::try_from(random.below(directories.len() as u64)).unwrap()].clone();
        let path = parent.join(random.name());
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match random.below(16) {
            0..4 => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            4..10 => {
                // Around the sizes at which an image stores things in another way.
                let size = random.pick(&[
                    0, 1, 511, 512, 2000, 3900, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 12_288,
                    70_000, 300_001,
                ]);
                File::create_new(&path).unwrap().write_all(&random.bytes(size)).unwrap();
                files.push(path.clone());
            }
            10 => {
                let file = File::create_new(&path).unwrap();
                let size = random.pick(&[1 << 16, 5_000_001, 1 << 23]);
                for _ in 0..random.below(4) {
                    let (at, count) = (random.below(size), random.pick(&[1, 4096, 10_000]));
                    file.write_all_at(&random.bytes(count), at).unwrap();
                }
                file.set_len(size.max(file.metadata().unwrap().len())).unwrap();
                files.push(path.clone());
            }
            11 | 12 => {
                let length = random.pick(&[1, 20, 100, 101, 1000, 4000]);
                let target = "../t".repeat(1024)[..length].to_owned();
                std::os::unix::fs::symlink(target, &path).unwrap();
            }
            13 => {
                let Some(first) = files.last() else { continue };
                fs::hard_link(first, &path).unwrap();
                continue;
            }
            14 => {
                let (kind, number) = random.pick(&[
                    (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
                    (FileType::BlockDevice, rustix::fs::makedev(259, 300_000)),
                    (FileType::Fifo, 0),
                ]);
                rustix::fs::mknodat(CWD, &path, kind, Mode::RUSR, number).unwrap();
            }
            _ => {
                fs::create_dir(&path).unwrap();
                for number in 0..random.below(400) {
                    File::create_new(path.join(format!("{number:0>30}"))).unwrap();
                }
            }
        }
        dressed.push(path);
    }
    // Deepest and latest first, for times of directories are those of the last change in them.
    for path in dressed.iter().rev() {
        dress(path, random, rich);
    }
}

/// Gives `path` an owner, a mode, times and attributes.
fn dress(path: &Path, random: &mut Random, rich: bool) {
    let (uid, gid) =
        (random.pick(&[0, 0, 1, 1000, 65_535, 3_000_000]), random.pick(&[0, 0, 5, 70_000]));
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
    let meta = fs::symlink_metadata(path).unwrap();
    if !meta.is_symlink() {
        let mode = random.pick(&[0o644, 0o755, 0o600, 0, 0o4755, 0o2711, 0o1777, 0o6511]);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let set = |name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    if rich && (meta.is_file() || meta.is_dir()) {
        match random.below(6) {
            0 => set("user.note", &random.bytes(7)),
            1 => {
                for number in 0..random.pick(&[2, 12]) {
                    let length = random.pick(&[0, 1, 50]);
                    set(&format!("user.n{number}"), &random.bytes(length));
                }
            }
            2 if meta.is_file() => {
                let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                set("security.capability", &capability);
            }
            _ => {}
        }
    }
    let nanoseconds = if rich { i64::try_from(random.below(1_000_000_000)).unwrap() } else { 0 };
    let time = rustix::fs::Timespec {
        tv_sec: i64::try_from(random.below(2_000_000_000)).unwrap(),
        tv_nsec: nanoseconds,
    };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Everything about a tree that an archive carries.
fn portrait(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut portrait = BTreeMap::new();
    let mut names: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let mut text =
            format!("{:o} {}:{} rdev {}", meta.mode(), meta.uid(), meta.gid(), meta.rdev());
        text += &format!(" at {}.{}", meta.mtime(), meta.mtime_nsec());
        if meta.is_dir() {
            left.extend(
                fs::read_dir(&full).unwrap().map(|child| path.join(child.unwrap().file_name())),
            );
        } else {
            text += &format!(" {} names, {} bytes", meta.nlink(), meta.len());
            // The same inode shows as the same group of names.
            names.entry(meta.ino()).or_default().push(path.clone());
        }
        if meta.is_symlink() {
            text += &format!(" -> {:?}", fs::read_link(&full).unwrap());
        } else if meta.is_file() {
            let mut hash = sha2::Sha256::default();
            std::io::copy(&mut File::open(&full).unwrap(), &mut Hash(&mut hash)).unwrap();
            text += &format!(" {:x?}", sha2::Digest::finalize(hash).as_slice());
        }
        text += &attributes(&full);
        portrait.insert(path, text);
    }
    for mut names in names.into_values().filter(|names| names.len() > 1) {
        names.sort();
        portrait.insert(names[0].join("(links)"), format!("{names:?}"));
    }
    portrait
}

struct Hash<'a>(&'a mut sha2::Sha256);

impl Write for Hash<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// All extended attributes of `path`, with their values.
fn attributes(path: &Path) -> String {
    let mut list = vec![0; 70_000];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let mut names: Vec<&[u8]> =
        list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let shown = names.iter().map(|name| {
        let name = OsStr::from_bytes(name).to_str().unwrap();
        format!(" {name}={:x?}", attribute(path, name).unwrap())
    });
    shown.collect()
}

fn tar(arguments: &[&OsStr]) {
    let output = Command::new("tar").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn privileged_the_tree_is_the_one_that_gnu_tar_makes() {
    let mut compared = 0;
    for format in ["pax", "gnu"] {
        for seed in 1..=TREES {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let at = |name: &str| dir.path().join(name);
            let (source, theirs, archive) = (at("source"), at("theirs"), at("layer.tar"));
            fs::create_dir(&source).unwrap();
            fs::create_dir(&theirs).unwrap();
            let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
            let rich = format == "pax";
            grow(&source, &mut random, 20 + seed * 6, rich);
            let text = |text: &'static str| OsStr::new(text);
            let all = [text("--xattrs"), text("--xattrs-include=*")];
            let with = if rich { &all[..] } else { &[] };
            let form = OsString::from(format!("--format={format}"));
            let create = [
                &form,
                text("--sparse"),
                text("-C"),
                source.as_os_str(),
                text("-cf"),
                archive.as_os_str(),
                text("."),
            ];
            tar(&[with, &create].concat());
            let extract = [
                text("--numeric-owner"),
                text("-p"),
                text("-C"),
                theirs.as_os_str(),
                text("-xf"),
                archive.as_os_str(),
            ];
            tar(&[&all[..], &extract].concat());
            let layer = fs::read(&archive).unwrap();
            let wanted = portrait(&theirs);
            on_both(|bench| {
                bench.unpack_as(&chain(0), &layer, Compression::Plain).unwrap();
                let ours = portrait(&bench.tree(&chain(0)).path());
                for (path, want) in &wanted {
                    let what = format!("{format} {seed} {:?}: {}", bench.choice, path.display());
                    assert_eq!(ours.get(path), Some(want), "{what}");
                }
                assert_eq!(ours.len(), wanted.len(), "{format} {seed} {:?}", bench.choice);
            });
            compared += 2 * wanted.len();
        }
    }
    println!("{} trees, {compared} files and directories compared with GNU tar's", 2 * TREES);
    assert!(compared > 3_000);
}
