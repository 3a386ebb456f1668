//! A layer as a tree of directories and files, always reached by a directory's descriptor and one name.
//!
//! The process sees nothing but the tree (its root), but nothing here relies on that: directories are opened with
//! openat2 without following links, and whatever is made is made new.

use crate::attributes::{self, Place};
use crate::failure::UnpackError;
use crate::index::{IMPLICIT_MODE, Id, Index};
use crate::medium::{Content, Ending, File, Leaf, Made, Medium, New, Special, Spot, Summary};
use crate::pulse::Pulse;
use crate::tar::{Attributes, Device, Segment, Time};
use image::layer::wire::Bound;
use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

/// Directories whose descriptors are kept.
const OPEN: usize = 16;

/// Bytes a directory or the last part of a file takes.
const FS_BLOCK: u64 = 4096;

/// Access control lists of directories that are remembered, in bytes.
const MAX_ACCESS_CONTROL: usize = 16 << 20;

/// The tree.
#[derive(Debug)]
pub(crate) struct Directories {
    root: Rc<OwnedFd>,
    open: [Option<(Id, Rc<OwnedFd>)>; OPEN],
    next_open: usize,
    /// Directories that were given to somebody other than root.
    owned: HashSet<Id>,
    /// Access control lists of directories: they shape what is made below, so they come last.
    access_control: Vec<(Id, CString, Vec<u8>)>,
    access_control_bytes: usize,
    summary: Summary,
}

impl Directories {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(root),
            open: std::array::from_fn(|_| None),
            next_open: 0,
            owned: HashSet::new(),
            access_control: Vec::new(),
            access_control_bytes: 0,
            summary: Summary { bytes: FS_BLOCK, inodes: 1, ..Summary::default() },
        }
    }

    /// A descriptor of a directory, for use as the start of a path.
    fn descriptor(&mut self, index: &Index, id: Id) -> Result<Rc<OwnedFd>, UnpackError> {
        if id == Id::ROOT {
            return Ok(Rc::clone(&self.root));
        }
        let known = self.open.iter().flatten().find(|(known, _)| *known == id);
        if let Some((_, fd)) = known {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(self.open_directory(index, id, OFlags::PATH)?);
        self.open[self.next_open] = Some((id, Rc::clone(&fd)));
        self.next_open = (self.next_open + 1) % OPEN;
        Ok(fd)
    }

    /// Opens a directory for reading or as a path, starting at its parent where that is at hand.
    fn open_directory(&self, index: &Index, id: Id, flags: OFlags) -> Result<OwnedFd, UnpackError> {
        let parent = index.parent(id);
        let near = self.open.iter().flatten().find(|(known, _)| *known == parent);
        let opened = match near {
            Some((_, fd)) if id != Id::ROOT => sys::tree::open_below(fd, index.name(id), flags),
            _ => sys::tree::open_below(&self.root, &index.path(id), flags),
        };
        opened.map_err(|source| UnpackError::Disk { step: "open the directory of", source })
    }

    fn stat(&mut self, index: &Index, spot: Spot<'_>) -> Result<Option<Stat>, UnpackError> {
        let dir = self.descriptor(index, spot.parent)?;
        match fs::statat(&dir, os(spot), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(UnpackError::disk("look at")(err)),
        }
    }

    /// Sets what a link, a device or a pipe has beside its name: owner, then what changing it takes away, and times.
    fn dress(
        &mut self,
        dir: &OwnedFd,
        spot: Spot<'_>,
        attributes: &Attributes,
        is_link: bool,
    ) -> Result<(), UnpackError> {
        if (attributes.uid, attributes.gid) != (0, 0) {
            let (uid, gid) = owner(attributes);
            fs::chownat(dir, os(spot), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(UnpackError::disk("set the owner of"))?;
        }
        if !is_link && attributes.mode & 0o6000 != 0 {
            // It cannot be a link: this process made it, and is alone here.
            let mode = Mode::from_raw_mode(attributes.mode);
            fs::chmodat(dir, os(spot), mode, AtFlags::empty())
                .map_err(UnpackError::disk("set the mode of"))?;
        }
        self.summary.skipped_attributes += attributes.extended.len() as u64;
        fs::utimensat(dir, os(spot), &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::disk("set the times of"))
    }

    fn set_attribute(
        &mut self,
        fd: &OwnedFd,
        name: &[u8],
        value: &[u8],
        place: Place,
    ) -> Result<(), UnpackError> {
        if place == Place::Nowhere {
            self.summary.skipped_attributes += 1;
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
                self.summary.skipped_attributes += 1;
                Ok(())
            }
            Err(Errno::OPNOTSUPP) if place != Place::Required => {
                self.summary.skipped_attributes += 1;
                Ok(())
            }
            Err(err) => Err(UnpackError::disk("set an extended attribute of")(err)),
        }
    }

    /// Sets mode and times of a directory; after this it may be closed even for us.
    fn settle(&mut self, index: &Index, id: Id) -> Result<(), UnpackError> {
        let node = index.node(id);
        let (mode, times) = (node.mode, times(node.mtime));
        let step = "set the times of a directory below";
        if mode == IMPLICIT_MODE && id != Id::ROOT {
            let dir = self.descriptor(index, index.parent(id))?;
            let name = OsStr::from_bytes(index.name(id));
            return fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(UnpackError::disk(step));
        }
        let fd = self.open_directory(index, id, OFlags::RDONLY)?;
        fs::fchmod(&fd, Mode::from_raw_mode(u32::from(mode)))
            .map_err(UnpackError::disk("set the mode of a directory below"))?;
        fs::futimens(&fd, &times).map_err(UnpackError::disk(step))
    }
}

impl Medium for Directories {
    fn look(&mut self, index: &Index, spot: Spot<'_>) -> Result<Option<Leaf>, UnpackError> {
        Ok(self.stat(index, spot)?.map(|stat| {
            if is_whiteout(&stat) {
                Leaf::Whiteout
            } else if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                Leaf::Symlink
            } else {
                Leaf::Other
            }
        }))
    }

    fn read_link(&mut self, index: &Index, spot: Spot<'_>) -> Result<Vec<u8>, UnpackError> {
        let dir = self.descriptor(index, spot.parent)?;
        let target = fs::readlinkat(&dir, os(spot), Vec::new());
        Ok(target.map_err(UnpackError::disk("read a symbolic link above"))?.into_bytes())
    }

    fn make(&mut self, index: &Index, spot: Spot<'_>, new: New<'_>) -> Result<Made, UnpackError> {
        let dir = self.descriptor(index, spot.parent)?;
        let character = FileType::CharacterDevice;
        let (step, made) = match new {
            New::Directory => {
                let mode = Mode::from_raw_mode(u32::from(IMPLICIT_MODE));
                ("make a directory for", fs::mkdirat(&dir, os(spot), mode))
            }
            New::Whiteout => {
                ("make a whiteout for", fs::mknodat(&dir, os(spot), character, Mode::empty(), 0))
            }
            New::Symlink { target, .. } => {
                ("make the symbolic link", fs::symlinkat(OsStr::from_bytes(target), &dir, os(spot)))
            }
            New::Special { kind, attributes } => {
                let (kind, number) = match kind {
                    Special::Character(number) => (character, device(number)),
                    Special::Block(number) => (FileType::BlockDevice, device(number)),
                    Special::Fifo => (FileType::Fifo, 0),
                };
                let mode = Mode::from_raw_mode(attributes.mode);
                ("make the device or pipe", fs::mknodat(&dir, os(spot), kind, mode, number))
            }
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(Made::Taken),
            Err(err) => return Err(UnpackError::disk(step)(err)),
        }
        self.summary.inodes += 1;
        match new {
            New::Directory => self.summary.bytes += FS_BLOCK,
            New::Whiteout => {}
            New::Symlink { attributes, .. } => self.dress(&dir, spot, attributes, true)?,
            New::Special { attributes, .. } => self.dress(&dir, spot, attributes, false)?,
        }
        Ok(Made::Yes)
    }

    fn file(
        &mut self,
        index: &Index,
        spot: Spot<'_>,
        file: File<'_>,
        content: &mut dyn Content,
    ) -> Result<Made, UnpackError> {
        let dir = self.descriptor(index, spot.parent)?;
        let attributes = file.attributes;
        let mode = Mode::from_raw_mode(attributes.mode);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match fs::openat(&dir, os(spot), flags, mode) {
            Ok(fd) => fd,
            Err(Errno::EXIST) => return Ok(Made::Taken),
            Err(err) => return Err(UnpackError::disk("make")(err)),
        };
        self.summary.inodes += 1;
        match file.map {
            None => write_all(&fd, content)?,
            Some(map) => write_segments(&fd, map, file.size, content)?,
        }
        let stored =
            file.map.map_or(file.size, |map| map.iter().map(|segment| segment.length).sum());
        self.summary.bytes += in_blocks(stored);
        // Last the owner, then what changing it or writing takes away: set-id bits and capabilities.
        if (attributes.uid, attributes.gid) != (0, 0) {
            let (uid, gid) = owner(attributes);
            fs::fchown(&fd, uid, gid).map_err(UnpackError::disk("set the owner of"))?;
        }
        if attributes.mode & 0o7000 != 0 {
            fs::fchmod(&fd, mode).map_err(UnpackError::disk("set the mode of"))?;
        }
        for (name, value) in &attributes.extended {
            self.set_attribute(&fd, name, value, attributes::place(name, value))?;
        }
        fs::futimens(&fd, &times(attributes.mtime))
            .map_err(UnpackError::disk("set the times of"))?;
        Ok(Made::Yes)
    }

    fn link(
        &mut self,
        index: &Index,
        target: Spot<'_>,
        spot: Spot<'_>,
    ) -> Result<Option<Made>, UnpackError> {
        // A whiteout is nothing that could get another name.
        let may_be_whiteout = index.node(target.parent).has_whiteouts;
        if may_be_whiteout && self.stat(index, target)?.is_none_or(|stat| is_whiteout(&stat)) {
            return Ok(None);
        }
        let from = self.descriptor(index, target.parent)?;
        let to = self.descriptor(index, spot.parent)?;
        match fs::linkat(&from, os(target), &to, os(spot), AtFlags::empty()) {
            Ok(()) => Ok(Some(Made::Yes)),
            Err(Errno::EXIST) => Ok(Some(Made::Taken)),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(UnpackError::disk("link")(err)),
        }
    }

    fn remove(&mut self, index: &Index, spot: Spot<'_>) -> Result<(), UnpackError> {
        let Some(stat) = self.stat(index, spot)? else { return Ok(()) };
        let dir = self.descriptor(index, spot.parent)?;
        fs::unlinkat(&dir, os(spot), AtFlags::empty())
            .map_err(UnpackError::disk("remove what was there before"))?;
        if stat.st_nlink == 1 {
            self.summary.inodes = self.summary.inodes.saturating_sub(1);
            let bytes = in_blocks(stat.st_size.unsigned_abs());
            self.summary.bytes = self.summary.bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    fn remove_directory(&mut self, index: &Index, spot: Spot<'_>) -> Result<(), UnpackError> {
        let dir = self.descriptor(index, spot.parent)?;
        // Descriptors of what is removed would be found under numbers that are never asked for again.
        let mut removed = 0;
        let result = sys::tree::remove(&dir, os(spot), &mut || removed += 1);
        self.summary.inodes = self.summary.inodes.saturating_sub(removed);
        result.map_err(|source| UnpackError::Disk { step: "remove what was there before", source })
    }

    fn describe(
        &mut self,
        index: &Index,
        id: Id,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let is_roots = (attributes.uid, attributes.gid) == (0, 0);
        let was_owned = if is_roots { self.owned.remove(&id) } else { !self.owned.insert(id) };
        let needs_owner = !is_roots || was_owned;
        if !needs_owner && attributes.extended.is_empty() {
            return Ok(());
        }
        let fd = self.open_directory(index, id, OFlags::RDONLY)?;
        if needs_owner {
            let (uid, gid) = owner(attributes);
            fs::fchown(&fd, uid, gid).map_err(UnpackError::disk("set the owner of"))?;
        }
        for (name, value) in &attributes.extended {
            match attributes::place(name, value) {
                Place::AccessControl => {
                    self.access_control_bytes += value.len();
                    if self.access_control_bytes > MAX_ACCESS_CONTROL {
                        let most = MAX_ACCESS_CONTROL as u64;
                        return Err(UnpackError::Limit(Bound::Directories, most));
                    }
                    self.access_control.push((id, c_name(name)?, value.clone()));
                }
                // Directories have no capabilities.
                Place::Required => self.summary.skipped_attributes += 1,
                place @ (Place::Optional | Place::Nowhere) => {
                    self.set_attribute(&fd, name, value, place)?;
                }
            }
        }
        Ok(())
    }

    fn drop_whiteouts(&mut self, index: &Index, id: Id) -> Result<(), UnpackError> {
        let dir = self.open_directory(index, id, OFlags::RDONLY)?;
        let removed = drop_whiteouts(&dir)
            .map_err(|source| UnpackError::Disk { step: "drop idle whiteouts below", source })?;
        self.summary.inodes = self.summary.inodes.saturating_sub(removed);
        Ok(())
    }

    fn finish(
        &mut self,
        index: &Index,
        ending: &Ending<'_>,
        pulse: &mut Pulse,
    ) -> Result<Summary, UnpackError> {
        let lists = std::mem::take(&mut self.access_control);
        // Deepest first.
        for &id in ending.all.iter().rev() {
            pulse.beat();
            self.settle(index, id)?;
        }
        let alive: HashSet<Id> = ending.all.iter().copied().collect();
        for (id, name, value) in lists.iter().filter(|(id, ..)| alive.contains(id)) {
            let fd = self.open_directory(index, *id, OFlags::RDONLY)?;
            self.try_attribute(&fd, name, value, Place::AccessControl)?;
        }
        Ok(std::mem::take(&mut self.summary))
    }
}

fn os(spot: Spot<'_>) -> &OsStr {
    OsStr::from_bytes(spot.name)
}

fn write_all(fd: &OwnedFd, content: &mut dyn Content) -> Result<(), UnpackError> {
    loop {
        let chunk = content.data()?;
        if chunk.is_empty() {
            return Ok(());
        }
        let written = rustix::io::write(fd, chunk).map_err(UnpackError::disk("write"))?;
        content.consume(written);
    }
}

fn write_segments(
    fd: &OwnedFd,
    map: &[Segment],
    size: u64,
    content: &mut dyn Content,
) -> Result<(), UnpackError> {
    for segment in map {
        let mut at = segment.offset;
        let end = segment.offset + segment.length;
        while at < end {
            let chunk = content.data()?;
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
            let written =
                rustix::io::pwrite(fd, &chunk[..most], at).map_err(UnpackError::disk("write"))?;
            content.consume(written);
            at += written as u64;
        }
    }
    fs::ftruncate(fd, size).map_err(UnpackError::disk("set the size of"))
}

/// Gives the number of those that are gone.
fn drop_whiteouts(dir: &OwnedFd) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_type() != FileType::CharacterDevice && entry.file_type() != FileType::Unknown
        {
            continue;
        }
        let stat = fs::statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        if is_whiteout(&stat) {
            fs::unlinkat(dir, entry.file_name(), AtFlags::empty())?;
            removed += 1;
        }
    }
    Ok(removed)
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

/// The owner an entry asks for.
fn owner(attributes: &Attributes) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
}

/// The kernel's number of a device.
fn device(device: Device) -> fs::Dev {
    fs::makedev(device.major, device.minor)
}

/// Whether overlayfs takes it for "nothing here": a character device 0:0.
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn in_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(FS_BLOCK) * FS_BLOCK
}
