//! Modes, owners, times and extended attributes, as layers may have them. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod corpus;

use corpus::{
    Bench, Entry, archive, attribute, chain, device, dir, entry, file, hard_link, on_both, symlink,
};
use image::layer::Compression;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Unpacks `entries` as a layer and looks at its tree, on both stores.
fn tree(entries: impl IntoIterator<Item = Entry>, look: impl Fn(&Bench, &Path)) {
    let layer = archive(entries);
    on_both(|bench| {
        bench.unpack_as(&chain(0), &layer, Compression::Plain).unwrap();
        look(&bench, &bench.tree(&chain(0)).path());
    });
}

/// Mode, owner and time of `path`.
fn about(path: &Path) -> String {
    let about = fs::symlink_metadata(path).unwrap();
    let mode = about.permissions().mode() & 0o7777;
    format!("{mode:o} {}:{} {}.{}", about.uid(), about.gid(), about.mtime(), about.mtime_nsec())
}

#[test]
fn privileged_modes_owners_and_times_are_kept() {
    tree(
        [
            dir("./").mode(0o700).owner(1, 2).mtime(11),
            file("suid", b"x").mode(0o6755).owner(3, 4).mtime(12),
            file("suid-root", b"x").mode(0o4755).mtime(12),
            file("high", b"x").mode(0o107_644).mtime(12),
            dir("closed").mode(0).owner(5, 6).mtime(13),
            file("closed/child", b"x").mtime(14),
            dir("shared").mode(0o2770).owner(0, 50).mtime(15),
            file("shared/child", b"x").owner(7, 7).mtime(16),
            dir("shared/sub").mtime(17),
            file("sticky/implicit/f", b"x").mtime(18),
            dir("sticky").mode(0o1777).mtime(19),
            dir("twice").mode(0o700).owner(9, 9).mtime(20),
            dir("twice").mode(0o750).mtime(21),
            symlink("link", "suid").owner(8, 9).mtime(22),
            device("device", b'3', 1, 3).mode(0o4666).owner(1, 1).mtime(23),
            entry("fifo", b'6').mode(0o622).mtime(24),
            hard_link("hard", "suid").mode(0o777).owner(0, 0).mtime(1),
            file("fraction", b"").pax("mtime", "25.123456789"),
            file("before", b"").pax("mtime", "-1.5"),
            file("huge", b"").pax("mtime", "99999999999999999999"),
        ],
        |_, tree| {
            let cases = [
                ("", "700 1:2 11.0"),
                ("suid", "6755 3:4 12.0"),
                ("suid-root", "4755 0:0 12.0"),
                ("high", "7644 0:0 12.0"),
                ("closed", "0 5:6 13.0"),
                ("closed/child", "644 0:0 14.0"),
                ("shared", "2770 0:50 15.0"),
                ("shared/child", "644 7:7 16.0"),
                ("shared/sub", "755 0:0 17.0"),
                ("sticky/implicit", "755 0:0 0.0"),
                ("sticky", "1777 0:0 19.0"),
                ("twice", "750 0:0 21.0"),
                ("link", "777 8:9 22.0"),
                ("device", "4666 1:1 23.0"),
                ("fifo", "622 0:0 24.0"),
                ("hard", "6755 3:4 12.0"),
                ("fraction", "644 0:0 25.123456789"),
                ("before", "644 0:0 -2.500000000"),
            ];
            for (path, want) in cases {
                assert_eq!(about(&tree.join(path)), want, "{path:?}");
            }
            let huge = fs::metadata(tree.join("huge")).unwrap().mtime();
            assert!(
                huge > 1 << 33,
                "the last moment the file system has, not another date: {huge}"
            );
        },
    );
}

#[test]
fn privileged_a_layer_without_a_root_entry_has_a_plain_root() {
    tree([file("a/f", b"1")], |bench, tree| {
        assert_eq!(about(tree), "755 0:0 0.0");
        assert_eq!(about(&tree.join("a")), "755 0:0 0.0");
        let layer = bench.place(&chain(0));
        for private in [&layer, layer.parent().unwrap(), &bench.dir.path().join("root")] {
            let mode = fs::metadata(private).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", private.display());
        }
    });
}

/// A file capability of `revision`, `length` bytes long.
fn capability(length: usize, revision: u8) -> Vec<u8> {
    let mut value = vec![0; length];
    (value[0], value[3], value[4]) = (1, revision, 0x20);
    value
}

/// An access control list that names a user.
fn access_list() -> Vec<u8> {
    let all = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, all), (2, 7, 1000), (4, 4, all), (0x10, 7, all), (0x20, 0, all)];
    let bytes = entries.map(|(tag, allowed, id)| {
        [&tag.to_le_bytes()[..], &allowed.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    [2u32.to_le_bytes().to_vec(), bytes.concat()].concat()
}

#[test]
fn privileged_only_a_containers_own_attributes_are_kept() {
    let mut foreign = capability(24, 3);
    foreign[20] = 1;
    let kept = file("f", b"x").owner(1, 1).xattr("security.capability", &capability(20, 2));
    let dropped = file("dropped", b"x")
        .xattr("trusted.overlay.redirect", b"/")
        .xattr("trusted.x", b"1")
        .xattr("user.overlay.opaque", b"y")
        .xattr("security.selinux", b"l")
        .xattr("security.ima", b"l")
        .xattr("unknown.x", b"1");
    let bad = file("bad", b"x").xattr("security.capability", b"short");
    tree(
        [
            kept.xattr("user.a", b"v\0\n=w"),
            file("foreign", b"x").xattr("security.capability", &foreign),
            bad.xattr("system.posix_acl_access", b"short"),
            dropped.xattr("user.kept", b"1"),
            dir("d").xattr("user.a", b"1").xattr("trusted.overlay.opaque", b"y"),
            file("empty", b"x").xattr("user.a", b""),
        ],
        |_, tree| {
            let cases: [(&str, &str, Option<&[u8]>); 14] = [
                ("f", "security.capability", Some(&capability(20, 2))),
                ("f", "user.a", Some(b"v\0\n=w")),
                ("foreign", "security.capability", None),
                ("bad", "security.capability", None),
                ("bad", "system.posix_acl_access", None),
                ("dropped", "trusted.overlay.redirect", None),
                ("dropped", "trusted.x", None),
                ("dropped", "user.overlay.opaque", None),
                ("dropped", "security.selinux", None),
                ("dropped", "security.ima", None),
                ("dropped", "user.kept", Some(b"1")),
                ("d", "user.a", Some(b"1")),
                ("d", "trusted.overlay.opaque", None),
                ("empty", "user.a", Some(b"")),
            ];
            for (path, name, want) in cases {
                assert_eq!(attribute(&tree.join(path), name).as_deref(), want, "{name} of {path}");
            }
        },
    );
}

#[test]
fn privileged_access_control_lists_do_not_shape_what_is_below() {
    let list = access_list();
    tree(
        [
            file("f", b"x").mode(0o670).xattr("system.posix_acl_access", &list),
            dir("d").mode(0o700).xattr("system.posix_acl_default", &list),
            file("d/child", b"x").mode(0o600),
            dir("d/sub"),
        ],
        |_, tree| {
            let of = |path: &str, name| attribute(&tree.join(path), name);
            assert_eq!(of("f", "system.posix_acl_access"), Some(list.clone()));
            assert_eq!(of("d", "system.posix_acl_default"), Some(list.clone()));
            assert_eq!(of("d/child", "system.posix_acl_access"), None);
            assert_eq!(of("d/sub", "system.posix_acl_default"), None);
            assert_eq!(about(&tree.join("d/child")), "600 0:0 1000000000.0");
            assert_eq!(about(&tree.join("f")), "670 0:0 1000000000.0");
        },
    );
}

#[test]
fn privileged_attributes_of_a_link_are_not_set_on_its_target() {
    tree(
        [
            file("f", b"x"),
            symlink("l", "f")
                .xattr("user.a", b"1")
                .xattr("security.capability", &capability(20, 2)),
            entry("fifo", b'6').xattr("user.a", b"1"),
        ],
        |_, tree| {
            for path in ["f", "l", "fifo"] {
                for name in ["user.a", "security.capability"] {
                    assert_eq!(attribute(&tree.join(path), name), None, "{name} of {path}");
                }
            }
        },
    );
}

#[test]
fn privileged_too_much_of_extended_attributes_is_refused() {
    on_both(|bench| {
        let many = (0..257).fold(file("a", b""), |file, n| file.xattr(&format!("user.{n}"), b""));
        let cases = [
            ("many", many, "it has more than 256 extended attributes"),
            (
                "long name",
                file("a", b"").xattr(&format!("user.{}", "n".repeat(251)), b""),
                "the name of an extended attribute is longer than 255 bytes",
            ),
            (
                "long value",
                file("a", b"").xattr("user.a", &[0; 65_536]),
                "the extended attribute \"user.a\" is longer than 65535 bytes",
            ),
        ];
        for (name, entry, want) in cases {
            let got = bench.unpack(&archive([entry])).unwrap_err();
            assert_eq!(got, format!("layer refused: entry \"a\": {want}"), "{name}");
        }
    });
}
