//! What becomes of every odd or hostile entry that a layer may have, row by row: each test names the row of the
//! policy table that it holds the worker to. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod corpus;

use corpus::{
    Bench, Entry, archive, device, dir, entry, file, hard_link, on_both, padded, symlink,
};

/// Unpacks each layer and compares the tree, or the reason for refusing it.
fn check<const N: usize>(cases: [(&str, Vec<Entry>, &str); N]) {
    on_both(|bench| {
        let canary = bench.canary().display().to_string();
        for (name, entries, want) in &cases {
            let got = bench.unpack(&archive(entries.clone())).unwrap_or_else(|err| err);
            assert_eq!(got.replace(&canary, "CANARY"), *want, "{:?}: {name}", bench.choice);
        }
    });
}

/// A layer that is refused with this reason.
fn refused(at: &str, why: &str) -> String {
    format!("layer refused: entry \"{at}\": {why}")
}

/// Where something to hurt is, outside every layer.
fn outside(bench: &Bench, name: &str) -> String {
    bench.canary().join(name).display().to_string()
}

#[test]
fn privileged_names_stay_in_the_layer() {
    let out = "it leads out of the layer";
    check([
        ("up", vec![file("../x", b"1")], &refused("../x", out)),
        ("up from inside", vec![dir("a"), file("a/../../x", b"1")], &refused("a/../../x", out)),
        (
            "up, deep",
            vec![file(&format!("{}x", "../".repeat(30)), b"1")],
            &refused(&format!("{}x", "../".repeat(30)), out),
        ),
        ("up and back", vec![file("a/../b", b"1")], "b=1"),
        ("absolute", vec![file("/etc/f", b"1")], "etc/; etc/f=1"),
        ("dots", vec![dir("./"), dir("."), file("./a", b"1"), file(".//b", b"2")], "a=1; b=2"),
        (
            "a file without a name",
            vec![file("", b"1")],
            &refused("", "the root of a layer must be a directory"),
        ),
    ]);
}

#[test]
fn privileged_parents_that_are_links_lead_within_the_layer() {
    on_both(|bench| {
        let canary = outside(&bench, "sub");
        let dangling = "a symbolic link leads it to where this layer has no directory";
        check([
            (
                "relative",
                vec![dir("real"), symlink("l", "real"), file("l/f", b"1")],
                "l -> real; real/; real/f=1",
            ),
            (
                "absolute",
                vec![dir("real"), symlink("l", "/real"), file("l/f", b"1")],
                "l -> /real; real/; real/f=1",
            ),
            (
                "chain",
                vec![dir("real"), symlink("k", "real"), symlink("l", "k"), file("l/a/f", b"1")],
                "k -> real; l -> k; real/; real/a/; real/a/f=1",
            ),
            (
                "up stops at the root",
                vec![dir("d"), symlink("d/l", "../../../d"), file("d/l/f", b"1")],
                "d/; d/f=1; d/l -> ../../../d",
            ),
            (
                "to a layer below",
                vec![symlink("lib", "usr/lib"), file("lib/f", b"1")],
                &refused("lib/f", dangling),
            ),
            (
                "into itself",
                vec![symlink("l", "l"), file("l/f", b"1")],
                &refused("l/f", "it is behind more symbolic links than anybody follows"),
            ),
            (
                "to a file",
                vec![file("f", b"1"), symlink("l", "f"), file("l/g", b"2")],
                &refused("l/g", dangling),
            ),
        ]);
        for target in [canary.clone(), format!("../../../../../../../../../..{canary}")] {
            let layer =
                archive([symlink("l", &target), file("l/file", b"dead"), hard_link("h", "l/file")]);
            assert_eq!(
                bench.unpack(&layer).unwrap_err(),
                refused("l/file", dangling),
                "out of the layer"
            );
        }
    });
}

#[test]
fn privileged_links_are_taken_verbatim() {
    check([
        ("absolute", vec![symlink("l", "/etc/passwd")], "l -> /etc/passwd"),
        ("up", vec![symlink("l", "../../../x")], "l -> ../../../x"),
        ("odd", vec![symlink("l", "a//./b/")], "l -> a//./b/"),
        ("longest", vec![symlink("l", &"a".repeat(4095))], &format!("l -> {}", "a".repeat(4095))),
        (
            "longer",
            vec![symlink("l", &"a".repeat(4096))],
            &refused("l", "the target of the link has an impossible length"),
        ),
        (
            "empty",
            vec![symlink("l", "")],
            &refused("l", "the target of the link has an impossible length"),
        ),
    ]);
}

#[test]
fn privileged_hard_links_name_what_is_in_the_layer() {
    let missing = "the target of the hard link is not in the layer before it";
    let bad = "the target of the hard link is a directory or the link itself";
    let f = || file("f", b"1");
    on_both(|bench| {
        let canary = outside(&bench, "file");
        check([
            ("relative", vec![f(), hard_link("h", "f")], "f=1; h=1"),
            (
                "absolute",
                vec![dir("d"), file("d/f", b"1"), hard_link("h", "/d/f")],
                "d/; d/f=1; h=1",
            ),
            ("with dots", vec![f(), dir("d"), hard_link("d/h", "./d/../f")], "d/; d/h=1; f=1"),
            (
                "through a link",
                vec![dir("d"), file("d/f", b"1"), symlink("l", "d"), hard_link("h", "l/f")],
                "d/; d/f=1; h=1; l -> d",
            ),
            ("in place of a file", vec![f(), file("h", b"2"), hard_link("h", "f")], "f=1; h=1"),
            ("twice", vec![f(), hard_link("h", "f"), hard_link("h", "f")], "f=1; h=1"),
            (
                "escape",
                vec![f(), hard_link("h", "../f")],
                &refused("h", "hard link target: it leads out of the layer"),
            ),
            ("to nothing", vec![hard_link("h", "f")], &refused("h", missing)),
            ("to nothing, in a directory", vec![hard_link("h", "d/f")], &refused("h", missing)),
            ("to something later", vec![hard_link("h", "f"), f()], &refused("h", missing)),
            ("to itself", vec![f(), hard_link("f", "f")], &refused("f", bad)),
            ("to a directory", vec![dir("d"), hard_link("h", "d")], &refused("h", bad)),
            ("to the root", vec![hard_link("h", "/")], &refused("h", bad)),
            (
                "to a whiteout",
                vec![file(".wh.f", b""), hard_link("h", "f")],
                &refused("h", missing),
            ),
            (
                "to what it replaces",
                vec![dir("d"), file("d/f", b"1"), hard_link("d", "d/f")],
                &refused("d", missing),
            ),
            (
                "to a link",
                vec![symlink("l", &canary), hard_link("h", "l").mode(0o777).owner(5, 5)],
                "h -> CANARY/file; l -> CANARY/file"
                    .replace("CANARY", &bench.canary().display().to_string())
                    .as_str(),
            ),
            (
                "then a file in its place",
                vec![symlink("l", &canary), hard_link("h", "l"), file("h", b"2").mode(0o777)],
                &format!("h=2; l -> {canary}"),
            ),
        ]);
        let link = archive([symlink("l", &canary), hard_link("h", "l").mode(0o777).owner(5, 5)]);
        bench.unpack(&link).unwrap();
    });
}

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

#[test]
fn privileged_headers_are_believed_within_bounds() {
    let hidden = file("hidden", b"").bytes();
    let long = |n: usize| vec!["a"; n].join("/");
    check([
        (
            "empty value",
            vec![
                file("a", b"1").pax("path", "").pax("linkpath", "").pax("SCHILY.xattr.user.x", ""),
            ],
            "a=1",
        ),
        (
            "extended size hides what is in the data",
            vec![file("a", b"").pax("size", "512").before(vec![]).data(&hidden).size(0)],
            &format!("a={}", hidden.escape_ascii()),
        ),
        (
            "negative size",
            vec![file("a", b"").field(124, &[0xff; 12])],
            "layer refused: the first entry: its size is out of range",
        ),
        (
            "huge size",
            vec![file("b", b""), file("a", b"").field(124, &[0x81; 12])],
            "layer refused: the entry after \"b\": its size is out of range",
        ),
        (
            "larger than a layer may be",
            vec![file("a", b"").size(65 << 30 >> 3 << 3).pax("size", (65u64 << 30).to_string())],
            "layer refused: more than 68719476736 bytes",
        ),
        (
            "NUL in a name",
            vec![file("a", b"").pax("path", "a\0b")],
            "layer refused: the first entry: its name has a NUL",
        ),
        (
            "component too long",
            vec![file(&"a".repeat(256), b"")],
            &refused(
                &format!("{}\"...", "a".repeat(200)),
                "a component of it is longer than 255 bytes",
            )
            .replace("...\":", "...:"),
        ),
        (
            "name too long",
            vec![file(&"a/".repeat(2500), b"")],
            &refused(&format!("{}\"...", "a/".repeat(100)), "it is longer than 4096 bytes")
                .replace("...\":", "...:"),
        ),
        (
            "too deep",
            vec![dir(&long(129))],
            &refused(&format!("{}\"...", &long(129)[..200]), "it has more than 128 components")
                .replace("...\":", "...:"),
        ),
        ("line end", vec![file("a\nb", b"1")], "a\\nb=1"),
        ("no UTF-8", vec![file("x", b"1").pax_bytes(b"path", b"\xff\xfe")], "\\xff\\xfe=1"),
        ("differ in case", vec![file("a", b"1"), file("A", b"2")], "A=2; a=1"),
    ]);
    let global = entry("g", b'g').data(&corpus::record(b"path", b"evil")).bytes();
    check([("global header", vec![file("a", b"1").before(global)], "a=1")]);
}

#[test]
fn privileged_names_as_long_as_a_path_may_be() {
    let name = vec!["n".repeat(250); 16].join("/");
    on_both(|bench| {
        let bytes = archive([file(&format!("{name}/{}", "m".repeat(70)), b"1")]);
        assert!(name.len() + 71 > 4080, "close to the bound");
        bench.unpack_as(&corpus::chain(0), &bytes, image::layer::Compression::Plain).unwrap();
        // Two links of 16 levels each: no single path could name this.
        let deep = archive([
            dir(&name),
            symlink("l", &name),
            dir(&format!("l/{name}")),
            file(&format!("l/{name}/f"), b"1"),
        ]);
        bench.unpack_as(&corpus::chain(1), &deep, image::layer::Compression::Plain).unwrap();
        image::layer::Layers::remove(&bench.store, &corpus::chain(1)).unwrap();
        assert!(!bench.place(&corpus::chain(1)).exists());
    });
}

#[test]
fn privileged_the_last_of_equal_names_wins() {
    let root = "the root of a layer must be a directory";
    let above = "a directory above it is something else in this layer";
    check([
        ("two files", vec![file("a", b"1"), file("a", b"22")], "a=22"),
        ("a file, then a longer link", vec![file("a", b"1"), symlink("a", "b")], "a -> b"),
        ("a link, then a file", vec![symlink("a", "b"), file("a", b"1")], "a=1"),
        (
            "a link, then a directory",
            vec![dir("b"), symlink("a", "b"), dir("a"), file("a/f", b"1")],
            "a/; a/f=1; b/",
        ),
        ("a directory, then a file", vec![dir("d"), file("d/e/f", b"1"), file("d", b"2")], "d=2"),
        (
            "a directory, a file, a directory",
            vec![
                file("d/e/f", b"1"),
                file("d", b"2"),
                file("d2", b""),
                dir("d"),
                file("d/e/g", b"3"),
            ],
            "d/; d/e/; d/e/g=3; d2=",
        ),
        ("a file above", vec![file("a", b"1"), file("a/b", b"2")], &refused("a/b", above)),
        ("a fifo above", vec![entry("a", b'6'), file("a/b", b"2")], &refused("a/b", above)),
        ("type 7", vec![entry("a", b'7').data(b"1")], "a=1"),
        ("old directory", vec![entry("d/", 0), file("d/f", b"1")], "d/; d/f=1"),
        (
            "type Z",
            vec![entry("a", b'Z')],
            "layer refused: the first entry: its type 'Z' is not one a layer may have",
        ),
        (
            "type V",
            vec![entry("a", b'V')],
            "layer refused: the first entry: its type 'V' is not one a layer may have",
        ),
        ("root as a link", vec![symlink("./", "/")], &refused("./", root)),
        ("root as a file", vec![file("./", b"1")], &refused("./", root)),
        ("root as a device", vec![device(".", b'3', 1, 3)], &refused(".", root)),
        ("twice the same key", vec![file("a", b"1").pax("path", "b").pax("path", "c")], "c=1"),
        (
            "bad record",
            vec![file("a", b"1").before(entry("x", b'x').data(b"nonsense").bytes())],
            "layer refused: the first entry: its extended header has a malformed record",
        ),
    ]);
}

#[test]
fn privileged_files_with_holes() {
    let mapped = |map: &str, data: &[u8]| {
        let name = file("s", data).pax("GNU.sparse.major", "0").pax("GNU.sparse.minor", "1");
        name.pax("GNU.sparse.size", "20").pax("GNU.sparse.map", map)
    };
    let too_many: Vec<String> = (0..4097).map(|n| format!("{n},0")).collect();
    let malformed = "layer refused: the first entry: its map of holes is malformed";
    check([
        (
            "holes",
            vec![mapped("2,3,10,2", b"abcde")],
            "s=\\x00\\x00abc\\x00\\x00\\x00\\x00\\x00de\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00",
        ),
        ("only a hole", vec![mapped("20,0", b"")], &format!("s={}", "\\x00".repeat(20))),
        ("overlap", vec![mapped("2,3,4,2", b"abcde")], malformed),
        ("beyond the end", vec![mapped("2,3,19,2", b"abcde")], malformed),
        ("too many", vec![mapped(&too_many.join(","), b"")], malformed),
    ]);
}

#[test]
fn privileged_owners_that_cannot_be_are_refused() {
    let two_to_32 = b"\x80\0\0\x01\0\0\0\0";
    let refused = |what| format!("layer refused: the first entry: its {what} is out of range");
    check([
        ("-1", vec![file("a", b"").field(108, &[0xff; 8])], &refused("user id")),
        ("2^32-1", vec![file("a", b"").pax("gid", "4294967295")], &refused("group id")),
        ("2^32", vec![file("a", b"").field(116, two_to_32)], &refused("group id")),
        ("2^32-2", vec![file("a", b"1").pax("uid", "4294967294")], "a=1"),
    ]);
}

#[test]
fn privileged_archives_that_are_not_whole_are_refused() {
    on_both(|bench| {
        let one = file("a", b"1").bytes();
        let mut wrong = one.clone();
        wrong[0] ^= 1;
        let zeros = [0; 512];
        let cases = [
            ("no end", one.clone(), "a=1"),
            ("nothing", vec![], ""),
            ("rubbish behind", [&one[..], &zeros, &zeros, b"rubbish"].concat(), "a=1"),
            (
                "much rubbish behind",
                [&one[..], &zeros, &zeros, &vec![1; (1 << 20) + 1]].concat(),
                "layer refused: the entry after \"a\": more than 1048576 bytes follow the archive",
            ),
            (
                "data behind zeros",
                [&one[..], &zeros, &one].concat(),
                "layer refused: the entry after \"a\": a block of zeros is followed by something else",
            ),
            (
                "bad checksum",
                wrong,
                "layer refused: the first entry: its header has a wrong checksum",
            ),
            (
                "no archive",
                b"#!/bin/sh\n".repeat(100),
                "layer refused: the first entry: its header has a wrong checksum",
            ),
            (
                "cut in a header",
                one[..300].to_vec(),
                "layer refused: the first entry: the stream ends in the middle of it",
            ),
            (
                "cut in a file",
                file("big", &[7; 5000]).bytes()[..2000].to_vec(),
                "layer refused: entry \"big\": the stream ends in the middle of it",
            ),
            (
                "extended header for nothing",
                padded(&file("a", b"").pax("path", "b").bytes()[..1024]),
                "layer refused: the first entry: the archive ends with a header that belongs to no entry",
            ),
        ];
        for (name, layer, want) in cases {
            assert_eq!(bench.unpack(&layer).unwrap_or_else(|err| err), want, "{name}");
        }
    });
}
