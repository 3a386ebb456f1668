//! Archives from raw bytes: none of them was written by the reader's author's idea of an archive.

use super::*;

/// A header block with its checksum.
struct Block([u8; 512]);

impl Block {
    fn new(name: &[u8], kind: u8, size: u64) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0001750\0");
        block[116..124].copy_from_slice(b"0001751\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[136..148].copy_from_slice(b"00000000012\0");
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        Self(block)
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn gnu(self) -> Self {
        self.with(257, b"ustar  \0")
    }

    fn bytes(mut self) -> Vec<u8> {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.to_vec()
    }
}

/// Data filled up to whole blocks.
fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    [Block::new(name.as_bytes(), b'0', data.len() as u64).bytes(), padded(data)].concat()
}

fn extended(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let body = format!(" {key}={value}\n");
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length += 1;
        }
        data.extend(format!("{length}{body}").into_bytes());
    }
    [Block::new(b"pax", kind, data.len() as u64).bytes(), padded(&data)].concat()
}

fn long(kind: u8, name: &[u8]) -> Vec<u8> {
    [Block::new(b"././@LongLink", kind, name.len() as u64).gnu().bytes(), padded(name)].concat()
}

const END: [u8; 1024] = [0; 1024];

/// All entries with their data.
fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut archive = Archive::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next()? {
        let mut data = Vec::new();
        loop {
            let chunk = archive.data()?;
            if chunk.is_empty() {
                break;
            }
            let count = chunk.len();
            data.extend_from_slice(chunk);
            archive.consume(count);
        }
        entries.push((entry, data));
    }
    archive.finish()?;
    Ok(entries)
}

fn names(bytes: &[u8]) -> String {
    match read(bytes) {
        Ok(entries) => {
            let names = entries.iter().map(|(entry, data)| {
                format!(
                    "{}={}",
                    String::from_utf8_lossy(&entry.name),
                    String::from_utf8_lossy(data)
                )
            });
            names.collect::<Vec<_>>().join(" ")
        }
        Err(err) => format!("refused: {err}"),
    }
}

#[test]
fn a_plain_entry_has_all_its_fields() {
    let [(entry, data)] = &read(&[file("a/b", b"data"), END.to_vec()].concat()).unwrap()[..] else {
        panic!("one entry")
    };
    assert_eq!((&entry.name[..], &data[..]), (&b"a/b"[..], &b"data"[..]));
    assert_eq!(entry.kind, Kind::File { size: 4, map: None });
    let want = Attributes {
        mode: 0o644,
        uid: 1000,
        gid: 1001,
        mtime: Time { seconds: 10, nanoseconds: 0 },
        extended: vec![],
    };
    assert_eq!(entry.attributes, want);
}

#[test]
fn archives_end_in_many_ways() {
    let one = file("a", b"1");
    let cases = [
        ("marked", [&one[..], &END].concat(), "a=1"),
        ("not marked", one.clone(), "a=1"),
        ("half a mark", [&one[..], &END[..512]].concat(), "a=1"),
        ("last block not filled up", one[..513].to_vec(), "a=1"),
        ("nothing at all", vec![], ""),
        ("only the mark", END.to_vec(), ""),
        ("rubbish behind", [&one[..], &END, &[7; 1 << 20]].concat(), "a=1"),
        (
            "more rubbish behind",
            [&one[..], &END, &[7; (1 << 20) + 1]].concat(),
            "refused: more than 1048576 bytes follow the archive",
        ),
        (
            "an entry behind half a mark",
            [&one[..], &END[..512], &one].concat(),
            "refused: a block of zeros is followed by something else",
        ),
        (
            "cut in a header",
            [&one[..], &one[..100]].concat(),
            "refused: the stream ends in the middle of it",
        ),
        ("cut in the data", one[..512].to_vec(), "refused: the stream ends in the middle of it"),
        (
            "an extended header for nothing",
            [&extended(b'x', &[("path", "b")])[..], &END].concat(),
            "refused: the archive ends with a header that belongs to no entry",
        ),
        ("no archive", vec![b'x'; 1024], "refused: its header has a wrong checksum"),
    ];
    for (name, bytes, want) in cases {
        assert_eq!(names(&bytes), want, "{name}");
    }
}

#[test]
fn names_and_sizes_come_from_the_right_place() {
    let prefixed = Block::new(b"name", b'0', 0).with(345, b"prefix");
    let gnu = || Block::new(b"name", b'0', 0).gnu();
    let old_go = gnu().with(345, b"prefix/of/go");
    let v7 = Block::new(b"name", b'0', 0).with(257, &[0; 8]).with(345, b"no prefix");
    let star =
        Block::new(b"name", b'0', 0).with(345, b"p").with(476, b"00000000012 ").with(508, b"tar\0");
    let inner = file("hidden", b"");
    let cases = [
        ("ustar prefix", prefixed.bytes(), "prefix/name="),
        ("GNU has times there", gnu().with(345, b"00000000012\0").bytes(), "name="),
        ("Go before 1.8", old_go.bytes(), "prefix/of/go/name="),
        ("v7 has nothing there", v7.bytes(), "name="),
        ("star has times in it", star.bytes(), "p/name="),
        ("long name", [long(b'L', b"long\0"), file("short", b"")].concat(), "long="),
        (
            "extended name",
            [extended(b'x', &[("path", "long")]), file("short", b"")].concat(),
            "long=",
        ),
        (
            "both",
            [extended(b'x', &[("path", "pax")]), long(b'L', b"gnu"), file("short", b"")].concat(),
            "gnu=",
        ),
        (
            "two extended headers",
            [
                extended(b'x', &[("path", "a")]),
                extended(b'x', &[("mtime", "1")]),
                file("short", b""),
            ]
            .concat(),
            "short=",
        ),
        (
            "global header",
            [
                extended(b'g', &[("path", "a"), ("size", "9"), ("linkpath", "b")]),
                file("short", b"1"),
            ]
            .concat(),
            "short=1",
        ),
        (
            "extended size wins",
            [extended(b'x', &[("size", "512")]), Block::new(b"a", b'0', 0).bytes(), inner.clone()]
                .concat(),
            &format!("a={}", String::from_utf8_lossy(&inner)),
        ),
        (
            "extended size wins, smaller",
            [extended(b'x', &[("size", "0")]), Block::new(b"a", b'0', 512).bytes(), inner.clone()]
                .concat(),
            "a= hidden=",
        ),
        (
            "a directory has no data",
            [Block::new(b"d/", b'5', 512).bytes(), inner.clone()].concat(),
            "d/= hidden=",
        ),
        (
            "a hard link has no data",
            [Block::new(b"l", b'1', 512).bytes(), inner.clone()].concat(),
            "l= hidden=",
        ),
        ("type 7 is a file", Block::new(b"a", b'7', 0).bytes(), "a="),
    ];
    for (name, bytes, want) in cases {
        assert_eq!(names(&bytes), want, "{name}");
    }
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let record = [&b"31 path="[..], &[b'a'; 21], b"\n"].concat();
    let malformed = [Block::new(b"pax", b'x', record.len() as u64).bytes(), padded(&record)];
    let global = [Block::new(b"pax", b'g', 5).bytes(), padded(b"abcde")].concat();
    let huge = Block::new(b"pax", b'x', (1 << 20) + 1).bytes();
    let huge_name = Block::new(b"name", b'L', 1 << 32).bytes();
    let device = Block::new(b"a", b'3', 0).with(329, b"0010000\0").bytes();
    let two_to_32 = b"\x80\0\0\x01\0\0\0\0";
    let at = |at: usize, field: &[u8]| Block::new(b"a", b'0', 0).with(at, field).bytes();
    let typed = |kind: u8| Block::new(b"a", kind, 0).bytes();
    let said = |key, value| [extended(b'x', &[(key, value)]), file("a", b"")].concat();
    let mut sum = file("a", b"");
    sum[148] = b'x';
    let cases = [
        ("negative size", at(124, &[0xff; 12]), "its size is out of range"),
        ("size beyond 64 bits", at(124, &[0x81; 12]), "its size is out of range"),
        ("size of text", at(124, b"abc"), "its size is no number"),
        ("uid -1", at(108, &[0xff; 8]), "its user id is out of range"),
        ("uid 2^32-1", said("uid", "4294967295"), "its user id is out of range"),
        ("gid 2^32", at(116, two_to_32), "its group id is out of range"),
        ("mode of text", at(100, b"rw"), "its mode is no number"),
        ("device of 13 bits", device, "its device number is out of range"),
        ("sum of text", sum, "its header has a wrong checksum"),
        ("extended header too long", huge, "its extended header is longer than 1048576 bytes"),
        ("long name too long", huge_name, "its extended header is longer than 1048576 bytes"),
        ("record", malformed.concat(), "its extended header has a malformed record"),
        ("global record", global, "its extended header has a malformed record"),
        ("NUL in a name", said("path", "a\0b"), "its name has a NUL"),
        ("type Z", typed(b'Z'), "its type 'Z' is not one a layer may have"),
        ("volume name", typed(b'V'), "its type 'V' is not one a layer may have"),
    ];
    for (name, bytes, want) in cases {
        assert_eq!(names(&bytes), format!("refused: {want}"), "{name}");
    }
}

#[test]
fn times_are_clamped() {
    let huge = Block::new(b"a", b'0', 0)
        .with(136, b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
        .bytes();
    let negative = Block::new(b"a", b'0', 0).with(136, &[0xff; 12]).bytes();
    for (bytes, want) in [(huge, i64::MAX), (negative, -1)] {
        assert_eq!(read(&bytes).unwrap()[0].0.attributes.mtime.seconds, want);
    }
}

/// A file of type `S` with up to four segments.
fn old_sparse(size: u64, segments: &[(u64, u64)], stored: u64) -> Block {
    let block = Block::new(b"s", b'S', stored).gnu();
    let block = block.with(483, format!("{size:011o}\0").as_bytes());
    segments.iter().enumerate().fold(block, |block, (n, (offset, length))| {
        block.with(386 + 24 * n, format!("{offset:011o}\0{length:011o}\0").as_bytes())
    })
}

fn pax_sparse(records: &[(&str, &str)], data: &[u8]) -> Vec<u8> {
    let records: Vec<_> =
        records.iter().map(|(key, value)| (format!("GNU.sparse.{key}"), *value)).collect();
    let records: Vec<_> = records.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    [extended(b'x', &records), file("s", data)].concat()
}

/// Name, size and segments of the first entry, with its data.
fn sparse(bytes: &[u8]) -> String {
    match read(bytes).as_deref() {
        Ok([(Entry { name, kind: Kind::File { size, map: Some(map) }, .. }, data), ..]) => {
            let map = map.iter().map(|part| format!("{}+{}", part.offset, part.length));
            let map = map.collect::<Vec<_>>().join(" ");
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            format!("{} of {size}: {map}: {}", text(name), text(data))
        }
        Ok(other) => format!("no map: {other:?}"),
        Err(err) => err.to_string(),
    }
}

const ONE_ZERO: [(&str, &str); 4] =
    [("major", "1"), ("minor", "0"), ("name", "real"), ("realsize", "9000")];

#[test]
fn sparse_files_of_all_four_kinds() {
    let mut more = vec![0; 512];
    more[..24].copy_from_slice(format!("{:011o}\0{:011o}\0", 40, 1).as_bytes());
    let head = old_sparse(100_000, &[(0, 1), (10, 1), (20, 1), (30, 1)], 5).with(482, b"\x01");
    let continued = [head.bytes(), more, padded(b"abcde")].concat();
    let in_header = [old_sparse(9000, &[(0, 3), (8000, 3)], 6).bytes(), padded(b"abcdef")].concat();
    let pairs = [("offset", "0"), ("numbytes", "3"), ("offset", "8000"), ("numbytes", "3")];
    let listed = [&[("size", "9000"), ("numblocks", "2")][..], &pairs].concat();
    let mapped = [("size", "9000"), ("numblocks", "2"), ("map", "0,3,8000,3")];
    let map_then_data = [padded(b"2\n0\n3\n8000\n3\n"), b"abcdef".to_vec()].concat();
    let cases = [
        ("in the header", in_header, "s of 9000: 0+3 8000+3: abcdef"),
        ("in more headers", continued, "s of 100000: 0+1 10+1 20+1 30+1 40+1: abcde"),
        ("version 0.0", pax_sparse(&listed, b"abcdef"), "s of 9000: 0+3 8000+3: abcdef"),
        ("version 0.1", pax_sparse(&mapped, b"abcdef"), "s of 9000: 0+3 8000+3: abcdef"),
        ("version 1.0", pax_sparse(&ONE_ZERO, &map_then_data), "real of 9000: 0+3 8000+3: abcdef"),
    ];
    for (name, bytes, want) in cases {
        assert_eq!(sparse(&bytes), want, "{name}");
    }
}

#[test]
fn maps_of_holes_that_cannot_be_are_refused() {
    let old = |size, segments: &[(u64, u64)]| {
        [old_sparse(size, segments, 6).bytes(), padded(b"abcdef")].concat()
    };
    let mapped = |map| pax_sparse(&[("size", "9"), ("map", map)], b"ab");
    let cases = [
        ("overlap", old(9000, &[(0, 3), (2, 3)])),
        ("backwards", old(9000, &[(8, 3), (0, 3)])),
        ("beyond the size", old(5, &[(0, 3), (3, 3)])),
        ("more data than segments", old(9000, &[(0, 3)])),
        ("fewer data than segments", old(9000, &[(0, 7)])),
        ("overflow", mapped("18446744073709551615,2")),
        ("odd", mapped("0,2,4")),
        ("no size", pax_sparse(&[("map", "0,2")], b"ab")),
        ("unknown version", pax_sparse(&[("major", "2"), ("minor", "0")], b"ab")),
        ("lengths before offsets", pax_sparse(&[("size", "9"), ("numbytes", "2")], b"ab")),
        ("without an end", pax_sparse(&ONE_ZERO, b"99")),
        ("too many", pax_sparse(&ONE_ZERO, b"4097\n")),
        ("huge numbers", pax_sparse(&ONE_ZERO, &[b'9'; 100])),
    ];
    for (name, bytes) in cases {
        assert_eq!(sparse(&bytes), "its map of holes is malformed", "{name}");
    }
}

#[test]
fn no_mutation_of_a_good_archive_does_harm() {
    let seeds = [
        file("a/b", b"some data"),
        [
            extended(b'x', &[("path", "long"), ("size", "4"), ("SCHILY.xattr.user.a", "b")]),
            file("s", b"data"),
        ]
        .concat(),
        [long(b'L', &[b'n'; 300]), long(b'K', b"target"), Block::new(b"l", b'2', 0).gnu().bytes()]
            .concat(),
        [
            extended(
                b'x',
                &[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.realsize", "9000"),
                ],
            ),
            file("s", &[padded(b"1\n0\n3\n"), b"abc".to_vec()].concat()),
        ]
        .concat(),
    ];
    // A generator of Marsaglia's, seeded with a constant so that a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let (mut good, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut bytes =
            [&seeds[round % seeds.len()][..], &seeds[random(seeds.len())], &END].concat();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = [0, b'0', b'7', b'9', 0x80, 0xff][random(6)],
                2 => bytes.truncate(at),
                _ => drop(bytes.drain(at..(at + random(600)).min(bytes.len()))),
            }
            if bytes.is_empty() {
                break;
            }
        }
        // Half of them get right checksums, or hardly any would be looked into.
        if round % 2 == 0 {
            for block in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
                let sum = block[..148]
                    .iter()
                    .chain(&block[156..])
                    .map(|&byte| u32::from(byte))
                    .sum::<u32>()
                    + 256;
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        match read(&bytes) {
            Ok(entries) => {
                good += 1;
                let total: usize =
                    entries.iter().map(|(entry, data)| entry.name.len() + data.len()).sum();
                assert!(total <= bytes.len(), "what was read is in the archive");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(good > 1000 && refused > 1000, "both kinds were tried: {good} good, {refused} refused");
}
