//! The store of overlay directories with the real worker: what is there, what is left, what survives. Needs root.

mod corpus;

use corpus::{Bench, archive, chain, dir, file, gzip};
use image::layer::{Compression, Layers};
use image::Digest;

#[test]
fn privileged_every_compression_gives_the_same_layer() {
    let bench = Bench::new();
    let layer = archive([dir("d"), file("d/f", b"content")]);
    let cases = [
        (1, Compression::Plain, layer.clone()),
        (2, Compression::Gzip, gzip(&layer)),
        (3, Compression::Zstd, zstd::encode_all(&layer[..], 3).unwrap()),
    ];
    for (n, compression, bytes) in cases {
        assert!(!bench.store.contains(&chain(n)), "{compression:?}");
        let diff_id = bench.unpack_as(&chain(n), &bytes, compression).unwrap();
        assert_eq!(diff_id, Digest::of(&layer), "{compression:?}");
        assert!(bench.store.contains(&chain(n)), "{compression:?}");
        assert_eq!(bench.show(&chain(n)), "d/; d/f=content", "{compression:?}");
    }
}
