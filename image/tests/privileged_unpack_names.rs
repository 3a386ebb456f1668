//! Where names and links of a layer may lead. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod corpus;

use corpus::{archive, check, dir, file, hard_link, on_both, outside, refused, symlink};

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
