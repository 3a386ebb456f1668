//! Everything in the image that is no directory, by directory and name: 16 bytes and the name for each.

use super::format::Type;
use crate::failure::UnpackError;
use crate::medium::Spot;
use image::layer::wire::Bound;
use std::hash::{BuildHasher, RandomState};

/// Bytes in all names: with 4 million entries, the default bound of a layer, 15 for each.
const MAX_NAMES: usize = 64 << 20;

/// Memory for names and for entries grows by so much at a time: to double it would take three times what is needed.
const NAMES_STEP: usize = 1 << 20;
const ENTRIES_STEP: usize = 1 << 16;

/// An inode that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its place in the image, a multiple of 32.
    pub(super) place: u64,
    pub(super) kind: Type,
    /// It has had more than one name.
    pub(super) is_linked: bool,
}

/// One name. Names that are gone keep their place, and get it back when they come again.
#[derive(Clone, Copy, Debug)]
struct Entry {
    parent: u32,
    /// Where in `names` its length is, and then itself.
    name: u32,
    /// A target in one word; 0 where it is gone.
    target: u64,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Leaves {
    entries: Vec<Entry>,
    names: Vec<u8>,
    /// Numbers of entries plus one, by hash; 0 is free. The length is a power of two, a quarter of it is free.
    table: Vec<u32>,
    hasher: RandomState,
}

const LINKED: u64 = 1 << 3;
const FLAGS: u64 = 31;

impl Target {
    fn pack(self) -> u64 {
        let linked = if self.is_linked { LINKED } else { 0 };
        self.place & !FLAGS | self.kind as u64 | linked
    }

    fn unpack(word: u64) -> Option<Self> {
        let kind = Type::from_number(u8::try_from(word & 7).unwrap_or(0))?;
        Some(Self { place: word & !FLAGS, kind, is_linked: word & LINKED != 0 })
    }
}

impl Leaves {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            names: Vec::new(),
            table: vec![0; 1024],
            hasher: RandomState::new(),
        }
    }

    pub(super) fn get(&self, spot: Spot<'_>) -> Option<Target> {
        let number = self.find(spot).ok()?;
        Target::unpack(self.entries[number].target)
    }

    /// Gives `spot` a target, a new one if it has one.
    pub(super) fn set(&mut self, spot: Spot<'_>, target: Target) -> Result<(), UnpackError> {
        match self.find(spot) {
            Ok(number) => self.entries[number].target = target.pack(),
            Err(slot) => {
                let (entry, count) = (self.add(spot, target)?, self.entries.len());
                if self.entries.len() == self.entries.capacity() {
                    self.entries.reserve_exact(ENTRIES_STEP);
                }
                self.entries.push(entry);
                self.table[slot] = u32::try_from(count + 1).map_err(|_| too_many())?;
                if count * 4 > self.table.len() * 3 {
                    self.grow();
                }
            }
        }
        Ok(())
    }

    /// Takes away what `spot` has.
    pub(super) fn clear(&mut self, spot: Spot<'_>) {
        if let Ok(number) = self.find(spot) {
            self.entries[number].target = 0;
        }
    }

    /// How many names there are, those that are gone counted.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of the directory, the name, and what it is for, unless it is gone.
    pub(super) fn entry(&self, number: usize) -> (u32, &[u8], Option<Target>) {
        let entry = self.entries[number];
        (entry.parent, self.name(entry), Target::unpack(entry.target))
    }

    fn name(&self, entry: Entry) -> &[u8] {
        let at = entry.name as usize;
        let length = usize::from(self.names[at]);
        &self.names[at + 1..][..length]
    }

    fn add(&mut self, spot: Spot<'_>, target: Target) -> Result<Entry, UnpackError> {
        let at = self.names.len();
        let needed = spot.name.len() + 1;
        if at + needed > MAX_NAMES {
            return Err(too_many());
        }
        if at + needed > self.names.capacity() {
            self.names.reserve_exact(NAMES_STEP);
        }
        self.names.push(u8::try_from(spot.name.len()).map_err(|_| too_many())?);
        self.names.extend_from_slice(spot.name);
        Ok(Entry {
            parent: spot.parent.number(),
            name: u32::try_from(at).map_err(|_| too_many())?,
            target: target.pack(),
        })
    }

    /// The number of an entry, or the slot it would have.
    fn find(&self, spot: Spot<'_>) -> Result<usize, usize> {
        let parent = spot.parent.number();
        let mut slot = self.slot(parent, spot.name);
        loop {
            match self.table[slot] {
                0 => return Err(slot),
                taken => {
                    let number = taken as usize - 1;
                    let entry = self.entries[number];
                    if entry.parent == parent && self.name(entry) == spot.name {
                        return Ok(number);
                    }
                }
            }
            slot = (slot + 1) % self.table.len();
        }
    }

    fn slot(&self, parent: u32, name: &[u8]) -> usize {
        let hash = self.hasher.hash_one((parent, name));
        usize::try_from(hash % self.table.len() as u64).unwrap_or(0)
    }

    fn grow(&mut self) {
        let length = self.table.len() * 2;
        // The old one first: it is not needed to make the new one.
        self.table = Vec::new();
        self.table = vec![0; length];
        for number in 0..self.entries.len() {
            let entry = self.entries[number];
            let mut slot = self.slot(entry.parent, self.name(entry));
            while self.table[slot] != 0 {
                slot = (slot + 1) % length;
            }
            // It was in the old table, so it fits.
            self.table[slot] = u32::try_from(number + 1).unwrap_or(u32::MAX);
        }
    }
}

fn too_many() -> UnpackError {
    UnpackError::Limit(Bound::Names, MAX_NAMES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Id;

    fn target(place: u64) -> Target {
        Target { place, kind: Type::Regular, is_linked: false }
    }

    #[test]
    fn names_are_found_replaced_and_forgotten() {
        let mut leaves = Leaves::new();
        let names: Vec<_> =
            (0..10_000).map(|number| format!("name-{number}").into_bytes()).collect();
        let spot = |name| Spot { parent: Id::ROOT, name };
        for (number, name) in (0..).zip(&names) {
            leaves.set(spot(name), target(number * 32)).unwrap();
        }
        for (number, name) in (0..).zip(&names) {
            assert_eq!(leaves.get(spot(name)).unwrap(), target(number * 32), "{number}");
        }
        assert_eq!(leaves.get(spot(b"other")), None);
        leaves.clear(spot(b"name-7"));
        assert_eq!(leaves.get(spot(b"name-7")), None);
        let again = Target { place: 64, kind: Type::Symlink, is_linked: true };
        leaves.set(spot(b"name-7"), again).unwrap();
        assert_eq!(leaves.get(spot(b"name-7")), Some(again));
        assert_eq!(leaves.len(), 10_000, "it has its old place");
    }

    #[test]
    fn names_have_a_bound() {
        let mut leaves = Leaves::new();
        let refused = (0..300_000u32).find_map(|number| {
            let name = format!("{number:0>255}").into_bytes();
            leaves.set(Spot { parent: Id::ROOT, name: &name }, target(32)).err()
        });
        assert!(matches!(refused, Some(UnpackError::Limit(Bound::Names, _))));
    }
}
