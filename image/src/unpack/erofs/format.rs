//! What an EROFS image looks like on disk: `fs/erofs/erofs_fs.h` of Linux, the part that we write. Little endian.

use crate::tar::Time;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;

/// Bytes of the unit in which inodes are numbered, from the start of the image.
pub(super) const SLOT: u64 = 32;

/// Bytes of an inode with 32-bit owners and a time of its own.
pub(super) const INODE: usize = 64;

/// Where in an inode the number of its names is.
pub(super) const LINKS_AT: u64 = 44;

/// Where the superblock is, in the first block. What is before it is the store's.
const SUPERBLOCK_AT: usize = 1024;

/// Where the root is: its number has 16 bits, so it is near the start.
pub(super) const ROOT_AT: u64 = BLOCK;

/// In the place of a block's number: all zeros, and stored nowhere.
pub(super) const HOLE: u32 = u32::MAX;

/// Kinds of files, in directory entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Type {
    Regular = 1,
    Directory = 2,
    Character = 3,
    Block = 4,
    Fifo = 5,
    Symlink = 7,
}

impl Type {
    /// `S_IFMT` of a mode.
    fn mode(self) -> u32 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Character => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        let all = [
            Self::Regular,
            Self::Directory,
            Self::Character,
            Self::Block,
            Self::Fifo,
            Self::Symlink,
        ];
        all.into_iter().find(|&kind| kind as u8 == number)
    }
}

/// How an inode's data are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Whole blocks from this one on; the last may be unused in part.
    Plain(u32),
    /// Whole blocks from this one on, and the rest behind the inode and its attributes.
    Inline(u32),
    /// Parts of so many blocks, as a power of two, each anywhere: a table behind the inode says where.
    Chunks(u8),
    /// No data: the number of a device, or 0.
    Device(u32),
}

/// An inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) kind: Type,
    /// Permission bits with set-id and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) layout: Layout,
    /// Bytes of the attributes behind it, a multiple of 4.
    pub(super) attributes: usize,
    /// A number for programs that know 32 bits only.
    pub(super) number: u32,
}

impl Inode {
    pub(super) fn bytes(&self) -> [u8; INODE] {
        let (layout, detail) = match self.layout {
            Layout::Plain(block) => (0, block),
            Layout::Inline(block) => (2, block),
            Layout::Chunks(bits) => (4, u32::from(bits)),
            Layout::Device(number) => (0, number),
        };
        // Bit 0: the long form.
        let format: u16 = 1 | layout << 1;
        // The header counts as one unit, whatever its length.
        let count = match self.attributes {
            0 => 0,
            bytes => (bytes - ATTRIBUTES_HEADER) / 4 + 1,
        };
        let mut bytes = [0; INODE];
        put(&mut bytes, 0, &format.to_le_bytes());
        put(&mut bytes, 2, &u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        let mode = u16::try_from(self.kind.mode() | self.mode & 0o7777).unwrap_or(0);
        put(&mut bytes, 4, &mode.to_le_bytes());
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &detail.to_le_bytes());
        put(&mut bytes, 20, &self.number.to_le_bytes());
        put(&mut bytes, 24, &self.uid.to_le_bytes());
        put(&mut bytes, 28, &self.gid.to_le_bytes());
        put(&mut bytes, 32, &self.mtime.seconds.to_le_bytes());
        put(&mut bytes, 40, &self.mtime.nanoseconds.to_le_bytes());
        put(&mut bytes, 44, &self.links.to_le_bytes());
        bytes
    }
}

/// Bytes before the attributes behind an inode.
pub(super) const ATTRIBUTES_HEADER: usize = 12;

/// Attributes of one inode that are kept elsewhere: the count has 8 bits, of which the upper half is reserved.
pub(super) const MAX_SHARED: usize = 128;

/// The header of an inode's attributes, with the places of those that are kept elsewhere.
pub(super) fn attributes_header(shared: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0; ATTRIBUTES_HEADER];
    bytes[4] = u8::try_from(shared.len()).unwrap_or(u8::MAX);
    bytes.extend(shared.iter().flat_map(|place| place.to_le_bytes()));
    bytes
}

/// One extended attribute, filled up to a multiple of 4 bytes. None where EROFS has no number for its prefix.
pub(super) fn attribute(name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    const PREFIXES: [(u8, &[u8]); 5] = [
        (2, b"system.posix_acl_access"),
        (3, b"system.posix_acl_default"),
        (1, b"user."),
        (4, b"trusted."),
        (6, b"security."),
    ];
    let (prefix, rest) = PREFIXES
        .iter()
        .find_map(|(number, prefix)| name.strip_prefix(*prefix).map(|rest| (*number, rest)))?;
    let mut bytes = vec![u8::try_from(rest.len()).ok()?, prefix];
    bytes.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
    bytes.extend(rest);
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Some(bytes)
}

/// Bytes of a directory entry beside its name.
pub(super) const ENTRY: usize = 12;

/// One block of a directory, or its last part: entries, then names. They must fit.
pub(super) fn directory_block(entries: &[(&[u8], u64, Type)], into: &mut Vec<u8>) {
    let mut name_at = entries.len() * ENTRY;
    for (name, inode, kind) in entries {
        into.extend(inode.to_le_bytes());
        into.extend(u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
        into.extend([*kind as u8, 0]);
        name_at += name.len();
    }
    into.extend(entries.iter().flat_map(|(name, ..)| *name));
}

/// The kernel's number of a device, `new_encode_dev`.
pub(super) fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// What the superblock says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    /// The block from which shared attributes are counted.
    pub(super) attributes: u32,
    pub(super) uuid: [u8; 16],
    /// There are files in chunks: kernels before 5.15 must not mount it.
    pub(super) has_chunks: bool,
}

/// Puts the superblock into `block`, the first of an image and otherwise empty, and seals it.
pub(super) fn seal(block: &mut [u8], superblock: &Superblock) {
    /// There is a checksum; times are of modification.
    const COMPATIBLE: u32 = 1 | 2;
    const CHUNKS: u32 = 4;
    let at = |offset| SUPERBLOCK_AT + offset;
    put(block, at(0), &0xe0f5_e1e2_u32.to_le_bytes());
    put(block, at(4), &[0; 4]);
    put(block, at(8), &COMPATIBLE.to_le_bytes());
    put(block, at(12), &[12]);
    let root = u16::try_from(ROOT_AT / SLOT).unwrap_or(0);
    put(block, at(14), &root.to_le_bytes());
    put(block, at(16), &superblock.inodes.to_le_bytes());
    put(block, at(36), &superblock.blocks.to_le_bytes());
    // At 40 the block from which inodes are counted: 0.
    put(block, at(44), &superblock.attributes.to_le_bytes());
    put(block, at(48), &superblock.uuid);
    let incompatible = if superblock.has_chunks { CHUNKS } else { 0 };
    put(block, at(80), &incompatible.to_le_bytes());
    let sum = crc32c(&block[SUPERBLOCK_AT..]);
    put(block, at(4), &sum.to_le_bytes());
}

/// CRC-32C as the kernel counts it: from all ones, not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    into[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4, where the result is inverted.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn attributes_have_the_numbers_of_their_prefixes() {
        let cases: [(&[u8], Option<&[u8]>); 6] = [
            (b"user.a", Some(b"\x01\x01\x02\0avv\0")),
            (b"security.capability", Some(b"\x0a\x06\x02\0capabilityvv")),
            (b"system.posix_acl_access", Some(b"\0\x02\x02\0vv\0\0")),
            (b"system.posix_acl_default", Some(b"\0\x03\x02\0vv\0\0")),
            (b"trusted.overlay.opaque", Some(b"\x0e\x04\x02\0overlay.opaquevv")),
            (b"other.a", None),
        ];
        for (name, want) in cases {
            assert_eq!(attribute(name, b"vv").as_deref(), want, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn devices_have_the_kernels_numbers() {
        assert_eq!(device(8, 1), 0x801);
        assert_eq!(device(259, 0x12345), 0x1231_0345);
    }
}
