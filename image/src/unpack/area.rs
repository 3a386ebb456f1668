//! The layer in the making: finds, makes, replaces and hides names in it, whatever it is made in.
//!
//! Directories are known from the index; of everything else the medium knows whether it is there.

use crate::failure::UnpackError;
use crate::index::{Id, Index, key};
use crate::medium::{Content, File, Leaf, Made, Medium, New, Spot};
use image::layer::wire::Bound;
use rustix::io::Errno;
use std::collections::HashSet;

/// Symbolic links on the way to one entry: what Linux follows.
const MAX_LINKS: usize = 40;

/// Steps on the way through links, of a whole layer. A link's target may have thousands of parts and lead to the next link:
/// without a bound, a small layer could keep a processor busy for an hour.
const MAX_STEPS: u64 = 1 << 26;

/// Names that hide something below although they are neither a whiteout nor an opaque directory; see `hidden`.
const MAX_HIDDEN: usize = 65_536;

/// A layer in the making.
#[derive(Debug)]
pub(crate) struct Area<M> {
    pub(crate) medium: M,
    pub(crate) index: Index,
    /// Names that had a whiteout and then got something that hides as much as it does. Should a directory take that place,
    /// it has to be opaque. Keys as in the index.
    hidden: HashSet<Vec<u8>>,
    scratch: Vec<u8>,
    steps: u64,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cleared {
    Free,
    /// A whiteout was there, or something with the same effect.
    Hiding,
}

impl<M: Medium> Area<M> {
    pub(crate) fn new(medium: M) -> Self {
        Self { medium, index: Index::new(), hidden: HashSet::new(), scratch: Vec::new(), steps: 0 }
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
            self.steps += u64::from(by_link);
            if self.steps > MAX_STEPS {
                return Err(UnpackError::LinkLoop);
            }
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
            let may_make = !by_link && missing == Missing::Make;
            if may_make && self.make(spot, New::Directory)? == Made::Yes {
                at = self.index.add(at, &name)?;
                continue;
            }
            let lost =
                if by_link { UnpackError::DanglingParent } else { UnpackError::NotADirectory };
            match self.medium.look(&self.index, spot)? {
                None if missing == Missing::Refuse => return Err(UnpackError::MissingTarget),
                Some(Leaf::Whiteout) if may_make => at = self.directory(spot)?,
                Some(Leaf::Symlink) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(UnpackError::LinkLoop);
                    }
                    let target = self.medium.read_link(&self.index, spot)?;
                    if target.starts_with(b"/") {
                        at = Id::ROOT;
                    }
                    ahead.extend(parts(&target, true));
                }
                None | Some(Leaf::Whiteout | Leaf::Other) => return Err(lost),
            }
        }
        Ok(Found { id: at, through_link: links > 0 })
    }

    fn make(&mut self, spot: Spot<'_>, new: New<'_>) -> Result<Made, UnpackError> {
        self.medium.make(&self.index, spot, new)
    }

    /// The directory at `spot`: the one that is there, or a new one in place of whatever else is.
    pub(crate) fn directory(&mut self, spot: Spot<'_>) -> Result<Id, UnpackError> {
        if let Some(id) = self.index.child(spot.parent, spot.name) {
            return Ok(id);
        }
        let mut opaque = false;
        if self.make(spot, New::Directory)? == Made::Taken {
            opaque = self.clear(spot)? == Cleared::Hiding;
            if self.make(spot, New::Directory)? == Made::Taken {
                return Err(still_taken());
            }
        }
        let id = self.index.add(spot.parent, spot.name)?;
        self.index.node_mut(id).opaque = opaque;
        Ok(id)
    }

    /// Makes something without content in place of whatever is there: the last entry of a name wins.
    pub(crate) fn place(&mut self, spot: Spot<'_>, new: New<'_>) -> Result<(), UnpackError> {
        if self.is_free(spot) && self.make(spot, new)? == Made::Yes {
            return Ok(());
        }
        self.clear_for_leaf(spot)?;
        match self.make(spot, new)? {
            Made::Yes => Ok(()),
            Made::Taken => Err(still_taken()),
        }
    }

    /// Makes a regular file, in the same way.
    pub(crate) fn file(
        &mut self,
        spot: Spot<'_>,
        file: File<'_>,
        content: &mut dyn Content,
    ) -> Result<(), UnpackError> {
        if self.is_free(spot) && self.medium.file(&self.index, spot, file, content)? == Made::Yes {
            return Ok(());
        }
        self.clear_for_leaf(spot)?;
        match self.medium.file(&self.index, spot, file, content)? {
            Made::Yes => Ok(()),
            Made::Taken => Err(still_taken()),
        }
    }

    /// Makes `spot` one more name of `target`, which must be there already.
    pub(crate) fn link(&mut self, target: Spot<'_>, spot: Spot<'_>) -> Result<(), UnpackError> {
        if self.index.child(target.parent, target.name).is_some()
            || (target.parent == spot.parent && target.name == spot.name)
        {
            return Err(UnpackError::BadTarget);
        }
        let made = match self.is_free(spot) {
            true => self.medium.link(&self.index, target, spot)?,
            false => Some(Made::Taken),
        };
        match made {
            Some(Made::Yes) => return Ok(()),
            None => return Err(UnpackError::MissingTarget),
            Some(Made::Taken) => {}
        }
        let there = self.medium.look(&self.index, target)?;
        if there.is_none_or(|leaf| leaf == Leaf::Whiteout) {
            return Err(UnpackError::MissingTarget);
        }
        self.clear_for_leaf(spot)?;
        // It may have been below what had to make room.
        if !self.index.is_there(target.parent) {
            return Err(UnpackError::MissingTarget);
        }
        match self.medium.link(&self.index, target, spot)? {
            Some(Made::Yes) => Ok(()),
            Some(Made::Taken) => Err(still_taken()),
            None => Err(UnpackError::MissingTarget),
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
        match self.make(spot, New::Whiteout)? {
            Made::Yes => {
                self.index.node_mut(spot.parent).has_whiteouts = true;
                Ok(())
            }
            Made::Taken => match self.medium.look(&self.index, spot)? {
                Some(Leaf::Whiteout) => Ok(()),
                None | Some(Leaf::Symlink | Leaf::Other) => self.hide(spot),
            },
        }
    }

    /// Whether `spot` is no directory, as far as that is known here.
    fn is_free(&mut self, spot: Spot<'_>) -> bool {
        self.index.child(spot.parent, spot.name).is_none()
    }

    fn clear_for_leaf(&mut self, spot: Spot<'_>) -> Result<(), UnpackError> {
        match self.clear(spot)? {
            Cleared::Hiding => self.hide(spot),
            Cleared::Free => Ok(()),
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
        if let Some(id) = self.index.child(spot.parent, spot.name) {
            hiding |= self.index.node(id).opaque;
            self.index.remove(id);
            self.medium.remove_directory(&self.index, spot)?;
        } else if let Some(leaf) = self.medium.look(&self.index, spot)? {
            hiding |= leaf == Leaf::Whiteout;
            self.medium.remove(&self.index, spot)?;
        }
        Ok(if hiding { Cleared::Hiding } else { Cleared::Free })
    }
}

/// The medium says that a name is taken after it was cleared: nobody else writes there, so this does not happen.
fn still_taken() -> UnpackError {
    UnpackError::disk("make room for")(Errno::EXIST)
}
