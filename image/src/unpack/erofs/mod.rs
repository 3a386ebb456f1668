//! A layer as one EROFS image, written in one pass while the archive is read.
//!
//! Data go to the end of the image in whole blocks as they come; an inode follows its data, with the rest of them behind
//! it. In memory stays a name with the place of its inode, so that the directories, which come last, can be written. What
//! a later entry replaces stays in the image, unreachable.
//!
//! The same archive gives the same image, bit by bit.

mod attributes;
mod finish;
mod format;
mod leaves;
mod output;

use crate::attributes::{Place, place, with_access_list};
use crate::failure::UnpackError;
use crate::index::{Id, Index};
use crate::medium::{Content, Ending, File, Leaf, Made, Medium, New, Special, Spot, Summary};
use crate::pulse::Pulse;
use crate::tar::{Attributes, Segment, TarError, Time};
use attributes::Pool;
use format::{BLOCK, HOLE, INODE, Inode, Layout, Type};
use image::layer::wire::Bound;
use leaves::{Leaves, Target};
use output::Output;
use std::collections::HashMap;
use std::os::fd::OwnedFd;

/// Chunks of one file: their table is kept in memory while the file is written.
const MAX_CHUNKS: u64 = 8192;

/// Bytes of extended attributes of all directories: they are kept in memory until the directories are written.
const MAX_DIRECTORY_ATTRIBUTES: usize = 16 << 20;

/// Bytes behind the root's inode, which has its place before its attributes are known: enough for a header and
/// the places of as many attributes as can be kept elsewhere.
const ROOT_ATTRIBUTES: usize = 576;

/// An image in the making.
#[derive(Debug)]
pub(crate) struct Image {
    out: Output,
    leaves: Leaves,
    pool: Pool,
    directories: HashMap<Id, Described>,
    directory_attributes: usize,
    /// The one inode of all whiteouts.
    whiteout: Option<u64>,
    /// Inodes so far.
    inodes: u32,
    has_chunks: bool,
    skipped_attributes: u64,
}

/// What entries say about a directory beside what the index knows.
#[derive(Debug, Default)]
struct Described {
    uid: u32,
    gid: u32,
    extended: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An inode to come: what does not depend on its data.
#[derive(Clone, Copy, Debug)]
struct Owner {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Time,
}

impl Owner {
    fn of(attributes: &Attributes) -> Self {
        let Attributes { mode, uid, gid, mtime, .. } = *attributes;
        Self { mode, uid, gid, mtime }
    }
}

impl Image {
    /// `file` is empty, for reading and writing.
    pub(crate) fn new(file: OwnedFd) -> Result<Self, UnpackError> {
        let mut out = Output::new(file);
        // The first of all inodes.
        out.inode(&[0; INODE + ROOT_ATTRIBUTES], &[])?;
        Ok(Self {
            out,
            leaves: Leaves::new(),
            pool: Pool::default(),
            directories: HashMap::new(),
            directory_attributes: 0,
            whiteout: None,
            inodes: 0,
            has_chunks: false,
            skipped_attributes: 0,
        })
    }

    /// The next inode, with one name.
    fn inode(&mut self, kind: Type, owner: Owner, size: u64, layout: Layout) -> Inode {
        self.inodes = self.inodes.saturating_add(1);
        let Owner { mode, uid, gid, mtime } = owner;
        let number = self.inodes;
        Inode { kind, mode, uid, gid, mtime, size, links: 1, layout, attributes: 0, number }
    }

    fn add(&mut self, spot: Spot<'_>, kind: Type, place: u64) -> Result<Made, UnpackError> {
        self.leaves.set(spot, Target { place, kind, is_linked: false })?;
        Ok(Made::Yes)
    }

    /// The attributes that a file is to have, encoded, and its mode with them.
    fn file_attributes(&mut self, attributes: &Attributes) -> Result<(u32, Vec<u8>), UnpackError> {
        let mut mode = attributes.mode;
        let mut kept = Vec::new();
        for (name, value) in &attributes.extended {
            let is_kept = match place(name, value) {
                Place::Required | Place::Optional => true,
                Place::AccessControl if name == b"system.posix_acl_access" => {
                    let (with_list, is_more) = with_access_list(mode, value);
                    mode = with_list;
                    if !is_more {
                        continue;
                    }
                    true
                }
                // Only directories have defaults.
                Place::AccessControl | Place::Nowhere => false,
            };
            if is_kept {
                kept.push((&name[..], &value[..]));
            } else {
                self.skipped_attributes += 1;
            }
        }
        Ok((mode, self.pool.encode(kept)?))
    }

    /// Writes all of `content`, which has `size` bytes, and its inode; gives the inode's place.
    fn flat(
        &mut self,
        file: File<'_>,
        owner: Owner,
        attributes: &[u8],
        content: &mut dyn Content,
    ) -> Result<u64, UnpackError> {
        let rest = file.size % BLOCK;
        let is_inline = rest > 0 && (INODE + attributes.len()) as u64 + rest <= BLOCK;
        let in_blocks = if is_inline { file.size - rest } else { file.size };
        let mut tail = Vec::new();
        let first = match in_blocks {
            0 => 0,
            _ => self.out.take_blocks(in_blocks.div_ceil(BLOCK))?,
        };
        let mut done = 0;
        while done < file.size {
            let chunk = some(content)?;
            let left = in_blocks.saturating_sub(done);
            let count = if left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
                self.out.write(u64::from(first) * BLOCK + done, &chunk[..most])?;
                most
            } else {
                tail.extend_from_slice(chunk);
                chunk.len()
            };
            content.consume(count);
            done += count as u64;
        }
        let layout = if is_inline { Layout::Inline(first) } else { Layout::Plain(first) };
        let mut inode = self.inode(Type::Regular, owner, file.size, layout);
        inode.attributes = attributes.len();
        self.out.inode(&[&inode.bytes(), attributes].concat(), &tail)
    }

    /// Writes the segments of a file with holes. Chunks that no segment reaches take no place; what is missing of the
    /// others is not written either, and is a hole in the image.
    fn chunked(
        &mut self,
        file: File<'_>,
        map: &[Segment],
        owner: Owner,
        content: &mut dyn Content,
    ) -> Result<(Inode, Vec<u8>), UnpackError> {
        let mut bits = 0;
        while file.size.div_ceil(BLOCK << bits) > MAX_CHUNKS {
            bits += 1;
        }
        let chunk_bytes = BLOCK << bits;
        let chunks = usize::try_from(file.size.div_ceil(chunk_bytes)).unwrap_or(0);
        let mut table = vec![HOLE; chunks];
        for segment in map {
            let mut at = segment.offset;
            let end = segment.offset + segment.length;
            while at < end {
                let start = at - at % chunk_bytes;
                let place = &mut table[usize::try_from(at / chunk_bytes).unwrap_or(usize::MAX)];
                if *place == HOLE {
                    let bytes = chunk_bytes.min(file.size - start);
                    *place = self.out.take_blocks(bytes.div_ceil(BLOCK))?;
                }
                let chunk = some(content)?;
                let left = end.min(start + chunk_bytes) - at;
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
                self.out.write(u64::from(*place) * BLOCK + (at - start), &chunk[..most])?;
                content.consume(most);
                at += most as u64;
            }
        }
        self.has_chunks = true;
        let layout = Layout::Chunks(bits);
        let table = table.iter().flat_map(|block| block.to_le_bytes()).collect();
        Ok((self.inode(Type::Regular, owner, file.size, layout), table))
    }

    fn symlink(&mut self, target: &[u8], attributes: &Attributes) -> Result<u64, UnpackError> {
        self.skipped_attributes += attributes.extended.len() as u64;
        // What Linux gives to every link.
        let owner = Owner { mode: 0o777, ..Owner::of(attributes) };
        let size = target.len() as u64;
        if (INODE + target.len()) as u64 <= BLOCK {
            let inode = self.inode(Type::Symlink, owner, size, Layout::Inline(0));
            return self.out.inode(&inode.bytes(), target);
        }
        let first = self.out.take_blocks(1)?;
        self.out.write(u64::from(first) * BLOCK, target)?;
        let inode = self.inode(Type::Symlink, owner, size, Layout::Plain(first));
        self.out.inode(&inode.bytes(), &[])
    }

    fn device(
        &mut self,
        kind: Type,
        number: u32,
        attributes: &Attributes,
    ) -> Result<u64, UnpackError> {
        self.skipped_attributes += attributes.extended.len() as u64;
        let inode = self.inode(kind, Owner::of(attributes), 0, Layout::Device(number));
        self.out.inode(&inode.bytes(), &[])
    }

    /// The inode of all whiteouts.
    fn whiteout(&mut self) -> Result<u64, UnpackError> {
        if let Some(place) = self.whiteout {
            return Ok(place);
        }
        let nobodys = Attributes::default();
        let place = self.device(Type::Character, 0, &nobodys)?;
        self.whiteout = Some(place);
        Ok(place)
    }

    fn leaf(&self, target: Target) -> Leaf {
        match target.kind {
            Type::Character if Some(target.place) == self.whiteout => Leaf::Whiteout,
            Type::Symlink => Leaf::Symlink,
            Type::Regular | Type::Directory | Type::Character | Type::Block | Type::Fifo => {
                Leaf::Other
            }
        }
    }
}

impl Medium for Image {
    fn look(&mut self, _: &Index, spot: Spot<'_>) -> Result<Option<Leaf>, UnpackError> {
        Ok(self.leaves.get(spot).map(|target| self.leaf(target)))
    }

    fn read_link(&mut self, _: &Index, spot: Spot<'_>) -> Result<Vec<u8>, UnpackError> {
        let place = self.leaves.get(spot).map_or(0, |target| target.place);
        let mut inode = [0; INODE];
        self.out.read(place, &mut inode)?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| inode[at + byte]));
        let mut target = vec![0; usize::try_from(word(8)).unwrap_or(0).min(4096)];
        let at = match word(16) {
            0 => place + INODE as u64,
            block => {
                self.out.flush()?;
                u64::from(block) * BLOCK
            }
        };
        self.out.read(at, &mut target)?;
        Ok(target)
    }

    fn make(&mut self, _: &Index, spot: Spot<'_>, new: New<'_>) -> Result<Made, UnpackError> {
        if self.leaves.get(spot).is_some() {
            return Ok(Made::Taken);
        }
        let (kind, place) = match new {
            // The index has it, and that is all there is until the end.
            New::Directory => return Ok(Made::Yes),
            New::Whiteout => {
                let target =
                    Target { place: self.whiteout()?, kind: Type::Character, is_linked: true };
                self.leaves.set(spot, target)?;
                return Ok(Made::Yes);
            }
            New::Symlink { target, attributes } => {
                (Type::Symlink, self.symlink(target, attributes)?)
            }
            New::Special { kind, attributes } => {
                let (kind, number) = match kind {
                    Special::Character(number) => (Type::Character, number_of(number)),
                    Special::Block(number) => (Type::Block, number_of(number)),
                    Special::Fifo => (Type::Fifo, 0),
                };
                (kind, self.device(kind, number, attributes)?)
            }
        };
        self.add(spot, kind, place)
    }

    fn file(
        &mut self,
        _: &Index,
        spot: Spot<'_>,
        file: File<'_>,
        content: &mut dyn Content,
    ) -> Result<Made, UnpackError> {
        if self.leaves.get(spot).is_some() {
            return Ok(Made::Taken);
        }
        let (mode, attributes) = self.file_attributes(file.attributes)?;
        let owner = Owner { mode, ..Owner::of(file.attributes) };
        let place = match file.map {
            Some(map) if file.size > 0 => {
                let (mut inode, table) = self.chunked(file, map, owner, content)?;
                inode.attributes = attributes.len();
                self.out.inode(&[&inode.bytes()[..], &attributes, &table].concat(), &[])?
            }
            Some(_) | None => self.flat(file, owner, &attributes, content)?,
        };
        self.add(spot, Type::Regular, place)
    }

    fn link(
        &mut self,
        _: &Index,
        target: Spot<'_>,
        spot: Spot<'_>,
    ) -> Result<Option<Made>, UnpackError> {
        let Some(there) = self.leaves.get(target) else { return Ok(None) };
        if self.leaf(there) == Leaf::Whiteout {
            return Ok(None);
        }
        if self.leaves.get(spot).is_some() {
            return Ok(Some(Made::Taken));
        }
        let linked = Target { is_linked: true, ..there };
        self.leaves.set(target, linked)?;
        self.leaves.set(spot, linked)?;
        Ok(Some(Made::Yes))
    }

    fn remove(&mut self, _: &Index, spot: Spot<'_>) -> Result<(), UnpackError> {
        self.leaves.clear(spot);
        Ok(())
    }

    fn remove_directory(&mut self, _: &Index, _: Spot<'_>) -> Result<(), UnpackError> {
        // What is in it goes with it: its directory is not in the index any more.
        Ok(())
    }

    fn describe(&mut self, _: &Index, id: Id, attributes: &Attributes) -> Result<(), UnpackError> {
        let is_plain = (attributes.uid, attributes.gid) == (0, 0) && attributes.extended.is_empty();
        if is_plain && !self.directories.contains_key(&id) {
            return Ok(());
        }
        let described = self.directories.entry(id).or_default();
        (described.uid, described.gid) = (attributes.uid, attributes.gid);
        for (name, value) in &attributes.extended {
            match place(name, value) {
                Place::Optional | Place::AccessControl => {
                    self.directory_attributes += name.len() + value.len();
                    if self.directory_attributes > MAX_DIRECTORY_ATTRIBUTES {
                        let most = MAX_DIRECTORY_ATTRIBUTES as u64;
                        return Err(UnpackError::Limit(Bound::Attributes, most));
                    }
                    described.extended.retain(|(known, _)| known != name);
                    described.extended.push((name.clone(), value.clone()));
                }
                // Directories have no capabilities.
                Place::Required | Place::Nowhere => self.skipped_attributes += 1,
            }
        }
        Ok(())
    }

    fn drop_whiteouts(&mut self, _: &Index, _: Id) -> Result<(), UnpackError> {
        // They are left out when the directory is written: the index says that it is opaque.
        Ok(())
    }

    fn finish(
        &mut self,
        index: &Index,
        ending: &Ending<'_>,
        pulse: &mut Pulse,
    ) -> Result<Summary, UnpackError> {
        finish::finish(self, index, ending, pulse)
    }
}

fn number_of(device: crate::tar::Device) -> u32 {
    format::device(device.major, device.minor)
}

/// The next bytes of an entry that is not at its end.
fn some(content: &mut dyn Content) -> Result<&[u8], UnpackError> {
    let chunk = content.data()?;
    if chunk.is_empty() { Err(TarError::Truncated.into()) } else { Ok(chunk) }
}
