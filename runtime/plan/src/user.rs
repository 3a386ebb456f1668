//! The user namespace part of a launch plan.

use crate::Fd;
use serde::{Deserialize, Serialize};

/// A pod's user namespace. It owns all other namespaces of the container; ids elsewhere in a plan are those inside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// A descriptor of the namespace (its pin).
    pub fd: Fd,
    /// Its users.
    pub uids: IdRange,
    /// Its groups.
    pub gids: IdRange,
}

/// Ids in a row that have other numbers outside of a user namespace: one line of `uid_map` (`user_namespaces(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside, that is on the host.
    pub outside: u32,
    /// How many there are.
    pub length: u32,
}

impl IdRange {
    /// The host's number of an id inside; `None` where it has none.
    #[must_use]
    pub fn to_outside(self, id: u32) -> Option<u32> {
        let at = id.checked_sub(self.inside).filter(|at| *at < self.length)?;
        self.outside.checked_add(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_range_have_other_numbers_outside() {
        let range = IdRange { inside: 10, outside: 70_000, length: 5 };
        let cases = [
            ("the first", 10, Some(70_000)),
            ("the last", 14, Some(70_004)),
            ("before", 9, None),
            ("behind", 15, None),
        ];
        for (name, id, want) in cases {
            assert_eq!(range.to_outside(id), want, "{name}");
        }
        let top = IdRange { inside: 0, outside: u32::MAX, length: 2 };
        assert_eq!(top.to_outside(1), None, "no number at all");
    }
}
