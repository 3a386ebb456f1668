//! What containers see of layers, whichever way these are stored. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod corpus;

use corpus::{Bench, Tree, archive, chain, dir, file, hard_link, on_both, symlink, worker};
use image::layer::wire::Form;
use image::layer::{Choice, Compression, LayerError, LayerStore, Layers};
use image::{ChainId, Digest};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::Path;

fn plain(bench: &Bench, n: u8, layer: &[u8]) -> Digest {
    bench.unpack_as(&chain(n), layer, Compression::Plain).unwrap()
}

/// The layers, topmost first, as an overlay.
fn merged(store: &LayerStore, layers: &[ChainId]) -> Tree {
    let lowers: Vec<_> = layers.iter().map(|layer| store.open(layer).unwrap()).collect();
    Tree(sys::overlay::merged(lowers).unwrap().unwrap())
}

fn about(path: &Path) -> String {
    let about = fs::symlink_metadata(path).unwrap();
    format!("{:o} {}:{} {}", about.mode() & 0o7777, about.uid(), about.gid(), about.mtime())
}

#[test]
fn privileged_files_beyond_4_gib_with_holes_are_whole() {
    const GIB: u64 = 1 << 30;
    on_both(|bench| {
        // Three pieces: at the start, across 4 GiB, and the last bytes of a length that is no multiple of anything.
        let size = 9 * GIB + 12_345;
        let pieces = [(0, 5000), (4 * GIB - 3000, 6000), (size - 777, 777)];
        let map: Vec<String> = pieces.iter().map(|(at, count)| format!("{at},{count}")).collect();
        let data: Vec<u8> = (0..11_777u32).map(|n| u8::try_from(n % 251).unwrap() + 1).collect();
        let large = file("large", &data)
            .pax("GNU.sparse.size", size.to_string())
            .pax("GNU.sparse.map", map.join(","));
        plain(&bench, 1, &archive([large, file("after", b"1")]));
        let tree = bench.tree(&chain(1));
        let large = File::open(tree.join("large")).unwrap();
        assert_eq!(large.metadata().unwrap().len(), size);
        let mut from = 0;
        for (at, count) in pieces {
            let mut piece = vec![0; count];
            large.read_exact_at(&mut piece, at).unwrap();
            assert_eq!(piece, data[from..from + count], "{:?} at {at}", bench.choice);
            from += count;
        }
        for hole in [5000, 3 * GIB, 4 * GIB + 3000, size - 778] {
            let mut byte = [1];
            large.read_exact_at(&mut byte, hole).unwrap();
            assert_eq!(byte, [0], "{:?} at {hole}", bench.choice);
        }
        assert_eq!(fs::read(tree.join("after")).unwrap(), b"1");
        let taken = bench.store.usage().bytes;
        assert!(taken < 64 << 20, "{:?}: holes take nothing, not {taken} bytes", bench.choice);
    });
}

#[test]
fn privileged_a_directory_of_100_000_names_has_them_all() {
    const NAMES: u32 = 100_000;
    on_both(|bench| {
        let first = [file("d/0", b"content")];
        let others =
            (1..NAMES).map(|n| hard_link(&format!("d/{n}"), &format!("d/{}", n - n % 10_000)));
        let files = (1..NAMES / 10_000).map(|n| file(&format!("d/{}", n * 10_000), b"content"));
        // ext4 has at most 65,000 names for a file, so there are ten.
        let others = others.zip(1..).filter(|(_, n)| n % 10_000 != 0).map(|(link, _)| link);
        plain(&bench, 1, &archive(first.into_iter().chain(files).chain(others)));
        let tree = bench.tree(&chain(1));
        let names = fs::read_dir(tree.join("d")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut numbers: Vec<u32> =
            names.map(|name| name.to_str().unwrap().parse().unwrap()).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..NAMES), "{:?}", bench.choice);
        for name in [0, 1, 9_999, 10_000, 54_321, 99_999] {
            let path = tree.join(format!("d/{name}"));
            assert_eq!(fs::metadata(&path).unwrap().nlink(), 10_000, "{name}");
            assert_eq!(fs::read(&path).unwrap(), b"content", "{name}");
        }
        assert!(fs::symlink_metadata(tree.join("d/100000")).is_err());
    });
}

#[test]
fn privileged_inode_numbers_tell_files_apart_and_links_together() {
    on_both(|bench| {
        plain(
            &bench,
            1,
            &archive([file("a", b"1"), hard_link("b", "a"), file("c", b"1"), dir("d")]),
        );
        plain(&bench, 2, &archive([file("e", b"1"), symlink("l", "e")]));
        let tree = merged(&bench.store, &[chain(2), chain(1)]);
        let of = |name: &str| fs::symlink_metadata(tree.join(name)).unwrap();
        assert_eq!(of("a").ino(), of("b").ino());
        let names = ["", "a", "c", "d", "e", "l"];
        let mut numbers: Vec<u64> = names.iter().map(|name| of(name).ino()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), names.len(), "{:?}", bench.choice);
        let root = of("").dev();
        for name in names {
            assert_eq!(of(name).dev(), root, "{:?}: {name} is on the same device", bench.choice);
        }
    });
}

#[test]
fn privileged_what_a_layer_leaves_out_looks_as_it_does_below() {
    on_both(|bench| {
        let lowest = [
            dir("./").mode(0o711).owner(1, 2).mtime(10),
            dir("etc").mode(0o750).owner(7, 8).mtime(11),
            dir("etc/sub").mode(0o2700).owner(9, 9).mtime(12),
            dir("gone").mode(0o700).mtime(13),
            dir("again").mode(0o700).mtime(14),
            file("file", b""),
        ];
        plain(&bench, 1, &archive(lowest));
        let middle = [file(".wh.gone", b""), dir("again").mode(0o555).mtime(15)];
        bench.unpack_on(&chain(2), &archive(middle), &[chain(1)]);
        let top = [
            file("etc/sub/deep/f", b"1"),
            file("gone/f", b"1"),
            file("again/f", b"1"),
            file("file/f", b"1"),
            file("hidden/.wh..wh..opq", b""),
        ];
        bench.unpack_on(&chain(3), &archive(top), &[chain(1), chain(2)]);
        let tree = merged(&bench.store, &[chain(3), chain(2), chain(1)]);
        let cases = [
            ("", "711 1:2 10"),
            ("etc", "750 7:8 11"),
            ("etc/sub", "2700 9:9 12"),
            ("etc/sub/deep", "755 0:0 0"),
            ("gone", "755 0:0 0"),
            ("again", "555 0:0 15"),
            ("file", "755 0:0 0"),
            ("hidden", "755 0:0 0"),
        ];
        for (path, want) in cases {
            assert_eq!(about(&tree.join(path)), want, "{:?}: {path:?}", bench.choice);
        }
        assert_eq!(fs::read(tree.join("etc/sub/deep/f")).unwrap(), b"1");
    });
}

#[test]
fn privileged_layers_of_both_forms_are_used_together() {
    let bench = Bench::new(Choice::Erofs);
    if !bench.has_images() {
        return;
    }
    plain(&bench, 1, &archive([file("a", b"1"), file("b", b"1"), dir("d"), file("d/x", b"1")]));
    let root = bench.dir.path().join("root");
    let open = |choice| LayerStore::open(&root, worker(), choice).unwrap();
    let store = open(Choice::Overlay);
    assert_eq!(store.form(), Form::Directories);
    assert!(store.contains(&chain(1)), "an image stays in use");
    let mut staging = store.begin(Compression::Plain, &bench.limits).unwrap();
    let upper = archive([file(".wh.a", b""), file("b", b"2"), file("d/.wh..wh..opq", b"")]);
    staging.input().unwrap().write_all(&upper).unwrap();
    staging.finish().unwrap().commit(&chain(2)).unwrap();
    let usage = store.usage();
    let store = open(Choice::Auto);
    assert_eq!((store.form(), store.usage()), (Form::Erofs, usage));
    let tree = merged(&store, &[chain(2), chain(1)]);
    assert_eq!(corpus::listing(&tree.path(), false).join("; "), "b=2; d/");
    let mut all = store.list().unwrap();
    all.sort();
    let mut want = vec![chain(1), chain(2)];
    want.sort();
    assert_eq!(all, want);
    for n in [1, 2] {
        store.remove(&chain(n)).unwrap();
    }
    assert_eq!(store.usage(), image::Usage::default());
    assert_eq!(fs::read(tree.join("b")).unwrap(), b"2", "who has it open keeps it");
}

#[test]
fn privileged_images_stay_in_use_when_they_cannot_be_tried_out() {
    let bench = Bench::new(Choice::Erofs);
    if !bench.has_images() {
        return;
    }
    plain(&bench, 1, &archive([file("a", b"1")]));
    let root = bench.dir.path().join("root");
    for (choice, form) in [
        (Choice::Auto, Form::Erofs),
        (Choice::Overlay, Form::Directories),
        (Choice::Erofs, Form::Erofs),
    ] {
        // A worker that ends without a word, as one does that gets no memory.
        let store = LayerStore::open(&root, Path::new("/bin/true"), choice).unwrap();
        assert_eq!(store.form(), form, "{choice:?}");
        let tree = merged(&store, &[chain(1)]);
        assert_eq!(fs::read(tree.join("a")).unwrap(), b"1", "{choice:?}");
    }
}

#[test]
fn privileged_images_that_cannot_be_mounted_are_held_and_not_used() {
    let bench = Bench::new(Choice::Erofs);
    if !bench.has_images() {
        return;
    }
    plain(&bench, 1, &archive([file("a", b"1")]));
    // No image can be mounted from a file in memory.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let layers = memory.path().join("layers");
    fs::DirBuilder::new().mode(0o700).create(&layers).unwrap();
    let image = bench.place(&chain(1));
    fs::copy(&image, layers.join(image.file_name().unwrap())).unwrap();
    for choice in [Choice::Auto, Choice::Overlay] {
        let store = LayerStore::open(memory.path(), worker(), choice).unwrap();
        assert_eq!(store.form(), Form::Directories, "{choice:?}");
        assert!(store.holds(&chain(1)) && !store.contains(&chain(1)), "{choice:?}");
        assert!(!store.holds(&chain(2)), "{choice:?}");
        assert_eq!(store.list().unwrap(), [chain(1)], "{choice:?}");
    }
    let refused = LayerStore::open(memory.path(), worker(), Choice::Erofs).unwrap_err();
    assert!(matches!(refused, LayerError::NoImages(_)), "{refused}");
}

#[test]
fn privileged_the_same_archive_gives_the_same_image() {
    let bench = Bench::new(Choice::Erofs);
    let files = (0..500u32)
        .map(|n| file(&format!("d{}/f{n}", n % 7), &vec![7; usize::try_from(n * 37).unwrap()]));
    let layer =
        archive(files.chain([symlink("l", "d1"), file(".wh.x", b"").xattr("user.a", b"1")]));
    let images = [1, 2].map(|n| {
        plain(&bench, n, &layer);
        bench.place(&chain(n))
    });
    if bench.has_images() {
        let [one, other] = images.map(|image| fs::read(image).unwrap());
        assert!(one == other);
    }
}

#[test]
fn privileged_nothing_of_a_layer_shows_in_the_mount_table() {
    let table = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    on_both(|bench| {
        let before = table();
        plain(&bench, 1, &archive([file("a", b"1")]));
        let tree = bench.tree(&chain(1));
        assert_eq!(fs::read(tree.join("a")).unwrap(), b"1");
        assert!(!table().contains("erofs"), "{}", table());
        assert_eq!(before.lines().count(), table().lines().count());
    });
}
