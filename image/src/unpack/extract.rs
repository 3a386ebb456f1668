//! Unpacks a layer: one pass over its entries, then what has to wait for the last of them.
//!
//! Order within the archive does not matter for whiteouts: they apply to the layers below and to nothing in this one, so a
//! name that this layer both removes and has is kept, and a directory it both removes and has becomes opaque. Of two
//! entries with the same name the last wins.

use crate::area::{Area, Found, Missing, Spot, device, owner};
use crate::attributes::{self, Place};
use crate::failure::{self, UnpackError};
use crate::index::{IMPLICIT_MODE, Id};
use crate::name::{Meaning, Normal};
use crate::pulse::Pulse;
use crate::tar::{Archive, Attributes, Device, Entry, Kind, Segment, Time};
use image::layer::wire::{Bound, MAX_OPAQUE, MAX_OPAQUE_BYTES, Refusal, Unpacked};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// How much a layer may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of all files, holes counted.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// Unpacks the whole of `input` below `root`; `digest` is asked for when the stream was read to its end.
pub(crate) fn unpack<R: BufRead>(
    root: OwnedFd,
    input: R,
    bounds: Bounds,
    pulse: &mut Pulse,
    digest: impl Fn(&R) -> Option<[u8; 32]>,
) -> Result<Unpacked, Refusal> {
    let mut archive = Archive::new(input);
    let mut extractor = Extractor {
        area: Area::new(root),
        bounds,
        pulse,
        entries: 0,
        file_bytes: 0,
        skipped_attributes: 0,
        access_control: Vec::new(),
        access_control_bytes: 0,
    };
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
    let opaque = extractor.finish().map_err(|err| err.refusal(&root))?;
    Ok(Unpacked {
        diff_id,
        bytes: extractor.area.bytes,
        inodes: extractor.area.inodes,
        skipped_attributes: extractor.skipped_attributes,
        opaque,
    })
}

struct Extractor<'a> {
    area: Area,
    bounds: Bounds,
    pulse: &'a mut Pulse,
    entries: u64,
    file_bytes: u64,
    skipped_attributes: u64,
    /// Access control lists of directories: they shape what is made below, so they come last.
    access_control: Vec<(Id, CString, Vec<u8>)>,
    access_control_bytes: usize,
}

/// Access control lists of directories that are remembered, in bytes.
const MAX_ACCESS_CONTROL: usize = 16 << 20;

impl Extractor<'_> {
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
        match &entry.kind {
            Kind::File { size, map } => {
                self.file(archive, spot, &File { size: *size, map: map.as_deref(), attributes })
            }
            Kind::HardLink { target } => self.hard_link(spot, target),
            Kind::Symlink { target } => self.symlink(spot, target, attributes),
            Kind::Directory => {
                let id = self.area.directory(spot)?;
                self.describe_directory(id, attributes)
            }
            // What overlayfs takes for a whiteout is one, whoever wrote it.
            Kind::Character(Device { major: 0, minor: 0 }) => self.area.whiteout(spot),
            Kind::Character(number) => {
                self.special(spot, FileType::CharacterDevice, device(*number), attributes)
            }
            Kind::Block(number) => {
                self.special(spot, FileType::BlockDevice, device(*number), attributes)
            }
            Kind::Fifo => self.special(spot, FileType::Fifo, 0, attributes),
        }
    }

    fn file<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        spot: Spot<'_>,
        file: &File<'_>,
    ) -> Result<(), UnpackError> {
        self.file_bytes = self.file_bytes.saturating_add(file.size);
        if self.file_bytes > self.bounds.bytes {
            return Err(UnpackError::Limit(Bound::Bytes, self.bounds.bytes));
        }
        let attributes = file.attributes;
        let mode = Mode::from_raw_mode(attributes.mode);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.area.place(spot, "make", |dir, name| fs::openat(dir, name, flags, mode))?;
        match file.map {
            None => self.write_all(archive, &fd)?,
            Some(map) => self.write_segments(archive, &fd, map, file.size)?,
        }
        let stored =
            file.map.map_or(file.size, |map| map.iter().map(|segment| segment.length).sum());
        self.area.count_bytes(stored);
        // Last the owner, then what changing it or writing takes away: set-id bits and capabilities.
        if (attributes.uid, attributes.gid) != (0, 0) {
            let (uid, gid) = owner(attributes);
            fs::fchown(&fd, uid, gid).map_err(UnpackError::disk("set the owner of"))?;
        }
        if attributes.mode & 0o7000 != 0 {
            fs::fchmod(&fd, mode).map_err(UnpackError::disk("set the mode of"))?;
        }
        for (name, value) in &attributes.extended {
            let place = attributes::place(name, value);
            self.set_attribute(&fd, name, value, place)?;
        }
        fs::futimens(&fd, &times(attributes.mtime)).map_err(UnpackError::disk("set the times of"))
    }

    fn write_all<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        fd: &OwnedFd,
    ) -> Result<(), UnpackError> {
        loop {
            let chunk = archive.data()?;
            if chunk.is_empty() {
                return Ok(());
            }
            let written = rustix::io::write(fd, chunk).map_err(UnpackError::disk("write"))?;
            archive.consume(written);
            self.pulse.beat();
        }
    }

    fn write_segments<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        fd: &OwnedFd,
        map: &[Segment],
        size: u64,
    ) -> Result<(), UnpackError> {
        for segment in map {
            let mut at = segment.offset;
            let end = segment.offset + segment.length;
            while at < end {
                let chunk = archive.data()?;
                let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
                let written = rustix::io::pwrite(fd, &chunk[..most], at)
                    .map_err(UnpackError::disk("write"))?;
                archive.consume(written);
                at += written as u64;
                self.pulse.beat();
            }
        }
        fs::ftruncate(fd, size).map_err(UnpackError::disk("set the size of"))
    }

    fn hard_link(&mut self, spot: Spot<'_>, target: &[u8]) -> Result<(), UnpackError> {
        let mut path = Normal::default();
        path.set(target).map_err(UnpackError::Target)?;
        let (parent, name) = path.split().ok_or(UnpackError::BadTarget)?;
        let parent = self.area.find(parent, Missing::Refuse)?.id;
        // Mode, owner and times are the target's: it has them from its own entry.
        self.area.link(Spot { parent, name }, spot)
    }

    fn symlink(
        &mut self,
        spot: Spot<'_>,
        target: &[u8],
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        if target.is_empty() || target.len() >= 4096 || target.contains(&0) {
            return Err(UnpackError::TargetLength);
        }
        let target = OsStr::from_bytes(target);
        self.area
            .place(spot, "make the symbolic link", |dir, name| fs::symlinkat(target, dir, name))?;
        self.area.own(spot, attributes)?;
        self.skipped_attributes += attributes.extended.len() as u64;
        self.set_times(spot, attributes.mtime)
    }

    fn special(
        &mut self,
        spot: Spot<'_>,
        kind: FileType,
        number: fs::Dev,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(attributes.mode);
        self.area.place(spot, "make the device or pipe", |dir, name| {
            fs::mknodat(dir, name, kind, mode, number)
        })?;
        self.area.own(spot, attributes)?;
        if attributes.mode & 0o6000 != 0 {
            // Another owner took the bits away. It cannot be a link: this process made it, and is alone here.
            let dir = self.area.descriptor(spot.parent)?;
            fs::chmodat(&dir, OsStr::from_bytes(spot.name), mode, AtFlags::empty())
                .map_err(UnpackError::disk("set the mode of"))?;
        }
        self.skipped_attributes += attributes.extended.len() as u64;
        self.set_times(spot, attributes.mtime)
    }

    /// Takes in what an entry says about a directory. Mode and time wait for the end, for both would be in the way of what
    /// is still to be made in it.
    fn describe_directory(&mut self, id: Id, attributes: &Attributes) -> Result<(), UnpackError> {
        let is_roots = (attributes.uid, attributes.gid) == (0, 0);
        let node = self.area.index.node_mut(id);
        node.mode = u16::try_from(attributes.mode & 0o7777).unwrap_or(IMPLICIT_MODE);
        node.mtime = attributes.mtime;
        let was_owned = std::mem::replace(&mut node.owned, !is_roots);
        let needs_owner = !is_roots || was_owned;
        if needs_owner || !attributes.extended.is_empty() {
            let fd = self.area.open_directory(id, OFlags::RDONLY)?;
            if needs_owner {
                let (uid, gid) = owner(attributes);
                fs::fchown(&fd, uid, gid).map_err(UnpackError::disk("set the owner of"))?;
            }
            self.directory_attributes(&fd, id, attributes)?;
        }
        Ok(())
    }

    fn directory_attributes(
        &mut self,
        fd: &OwnedFd,
        id: Id,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        for (name, value) in &attributes.extended {
            match attributes::place(name, value) {
                Place::AccessControl => {
                    self.access_control_bytes += value.len();
                    if self.access_control_bytes > MAX_ACCESS_CONTROL {
                        return Err(UnpackError::Limit(
                            Bound::Directories,
                            MAX_ACCESS_CONTROL as u64,
                        ));
                    }
                    self.access_control.push((id, c_name(name)?, value.clone()));
                }
                // Directories have no capabilities.
                Place::Required => self.skipped_attributes += 1,
                place @ (Place::Optional | Place::Nowhere) => {
                    self.set_attribute(fd, name, value, place)?
                }
            }
        }
        Ok(())
    }

    fn set_attribute(
        &mut self,
        fd: &OwnedFd,
        name: &[u8],
        value: &[u8],
        place: Place,
    ) -> Result<(), UnpackError> {
        if place == Place::Nowhere {
            self.skipped_attributes += 1;
            return Ok(());
        }
        self.try_attribute(fd, &c_name(name)?, value, place)
    }

    fn try_attribute(
        &mut self,
        fd: &OwnedFd,
        name: &CStr,
        value: &[u8],
        place: Place,
    ) -> Result<(), UnpackError> {
        match fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
            Ok(()) => Ok(()),
            // A default list on a file, or one that only the kernel finds wrong.
            Err(Errno::INVAL | Errno::ACCESS) if place == Place::AccessControl => {
                self.skipped_attributes += 1;
                Ok(())
            }
            Err(Errno::OPNOTSUPP) if place != Place::Required => {
                self.skipped_attributes += 1;
                Ok(())
            }
            Err(err) => Err(UnpackError::disk("set an extended attribute of")(err)),
        }
    }

    fn set_times(&mut self, spot: Spot<'_>, mtime: Time) -> Result<(), UnpackError> {
        let dir = self.area.descriptor(spot.parent)?;
        fs::utimensat(&dir, OsStr::from_bytes(spot.name), &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::disk("set the times of"))
    }

    /// What waits for the last entry. Gives the directories that have to be marked opaque.
    fn finish(&mut self) -> Result<Vec<Vec<u8>>, UnpackError> {
        let all = self.area.index.all();
        let opaque = self.settle_opaque(&all)?;
        let lists = std::mem::take(&mut self.access_control);
        // Deepest first: after this a directory may be closed even for us.
        for &id in all.iter().rev() {
            self.pulse.beat();
            let node = self.area.index.node(id);
            let (mode, times) = (node.mode, times(node.mtime));
            if mode == IMPLICIT_MODE && id != Id::ROOT {
                let parent = self.area.index.parent(id);
                let name = self.area.index.name(id).to_vec();
                let dir = self.area.descriptor(parent)?;
                fs::utimensat(&dir, OsStr::from_bytes(&name), &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(UnpackError::disk("set the times of a directory below"))?;
            } else {
                let fd = self.area.open_directory(id, OFlags::RDONLY)?;
                fs::fchmod(&fd, Mode::from_raw_mode(u32::from(mode)))
                    .map_err(UnpackError::disk("set the mode of a directory below"))?;
                fs::futimens(&fd, &times)
                    .map_err(UnpackError::disk("set the times of a directory below"))?;
            }
        }
        let alive: std::collections::HashSet<Id> = all.into_iter().collect();
        for (id, name, value) in lists.iter().filter(|(id, ..)| alive.contains(id)) {
            let fd = self.area.open_directory(*id, OFlags::RDONLY)?;
            self.try_attribute(&fd, name, value, Place::AccessControl)?;
        }
        Ok(opaque)
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
                self.area.drop_whiteouts(id).map_err(|source| UnpackError::Disk {
                    step: "drop idle whiteouts below",
                    source,
                })?;
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
}

/// A regular file to be made.
struct File<'a> {
    size: u64,
    map: Option<&'a [Segment]>,
    attributes: &'a Attributes,
}

fn c_name(name: &[u8]) -> Result<CString, UnpackError> {
    // The reader of extended headers lets no NUL into a key.
    CString::new(name).map_err(|_| UnpackError::disk("name an extended attribute of")(Errno::INVAL))
}

/// Both times are the one an archive knows. Beyond what the file system can store, it takes the nearest.
fn times(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
