//! The name of a cgroup.

use std::fmt;
use std::str::FromStr;

/// Where a cgroup is, from the root of its hierarchy; the same in every hierarchy. Written like an absolute path:
/// `/berth/<pod>/<container>`.
///
/// Checked: it has at least one component and none that is empty, `.` or `..`, so it stays below the root whatever it
/// is joined to, and no operation can be pointed at the root itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(String);

/// A text does not name a cgroup.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cgroup path must be absolute, with plain components, got {0:?}")]
pub struct BadCgroupPath(String);

impl BadCgroupPath {
    /// `text`, which names no cgroup.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl CgroupPath {
    /// The path as it is written, with a leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The cgroup `name` below this one.
    ///
    /// # Errors
    ///
    /// [`BadCgroupPath`] if `name` is not a plain name, or too long.
    pub fn join(&self, name: &str) -> Result<Self, BadCgroupPath> {
        if name.contains('/') {
            Err(BadCgroupPath(name.to_owned()))
        } else {
            format!("{self}/{name}").parse()
        }
    }

    /// The path from the root, without a leading slash.
    pub(super) fn relative(&self) -> &str {
        &self.0[1..]
    }

    pub(super) fn components(&self) -> impl Iterator<Item = &str> {
        self.relative().split('/')
    }
}

impl FromStr for CgroupPath {
    type Err = BadCgroupPath;

    fn from_str(text: &str) -> Result<Self, BadCgroupPath> {
        // The kernel's limits: NAME_MAX for a component, PATH_MAX for what `/proc/<pid>/cgroup` can show.
        let plain = |name: &str| {
            !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(['\n', '\0'])
        };
        match text.strip_prefix('/') {
            Some(relative) if text.len() < 4_000 && relative.split('/').all(plain) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(BadCgroupPath(text.to_owned())),
        }
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_taken() {
        let long = format!("/{}", "x".repeat(256));
        let deep = "/x".repeat(2_000);
        let cases = [
            ("the default parent", "/berth", true),
            ("kubelet's", "/kubepods/burstable/pod2f1c-00_a:b", true),
            ("dots inside a name", "/a..b/...", true),
            ("the root", "/", false),
            ("nothing", "", false),
            ("relative", "berth", false),
            ("a systemd slice", "kubepods.slice:cri:1", false),
            ("a slash too many", "/berth//x", false),
            ("a slash at the end", "/berth/", false),
            ("itself", "/berth/.", false),
            ("upwards", "/berth/../x", false),
            ("a line break", "/berth/a\nb", false),
            ("a long component", &long, false),
            ("too many components", &deep, false),
        ];
        for (name, text, fits) in cases {
            assert_eq!(text.parse::<CgroupPath>().is_ok(), fits, "{name}");
        }
    }

    #[test]
    fn only_a_plain_name_can_be_joined() {
        let parent: CgroupPath = "/berth".parse().unwrap();
        assert_eq!(parent.join("pod").unwrap().as_str(), "/berth/pod");
        for name in ["", ".", "..", "a/b", "/a"] {
            assert!(parent.join(name).is_err(), "{name:?}");
        }
    }
}
