//! What a layer is unpacked into: a tree of directories and files, or one EROFS image.
//!
//! Names, links, whiteouts and replaced entries mean the same in both, because [`Area`](crate::area::Area) decides about
//! them; a medium only does what it is told. It never finds a directory by itself: those are in the [`Index`].

use crate::failure::UnpackError;
use crate::index::{Id, Index};
use crate::pulse::Pulse;
use crate::tar::{Attributes, Device, Segment, TarError};

/// A name in a directory. What it names need not be there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot<'a> {
    pub(crate) parent: Id,
    pub(crate) name: &'a [u8],
}

/// Something that is there and is no directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    Whiteout,
    Symlink,
    Other,
}

/// Whether something new was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    Yes,
    /// The name has something already, and nothing was done.
    Taken,
}

/// Something to be made that has no content of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum New<'a> {
    /// Root's, open to all to look into, until it is described.
    Directory,
    /// The sign for overlayfs that nothing is here.
    Whiteout,
    Symlink {
        target: &'a [u8],
        attributes: &'a Attributes,
    },
    Special {
        kind: Special,
        attributes: &'a Attributes,
    },
}

/// Files that are neither data nor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Character(Device),
    Block(Device),
    Fifo,
}

/// A regular file to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File<'a> {
    /// Its length, holes included.
    pub(crate) size: u64,
    /// The parts that have data, where not all has.
    pub(crate) map: Option<&'a [Segment]>,
    pub(crate) attributes: &'a Attributes,
}

/// The bytes of the current entry.
pub(crate) trait Content {
    /// The next of them; empty at the end.
    fn data(&mut self) -> Result<&[u8], TarError>;

    /// Marks `count` of those as used.
    fn consume(&mut self, count: usize);
}

/// What a medium has to say at the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) skipped_attributes: u64,
    /// Where the directories that were asked about are, should somebody have to change their attributes.
    pub(crate) places: Vec<u64>,
}

/// The end of a layer, for a medium.
#[derive(Debug)]
pub(crate) struct Ending<'a> {
    /// All directories, each after its parent. One that is opaque is marked so in the index, and all below it are.
    pub(crate) all: &'a [Id],
    /// Directories whose places are wanted.
    pub(crate) wanted: &'a [Id],
    /// SHA-256 of the stream.
    pub(crate) digest: [u8; 32],
}

/// See the head of this file.
pub(crate) trait Medium {
    /// What is at `spot`, which is no directory.
    fn look(&mut self, index: &Index, spot: Spot<'_>) -> Result<Option<Leaf>, UnpackError>;

    /// The target of the symbolic link at `spot`.
    fn read_link(&mut self, index: &Index, spot: Spot<'_>) -> Result<Vec<u8>, UnpackError>;

    /// Makes `new` with all its attributes.
    fn make(&mut self, index: &Index, spot: Spot<'_>, new: New<'_>) -> Result<Made, UnpackError>;

    /// Makes a regular file; where the name is taken, without having touched `content`.
    fn file(
        &mut self,
        index: &Index,
        spot: Spot<'_>,
        file: File<'_>,
        content: &mut dyn Content,
    ) -> Result<Made, UnpackError>;

    /// Makes `spot` one more name of `target`; none where nothing is there that could have one.
    fn link(
        &mut self,
        index: &Index,
        target: Spot<'_>,
        spot: Spot<'_>,
    ) -> Result<Option<Made>, UnpackError>;

    /// Removes what is at `spot` and is no directory.
    fn remove(&mut self, index: &Index, spot: Spot<'_>) -> Result<(), UnpackError>;

    /// Removes the directory at `spot` with all in it. The index has forgotten it already.
    fn remove_directory(&mut self, index: &Index, spot: Spot<'_>) -> Result<(), UnpackError>;

    /// Takes in owner and extended attributes of a directory; mode and time are in the index.
    fn describe(
        &mut self,
        index: &Index,
        id: Id,
        attributes: &Attributes,
    ) -> Result<(), UnpackError>;

    /// Removes the whiteouts in a directory in which there is nothing left to hide.
    fn drop_whiteouts(&mut self, index: &Index, id: Id) -> Result<(), UnpackError>;

    /// What waits for the last entry.
    fn finish(
        &mut self,
        index: &Index,
        ending: &Ending<'_>,
        pulse: &mut Pulse,
    ) -> Result<Summary, UnpackError>;
}
