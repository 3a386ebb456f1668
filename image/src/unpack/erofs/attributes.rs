//! Extended attributes in the image. Equal ones are kept once, in a place of their own, while there is room for them in
//! memory; others follow their inode.

use super::format::{ATTRIBUTES_HEADER, MAX_SHARED, attribute, attributes_header};
use crate::failure::UnpackError;
use image::layer::wire::Bound;
use std::collections::HashMap;

/// Bytes and number of the attributes that are kept once.
const MAX_POOL: usize = 8 << 20;
const MAX_POOLED: usize = 65_536;

/// Bytes of attributes behind one inode: their count has 16 bits, each for four bytes.
const MAX_INLINE: usize = 240 << 10;

/// Attributes that are kept once.
#[derive(Debug, Default)]
pub(super) struct Pool {
    bytes: Vec<u8>,
    known: HashMap<Box<[u8]>, u32>,
}

impl Pool {
    /// What has to follow an inode that has `attributes`, names and values.
    pub(super) fn encode<'a>(
        &mut self,
        attributes: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Vec<u8>, UnpackError> {
        let (mut shared, mut inline) = (Vec::new(), Vec::new());
        for (name, value) in attributes {
            // Only names of known prefixes get here, and their lengths were checked.
            let Some(bytes) = attribute(name, value) else { continue };
            match self.keep(&bytes).filter(|_| shared.len() < MAX_SHARED) {
                Some(place) => shared.push(place),
                None => inline.extend(bytes),
            }
        }
        if shared.is_empty() && inline.is_empty() {
            return Ok(Vec::new());
        }
        let mut all = attributes_header(&shared);
        all.extend(inline);
        if all.len() > ATTRIBUTES_HEADER + MAX_INLINE {
            return Err(UnpackError::Limit(Bound::Attributes, MAX_INLINE as u64));
        }
        Ok(all)
    }

    /// The place of an attribute, in units of four bytes; none where there is no room for it.
    fn keep(&mut self, attribute: &[u8]) -> Option<u32> {
        if let Some(place) = self.known.get(attribute) {
            return Some(*place);
        }
        if self.bytes.len() + attribute.len() > MAX_POOL || self.known.len() >= MAX_POOLED {
            return None;
        }
        let place = u32::try_from(self.bytes.len() / 4).ok()?;
        self.bytes.extend_from_slice(attribute);
        self.known.insert(attribute.into(), place);
        Some(place)
    }

    /// All that is kept.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_attributes_are_kept_once() {
        let mut pool = Pool::default();
        let one = pool.encode([(&b"user.a"[..], &b"1"[..])]).unwrap();
        let other = pool.encode([(&b"user.a"[..], &b"1"[..])]).unwrap();
        assert_eq!(one, other);
        assert_eq!((one.len(), one[4]), (16, 1), "a header and one place");
        assert_eq!(pool.bytes(), b"\x01\x01\x01\0a1\0\0");
        assert_eq!(pool.encode([]).unwrap(), b"");
    }

    #[test]
    fn what_has_no_room_follows_its_inode_and_has_a_bound() {
        let mut pool = Pool::default();
        let value = vec![7; 65_535];
        for number in 0..128 {
            let name = format!("user.{number}");
            pool.encode([(name.as_bytes(), &value[..])]).unwrap();
        }
        let encoded = pool.encode([(&b"user.other"[..], &value[..])]).unwrap();
        assert_eq!((encoded.len(), encoded[4]), (12 + 4 + 5 + 65_535, 0));
        let names: Vec<_> = (0..4).map(|number| format!("user.other-{number}")).collect();
        let much = names.iter().map(|name| (name.as_bytes(), &value[..]));
        assert!(matches!(pool.encode(much), Err(UnpackError::Limit(Bound::Attributes, _))));
    }
}
