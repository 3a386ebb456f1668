//! Extended attributes: which of those that a layer brings are set.
//!
//! A layer may bring file capabilities, access control lists and what belongs to users. It may not bring what steers the
//! overlay (`trusted.*`, `user.overlay.*`) or a security module of the host (all other `security.*`); those are left out
//! and counted.

use crate::name::Shown;
use crate::tar::Attributes;

/// Attributes of one entry.
const MAX_ATTRIBUTES: usize = 256;

/// The longest name and value, and all values of one entry, in bytes. EROFS has 16 bits for the length of a value, which is
/// one byte less than Linux takes.
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = u16::MAX as usize;
const MAX_TOTAL: usize = 1 << 20;

/// Why an entry's attributes are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttributeError {
    #[error("it has more than {MAX_ATTRIBUTES} extended attributes")]
    TooMany,
    #[error("the name of an extended attribute is longer than {MAX_NAME} bytes")]
    LongName,
    #[error("the extended attribute {0} is longer than {MAX_VALUE} bytes")]
    LongValue(String),
    #[error("its extended attributes have more than {MAX_TOTAL} bytes")]
    TooLarge,
}

/// What is to be done with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Set it; the file system must have a place for it.
    Required,
    /// Set it if the file system can.
    Optional,
    /// An access control list: set it once the entry has its mode and its children.
    AccessControl,
    /// Leave it out.
    Nowhere,
}

/// Checks the bounds on all attributes of an entry.
pub(crate) fn check(attributes: &Attributes) -> Result<(), AttributeError> {
    let all = &attributes.extended;
    if all.len() > MAX_ATTRIBUTES {
        return Err(AttributeError::TooMany);
    }
    for (name, value) in all {
        if name.len() > MAX_NAME {
            return Err(AttributeError::LongName);
        }
        if value.len() > MAX_VALUE {
            return Err(AttributeError::LongValue(Shown(name).to_string()));
        }
    }
    let total: usize = all.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total > MAX_TOTAL { Err(AttributeError::TooLarge) } else { Ok(()) }
}

/// Where an attribute of a regular file or a directory belongs. Other entries can have none that a layer may bring.
pub(crate) fn place(name: &[u8], value: &[u8]) -> Place {
    match name {
        b"security.capability" if is_capability(value) => Place::Required,
        b"system.posix_acl_access" | b"system.posix_acl_default" if is_access_control(value) => {
            Place::AccessControl
        }
        _ if name.starts_with(b"user.overlay.") => Place::Nowhere,
        _ if name.len() > b"user.".len() && name.starts_with(b"user.") => Place::Optional,
        _ => Place::Nowhere,
    }
}

/// `struct vfs_cap_data` of <linux/capability.h>: version 2, or 3 for the initial user namespace. The kernel writes the
/// latter as version 2 anyway; with another owner the file would have rights in a namespace of the host.
fn is_capability(value: &[u8]) -> bool {
    let word = |at: usize| {
        value.get(at..at + 4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    };
    let revision = word(0).map(|magic| magic & 0xff00_0000);
    match value.len() {
        20 => revision == Some(0x0200_0000),
        24 => revision == Some(0x0300_0000) && word(20) == Some(0),
        _ => false,
    }
}

/// Entries of an access control list, <linux/posix_acl.h>.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// `struct posix_acl_xattr_header` of version 2 and its entries, in the order in which the kernel wants them: tags and
/// permissions of a list that it would take, none of any other.
fn access_control(value: &[u8]) -> Option<Vec<(u16, u16)>> {
    let (header, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*header) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let mut list = Vec::with_capacity(entries.len() / 8);
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let is_nobody = entry[4..] == [0xff; 4];
        if permissions > 7 || (is_nobody && matches!(tag, USER | GROUP)) {
            return None;
        }
        let before = list.last().map(|&(tag, _)| tag);
        let follows = match tag {
            USER_OBJ => before.is_none(),
            USER | GROUP_OBJ => matches!(before, Some(USER_OBJ | USER)),
            GROUP | MASK => matches!(before, Some(GROUP_OBJ | GROUP)),
            OTHER => matches!(before, Some(GROUP_OBJ | MASK)) && !needs_mask(&list),
            _ => false,
        };
        if !follows {
            return None;
        }
        list.push((tag, permissions));
    }
    matches!(list.last(), Some((OTHER, _))).then_some(list)
}

/// Whether users or groups are named and no mask bounds them.
fn needs_mask(list: &[(u16, u16)]) -> bool {
    let has = |tag| list.iter().any(|&(known, _)| known == tag);
    (has(USER) || has(GROUP)) && !has(MASK)
}

fn is_access_control(value: &[u8]) -> bool {
    access_control(value).is_some()
}

/// What a file's mode is with an access list, and whether the list says anything beyond that: as a file system does it
/// when the list is set.
pub(crate) fn with_access_list(mode: u32, value: &[u8]) -> (u32, bool) {
    let Some(list) = access_control(value) else { return (mode, false) };
    let of = |tag| list.iter().find(|&&(known, _)| known == tag).map(|&(_, bits)| u32::from(bits));
    let group = of(MASK).or_else(|| of(GROUP_OBJ));
    let bits = (of(USER_OBJ), group, of(OTHER));
    let permissions = bits.0.unwrap_or(0) << 6 | bits.1.unwrap_or(0) << 3 | bits.2.unwrap_or(0);
    let is_more = list.iter().any(|(tag, _)| matches!(*tag, USER | GROUP | MASK));
    (mode & !0o777 | permissions, is_more)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability(revision: u8, length: usize, owner: u32) -> Vec<u8> {
        let mut value = vec![0; length];
        value[3] = revision;
        if length >= 24 {
            value[20..24].copy_from_slice(&owner.to_le_bytes());
        }
        value
    }

    fn list(version: u32, tags: &[u16]) -> Vec<u8> {
        let mut value = version.to_le_bytes().to_vec();
        for tag in tags {
            value.extend(tag.to_le_bytes());
            value.extend(6u16.to_le_bytes());
            let id = if matches!(*tag, USER | GROUP) { 7 } else { u32::MAX };
            value.extend(id.to_le_bytes());
        }
        value
    }

    #[test]
    fn only_attributes_that_are_a_containers_own_are_set() {
        use Place::{AccessControl, Nowhere, Optional, Required};
        let acl = "system.posix_acl_access";
        let cases = [
            ("capability", "security.capability", capability(2, 20, 0), Required),
            (
                "capability of the initial namespace",
                "security.capability",
                capability(3, 24, 0),
                Required,
            ),
            (
                "capability of another namespace",
                "security.capability",
                capability(3, 24, 1000),
                Nowhere,
            ),
            ("capability cut short", "security.capability", capability(2, 19, 0), Nowhere),
            ("capability of version 1", "security.capability", capability(1, 12, 0), Nowhere),
            ("capability of nothing", "security.capability", vec![], Nowhere),
            ("SELinux", "security.selinux", b"x".to_vec(), Nowhere),
            ("IMA", "security.ima", b"x".to_vec(), Nowhere),
            ("overlay", "trusted.overlay.opaque", b"y".to_vec(), Nowhere),
            ("overlay for users", "user.overlay.opaque", b"y".to_vec(), Nowhere),
            ("user", "user.comment", b"x".to_vec(), Optional),
            ("user, empty", "user.comment", vec![], Optional),
            ("user without a name", "user.", b"x".to_vec(), Nowhere),
            ("unknown", "other.x", b"x".to_vec(), Nowhere),
            ("access control list", acl, list(2, &[1, 2, 4, 0x10, 0x20]), AccessControl),
            ("access control list, the least", acl, list(2, &[1, 4, 0x20]), AccessControl),
            ("access control list, no mask", acl, list(2, &[1, 2, 4, 0x20]), Nowhere),
            ("access control list, no owner", acl, list(2, &[4, 0x20]), Nowhere),
            ("access control list, unknown tag", acl, list(2, &[1, 4, 0x20, 0x40]), Nowhere),
            ("access control list, out of order", acl, list(2, &[4, 1, 0x20]), Nowhere),
            ("access control list, old", acl, list(1, &[1, 4, 0x20]), Nowhere),
            ("access control list, cut", acl, list(2, &[1, 4, 0x20])[..20].to_vec(), Nowhere),
        ];
        for (case, name, value, want) in cases {
            assert_eq!(place(name.as_bytes(), &value), want, "{case}");
        }
    }

    #[test]
    fn an_access_list_changes_the_mode() {
        let cases = [
            ("only what a mode says", &[1, 4, 0x20][..], (0o4666, false)),
            ("somebody named", &[1, 2, 4, 0x10, 0x20], (0o4666, true)),
            ("a mask alone", &[1, 4, 0x10, 0x20], (0o4666, true)),
            ("no list", &[4], (0o4750, false)),
        ];
        for (name, tags, want) in cases {
            assert_eq!(with_access_list(0o4750, &list(2, tags)), want, "{name}");
        }
    }

    #[test]
    fn attributes_have_bounds() {
        let named = |name: usize, value: usize| (vec![b'n'; name], vec![0; value]);
        let cases = [
            ("most", vec![named(10, 1); 256], Ok(())),
            ("one more", vec![named(10, 1); 257], Err(AttributeError::TooMany)),
            ("longest name", vec![named(255, 1)], Ok(())),
            ("longer name", vec![named(256, 1)], Err(AttributeError::LongName)),
            ("longest value", vec![named(1, 65_535)], Ok(())),
            (
                "longer value",
                vec![named(1, 64 << 10)],
                Err(AttributeError::LongValue("\"n\"".into())),
            ),
            ("all together", vec![named(1, 65_535); 17], Err(AttributeError::TooLarge)),
        ];
        for (case, extended, want) in cases {
            assert_eq!(check(&Attributes { extended, ..Attributes::default() }), want, "{case}");
        }
    }
}
