//! `passwd(5)` and `group(5)` as an image brings them: untrusted text that only says which numbers a name has.

/// One line of a passwd file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
}

/// One line of a group file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) gid: u32,
    pub(crate) members: Vec<String>,
}

/// More lines than any real file has; the rest is not read.
const MOST_LINES: usize = 65_536;

/// The users of a passwd file. Lines that are none (too few fields, a number that does not fit) are passed over.
pub(crate) fn users(text: &str) -> Vec<User> {
    lines(text)
        .filter_map(|fields| match fields.as_slice() {
            [name, _, uid, gid, _, home, ..] => Some(User {
                name: (*name).to_owned(),
                uid: id(uid)?,
                gid: id(gid)?,
                home: (*home).to_owned(),
            }),
            _ => None,
        })
        .collect()
}

/// The groups of a group file, likewise.
pub(crate) fn groups(text: &str) -> Vec<Group> {
    lines(text)
        .filter_map(|fields| match fields.as_slice() {
            [name, _, gid, members, ..] => Some(Group {
                name: (*name).to_owned(),
                gid: id(gid)?,
                members: members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect(),
            }),
            _ => None,
        })
        .collect()
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .take(MOST_LINES)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').collect())
}

/// A user or group id. Only digits: no sign, no spaces, no other base. The largest 32-bit number means "no id" to the
/// kernel and so is none.
pub(crate) fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { text.parse().ok()? } else { return None };
    (number != u32::MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_exact_or_none() {
        let cases = [
            ("root", "0", Some(0)),
            ("leading zero", "01", Some(1)),
            ("largest", "4294967294", Some(4_294_967_294)),
            ("no id", "4294967295", None),
            ("wraps to 0", "4294967296", None),
            ("negative", "-1", None),
            ("signed", "+1", None),
            ("hexadecimal", "0x1", None),
            ("trailing space", "1 ", None),
            ("empty", "", None),
        ];
        for (name, text, want) in cases {
            assert_eq!(id(text), want, "{name}");
        }
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let text = "# comment\nroot:x:0:0:root:/root:/bin/sh\nshort:x:1\nwide:x:4294967296:0::/:/bin/sh\n\nweb:x:33:34::/srv:/bin/false";
        let found: Vec<_> =
            users(text).into_iter().map(|u| (u.name, u.uid, u.gid, u.home)).collect();
        assert_eq!(
            found,
            [("root".into(), 0, 0, "/root".into()), ("web".into(), 33, 34, "/srv".into())]
        );
        let found = groups("wheel:x:10:root,web\nempty:x:11:\nbad:x:y:\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].members, ["root", "web"]);
        assert!(found[1].members.is_empty());
    }
}
