//! The directories that the layer has so far, in memory.
//!
//! Every directory of the layer is in here and nothing else is, because nobody but this process makes any. So a path whose
//! parts are all found here has no symbolic link in it.

use crate::failure::UnpackError;
use crate::name::MAX_DEPTH;
use crate::tar::Time;
use image::layer::wire::Bound;
use std::collections::HashMap;
use std::rc::Rc;

/// Directories of a layer; with their names they must fit the worker's memory beside a decompression window of 128 MiB.
const MAX_DIRECTORIES: usize = 524_288;

/// Bytes in the names of all directories.
const MAX_NAMES: usize = 16 << 20;

/// One directory. The number is good as long as the directory is not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(u32);

impl Id {
    /// The root of the layer.
    pub(crate) const ROOT: Self = Self(0);

    /// Small and without gaps, for tables.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// What is known about a directory.
#[derive(Debug)]
pub(crate) struct Node {
    /// Number of the parent, then the name.
    key: Rc<[u8]>,
    parent: Id,
    depth: u8,
    /// It is not there any more.
    removed: bool,
    /// It hides what layers below have in it.
    pub(crate) opaque: bool,
    /// There may be whiteouts in it.
    pub(crate) has_whiteouts: bool,
    /// An entry says what it is like.
    pub(crate) described: bool,
    pub(crate) mode: u16,
    pub(crate) mtime: Time,
}

/// Mode of a directory that no entry describes, and of every directory until the end.
pub(crate) const IMPLICIT_MODE: u16 = 0o755;

/// All directories.
#[derive(Debug)]
pub(crate) struct Index {
    nodes: Vec<Node>,
    children: HashMap<Rc<[u8]>, Id>,
    name_bytes: usize,
    scratch: Vec<u8>,
}

impl Index {
    /// Only the root.
    pub(crate) fn new() -> Self {
        let mut index = Self {
            nodes: Vec::new(),
            children: HashMap::new(),
            name_bytes: 0,
            scratch: Vec::new(),
        };
        index.nodes.push(node(Rc::from(&[0; 4][..]), Id::ROOT, 0));
        index
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    pub(crate) fn parent(&self, id: Id) -> Id {
        self.node(id).parent
    }

    pub(crate) fn name(&self, id: Id) -> &[u8] {
        &self.node(id).key[4..]
    }

    /// The directory `name` in `parent`.
    pub(crate) fn child(&mut self, parent: Id, name: &[u8]) -> Option<Id> {
        let key = key(&mut self.scratch, parent, name);
        self.children.get(key).copied()
    }

    /// Notes that `name` was made in `parent`, where it was not before.
    pub(crate) fn add(&mut self, parent: Id, name: &[u8]) -> Result<Id, UnpackError> {
        self.name_bytes += name.len();
        if self.nodes.len() >= MAX_DIRECTORIES {
            return Err(UnpackError::Limit(Bound::Directories, MAX_DIRECTORIES as u64));
        }
        if self.name_bytes > MAX_NAMES {
            return Err(UnpackError::Limit(Bound::DirectoryNames, MAX_NAMES as u64));
        }
        let depth = self.node(parent).depth + 1;
        if usize::from(depth) > MAX_DEPTH {
            return Err(UnpackError::TooDeep);
        }
        let id = Id(u32::try_from(self.nodes.len()).map_err(|_| UnpackError::TooDeep)?);
        let key = Rc::from(key(&mut self.scratch, parent, name));
        self.children.insert(Rc::clone(&key), id);
        self.nodes.push(node(key, parent, depth));
        Ok(id)
    }

    /// Notes that `id` and all below it was removed.
    pub(crate) fn remove(&mut self, id: Id) {
        let node = &mut self.nodes[id.0 as usize];
        node.removed = true;
        self.children.remove(&node.key);
    }

    /// Whether neither `id` nor a directory above it was removed.
    pub(crate) fn is_there(&self, id: Id) -> bool {
        let mut at = id;
        while at != Id::ROOT {
            if self.node(at).removed {
                return false;
            }
            at = self.parent(at);
        }
        true
    }

    /// How many directories there were in all, removed ones counted.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The path from the root to `id`, without the root: empty for itself.
    pub(crate) fn path(&self, id: Id) -> Vec<u8> {
        let mut names = Vec::with_capacity(usize::from(self.node(id).depth));
        let mut at = id;
        while at != Id::ROOT {
            names.push(self.name(at));
            at = self.parent(at);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// All directories that are there, each after its parent. Takes in what removals left to do.
    pub(crate) fn all(&mut self) -> Vec<Id> {
        let mut all = Vec::with_capacity(self.nodes.len());
        for at in 0..self.nodes.len() {
            // Parents have the lower number, so this reaches everything below a removed one.
            if self.node(self.nodes[at].parent).removed {
                self.nodes[at].removed = true;
            }
            if !self.nodes[at].removed {
                all.extend(u32::try_from(at).map(Id));
            }
        }
        all
    }
}

fn node(key: Rc<[u8]>, parent: Id, depth: u8) -> Node {
    Node {
        key,
        parent,
        depth,
        removed: false,
        opaque: false,
        has_whiteouts: false,
        described: false,
        mode: IMPLICIT_MODE,
        mtime: Time::default(),
    }
}

/// Writes the key of `name` in `parent` to `scratch`, which saves an allocation a look-up.
pub(crate) fn key<'a>(scratch: &'a mut Vec<u8>, parent: Id, name: &[u8]) -> &'a [u8] {
    scratch.clear();
    scratch.extend_from_slice(&parent.0.to_le_bytes());
    scratch.extend_from_slice(name);
    scratch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_removed_directory_is_gone_too() {
        let mut index = Index::new();
        let a = index.add(Id::ROOT, b"a").unwrap();
        let b = index.add(a, b"b").unwrap();
        index.add(b, b"c").unwrap();
        let d = index.add(Id::ROOT, b"d").unwrap();
        index.remove(a);
        assert_eq!(index.child(Id::ROOT, b"a"), None);
        let again = index.add(Id::ROOT, b"a").unwrap();
        assert_eq!(index.child(again, b"b"), None, "the new one is empty");
        assert_eq!(index.all(), [Id::ROOT, d, again]);
    }

    #[test]
    fn paths_go_from_the_root_down() {
        let mut index = Index::new();
        let a = index.add(Id::ROOT, b"a").unwrap();
        let b = index.add(a, b"b").unwrap();
        assert_eq!(index.path(b), b"a/b");
        assert_eq!(index.path(Id::ROOT), b"");
    }

    #[test]
    fn depth_and_names_have_bounds() {
        let mut index = Index::new();
        let mut at = Id::ROOT;
        for _ in 0..MAX_DEPTH {
            at = index.add(at, b"d").unwrap();
        }
        assert!(matches!(index.add(at, b"d"), Err(UnpackError::TooDeep)));
        let refused = (0..=MAX_NAMES / 255).find_map(|_| {
            let added = index.add(Id::ROOT, &[b'n'; 255]);
            added.map(|id| index.remove(id)).err()
        });
        assert!(matches!(refused, Some(UnpackError::Limit(Bound::DirectoryNames, _))));
    }
}
