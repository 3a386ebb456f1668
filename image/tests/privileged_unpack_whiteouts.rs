//! Whiteouts, opaque directories and devices of layers. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod corpus;

use corpus::{check, device, dir, entry, file, hard_link, refused, symlink};

#[test]
fn privileged_whiteouts_hide_layers_below_and_nothing_else() {
    let wh = |name| file(name, b"");
    check([
        ("alone", vec![wh(".wh.foo")], "foo whiteout"),
        (
            "in a directory that only layers below have",
            vec![wh("a/b/.wh.foo")],
            "a/; a/b/; a/b/foo whiteout",
        ),
        ("after the file", vec![file("foo", b"1"), wh(".wh.foo")], "foo=1"),
        ("before the file", vec![wh(".wh.foo"), file("foo", b"1")], "foo=1"),
        ("before a link", vec![wh(".wh.foo"), symlink("foo", "x")], "foo -> x"),
        (
            "before a hard link",
            vec![file("f", b"1"), wh(".wh.foo"), hard_link("foo", "f")],
            "f=1; foo=1",
        ),
        ("twice", vec![wh(".wh.foo"), wh(".wh.foo")], "foo whiteout"),
        ("after the directory", vec![dir("foo"), wh(".wh.foo")], "foo/ opaque"),
        ("before the directory", vec![wh(".wh.foo"), dir("foo")], "foo/ opaque"),
        (
            "before something in it",
            vec![wh(".wh.foo"), file("foo/bar", b"1")],
            "foo/ opaque; foo/bar=1",
        ),
        (
            "after something in it",
            vec![file("foo/bar", b"1"), wh(".wh.foo")],
            "foo/ opaque; foo/bar=1",
        ),
        ("before a whiteout in it", vec![wh(".wh.foo"), wh("foo/.wh.bar")], "foo/ opaque"),
        ("after a whiteout in it", vec![wh("foo/.wh.bar"), wh(".wh.foo")], "foo/ opaque"),
        (
            "then a file, then a directory",
            vec![wh(".wh.foo"), file("foo", b"1"), dir("foo")],
            "foo/ opaque",
        ),
        (
            "file, whiteout, directory",
            vec![file("foo", b"1"), wh(".wh.foo"), dir("foo")],
            "foo/ opaque",
        ),
        (
            "whiteout, directory, file, directory",
            vec![wh(".wh.foo"), dir("foo"), file("foo", b""), dir("foo")],
            "foo/ opaque",
        ),
        ("file, then directory, no whiteout", vec![file("foo", b"1"), dir("foo")], "foo/"),
        (
            "through a link",
            vec![dir("d"), symlink("l", "d"), wh("l/.wh.foo")],
            "d/; d/foo whiteout; l -> d",
        ),
    ]);
}

#[test]
fn privileged_whiteouts_of_nothing_are_refused() {
    let nothing = "it is a whiteout of nothing that could be";
    check([
        ("no name", vec![dir("d"), file("d/.wh.", b"")], &refused("d/.wh.", nothing)),
        ("the directory", vec![dir("d"), file("d/.wh..", b"")], &refused("d/.wh..", nothing)),
        ("the parent", vec![dir("d"), file("d/.wh...", b"")], &refused("d/.wh...", nothing)),
        ("the parent of the root", vec![file(".wh...", b"")], &refused(".wh...", nothing)),
    ]);
}

#[test]
fn privileged_opaque_directories_hide_what_is_below_whatever_the_order() {
    let opq = |dir: &str| file(&format!("{dir}.wh..wh..opq"), b"");
    let mut many = vec![dir("d"), file("d/f", b"1")];
    many.extend((0..200).map(|_| opq("d/")));
    check([
        ("first", vec![opq("d/"), file("d/f", b"1")], "d/ opaque; d/f=1"),
        ("last", vec![dir("d"), file("d/f", b"1"), opq("d/")], "d/ opaque; d/f=1"),
        ("two hundred times", many, "d/ opaque; d/f=1"),
        ("the root", vec![file("f", b"1"), opq("")], "hides below; f=1"),
        ("missing", vec![opq("a/b/")], "a/; a/b/ opaque"),
        (
            "through a link",
            vec![dir("d"), symlink("l", "d"), opq("l/")],
            &refused(
                "l/.wh..wh..opq",
                "an opaque directory must not be named through a symbolic link",
            ),
        ),
        ("whiteout in it, after", vec![opq("d/"), file("d/.wh.x", b"")], "d/ opaque"),
        (
            "whiteout in it, before",
            vec![file("d/.wh.x", b""), file("d/y", b"1"), opq("d/")],
            "d/ opaque; d/y=1",
        ),
        ("whiteout further down", vec![file("d/e/.wh.x", b""), opq("d/")], "d/ opaque; d/e/"),
        ("one in another", vec![opq("d/"), opq("d/e/")], "d/ opaque; d/e/"),
        ("replaced", vec![opq("d/"), file("d", b"1")], "d=1"),
    ]);
}

#[test]
fn privileged_names_that_only_look_like_whiteouts() {
    let below = "it is below a whiteout";
    check([
        (
            "AUFS",
            vec![
                file(".wh..wh.foo", b"1"),
                dir(".wh..wh.plnk"),
                file(".wh..wh.plnk/1.2", b"3"),
                file("a", b"1"),
            ],
            "a=1",
        ),
        ("a directory", vec![dir(".wh.foo")], "foo whiteout"),
        ("a directory with a slash", vec![dir("d/.wh.foo/")], "d/; d/foo whiteout"),
        ("a link", vec![symlink(".wh.foo", "/")], "foo whiteout"),
        ("with content", vec![file(".wh.foo", b"content"), file("a", b"1")], "a=1; foo whiteout"),
        (
            "with children",
            vec![dir(".wh.foo"), file(".wh.foo/bar", b"1")],
            &refused(".wh.foo/bar", below),
        ),
    ]);
}

#[test]
fn privileged_devices_are_made_and_0_0_is_a_whiteout() {
    check([
        ("0:0 is a whiteout", vec![device("foo", b'3', 0, 0)], "foo whiteout"),
        ("0:0 after the file", vec![file("foo", b"1"), device("foo", b'3', 0, 0)], "foo=1"),
        ("0:0 before the directory", vec![device("foo", b'3', 0, 0), dir("foo")], "foo/ opaque"),
        ("0:0 as a block device is none", vec![device("foo", b'4', 0, 0)], "foo b0:0"),
        (
            "others",
            vec![
                device("c", b'3', 1, 3),
                device("b", b'4', 8, 0),
                device("big", b'3', 4095, 1_048_575),
            ],
            "b b8:0; big c4095:1048575; c c1:3",
        ),
        ("fifo", vec![entry("p", b'6')], "p fifo"),
        ("in place of each other", vec![entry("p", b'6'), device("p", b'3', 1, 3)], "p c1:3"),
    ]);
}
