//! Names of entries: where they point, and what the names that begin with `.wh.` mean.
//!
//! Names are bytes from end to end. In messages they are escaped and cut short.

use std::fmt;

/// The longest name, in bytes: `PATH_MAX`.
const MAX_NAME: usize = 4096;

/// The longest component, in bytes: `NAME_MAX`.
const MAX_COMPONENT: usize = 255;

/// Components of a path, and directories from the root down to any other.
pub(crate) const MAX_DEPTH: usize = 128;

/// Why a name cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("it is longer than {MAX_NAME} bytes")]
    TooLong,
    #[error("a component of it is longer than {MAX_COMPONENT} bytes")]
    LongComponent,
    #[error("it has more than {MAX_DEPTH} components")]
    TooDeep,
    #[error("it has a NUL")]
    Nul,
    #[error("it leads out of the layer")]
    Escapes,
    #[error("it is a whiteout of nothing that could be")]
    EmptyWhiteout,
    #[error("it is below a whiteout")]
    BelowWhiteout,
}

/// What an entry's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// The root of the layer.
    Root,
    /// Something named `name` in the directory `parent`.
    Object { parent: &'a [u8], name: &'a [u8] },
    /// `name` in `parent` is hidden, should a layer below have it.
    Whiteout { parent: &'a [u8], name: &'a [u8] },
    /// All that layers below have in `directory` is hidden.
    Opaque { directory: &'a [u8] },
    /// Bookkeeping of AUFS, without a meaning for anybody else.
    Ignored,
}

/// A name in the one form that says where it points: without `.`, `..`, empty components and slashes at its ends.
#[derive(Debug, Default)]
pub(crate) struct Normal(Vec<u8>);

impl Normal {
    /// Takes in `raw`, in place of what was there before.
    ///
    /// An absolute name counts from the root of the layer: real images have them. `..` is resolved as text, as every
    /// runtime does.
    pub(crate) fn set(&mut self, raw: &[u8]) -> Result<(), NameError> {
        self.0.clear();
        if raw.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        if raw.contains(&0) {
            return Err(NameError::Nul);
        }
        let mut depth = 0;
        for component in raw.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    if depth == 0 {
                        return Err(NameError::Escapes);
                    }
                    depth -= 1;
                    let parent = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                    self.0.truncate(parent);
                }
                _ if component.len() > MAX_COMPONENT => return Err(NameError::LongComponent),
                _ => {
                    depth += 1;
                    if !self.0.is_empty() {
                        self.0.push(b'/');
                    }
                    self.0.extend_from_slice(component);
                }
            }
        }
        if depth > MAX_DEPTH { Err(NameError::TooDeep) } else { Ok(()) }
    }

    /// The directory and the name in it; none for the root.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        })
    }

    /// What it means as the name of an entry: OCI image specification, "Whiteouts".
    pub(crate) fn meaning(&self) -> Result<Meaning<'_>, NameError> {
        let Some((parent, name)) = self.split() else { return Ok(Meaning::Root) };
        if !self.0.windows(4).any(|window| window == b".wh.") {
            return Ok(Meaning::Object { parent, name });
        }
        for component in parent.split(|&byte| byte == b'/') {
            if component.starts_with(b".wh..wh.") {
                return Ok(Meaning::Ignored);
            }
            if component.starts_with(b".wh.") {
                return Err(NameError::BelowWhiteout);
            }
        }
        match name.strip_prefix(b".wh.") {
            None => Ok(Meaning::Object { parent, name }),
            Some(b".wh..opq") => Ok(Meaning::Opaque { directory: parent }),
            Some(rest) if rest.starts_with(b".wh.") => Ok(Meaning::Ignored),
            Some(b"" | b"." | b"..") => Err(NameError::EmptyWhiteout),
            Some(victim) => Ok(Meaning::Whiteout { parent, name: victim }),
        }
    }
}

/// Shows a name in a message: quoted, everything but printable ASCII escaped, cut after 200 bytes.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = self.0.len().min(200);
        let more = if cut < self.0.len() { "..." } else { "" };
        write!(f, "\"{}\"{more}", self.0[..cut].escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(raw: &[u8]) -> String {
        let mut normal = Normal::default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match normal.set(raw).and_then(|()| normal.meaning()) {
            Ok(Meaning::Root) => "the root".into(),
            Ok(Meaning::Object { parent, name }) => format!("{} in /{}", text(name), text(parent)),
            Ok(Meaning::Whiteout { parent, name }) => {
                format!("no {} in /{}", text(name), text(parent))
            }
            Ok(Meaning::Opaque { directory }) => format!("nothing below /{}", text(directory)),
            Ok(Meaning::Ignored) => "ignored".into(),
            Err(err) => format!("refused: {err}"),
        }
    }

    #[test]
    fn names_point_into_the_layer_or_are_refused() {
        let cases = [
            ("plain", "a/b", "b in /a"),
            ("with a dot", "./a", "a in /"),
            ("absolute", "/etc/passwd", "passwd in /etc"),
            ("slashes", "//a///b//", "b in /a"),
            ("dot dot inside", "a/../b/c/./../d", "d in /b"),
            ("dot", ".", "the root"),
            ("slash", "/", "the root"),
            ("nothing", "", "the root"),
            ("back to the root", "a/..", "the root"),
            ("out", "../x", "refused: it leads out of the layer"),
            ("out from inside", "a/../../x", "refused: it leads out of the layer"),
            ("absolute and out", "/../x", "refused: it leads out of the layer"),
            ("three dots", ".../a", "a in /..."),
        ];
        for (name, raw, want) in cases {
            assert_eq!(meaning(raw.as_bytes()), want, "{name}");
        }
    }

    #[test]
    fn whiteouts() {
        let cases = [
            ("whiteout", "a/.wh.b", "no b in /a"),
            ("at the root", ".wh.b", "no b in /"),
            ("as a directory", ".wh.b/", "no b in /"),
            ("opaque", "a/.wh..wh..opq", "nothing below /a"),
            ("opaque root", ".wh..wh..opq", "nothing below /"),
            ("AUFS", ".wh..wh.plnk", "ignored"),
            ("AUFS, below", ".wh..wh.plnk/123.4", "ignored"),
            ("of nothing", "a/.wh.", "refused: it is a whiteout of nothing that could be"),
            (
                "of the directory itself",
                "a/.wh..",
                "refused: it is a whiteout of nothing that could be",
            ),
            ("of the parent", "a/.wh...", "refused: it is a whiteout of nothing that could be"),
            ("of a name with dots", "a/.wh....", "no ... in /a"),
            ("below a whiteout", "a/.wh.b/c", "refused: it is below a whiteout"),
            ("inside a name", "a.wh.b", "a.wh.b in /"),
        ];
        for (name, raw, want) in cases {
            assert_eq!(meaning(raw.as_bytes()), want, "{name}");
        }
    }

    #[test]
    fn names_have_bounds() {
        let component = |length: usize| vec![b'a'; length];
        let deep = |depth: usize| vec!["d"; depth].join("/").into_bytes();
        let cases = [
            ("longest component", component(255), true),
            ("longer component", component(256), false),
            ("deepest", deep(128), true),
            ("deeper", deep(129), false),
            ("longest name", [b"./".repeat(2047), b"aa".to_vec()].concat(), true),
            ("longer name", [b"./".repeat(2048), b"a".to_vec()].concat(), false),
            ("NUL", b"a\0b".to_vec(), false),
            ("line end and no UTF-8", b"a\n\xff".to_vec(), true),
        ];
        for (name, raw, good) in cases {
            assert_eq!(Normal::default().set(&raw).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn names_are_shown_escaped_and_cut() {
        assert_eq!(Shown(b"a\n\xff\"").to_string(), r#""a\n\xff\"""#);
        assert!(Shown(&[0; 5000]).to_string().len() < 1000);
    }
}
