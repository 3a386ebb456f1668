//! Which cgroup hierarchies the host has mounted, and where.

use super::descriptors::Label;
use std::path::PathBuf;

/// Where hosts mount cgroups: v2 at this very place, v1 in directories below (systemd's layouts, and everybody's since).
const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The controllers of v1, which a mount names among its options.
const V1_CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// The generation of cgroups that a host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller or few; also where v2 is mounted beside without controllers ("hybrid").
    V1,
    /// One hierarchy for everything.
    V2,
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) label: Label,
    pub(super) mount_point: PathBuf,
}

/// The hierarchies in a mount table (`/proc/<pid>/mountinfo`, `proc_pid_mountinfo(5)`): v2 alone, or those of v1 in the
/// order of their mount points. Empty if there are none.
pub(super) fn mounted(mountinfo: &str) -> Vec<Mounted> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(Mount::parse).collect();
    // Of mounts on top of each other the last is the one that is seen.
    let at_top = mounts.iter().rfind(|mount| mount.mount_point == MOUNT_POINT);
    if let Some(mount) = at_top.filter(|mount| mount.kind == "cgroup2") {
        return vec![Mounted {
            label: Label(Label::V2.to_owned()),
            mount_point: PathBuf::from(&mount.mount_point),
        }];
    }
    let mut found: Vec<Mounted> = Vec::new();
    for mount in mounts.iter().filter(|mount| mount.kind == "cgroup") {
        let Some(label) = mount.v1_label() else { continue };
        // The same hierarchy may be mounted more than once, as in a container that shows the host's.
        if !found.iter().any(|known| known.label == label) {
            found.push(Mounted { label, mount_point: PathBuf::from(&mount.mount_point) });
        }
    }
    found.sort_by(|one, other| one.mount_point.cmp(&other.mount_point));
    found
}

struct Mount<'a> {
    mount_point: String,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (place, file_system) = line.split_once(" - ")?;
        let mount_point = unescape(place.split(' ').nth(4)?);
        let mut words = file_system.split(' ');
        let kind = words.next()?;
        Some(Self { mount_point, kind, options: words.nth(1)? })
    }

    fn v1_label(&self) -> Option<Label> {
        let identifies =
            |option: &&str| option.starts_with("name=") || V1_CONTROLLERS.contains(option);
        let own: Vec<_> = self.options.split(',').filter(identifies).collect();
        if own.is_empty() { None } else { Some(Label(own.join(","))) }
    }
}

/// Undoes the kernel's way of writing blanks, tabs, line feeds and backslashes: a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 25 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/memory rw,nosuid shared:11 master:2 - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
35 30 0:29 /docker/1 /mnt/a\\040b rw - cgroup cgroup rw,memory
36 30 0:31 / /sys/fs/cgroup/odd rw - cgroup cgroup rw,release_agent=/memory
";
    const UNIFIED: &str = "\
25 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
";

    fn shown(mountinfo: &str) -> Vec<String> {
        let show =
            |mounted: Mounted| format!("{} at {}", mounted.label.0, mounted.mount_point.display());
        mounted(mountinfo).into_iter().map(show).collect()
    }

    #[test]
    fn hierarchies_are_found_in_the_mount_table() {
        let hidden = UNIFIED.to_owned() + "40 30 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n";
        let cases: &[(&str, &str, &[&str])] = &[
            ("v2", UNIFIED, &["v2 at /sys/fs/cgroup"]),
            (
                "v1 with v2 beside",
                HYBRID,
                &[
                    "cpu,cpuacct at /sys/fs/cgroup/cpu,cpuacct",
                    "memory at /sys/fs/cgroup/memory",
                    "name=systemd at /sys/fs/cgroup/systemd",
                ],
            ),
            ("v2 hidden by another mount", &hidden, &[]),
            ("nothing", "25 1 254:0 / / rw - ext4 /dev/root rw\n", &[]),
        ];
        for (name, mountinfo, want) in cases {
            assert_eq!(shown(mountinfo), *want, "{name}");
        }
    }

    #[test]
    fn mount_points_are_unescaped() {
        let cases = [
            ("/a\\040b", "/a b"),
            ("/a\\134b\\012", "/a\\b\n"),
            ("/a\\x", "/a\\x"),
            ("/a\\04", "/a\\04"),
        ];
        for (escaped, want) in cases {
            assert_eq!(unescape(escaped), want, "{escaped}");
        }
    }
}
