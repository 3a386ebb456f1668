//! Layers that want more time, memory or disk than they may have, and large ones that are fine. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod corpus;

use corpus::{
    archive, chain, device, dir, entry, file, gzip, hard_link, listing, on_both, quickly_on_both,
    symlink,
};
use image::layer::{Compression, LayerFault, Layers};
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

fn quick<T>(what: &str, most: Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    assert!(start.elapsed() < most, "{what} took {:?}", start.elapsed());
    result
}

#[test]
fn privileged_a_layer_larger_than_it_may_be_is_refused() {
    on_both(|mut bench| {
        bench.limits.layer_bytes = 1 << 20;
        bench.limits.layer_entries = 10;
        let hole = file("s", b"").pax("GNU.sparse.size", "99999999").pax("GNU.sparse.map", "0,0");
        let cases = [
            (
                "bytes",
                gzip(&archive([file("a", &[0; 2 << 20])])),
                "layer refused: more than 1048576 bytes",
            ),
            (
                "bytes after the archive",
                gzip(&[archive([]), vec![0; 2 << 20]].concat()),
                "layer refused: more than 1048576 bytes",
            ),
            ("bytes in holes", gzip(&archive([hole])), "layer refused: more than 1048576 bytes"),
            (
                "a size that is a lie",
                gzip(&archive([file("a", b"1").size(1 << 32)])),
                "layer refused: more than 1048576 bytes",
            ),
            (
                "entries",
                gzip(&archive((0..11).map(|n| file(&n.to_string(), b"")))),
                "layer refused: more than 10 entries",
            ),
            (
                "entries of one name",
                gzip(&archive((0..11).map(|_| file("a", b"")))),
                "layer refused: more than 10 entries",
            ),
        ];
        for (name, layer, want) in cases {
            let err = bench.unpack_as(&chain(0), &layer, Compression::Gzip).unwrap_err();
            assert_eq!(
                (err.to_string().as_str(), err.fault()),
                (want, LayerFault::Limit),
                "{name}"
            );
        }
    });
}

#[test]
fn privileged_repeated_opaque_markers_cost_what_they_are_worth() {
    // CVE-2026-95838: other runtimes walk the directory once for each.
    quickly_on_both(|bench| {
        let files = (0..4000).map(|n| file(&format!("d/{n}"), b""));
        let layer = archive(files.chain((0..4000).map(|_| file("d/.wh..wh..opq", b""))));
        quick("4000 markers", Duration::from_secs(10), || {
            bench.unpack_as(&chain(0), &layer, Compression::Plain)
        })
        .unwrap();
    });
}

#[test]
fn privileged_many_directories_are_linear_work() {
    quickly_on_both(|bench| {
        let wide = archive((0..20_000).map(|n| dir(&format!("d{n}"))));
        let nested = archive((0..300).map(|n| dir(&vec![format!("d{n}"); 100].join("/"))));
        let swapped =
            archive((0..20_000).map(|n| if n % 2 == 0 { dir("d") } else { file("d", b"") }));
        for (name, layer, inodes) in
            [("wide", wide, 20_001), ("nested", nested, 30_001), ("swapped", swapped, 2)]
        {
            quick(name, Duration::from_secs(20), || {
                bench.unpack_as(&chain(0), &layer, Compression::Plain)
            })
            .unwrap();
            if !bench.has_images() {
                assert_eq!(bench.store.usage().inodes, inodes, "{name}");
            }
            bench.store.remove(&chain(0)).unwrap();
        }
    });
}

#[test]
fn privileged_long_records_take_no_more_memory_than_they_may() {
    on_both(|bench| {
        let huge = |kind| {
            let header = entry("x", kind).size(64 << 20).bytes();
            [header, vec![b'a'; 64 << 20], file("a", b"").bytes()].concat()
        };
        for kind in [b'x', b'g', b'L', b'K'] {
            let err = bench.unpack_as(&chain(0), &huge(kind), Compression::Plain).unwrap_err();
            let want =
                "layer refused: the first entry: its extended header is longer than 1048576 bytes";
            assert_eq!(err.to_string(), want, "{}", char::from(kind));
        }
    });
}

#[test]
fn privileged_a_layer_with_a_window_of_128_mib_is_unpacked() {
    on_both(|bench| {
        let layer = archive([file("a", &vec![7; 3 << 20])]);
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        // Without its size in the header the window is all that the decoder knows, so it takes memory for it.
        for chunk in layer.chunks(100_000) {
            encoder.write_all(chunk).unwrap();
        }
        bench.unpack_as(&chain(0), &encoder.finish().unwrap(), Compression::Zstd).unwrap();
        assert_eq!(fs::metadata(bench.tree(&chain(0)).join("a")).unwrap().len(), 3 << 20);
    });
}

#[test]
fn privileged_damaged_compression_names_the_place() {
    on_both(|bench| {
        let mut layer = gzip(&archive([file("a", &[7; 600_000])]));
        layer.truncate(layer.len() - 9);
        let err = bench.unpack_as(&chain(0), &layer, Compression::Gzip).unwrap_err();
        let text = err.to_string();
        assert!(
            text.starts_with("layer refused: entry \"a\": the compressed data are damaged: "),
            "{text}"
        );
        let err =
            bench.unpack_as(&chain(0), &archive([file("a", b"1")]), Compression::Gzip).unwrap_err();
        assert!(
            err.to_string()
                .starts_with("layer refused: the first entry: the compressed data are damaged: "),
            "{err}"
        );
    });
}

#[test]
fn privileged_no_mutation_of_a_layer_gets_out_or_kills_the_worker() {
    quickly_on_both(|bench| {
        let canary = bench.canary();
        let before = listing(&canary, true);
        let out = canary.display().to_string();
        let seed = archive([
            dir("d").owner(3, 4),
            file("d/f", b"content").xattr("user.a", b"1"),
            symlink("l", &out),
            file("l2/../d/g", b"1"),
            hard_link("h", "d/f"),
            file(".wh.gone", b""),
            file("d/.wh..wh..opq", b""),
            device("c", b'3', 1, 3),
            file("l/file", b"dead"),
        ]);
        // A generator of Marsaglia's, seeded with a constant so that a failure can be repeated.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        for round in 0..200 {
            let mut layer = seed.clone();
            for _ in 0..=random(4) {
                let block = random(layer.len() / 512) * 512;
                match random(3) {
                    // Somewhere in a name, a size, a type or a target.
                    0 => {
                        layer[block + [0, 1, 124, 156, 157, 345][random(6)]] =
                            b"/.0127xgLKS"[random(11)]
                    }
                    1 => layer[block + random(512)] ^= 1 << random(8),
                    _ => drop(layer.drain(block..block + 512)),
                }
            }
            for block in layer.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let fault = bench
                .unpack_as(&chain(0), &layer, Compression::Plain)
                .map_err(|err| (err.fault(), err));
            assert!(
                !matches!(fault, Err((LayerFault::Worker | LayerFault::Disk, _))),
                "round {round}: {fault:?}"
            );
            assert_eq!(listing(&canary, true), before, "round {round}");
            bench.store.remove(&chain(0)).unwrap();
        }
    });
}
