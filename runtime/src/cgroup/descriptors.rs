//! A container's cgroup as descriptors that can be sent to the monitor.

use super::directory::Directory;
use std::io;
use std::os::fd::OwnedFd;

/// The directories of one cgroup, one per hierarchy, each with a label that says which hierarchy it belongs to.
///
/// The labels are `"v2"`, or on v1 the controllers of the hierarchy as in its mount options: `"memory"`,
/// `"cpu,cpuacct"`, `"name=systemd"`.
#[derive(Debug)]
pub struct Descriptors {
    pub(super) entries: Vec<(Label, Directory)>,
}

impl Descriptors {
    /// Labels and descriptors, in the same order, for sending them to another process.
    #[must_use]
    pub fn into_parts(self) -> (Vec<String>, Vec<OwnedFd>) {
        let entries = self.entries.into_iter();
        entries.map(|(label, dir)| (label.0, OwnedFd::from(dir))).unzip()
    }

    /// What [`into_parts`](Self::into_parts) gave, received by another process.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if there are not as many labels as descriptors, or none, or if `"v2"` is not the only label.
    pub fn from_parts(labels: Vec<String>, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mixed = labels.len() > 1 && labels.iter().any(|label| label == Label::V2);
        if labels.is_empty() || labels.len() != descriptors.len() || mixed {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let directories = descriptors.into_iter().map(Directory::from);
        Ok(Self { entries: labels.into_iter().map(Label).zip(directories).collect() })
    }
}

/// Names a hierarchy: `"v2"`, or the controllers of a v1 hierarchy, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label(pub(super) String);

impl Label {
    pub(super) const V2: &str = "v2";

    pub(super) fn is_v2(&self) -> bool {
        self.0 == Self::V2
    }

    /// Whether `controller` (or `name=…`) is one of this v1 hierarchy's.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.0.split(',').any(|own| own == controller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(labels: &[&str], count: usize) -> (Vec<String>, Vec<OwnedFd>) {
        let dir = tempfile::tempdir().unwrap();
        let open = || Directory::open(dir.path()).unwrap().into();
        (
            labels.iter().map(|label| (*label).to_owned()).collect(),
            (0..count).map(|_| open()).collect(),
        )
    }

    #[test]
    fn received_parts_must_fit_together() {
        let cases: &[(&str, &[&str], usize, bool)] = &[
            ("v2", &["v2"], 1, true),
            ("v1", &["cpu,cpuacct", "memory", "name=systemd"], 3, true),
            ("nothing", &[], 0, false),
            ("a descriptor too few", &["cpu", "memory"], 1, false),
            ("v1 and v2 together", &["memory", "v2"], 2, false),
        ];
        for (name, labels, count, fits) in cases {
            let (labels, descriptors) = parts(labels, *count);
            assert_eq!(Descriptors::from_parts(labels, descriptors).is_ok(), *fits, "{name}");
        }
    }

    #[test]
    fn parts_come_back_as_they_were() {
        let (labels, descriptors) = parts(&["cpu,cpuacct", "memory"], 2);
        let sent = Descriptors::from_parts(labels.clone(), descriptors).unwrap();
        assert!(sent.entries[0].0.has("cpuacct") && !sent.entries[0].0.has("cpuset"));
        assert_eq!(sent.into_parts().0, labels);
    }
}
