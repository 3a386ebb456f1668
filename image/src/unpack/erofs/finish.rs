//! The end of an image: directories, shared attributes, the superblock.

use super::format::{
    BLOCK, ENTRY, INODE, LINKS_AT, Layout, ROOT_AT, SLOT, Superblock, Type, directory_block, seal,
};
use super::output::{Output, place};
use super::{Image, Owner, ROOT_ATTRIBUTES};
use crate::attributes::with_access_list;
use crate::failure::UnpackError;
use crate::index::{Id, Index};
use crate::medium::{Ending, Summary};
use crate::pulse::Pulse;
use image::layer::wire::Bound;
use std::collections::HashMap;
use std::ops::Range;

/// Something in a directory: the number of a leaf, or that of a directory among all that are there.
#[derive(Clone, Copy, Debug)]
enum Child {
    Leaf(u32),
    Directory(u32),
}

/// Where a directory goes.
#[derive(Clone, Debug)]
struct Plan {
    /// In the list of all children.
    children: Range<usize>,
    /// Where its inode is, in bytes; first from the start of the place for directories, then from that of the image.
    place: u64,
    /// The first block of its entries, counted in the same way.
    block: u64,
    size: u64,
    subdirectories: u32,
    /// The last part of its entries is behind the inode.
    is_inline: bool,
    mode: u32,
}

struct Finish<'a> {
    image: &'a mut Image,
    index: &'a Index,
    all: &'a [Id],
    /// From a directory's number in the index to that in `all`.
    position: Vec<u32>,
    children: Vec<Child>,
    plans: Vec<Plan>,
    /// Encoded attributes of the directories that have any, by their number in `all`.
    attributes: HashMap<usize, Vec<u8>>,
}

const GONE: u32 = u32::MAX;

/// Writes all that is missing.
pub(super) fn finish(
    image: &mut Image,
    index: &Index,
    ending: &Ending<'_>,
    pulse: &mut Pulse,
) -> Result<Summary, UnpackError> {
    let mut position = vec![GONE; index.len()];
    for (at, id) in (0..).zip(ending.all) {
        position[id.number() as usize] = at;
    }
    image.out.flush()?;
    let mut finish = Finish {
        image,
        index,
        all: ending.all,
        position,
        children: Vec::new(),
        plans: Vec::with_capacity(ending.all.len()),
        attributes: HashMap::new(),
    };
    finish.collect();
    finish.count_links()?;
    let (inode_bytes, blocks) = finish.plan(pulse)?;
    finish.settle_places(inode_bytes, blocks)?;
    finish.write(pulse)?;
    let bytes = finish.seal(ending)?;
    let places = ending
        .wanted
        .iter()
        .map(|id| finish.plans[finish.position[id.number() as usize] as usize].place)
        .collect();
    let skipped_attributes = finish.image.skipped_attributes;
    Ok(Summary { bytes, inodes: finish.image.inodes.into(), skipped_attributes, places })
}

impl Finish<'_> {
    fn position(&self, number: u32) -> Option<usize> {
        self.position.get(number as usize).filter(|&&at| at != GONE).map(|&at| at as usize)
    }

    /// Lists what is there, sorted by directory and name.
    fn collect(&mut self) {
        let mut children = Vec::with_capacity(self.image.leaves.len() + self.all.len());
        for number in 0..self.image.leaves.len() {
            let (parent, _, target) = self.image.leaves.entry(number);
            let (Some(parent), Some(target)) = (self.position(parent), target) else { continue };
            let is_whiteout = Some(target.place) == self.image.whiteout;
            if is_whiteout && self.index.node(self.all[parent]).opaque {
                continue;
            }
            children.extend(u32::try_from(number).map(Child::Leaf));
        }
        children.extend(
            (1..self.all.len()).filter_map(|at| Some(Child::Directory(u32::try_from(at).ok()?))),
        );
        children.sort_unstable_by(|&a, &b| self.key(a).cmp(&self.key(b)));
        self.children = children;
    }

    /// The position of a child's directory, and its name.
    fn key(&self, child: Child) -> (usize, &[u8]) {
        let (parent, name) = match child {
            Child::Leaf(number) => {
                let (parent, name, _) = self.image.leaves.entry(number as usize);
                (parent, name)
            }
            Child::Directory(at) => {
                let id = self.all[at as usize];
                (self.index.parent(id).number(), self.index.name(id))
            }
        };
        (self.position(parent).unwrap_or(usize::MAX), name)
    }

    /// Tells the inodes that have several names how many.
    fn count_links(&mut self) -> Result<(), UnpackError> {
        let mut places: Vec<u64> = self
            .children
            .iter()
            .filter_map(|&child| match child {
                Child::Leaf(number) => self.image.leaves.entry(number as usize).2,
                Child::Directory(_) => None,
            })
            .filter(|target| target.is_linked)
            .map(|target| target.place)
            .collect();
        places.sort_unstable();
        for names in places.chunk_by(|a, b| a == b) {
            let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
            self.image.out.patch(names[0] + LINKS_AT, &count.to_le_bytes())?;
        }
        Ok(())
    }

    /// Decides about every directory. Gives the bytes of all inodes and the number of all blocks.
    fn plan(&mut self, pulse: &mut Pulse) -> Result<(u64, u64), UnpackError> {
        let (mut place_at, mut blocks) = (0, 0);
        let mut next = 0;
        for at in 0..self.all.len() {
            pulse.beat();
            let first = next;
            while self.children.get(next).is_some_and(|&child| self.key(child).0 == at) {
                next += 1;
            }
            let children = first..next;
            let (mode, attributes) = self.encode_attributes(at)?;
            let subdirectories = self.children[children.clone()]
                .iter()
                .filter(|child| matches!(child, Child::Directory(_)))
                .count();
            let names: Vec<usize> =
                self.names(&children).iter().map(|(name, _)| name.len()).collect();
            let ranges = split(&names);
            let last = ranges.last().map_or(0, |range| block_length(&names[range.clone()]));
            let full = (ranges.len() as u64).saturating_sub(1);
            let head = INODE + attributes.len();
            let is_root = at == 0;
            let is_inline = !is_root && (head + last) as u64 <= BLOCK;
            let tail = if is_inline { last } else { 0 };
            let own_place = match is_root {
                true => ROOT_AT,
                false => place(place_at, head, tail),
            };
            if !is_root {
                place_at = own_place + (head + tail) as u64;
            }
            self.plans.push(Plan {
                children,
                place: own_place,
                block: blocks,
                size: full * BLOCK + last as u64,
                subdirectories: u32::try_from(subdirectories).unwrap_or(u32::MAX),
                is_inline,
                mode,
            });
            blocks += full + u64::from(!is_inline);
            if !attributes.is_empty() {
                self.attributes.insert(at, attributes);
            }
        }
        Ok((place_at, blocks))
    }

    /// Mode and encoded attributes of a directory.
    fn encode_attributes(&mut self, at: usize) -> Result<(u32, Vec<u8>), UnpackError> {
        let id = self.all[at];
        let node = self.index.node(id);
        let mut mode = u32::from(node.mode);
        let is_marked = at > 0 && node.opaque && !self.index.node(self.index.parent(id)).opaque;
        let mut kept: Vec<(&[u8], &[u8])> = Vec::new();
        if is_marked {
            kept.push((b"trusted.overlay.opaque", b"y"));
        }
        for (name, value) in self.image.directories.get(&id).into_iter().flat_map(|d| &d.extended) {
            if name == b"system.posix_acl_access" {
                let (with_list, is_more) = with_access_list(mode, value);
                mode = with_list;
                if !is_more {
                    continue;
                }
            }
            kept.push((name, value));
        }
        let attributes = self.image.pool.encode(kept)?;
        if at == 0 && attributes.len() > ROOT_ATTRIBUTES {
            return Err(UnpackError::Limit(Bound::Attributes, ROOT_ATTRIBUTES as u64));
        }
        Ok((mode, attributes))
    }

    /// Names of all entries of a directory, in order; none is the directory itself, or the one above.
    fn names(&self, children: &Range<usize>) -> Vec<(&[u8], Option<Child>)> {
        let mut names: Vec<(&[u8], Option<Child>)> = self.children[children.clone()]
            .iter()
            .map(|&child| (self.key(child).1, Some(child)))
            .collect();
        for dots in [&b"."[..], b".."] {
            let before = names.partition_point(|(name, _)| *name < dots);
            names.insert(before, (dots, None));
        }
        names
    }

    /// Takes the places of all directories in the image.
    fn settle_places(&mut self, inode_bytes: u64, blocks: u64) -> Result<(), UnpackError> {
        let inodes = u64::from(self.image.out.take_blocks(inode_bytes.div_ceil(BLOCK))?);
        let entries = u64::from(self.image.out.take_blocks(blocks)?);
        for (at, plan) in self.plans.iter_mut().enumerate() {
            plan.block += entries;
            if at > 0 {
                plan.place += inodes * BLOCK;
            }
        }
        Ok(())
    }

    fn write(&mut self, pulse: &mut Pulse) -> Result<(), UnpackError> {
        let mut run = Output::run();
        let mut end = None;
        let mut content = Vec::new();
        for at in 0..self.all.len() {
            pulse.beat();
            let plan = self.plans[at].clone();
            self.entries(at, &plan, &mut content);
            if !plan.is_inline {
                content.resize(content.len().next_multiple_of(usize_of(BLOCK)), 0);
            }
            let full = content.len() - content.len() % usize_of(BLOCK);
            self.image.out.write(plan.block * BLOCK, &content[..full])?;
            if at == 0 {
                continue;
            }
            let mut inode = self.inode(at, &plan).to_vec();
            inode.extend(self.attributes.get(&at).into_iter().flatten());
            inode.extend(&content[full..]);
            // The place between two inodes is nobody's.
            let gap = usize_of(end.map_or(0, |end| plan.place - end));
            inode.splice(0..0, std::iter::repeat_n(0, gap));
            self.image.out.write_run(&mut run, plan.place - gap as u64, &inode)?;
            end = Some(plan.place - gap as u64 + inode.len() as u64);
        }
        self.image.out.write_run(&mut run, 0, &[])?;
        self.image.out.flush()
    }

    /// All entries of a directory, each block but the last filled up.
    fn entries(&self, at: usize, plan: &Plan, into: &mut Vec<u8>) {
        into.clear();
        let up = match at {
            0 => 0,
            _ => self.position(self.index.parent(self.all[at]).number()).unwrap_or(0),
        };
        let entries: Vec<(&[u8], u64, Type)> = self
            .names(&plan.children)
            .into_iter()
            .map(|(name, child)| {
                let directory = |at: usize| (self.plans[at].place, Type::Directory);
                let (place, kind) = match child {
                    None if name == b"." => directory(at),
                    None => directory(up),
                    Some(Child::Directory(at)) => directory(at as usize),
                    Some(Child::Leaf(number)) => {
                        let target = self.image.leaves.entry(number as usize).2;
                        target.map_or((0, Type::Regular), |target| (target.place, target.kind))
                    }
                };
                (name, place / SLOT, kind)
            })
            .collect();
        let lengths: Vec<usize> = entries.iter().map(|(name, ..)| name.len()).collect();
        for range in split(&lengths) {
            into.resize(into.len().next_multiple_of(usize_of(BLOCK)), 0);
            directory_block(&entries[range], into);
        }
    }

    fn inode(&mut self, at: usize, plan: &Plan) -> [u8; INODE] {
        let id = self.all[at];
        let (uid, gid) = self.image.directories.get(&id).map_or((0, 0), |d| (d.uid, d.gid));
        let mtime = self.index.node(id).mtime;
        let owner = Owner { mode: plan.mode, uid, gid, mtime };
        let first = u32::try_from(plan.block).unwrap_or(u32::MAX);
        let layout = if plan.is_inline { Layout::Inline(first) } else { Layout::Plain(first) };
        let mut inode = self.image.inode(Type::Directory, owner, plan.size, layout);
        inode.links = plan.subdirectories.saturating_add(2);
        inode.attributes = self.attributes.get(&at).map_or(0, Vec::len);
        inode.bytes()
    }

    /// Writes the shared attributes and the first block. Gives the length of the image.
    fn seal(&mut self, ending: &Ending<'_>) -> Result<u64, UnpackError> {
        let root_plan = self.plans[0].clone();
        let root = self.inode(0, &root_plan);
        let Image { out, pool, inodes, has_chunks, .. } = &mut *self.image;
        let attributes = match pool.bytes() {
            [] => 0,
            bytes => {
                let first = out.take_blocks((bytes.len() as u64).div_ceil(BLOCK))?;
                out.patch(u64::from(first) * BLOCK, bytes)?;
                first
            }
        };
        out.patch(ROOT_AT, &root)?;
        if let Some(attributes) = self.attributes.get(&0) {
            out.patch(ROOT_AT + INODE as u64, attributes)?;
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&ending.digest[..16]);
        // Version 8, "whatever we like", of RFC 9562.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let superblock = Superblock {
            inodes: u64::from(*inodes),
            blocks: u32::try_from(out.blocks()).unwrap_or(u32::MAX),
            attributes,
            uuid,
            has_chunks: *has_chunks,
        };
        let mut block = vec![0; usize_of(BLOCK)];
        seal(&mut block, &superblock);
        out.patch(0, &block)?;
        out.set_length()
    }
}

/// Distributes entries whose names are so long over blocks.
fn split(names: &[usize]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut first, mut used) = (0, 0);
    for (at, name) in names.iter().enumerate() {
        let needed = ENTRY + name;
        if used + needed > usize_of(BLOCK) {
            ranges.push(first..at);
            (first, used) = (at, 0);
        }
        used += needed;
    }
    ranges.push(first..names.len());
    ranges
}

fn block_length(names: &[usize]) -> usize {
    names.iter().map(|name| ENTRY + name).sum()
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).expect("lengths here are those of slices, or of a block")
}
