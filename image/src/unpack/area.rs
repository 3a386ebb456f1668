//! The staging area: makes, replaces and finds things in it, always by a directory's descriptor and one name.
//!
//! The process sees nothing but the area (its root), but nothing here relies on that: directories are opened with
//! openat2 without following links, and whatever is made is made new.

use crate::failure::UnpackError;
use crate::index::{Id, Index, key};
use crate::tar::{Attributes, Device};
use image::layer::wire::Bound;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

/// Directories whose descriptors are kept.
const OPEN: usize = 16;

/// Symbolic links on the way to one entry: what Linux follows.
const MAX_LINKS: usize = 40;

/// Names that hide something below although they are neither a whiteout nor an opaque directory; see `hidden`.
const MAX_HIDDEN: usize = 65_536;

/// Bytes a directory or the last part of a file takes.
const FS_BLOCK: u64 = 4096;

/// A layer in the making.
#[derive(Debug)]
pub(crate) struct Area {
    root: Rc<OwnedFd>,
    pub(crate) index: Index,
    open: [Option<(Id, Rc<OwnedFd>)>; OPEN],
    next_open: usize,
    /// Names that had a whiteout and then got something that hides as much as it does. Should a directory take that place,
    /// it has to be opaque. Keys as in the index.
    hidden: HashSet<Vec<u8>>,
    scratch: Vec<u8>,
    /// Bytes and inodes made and kept.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// What to do about directories that are missing on the way to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make them.
    Make,
    /// Give up.
    Refuse,
}

/// A directory that was found, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: Id,
    pub(crate) through_link: bool,
}

/// A name in a directory. What it names need not be there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot<'a> {
    pub(crate) parent: Id,
    pub(crate) name: &'a [u8],
}

impl Spot<'_> {
    fn os(&self) -> &OsStr {
        OsStr::from_bytes(self.name)
    }
}

impl Area {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(root),
            index: Index::new(),
            open: std::array::from_fn(|_| None),
            next_open: 0,
            hidden: HashSet::new(),
            scratch: Vec::new(),
            bytes: FS_BLOCK,
            inodes: 1,
        }
    }

    /// A descriptor of a directory, for use as the start of a path.
    pub(crate) fn descriptor(&mut self, id: Id) -> Result<Rc<OwnedFd>, UnpackError> {
        if id == Id::ROOT {
            return Ok(Rc::clone(&self.root));
        }
        let known = self.open.iter().flatten().find(|(known, _)| *known == id);
        if let Some((_, fd)) = known {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(self.open_directory(id, OFlags::PATH)?);
        self.open[self.next_open] = Some((id, Rc::clone(&fd)));
        self.next_open = (self.next_open + 1) % OPEN;
        Ok(fd)
    }

    /// Opens a directory for reading or as a path, starting at its parent where that is at hand.
    pub(crate) fn open_directory(&self, id: Id, flags: OFlags) -> Result<OwnedFd, UnpackError> {
        let parent = self.index.parent(id);
        let near = self.open.iter().flatten().find(|(known, _)| *known == parent);
        let opened = match near {
            Some((_, fd)) if id != Id::ROOT => {
                sys::tree::open_below(fd, self.index.name(id), flags)
            }
            _ => sys::tree::open_below(&self.root, &self.index.path(id), flags),
        };
        opened.map_err(|source| UnpackError::Disk { step: "open the directory of", source })
    }

    /// The directory that `path` leads to, symbolic links resolved within the layer.
    ///
    /// Directories that `path` itself names are made if `missing` says so, never those that only a link names: a link
    /// into a layer below must not put a new directory over the one there.
    pub(crate) fn find(&mut self, path: &[u8], missing: Missing) -> Result<Found, UnpackError> {
        if let Some(id) = self.find_plain(path) {
            return Ok(Found { id, through_link: false });
        }
        self.walk(path, missing)
    }

    /// The usual case: all directories on the way are there.
    fn find_plain(&mut self, path: &[u8]) -> Option<Id> {
        if path.is_empty() {
            return Some(Id::ROOT);
        }
        path.split(|&byte| byte == b'/').try_fold(Id::ROOT, |at, name| self.index.child(at, name))
    }

    fn walk(&mut self, path: &[u8], missing: Missing) -> Result<Found, UnpackError> {
        /// A part of the way, and whether a link put it there.
        type Part = (Vec<u8>, bool);
        let parts = |path: &[u8], by_link: bool| -> Vec<Part> {
            path.split(|&byte| byte == b'/').rev().map(|part| (part.to_vec(), by_link)).collect()
        };
        let mut ahead = parts(path, false);
        let mut links = 0;
        let mut at = Id::ROOT;
        while let Some((name, by_link)) = ahead.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at = self.index.parent(at);
                    continue;
                }
                _ => {}
            }
            if let Some(child) = self.index.child(at, &name) {
                at = child;
                continue;
            }
            let spot = Spot { parent: at, name: &name };
            if !by_link && missing == Missing::Make && self.make_directory(spot)? {
                at = self.index.add(at, &name)?;
                continue;
            }
            let lost =
                if by_link { UnpackError::DanglingParent } else { UnpackError::NotADirectory };
            let stat = match self.look(spot)? {
                None if missing == Missing::Refuse => return Err(UnpackError::MissingTarget),
                None => return Err(lost),
                Some(stat) => stat,
            };
            if is_whiteout(&stat) && !by_link && missing == Missing::Make {
                at = self.directory(spot)?;
            } else if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                links += 1;
                if links > MAX_LINKS {
                    return Err(UnpackError::LinkLoop);
                }
                let target = self.read_link(spot)?;
                if target.starts_with(b"/") {
                    at = Id::ROOT;
                }
                ahead.extend(parts(&target, true));
            } else {
                return Err(lost);
            }
        }
        Ok(Found { id: at, through_link: links > 0 })
    }

    /// The directory at `spot`: the one that is there, or a new one in place of whatever else is.
    pub(crate) fn directory(&mut self, spot: Spot<'_>) -> Result<Id, UnpackError> {
        if let Some(id) = self.index.child(spot.parent, spot.name) {
            return Ok(id);
        }
        let mut opaque = false;
        if !self.make_directory(spot)? {
            opaque = self.clear(spot)? == Cleared::Hiding;
            if !self.make_directory(spot)? {
                return Err(UnpackError::disk("make the directory")(Errno::EXIST));
            }
        }
        let id = self.index.add(spot.parent, spot.name)?;
        self.index.node_mut(id).opaque = opaque;
        Ok(id)
    }

    /// Makes a directory on disk only; false where the name is taken.
    fn make_directory(&mut self, spot: Spot<'_>) -> Result<bool, UnpackError> {
        let dir = self.descriptor(spot.parent)?;
        match fs::mkdirat(
            &dir,
            spot.os(),
            Mode::from_raw_mode(u32::from(crate::index::IMPLICIT_MODE)),
        ) {
            Ok(()) => {
                self.inodes += 1;
                self.bytes += FS_BLOCK;
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(err) => Err(UnpackError::disk("make a directory for")(err)),
        }
    }

    /// Makes something new that is no directory with `make`, in place of whatever is there: the last entry of a name wins.
    pub(crate) fn place<T>(
        &mut self,
        spot: Spot<'_>,
        step: &'static str,
        make: impl Fn(&OwnedFd, &OsStr) -> rustix::io::Result<T>,
    ) -> Result<T, UnpackError> {
        let dir = self.descriptor(spot.parent)?;
        let made = match make(&dir, spot.os()) {
            Err(Errno::EXIST) => {
                if self.clear(spot)? == Cleared::Hiding {
                    self.hide(spot)?;
                }
                make(&dir, spot.os())
            }
            result => result,
        };
        let made = made.map_err(UnpackError::disk(step))?;
        self.inodes += 1;
        Ok(made)
    }

    /// Makes `spot` one more name of `target`, which must be there already.
    pub(crate) fn link(&mut self, target: Spot<'_>, spot: Spot<'_>) -> Result<(), UnpackError> {
        if self.index.child(target.parent, target.name).is_some()
            || (target.parent == spot.parent && target.name == spot.name)
        {
            return Err(UnpackError::BadTarget);
        }
        // A whiteout is nothing that could get another name.
        let may_be_whiteout = self.index.node(target.parent).has_whiteouts;
        if may_be_whiteout && self.look(target)?.is_none_or(|stat| is_whiteout(&stat)) {
            return Err(UnpackError::MissingTarget);
        }
        let (from, to) = (self.descriptor(target.parent)?, self.descriptor(spot.parent)?);
        let link = || fs::linkat(&from, target.os(), &to, spot.os(), AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => {
                if self.look(target)?.is_none() {
                    return Err(UnpackError::MissingTarget);
                }
                if self.clear(spot)? == Cleared::Hiding {
                    self.hide(spot)?;
                }
                link()
            }
            result => result,
        };
        match linked {
            Err(Errno::NOENT) => Err(UnpackError::MissingTarget),
            result => result.map_err(UnpackError::disk("link")),
        }
    }

    /// Hides what layers below have at `spot`, unless this layer has something there: that hides it anyway.
    pub(crate) fn whiteout(&mut self, spot: Spot<'_>) -> Result<(), UnpackError> {
        if let Some(id) = self.index.child(spot.parent, spot.name) {
            self.index.node_mut(id).opaque = true;
            return Ok(());
        }
        if self.index.node(spot.parent).opaque {
            return Ok(());
        }
        let dir = self.descriptor(spot.parent)?;
        match fs::mknodat(&dir, spot.os(), FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                self.inodes += 1;
                self.index.node_mut(spot.parent).has_whiteouts = true;
                Ok(())
            }
            Err(Errno::EXIST) => match self.look(spot)? {
                Some(stat) if is_whiteout(&stat) => Ok(()),
                _ => self.hide(spot),
            },
            Err(err) => Err(UnpackError::disk("make a whiteout for")(err)),
        }
    }

    fn hide(&mut self, spot: Spot<'_>) -> Result<(), UnpackError> {
        if self.hidden.len() >= MAX_HIDDEN {
            return Err(UnpackError::Limit(Bound::Opaque, MAX_HIDDEN as u64));
        }
        let key = key(&mut self.scratch, spot.parent, spot.name).to_vec();
        self.hidden.insert(key);
        Ok(())
    }

    /// Removes what is at `spot`, a whole tree if need be, and says whether layers below have to stay hidden there.
    fn clear(&mut self, spot: Spot<'_>) -> Result<Cleared, UnpackError> {
        let key = key(&mut self.scratch, spot.parent, spot.name);
        let mut hiding = self.hidden.contains(key);
        let dir = self.descriptor(spot.parent)?;
        if let Some(id) = self.index.child(spot.parent, spot.name) {
            hiding |= self.index.node(id).opaque;
            self.index.remove(id);
            // Descriptors of what is removed would be found under numbers that are never asked for again.
            let mut removed = 0;
            let result = sys::tree::remove(&dir, spot.os(), &mut || removed += 1);
            self.inodes = self.inodes.saturating_sub(removed);
            result.map_err(|source| UnpackError::Disk {
                step: "remove what was there before",
                source,
            })?;
        } else if let Some(stat) = self.look(spot)? {
            hiding |= is_whiteout(&stat);
            fs::unlinkat(&dir, spot.os(), AtFlags::empty())
                .map_err(UnpackError::disk("remove what was there before"))?;
            if stat.st_nlink == 1 {
                self.inodes = self.inodes.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(in_blocks(stat.st_size.unsigned_abs()));
            }
        }
        Ok(if hiding { Cleared::Hiding } else { Cleared::Free })
    }

    /// What is at `spot`, itself.
    pub(crate) fn look(&mut self, spot: Spot<'_>) -> Result<Option<Stat>, UnpackError> {
        let dir = self.descriptor(spot.parent)?;
        match fs::statat(&dir, spot.os(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(UnpackError::disk("look at")(err)),
        }
    }

    fn read_link(&mut self, spot: Spot<'_>) -> Result<Vec<u8>, UnpackError> {
        let dir = self.descriptor(spot.parent)?;
        let target = fs::readlinkat(&dir, spot.os(), Vec::new());
        Ok(target.map_err(UnpackError::disk("read a symbolic link above"))?.into_bytes())
    }

    /// Gives what was just made at `spot` to its owner; root's it is already.
    pub(crate) fn own(
        &mut self,
        spot: Spot<'_>,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        if (attributes.uid, attributes.gid) == (0, 0) {
            return Ok(());
        }
        let dir = self.descriptor(spot.parent)?;
        let (uid, gid) = owner(attributes);
        fs::chownat(&dir, spot.os(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::disk("set the owner of"))
    }

    /// Counts a file's content.
    pub(crate) fn count_bytes(&mut self, bytes: u64) {
        self.bytes += in_blocks(bytes);
    }

    /// Removes the whiteouts in a directory in which there is nothing left to hide.
    pub(crate) fn drop_whiteouts(&mut self, id: Id) -> io::Result<()> {
        let open = |flags| self.open_directory(id, flags).map_err(io::Error::other);
        let dir = open(OFlags::RDONLY)?;
        for entry in fs::Dir::read_from(&dir)? {
            let entry = entry?;
            if entry.file_type() != FileType::CharacterDevice
                && entry.file_type() != FileType::Unknown
            {
                continue;
            }
            let stat = fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            if is_whiteout(&stat) {
                fs::unlinkat(&dir, entry.file_name(), AtFlags::empty())?;
                self.inodes = self.inodes.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// The owner an entry asks for.
pub(crate) fn owner(attributes: &Attributes) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
}

/// The kernel's number of a device.
pub(crate) fn device(device: Device) -> fs::Dev {
    fs::makedev(device.major, device.minor)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cleared {
    Free,
    /// A whiteout was there, or something with the same effect.
    Hiding,
}

/// Whether overlayfs takes it for "nothing here": a character device 0:0.
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn in_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(FS_BLOCK) * FS_BLOCK
}
