//! Unpacks a layer: one pass over its entries, then what has to wait for the last of them.
//!
//! Order within the archive does not matter for whiteouts: they apply to the layers below and to nothing in this one, so a
//! name that this layer both removes and has is kept, and a directory it both removes and has becomes opaque. Of two
//! entries with the same name the last wins.

use crate::area::{Area, Found, Missing};
use crate::attributes;
use crate::failure::{self, UnpackError};
use crate::index::{IMPLICIT_MODE, Id};
use crate::medium::{Content, Ending, File, Medium, New, Special, Spot};
use crate::name::{Meaning, Normal};
use crate::pulse::Pulse;
use crate::tar::{Archive, Attributes, Device, Entry, Kind, TarError};
use image::layer::wire::{
    Bound, MAX_OMITTED, MAX_OMITTED_BYTES, MAX_OPAQUE, MAX_OPAQUE_BYTES, Omitted, Refusal, Unpacked,
};
use std::io::BufRead;

/// How much a layer may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of all files, holes counted.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// Unpacks the whole of `input` into `medium`; `digest` is asked for when the stream was read to its end.
pub(crate) fn unpack<R: BufRead, M: Medium>(
    medium: M,
    input: R,
    bounds: Bounds,
    pulse: &mut Pulse,
    digest: impl Fn(&R) -> Option<[u8; 32]>,
) -> Result<Unpacked, Refusal> {
    let mut archive = Archive::new(input);
    let mut extractor =
        Extractor { area: Area::new(medium), bounds, pulse, entries: 0, file_bytes: 0 };
    let mut name = Vec::new();
    loop {
        let after = failure::Place { entries: extractor.entries, name: &name, is_current: false };
        let next = archive.next().map_err(|err| UnpackError::from(err).refusal(&after))?;
        let Some(entry) = next else { break };
        let result = extractor.entry(&mut archive, &entry);
        name.clone_from(&entry.name);
        let place = failure::Place { entries: extractor.entries, name: &name, is_current: true };
        result.map_err(|err| err.refusal(&place))?;
        extractor.entries += 1;
    }
    let place = failure::Place { entries: extractor.entries, name: &name, is_current: false };
    let input = archive.finish().map_err(|err| UnpackError::from(err).refusal(&place))?;
    let diff_id = digest(&input).ok_or_else(|| Refusal::Worker("hash the layer".to_owned(), 0))?;
    let root = failure::Place { entries: 1, name: b"/", is_current: true };
    extractor.finish(diff_id).map_err(|err| err.refusal(&root))
}

struct Extractor<'a, M> {
    area: Area<M>,
    bounds: Bounds,
    pulse: &'a mut Pulse,
    entries: u64,
    file_bytes: u64,
}

impl<M: Medium> Extractor<'_, M> {
    fn entry<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        self.pulse.beat();
        if self.entries >= self.bounds.entries {
            return Err(UnpackError::Limit(Bound::Entries, self.bounds.entries));
        }
        attributes::check(&entry.attributes)?;
        let mut path = Normal::default();
        path.set(&entry.name)?;
        match path.meaning()? {
            Meaning::Root => match entry.kind {
                Kind::Directory => self.describe_directory(Id::ROOT, &entry.attributes),
                Kind::File { .. }
                | Kind::HardLink { .. }
                | Kind::Symlink { .. }
                | Kind::Character(_)
                | Kind::Block(_)
                | Kind::Fifo => Err(UnpackError::Root),
            },
            Meaning::Object { parent, name } => {
                let parent = self.area.find(parent, Missing::Make)?.id;
                self.object(archive, Spot { parent, name }, entry)
            }
            Meaning::Whiteout { parent, name } => {
                let parent = self.area.find(parent, Missing::Make)?.id;
                self.area.whiteout(Spot { parent, name })
            }
            Meaning::Opaque { directory } => {
                let Found { id, through_link } = self.area.find(directory, Missing::Make)?;
                if through_link {
                    return Err(UnpackError::OpaqueThroughLink);
                }
                self.area.index.node_mut(id).opaque = true;
                Ok(())
            }
            Meaning::Ignored => Ok(()),
        }
    }

    fn object<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        spot: Spot<'_>,
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let attributes = &entry.attributes;
        let special = |kind| New::Special { kind, attributes };
        match &entry.kind {
            Kind::File { size, map } => {
                self.file_bytes = self.file_bytes.saturating_add(*size);
                if self.file_bytes > self.bounds.bytes {
                    return Err(UnpackError::Limit(Bound::Bytes, self.bounds.bytes));
                }
                let file = File { size: *size, map: map.as_deref(), attributes };
                self.area.file(spot, file, &mut Feed { archive, pulse: self.pulse })
            }
            Kind::HardLink { target } => self.hard_link(spot, target),
            Kind::Symlink { target } => {
                if target.is_empty() || target.len() >= 4096 || target.contains(&0) {
                    return Err(UnpackError::TargetLength);
                }
                self.area.place(spot, New::Symlink { target, attributes })
            }
            Kind::Directory => {
                let id = self.area.directory(spot)?;
                self.describe_directory(id, attributes)
            }
            // What overlayfs takes for a whiteout is one, whoever wrote it.
            Kind::Character(Device { major: 0, minor: 0 }) => self.area.whiteout(spot),
            Kind::Character(number) => self.area.place(spot, special(Special::Character(*number))),
            Kind::Block(number) => self.area.place(spot, special(Special::Block(*number))),
            Kind::Fifo => self.area.place(spot, special(Special::Fifo)),
        }
    }

    fn hard_link(&mut self, spot: Spot<'_>, target: &[u8]) -> Result<(), UnpackError> {
        let mut path = Normal::default();
        path.set(target).map_err(UnpackError::Target)?;
        let (parent, name) = path.split().ok_or(UnpackError::BadTarget)?;
        let parent = self.area.find(parent, Missing::Refuse)?.id;
        // Mode, owner and times are the target's: it has them from its own entry.
        self.area.link(Spot { parent, name }, spot)
    }

    /// Takes in what an entry says about a directory. Mode and time wait for the end, for both would be in the way of what
    /// is still to be made in it.
    fn describe_directory(&mut self, id: Id, attributes: &Attributes) -> Result<(), UnpackError> {
        let node = self.area.index.node_mut(id);
        node.mode = u16::try_from(attributes.mode & 0o7777).unwrap_or(IMPLICIT_MODE);
        node.mtime = attributes.mtime;
        node.described = true;
        self.area.medium.describe(&self.area.index, id, attributes)
    }

    /// What waits for the last entry.
    fn finish(&mut self, diff_id: [u8; 32]) -> Result<Unpacked, UnpackError> {
        let all = self.area.index.all();
        let opaque = self.settle_opaque(&all)?;
        let wanted = self.omitted(&all);
        let Area { medium, index, .. } = &mut self.area;
        let ending = Ending { all: &all, wanted: &wanted, digest: diff_id };
        let summary = medium.finish(index, &ending, self.pulse)?;
        let mut places = summary.places.into_iter();
        let omitted = wanted
            .into_iter()
            .map(|id| Omitted { path: index.path(id), place: places.next().unwrap_or(0) })
            .collect();
        Ok(Unpacked {
            diff_id,
            bytes: summary.bytes,
            inodes: summary.inodes,
            skipped_attributes: summary.skipped_attributes,
            opaque,
            omitted,
        })
    }

    /// Drops whiteouts that have nothing to hide because everything below is hidden already: they would show up as
    /// devices. Gives the paths of the outermost opaque directories.
    fn settle_opaque(&mut self, all: &[Id]) -> Result<Vec<Vec<u8>>, UnpackError> {
        let mut paths = Vec::new();
        let mut path_bytes = 0;
        for &id in all {
            let parent_opaque =
                id != Id::ROOT && self.area.index.node(self.area.index.parent(id)).opaque;
            let node = self.area.index.node_mut(id);
            let own_opaque = node.opaque;
            node.opaque |= parent_opaque;
            if node.opaque && node.has_whiteouts {
                self.pulse.beat();
                self.area.medium.drop_whiteouts(&self.area.index, id)?;
            }
            if own_opaque && !parent_opaque {
                let path = self.area.index.path(id);
                path_bytes += path.len();
                if paths.len() >= MAX_OPAQUE || path_bytes > MAX_OPAQUE_BYTES {
                    return Err(UnpackError::Limit(Bound::Opaque, MAX_OPAQUE as u64));
                }
                paths.push(path);
            }
        }
        Ok(paths)
    }

    /// Directories that no entry describes and that layers below may have. Where these are more than the report has a place
    /// for, the rest keeps what it was made with.
    fn omitted(&self, all: &[Id]) -> Vec<Id> {
        let index = &self.area.index;
        let mut path_bytes = 0;
        let mut omitted: Vec<Id> = all
            .iter()
            .copied()
            .filter(|&id| !index.node(id).described && !index.node(id).opaque)
            .take(MAX_OMITTED)
            .collect();
        let fits = omitted.iter().position(|&id| {
            path_bytes += index.path(id).len();
            path_bytes > MAX_OMITTED_BYTES
        });
        omitted.truncate(fits.unwrap_or(omitted.len()));
        omitted
    }
}

/// The content of the current entry, with a sign of life for each piece.
struct Feed<'a, R> {
    archive: &'a mut Archive<R>,
    pulse: &'a mut Pulse,
}

impl<R: BufRead> Content for Feed<'_, R> {
    fn data(&mut self) -> Result<&[u8], TarError> {
        self.pulse.beat();
        self.archive.data()
    }

    fn consume(&mut self, count: usize) {
        self.archive.consume(count);
    }
}
