//! Where a runtime keeps its files.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

/// The kind of storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// The file system of the temporary directory.
    Disk,
    /// A tmpfs.
    Memory,
}

impl Medium {
    /// Makes `directory`, on this medium, in the caller's own mount namespace.
    ///
    /// # Panics
    ///
    /// When that is not possible.
    pub(crate) fn mount(self, directory: &Path) {
        fs::create_dir_all(directory)
            .unwrap_or_else(|err| panic!("make {}: {err}", directory.display()));
        if self == Self::Memory {
            let options: Option<&str> = Some("mode=0711");
            mount(Some("bench"), directory, Some("tmpfs"), MsFlags::empty(), options)
                .unwrap_or_else(|err| panic!("mount {}: {err}", directory.display()));
        }
    }
}
