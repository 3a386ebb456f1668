//! What the headers of a layer may say: names, types, sizes, owners, duplicates, ends. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod corpus;

use corpus::{archive, check, device, dir, entry, file, on_both, padded, refused, symlink};

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
