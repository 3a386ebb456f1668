//! What the unpack worker is told, and what it says: one side of a pipe written by a process that has read a stranger's
//! bytes, so everything here is bounded and nothing in it is trusted further than its words say.
//!
//! The worker gets five arguments and the compressed bytes on its standard input. On its standard output it writes
//! [`BEAT`]s while it works, then [`REPORT`], a length of four bytes (little endian) and a [`Report`].

use super::Compression;
use serde::{Deserialize, Serialize};

/// "I am getting on": written now and then, so that the reader can tell slow from stuck.
pub const BEAT: u8 = b'.';

/// The report follows.
pub const REPORT: u8 = b'R';

/// A report is never longer; in bytes.
pub const MAX_REPORT: usize = 16 << 20;

/// Directories of one layer that may be opaque, and the bytes of all their paths.
pub const MAX_OPAQUE: usize = 65_536;
/// See [`MAX_OPAQUE`].
pub const MAX_OPAQUE_BYTES: usize = 8 << 20;

/// Directories of one layer that are named as omitted, and the bytes of all their paths.
pub const MAX_OMITTED: usize = 65_536;
/// See [`MAX_OMITTED`].
pub const MAX_OMITTED_BYTES: usize = 4 << 20;

/// How an unpack ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The whole layer is in the staging area, but for what only the store may set.
    Unpacked(Unpacked),
    /// It is not, and this is why.
    Refused(Refusal),
}

/// A layer that was unpacked.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// SHA-256 of the whole uncompressed stream.
    pub diff_id: [u8; 32],
    /// Bytes that the files take, in whole blocks of 4 KiB, directories counted as one.
    pub bytes: u64,
    /// Inodes made and kept.
    pub inodes: u64,
    /// Extended attributes that were left out because a container may not bring them or the file system has no place
    /// for them.
    pub skipped_attributes: u64,
    /// Directories that hide what layers below have in them, relative to the layer's root and without symbolic links in
    /// between; empty is the root. The worker has no right to mark them.
    pub opaque: Vec<Vec<u8>>,
    /// Directories that the archive has something in and says nothing about, the outer before the inner.
    pub omitted: Vec<Omitted>,
}

/// A directory that no entry describes. Where layers below have it, it is to look as it does there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    /// As those of opaque ones.
    pub path: Vec<u8>,
    /// Where its inode is in an EROFS image, in bytes from its start.
    pub place: u64,
}

/// A layer that was not unpacked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The bytes are not what a layer may be. The text names the entry, escaped.
    Content(String),
    /// The layer is larger than it may be.
    Limit(Bound, u64),
    /// The file system refused a step: its name with that of the entry, and the error number.
    Disk(String, i32),
    /// The worker could not shut itself in, or found itself wrong: the step and the error number.
    Worker(String, i32),
}

/// The things of which a layer may have only so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// Bytes of the uncompressed stream, or of its files with their holes.
    Bytes,
    /// Entries.
    Entries,
    /// Directories.
    Directories,
    /// Bytes of the names of all directories.
    DirectoryNames,
    /// Bytes of the names of all else.
    Names,
    /// Bytes of extended attributes that have to be kept in memory, or of one inode.
    Attributes,
    /// Opaque directories, or the bytes of their paths.
    Opaque,
    /// Bytes after the end of the archive.
    Trailing,
}

impl Bound {
    /// What is counted, for messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Entries => "entries",
            Self::Directories => "directories",
            Self::DirectoryNames => "bytes in names of directories",
            Self::Names => "bytes in names",
            Self::Attributes => "bytes in extended attributes",
            Self::Opaque => "opaque directories",
            Self::Trailing => "bytes after the end of the archive",
        }
    }
}

/// What a layer is unpacked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Files in an empty directory, which is the worker's root.
    Directories,
    /// An EROFS image, on standard error; the worker's root is empty.
    Erofs,
}

impl Form {
    /// The worker's argument.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directories => "directories",
            Self::Erofs => "erofs",
        }
    }

    /// The worker's argument, read back.
    #[must_use]
    pub fn from_argument(text: &str) -> Option<Self> {
        [Self::Directories, Self::Erofs].into_iter().find(|known| known.as_str() == text)
    }
}

impl Compression {
    /// The worker's argument.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The worker's argument, read back.
    #[must_use]
    pub fn from_argument(text: &str) -> Option<Self> {
        [Self::Plain, Self::Gzip, Self::Zstd].into_iter().find(|known| known.as_str() == text)
    }
}
