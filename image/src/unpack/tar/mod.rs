//! Reads tar archives: one entry after the other from a stream, everything about it bounded and checked.
//!
//! The `tar` crate knows where the fields of a header are; the rest is done here because its iterator takes long names of
//! any length, keeps the first of two equal records, passes over bad ones and ends silently where an archive is damaged.
//! Where readers disagree about an archive, ours does what Go's does: the images in the world were seen through that.
//!
//! Reads v7, ustar, star, GNU and pax archives, and GNU tar's four ways to store files with holes.

mod header;
mod number;
mod pax;
mod sparse;

pub(crate) use pax::Time;
pub(crate) use sparse::Segment;

use header::{Block, Header};
use pax::Pax;
use std::fmt;
use std::io::{self, BufRead};

/// An extended header or a long name is never longer; in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// Bytes that may follow the end of an archive.
pub(crate) const MAX_TRAILING: u64 = 1 << 20;

/// One entry of an archive, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name as it was written.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) attributes: Attributes,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `size` bytes; with a map the data are its segments one after the other, and zeros are in between.
    File {
        size: u64,
        map: Option<Vec<Segment>>,
    },
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    Character(Device),
    Block(Device),
    Directory,
    Fifo,
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// Everything about an entry that is not its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits with set-id and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Extended attributes, as they were written.
    pub(crate) extended: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error("the stream ends in the middle of it")]
    Truncated,
    #[error("the archive ends with a header that belongs to no entry")]
    Dangling,
    #[error("its header has a wrong checksum")]
    Checksum,
    #[error("a block of zeros is followed by something else")]
    LoneZeroBlock,
    #[error("its {0} is no number")]
    Number(Field),
    #[error("its {0} is out of range")]
    Range(Field),
    #[error("its {0} has a NUL")]
    Nul(Field),
    #[error("its extended header is longer than {MAX_RECORD} bytes")]
    LongRecord,
    #[error("its extended header has more than {} records", pax::MAX_RECORDS)]
    TooManyRecords,
    #[error("its extended header has a malformed record")]
    Record,
    #[error("its map of holes is malformed")]
    SparseMap,
    #[error("its type {:?} is not one a layer may have", char::from(*.0))]
    Type(u8),
    #[error("more than {MAX_TRAILING} bytes follow the archive")]
    Trailing,
    #[error(transparent)]
    Input(#[from] io::Error),
}

/// A field of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Name,
    Link,
    Mode,
    Uid,
    Gid,
    Size,
    Mtime,
    Device,
    Sparse,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::Link => "link target",
            Self::Mode => "mode",
            Self::Uid => "user id",
            Self::Gid => "group id",
            Self::Size => "size",
            Self::Mtime => "time of modification",
            Self::Device => "device number",
            Self::Sparse => "map of holes",
        })
    }
}

/// An archive being read.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    input: R,
    /// Bytes of the current entry's data that were not read yet.
    unread: u64,
    /// Bytes between the data and the next block.
    padding: u64,
}

/// What extended headers have said so far about the entry to come.
#[derive(Debug, Default)]
struct Announced {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, unread: 0, padding: 0 }
    }

    /// The next entry; what was not read of the current one's data is passed over.
    ///
    /// None at the end, marked or not: some writers leave the mark out.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut announced = Announced::default();
        loop {
            self.skip_rest()?;
            let Some(block) = self.header_block()? else {
                return match announced {
                    Announced { pax: None, long_name: None, long_link: None } => Ok(None),
                    Announced { .. } => Err(TarError::Dangling),
                };
            };
            let header = Header::parse(&block)?;
            match header.kind {
                b'x' => announced.pax = Some(pax::parse(&self.record(&header)?)?),
                // Checked like any other, and without effect: containerd and CRI-O ignore it too.
                b'g' => drop(pax::parse(&self.record(&header)?)?),
                b'L' => {
                    announced.long_name = Some(header::until_nul(&self.record(&header)?).to_vec())
                }
                b'K' => {
                    announced.long_link = Some(header::until_nul(&self.record(&header)?).to_vec())
                }
                _ => return self.entry(&block, header, announced).map(Some),
            }
        }
    }

    /// The next bytes of the current entry's data; empty when all were read.
    pub(crate) fn data(&mut self) -> Result<&[u8], TarError> {
        if self.unread == 0 {
            return Ok(&[]);
        }
        let chunk = self.input.fill_buf()?;
        if chunk.is_empty() {
            return Err(TarError::Truncated);
        }
        let most = usize::try_from(self.unread).unwrap_or(usize::MAX);
        Ok(&chunk[..chunk.len().min(most)])
    }

    /// Marks `count` bytes of what [`data`](Self::data) gave as read.
    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.unread -= count as u64;
    }

    /// Reads the stream to its end and gives the input back; call it after the last entry.
    pub(crate) fn finish(mut self) -> Result<R, TarError> {
        let mut trailing = 0;
        loop {
            let count = self.input.fill_buf()?.len();
            if count == 0 {
                return Ok(self.input);
            }
            trailing += count as u64;
            if trailing > MAX_TRAILING {
                return Err(TarError::Trailing);
            }
            self.input.consume(count);
        }
    }

    fn entry(
        &mut self,
        block: &Block,
        header: Header,
        announced: Announced,
    ) -> Result<Entry, TarError> {
        let pax = announced.pax.unwrap_or_default();
        let mut name = announced.long_name.or(pax.path).unwrap_or(header.name);
        let link = announced.long_link.or(pax.link).unwrap_or(header.link);
        let stored = pax.size.map_or(header.size, i128::from);
        // Before pax a directory was a file with a slash at its end.
        let is_old_directory = header.kind == 0 && name.ends_with(b"/");
        let kind = match header.kind {
            0 if is_old_directory => Kind::Directory,
            0 | b'0' | b'7' => {
                self.begin_data(stored)?;
                if let Some(sparse_name) = &pax.sparse.name {
                    name.clone_from(sparse_name);
                }
                sparse::from_pax(self, &pax.sparse)?
            }
            b'S' => {
                self.begin_data(stored)?;
                sparse::from_gnu(self, block)?
            }
            b'1' => Kind::HardLink { target: link },
            b'2' => Kind::Symlink { target: link },
            b'3' => Kind::Character(header.device.ok_or(TarError::Range(Field::Device))?),
            b'4' => Kind::Block(header.device.ok_or(TarError::Range(Field::Device))?),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Type(other)),
        };
        let id = |from_pax: Option<u64>, plain: i128, field| {
            // The largest is -1, which means "leave it" to chown.
            let id =
                u32::try_from(from_pax.map_or(plain, i128::from)).ok().filter(|&id| id != u32::MAX);
            id.ok_or(TarError::Range(field))
        };
        let attributes = Attributes {
            mode: header.mode,
            uid: id(pax.uid, header.uid, Field::Uid)?,
            gid: id(pax.gid, header.gid, Field::Gid)?,
            mtime: pax.mtime.unwrap_or(header.mtime),
            extended: pax.attributes,
        };
        Ok(Entry { name, kind, attributes })
    }

    /// From here on, `size` bytes and what fills their last block are data.
    fn begin_data(&mut self, size: i128) -> Result<(), TarError> {
        // Beyond i64 no file can be.
        let size = i64::try_from(size).ok().and_then(|size| u64::try_from(size).ok());
        self.unread = size.ok_or(TarError::Range(Field::Size))?;
        self.padding = self.unread.wrapping_neg() % header::BLOCK;
        Ok(())
    }

    /// All data of an extended header.
    fn record(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        self.begin_data(header.size)?;
        if self.unread > MAX_RECORD {
            return Err(TarError::LongRecord);
        }
        let mut record = Vec::new();
        loop {
            let chunk = self.data()?;
            if chunk.is_empty() {
                return Ok(record);
            }
            let count = chunk.len();
            record.extend_from_slice(chunk);
            self.consume(count);
        }
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        loop {
            let count = self.data()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        // A stream may end without what fills its last block: nothing is lost by that.
        while self.padding > 0 {
            let most = usize::try_from(self.padding).unwrap_or(usize::MAX);
            let count = self.input.fill_buf()?.len().min(most);
            if count == 0 {
                self.padding = 0;
            }
            self.input.consume(count);
            self.padding -= count as u64;
        }
        Ok(())
    }

    /// The next block with a header in it; none at the end of the archive.
    fn header_block(&mut self) -> Result<Option<Block>, TarError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block != header::ZEROS {
            return Ok(Some(block));
        }
        match self.block()? {
            None => Ok(None),
            Some(second) if second == header::ZEROS => Ok(None),
            Some(_) => Err(TarError::LoneZeroBlock),
        }
    }

    /// The next block; none where the stream ends before it.
    fn block(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = header::ZEROS;
        let mut have = 0;
        while have < block.len() {
            let chunk = self.input.fill_buf()?;
            match (chunk.len(), have) {
                (0, 0) => return Ok(None),
                (0, _) => return Err(TarError::Truncated),
                _ => {}
            }
            let count = chunk.len().min(block.len() - have);
            block[have..have + count].copy_from_slice(&chunk[..count]);
            self.input.consume(count);
            have += count;
        }
        Ok(Some(block))
    }
}

#[cfg(test)]
mod tests;
