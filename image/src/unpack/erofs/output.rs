//! The one file that is written: data in whole blocks as they come, inodes packed in between.
//!
//! ```text
//!   | block 0 | inodes | data … | inodes | data … | directories | their entries | attributes |
//!   written last  └─────── as the archive is read ──────┘
//! ```

use super::format::BLOCK;
use crate::failure::UnpackError;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Bytes of inodes that are collected before they are written, and that lie together in the image.
const EXTENT: usize = 64 << 10;

/// Bytes of data that are collected before they are written.
const GATHER: usize = 256 << 10;

/// The image.
#[derive(Debug)]
pub(super) struct Output {
    file: OwnedFd,
    /// The first block that is nobody's.
    next_block: u64,
    data: Run,
    inodes: Run,
    /// Where the place for inodes ends.
    inodes_end: u64,
}

/// Bytes that follow each other in the image and are not written yet.
#[derive(Debug, Default)]
pub(super) struct Run {
    at: u64,
    bytes: Vec<u8>,
}

impl Run {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// Adds `bytes` at `at`; what was collected before is written out where that is somewhere else or enough.
    fn write(&mut self, file: &OwnedFd, at: u64, bytes: &[u8]) -> Result<(), UnpackError> {
        if at != self.end() || self.bytes.len() + bytes.len() > GATHER {
            self.flush(file)?;
            self.at = at;
        }
        if bytes.len() >= GATHER / 4 && self.bytes.is_empty() {
            write_at(file, at, bytes)?;
            self.at = at + bytes.len() as u64;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn flush(&mut self, file: &OwnedFd) -> Result<(), UnpackError> {
        write_at(file, self.at, &self.bytes)?;
        self.at = self.end();
        self.bytes.clear();
        Ok(())
    }
}

fn write_at(file: &OwnedFd, mut at: u64, mut bytes: &[u8]) -> Result<(), UnpackError> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, at) {
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(err) => return Err(UnpackError::disk("write")(err)),
        }
    }
    Ok(())
}

impl Output {
    /// `file` is empty, for reading and writing.
    pub(super) fn new(file: OwnedFd) -> Self {
        Self { file, next_block: 1, data: Run::default(), inodes: Run::default(), inodes_end: 0 }
    }

    /// Takes `count` blocks; gives the number of the first.
    pub(super) fn take_blocks(&mut self, count: u64) -> Result<u32, UnpackError> {
        let first = u32::try_from(self.next_block);
        let next = self.next_block.checked_add(count).filter(|&next| next < u64::from(u32::MAX));
        // 16 TiB: an image has 32 bits for the number of a block.
        let (Ok(first), Some(next)) = (first, next) else {
            return Err(UnpackError::disk("number the blocks of")(Errno::FBIG));
        };
        self.next_block = next;
        Ok(first)
    }

    /// The number of blocks taken so far.
    pub(super) fn blocks(&self) -> u64 {
        self.next_block
    }

    /// Writes data, best in ascending order.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), UnpackError> {
        self.data.write(&self.file, at, bytes)
    }

    /// Writes an inode with what is behind it (`head`) and the rest of its data (`tail`), which must not be in two blocks.
    /// Gives its place.
    pub(super) fn inode(&mut self, head: &[u8], tail: &[u8]) -> Result<u64, UnpackError> {
        let length = (head.len() + tail.len()) as u64;
        let mut at = place(self.inodes.end(), head.len(), tail.len());
        if at + length > self.inodes_end {
            self.inodes.flush(&self.file)?;
            let blocks = length.max(EXTENT as u64).div_ceil(BLOCK);
            at = u64::from(self.take_blocks(blocks)?) * BLOCK;
            self.inodes_end = at + blocks * BLOCK;
            self.inodes.at = at;
        }
        let gap = usize::try_from(at - self.inodes.end()).unwrap_or(0);
        self.inodes.bytes.resize(self.inodes.bytes.len() + gap, 0);
        self.inodes.bytes.extend_from_slice(head);
        self.inodes.bytes.extend_from_slice(tail);
        Ok(at)
    }

    /// Reads back `into.len()` bytes that were written.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), UnpackError> {
        let waiting = at.checked_sub(self.inodes.at).and_then(|start| usize::try_from(start).ok());
        let found = waiting.and_then(|start| self.inodes.bytes.get(start..start + into.len()));
        if let Some(found) = found {
            into.copy_from_slice(found);
            return Ok(());
        }
        match rustix::io::pread(&self.file, &mut *into, at) {
            Ok(count) if count == into.len() => Ok(()),
            Ok(_) => Err(UnpackError::disk("read back")(Errno::NODATA)),
            Err(err) => Err(UnpackError::disk("read back")(err)),
        }
    }

    /// Writes out all that is collected.
    pub(super) fn flush(&mut self) -> Result<(), UnpackError> {
        self.data.flush(&self.file)?;
        self.inodes.flush(&self.file)
    }

    /// Writes a few bytes over others that were written; after [`flush`](Self::flush).
    pub(super) fn patch(&mut self, at: u64, bytes: &[u8]) -> Result<(), UnpackError> {
        write_at(&self.file, at, bytes)
    }

    /// A second run of bytes beside the data, to be given back to [`write_run`](Self::write_run).
    pub(super) fn run() -> Run {
        Run::default()
    }

    /// Adds to a run; with no bytes writes it out.
    pub(super) fn write_run(
        &mut self,
        run: &mut Run,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), UnpackError> {
        if bytes.is_empty() { run.flush(&self.file) } else { run.write(&self.file, at, bytes) }
    }

    /// Gives the file its whole length: the kernel reads whole blocks.
    pub(super) fn set_length(&mut self) -> Result<u64, UnpackError> {
        let length = self.next_block * BLOCK;
        rustix::fs::ftruncate(&self.file, length).map_err(UnpackError::disk("set the size of"))?;
        Ok(length)
    }
}

/// The first place from `from` on for an inode with what is behind it: in whole units of 64 bytes, so that no inode is in
/// two blocks, and the tail is not either.
pub(super) fn place(from: u64, head: usize, tail: usize) -> u64 {
    let at = from.next_multiple_of(64);
    let tail_at = (at + head as u64) % BLOCK;
    if tail > 0 && tail_at + tail as u64 > BLOCK { at.next_multiple_of(BLOCK) } else { at }
}
