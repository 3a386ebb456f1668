//! Everything a leak could show in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::process::{Seen, succeed};
use crate::stage::{Stage, mount_points};

/// A list of names per kind of thing. Names that differ from run to run without meaning anything
/// (numbers of sockets, handles of rules) are left out of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    kinds: BTreeMap<&'static str, Vec<String>>,
}

impl Census {
    /// Counts. `daemon` is the pid of the running daemon, if one is meant to run.
    pub fn take(stage: &Stage, daemon: Option<u32>) -> Self {
        let processes = stage.processes(daemon);
        let mut kinds = BTreeMap::from([
            ("mounts", mounts(daemon)),
            ("links", links()),
            ("nft", nft()),
            ("cgroups", stage.cgroups.below()),
            ("processes", processes.iter().map(describe).collect()),
            ("root directory", files(&stage.root())),
            ("state directory", files(&stage.state())),
            ("descriptors", daemon.map(|pid| descriptors(pid, stage)).unwrap_or_default()),
        ]);
        kinds.values_mut().for_each(|names| names.sort());
        Self { kinds }
    }

    /// What is there now and was not before (`+`), and the other way round (`-`); empty when the
    /// two are equal.
    pub fn difference(&self, before: &Self) -> String {
        let mut text = String::new();
        for (kind, now) in &self.kinds {
            let before = before.kinds.get(kind).map(Vec::as_slice).unwrap_or_default();
            for name in without(now, before) {
                writeln!(text, "  {kind}: + {name}").expect("write to a string");
            }
            for name in without(before, now) {
                writeln!(text, "  {kind}: - {name}").expect("write to a string");
            }
        }
        text
    }

    /// The names of one kind.
    pub fn of(&self, kind: &str) -> &[String] {
        self.kinds.get(kind).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The names in `these` that `those` do not hold as often.
fn without(these: &[String], those: &[String]) -> Vec<String> {
    let mut left = those.to_vec();
    let is_new = |name: &&String| match left.iter().position(|other| other == *name) {
        Some(found) => {
            left.swap_remove(found);
            false
        }
        None => true,
    };
    these.iter().filter(is_new).cloned().collect()
}

fn describe(seen: &Seen) -> String {
    let state = if seen.zombie { " (zombie)" } else { "" };
    format!("{}{state}", seen.name)
}

/// Mount points as the harness sees them and, where it has a namespace of its own, as the daemon
/// does.
fn mounts(daemon: Option<u32>) -> Vec<String> {
    let shown = |who: &str, process: &str| -> Vec<String> {
        let points = mount_points(process);
        points.iter().map(|path| format!("{who} {}", path.display())).collect()
    };
    let mut all = shown("test", "thread-self");
    if let Some(pid) = daemon {
        all.extend(shown("daemon", &pid.to_string()));
    }
    all
}

/// /proc/net belongs to the process, not to the thread.
fn links() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").expect("read links");
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    text.lines().filter_map(name).collect()
}

fn nft() -> Vec<String> {
    let text = succeed(Command::new("nft").args(["-j", "list", "ruleset"]));
    let json: Value = serde_json::from_str(&text).expect("nft prints JSON");
    let objects = json["nftables"].as_array().cloned().unwrap_or_default();
    objects
        .into_iter()
        .filter(|object| object.get("metainfo").is_none())
        .map(|mut object| {
            for body in object.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
                body.as_object_mut().map(|body| body.remove("handle"));
            }
            object.to_string()
        })
        .collect()
}

/// Paths below a directory, with the database's side files left out: they come and go.
fn files(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    collect(top, top, &mut found);
    found
}

fn collect(top: &Path, directory: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path.strip_prefix(top).unwrap_or(&path).display().to_string();
        if name.ends_with("-wal") || name.ends_with("-shm") || name.ends_with("-journal") {
            continue;
        }
        found.push(name);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !is_layer(&path) {
            collect(top, &path, found);
        }
    }
}

/// An unpacked layer counts as one thing: its files are the image's, not ours.
fn is_layer(path: &Path) -> bool {
    let parent = path.parent().and_then(Path::file_name);
    parent.is_some_and(|name| name == "layers" || name == "sha256")
}

/// Connections to registries are left out: they are kept for the next pull, for a while. So is one mount for each layer
/// that is there as an image: it is kept for the next container.
fn descriptors(pid: u32, stage: &Stage) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let directory = stage.directory().display().to_string();
    let connections = connections(pid);
    let mut layers = BTreeSet::new();
    let mut found: Vec<String> = entries
        .flatten()
        .filter(|entry| image_device(&entry.path()).is_none_or(|device| !layers.insert(device)))
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().replace(&directory, "").replace(" (deleted)", ""))
        .filter(|target| !connections.contains(target))
        .map(|target| target.split(":[").next().unwrap_or(&target).to_owned())
        .collect();
    let images = fs::read_dir(stage.root().join("layers")).into_iter().flatten().flatten();
    let images = images.filter(|entry| entry.path().extension().is_some_and(|end| end == "erofs"));
    let gone = layers.len().saturating_sub(images.count());
    found.extend(std::iter::repeat_n("mount of a layer that is gone".to_owned(), gone));
    found
}

/// The device of a descriptor that belongs to an EROFS image.
fn image_device(descriptor: &Path) -> Option<u64> {
    // <linux/magic.h>
    const EROFS: i64 = 0xe0f5_e1e2;
    let kind = nix::sys::statfs::statfs(descriptor).ok()?.filesystem_type();
    let device = fs::metadata(descriptor).ok()?.dev();
    (kind == nix::sys::statfs::FsType(EROFS)).then_some(device)
}

/// The TCP sockets of a process's network, named as in its directory of descriptors.
fn connections(pid: u32) -> Vec<String> {
    let tables = ["tcp", "tcp6"].map(|kind| format!("/proc/{pid}/net/{kind}"));
    let lines = tables.iter().filter_map(|path| fs::read_to_string(path).ok());
    let inode = |line: &str| Some(format!("socket:[{}]", line.split_whitespace().nth(9)?));
    lines.flat_map(|text| text.lines().filter_map(inode).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(links: &[&str]) -> Census {
        let links = links.iter().map(|&name| name.to_owned()).collect();
        Census { kinds: BTreeMap::from([("links", links)]) }
    }

    #[test]
    fn differences_are_told_with_their_direction() {
        let cases: [(&str, &[&str], &[&str], &str); 4] = [
            ("equal", &["lo", "eth0"], &["lo", "eth0"], ""),
            ("left behind", &["lo", "veth1"], &["lo"], "  links: + veth1\n"),
            ("gone", &[], &["lo"], "  links: - lo\n"),
            ("one of two of a name", &["a", "a"], &["a"], "  links: + a\n"),
        ];
        for (what, now, before, expected) in cases {
            assert_eq!(census(now).difference(&census(before)), expected, "{what}");
        }
    }
}
