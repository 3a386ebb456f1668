//! Files of the node that nothing a container does may change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::daemon::write;
use crate::image::digest;
use crate::world::World;

/// A small tree outside everything that is the daemon's, remembered in every detail.
#[derive(Debug)]
pub struct Canary {
    top: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

/// What its file holds: who reads this in a container has read a file of the node.
pub const SECRET: &str = "a secret of the node\n";

impl Canary {
    pub fn plant(world: &World) -> Self {
        let top = world.directory("canary");
        fs::create_dir_all(top.join("directory/empty")).expect("make a directory");
        write(&top.join("file"), SECRET);
        write(&top.join("directory/file"), SECRET);
        let mut canary = Self { top, before: BTreeMap::new() };
        canary.before = canary.look();
        canary
    }

    pub fn path(&self) -> &Path {
        &self.top
    }

    /// A path of it as text for links and requests.
    pub fn at(&self, below: &str) -> String {
        self.top.join(below).display().to_string()
    }

    /// Everything but times of access. Times of change tell of what was changed and changed back.
    fn look(&self) -> BTreeMap<PathBuf, String> {
        let mut seen = BTreeMap::new();
        let mut waiting = vec![self.top.clone()];
        while let Some(path) = waiting.pop() {
            let at = fs::symlink_metadata(&path).expect("look at the canary");
            let content = if at.is_file() {
                digest(&fs::read(&path).expect("read the canary"))
            } else {
                String::new()
            };
            if at.is_dir() {
                let entries = fs::read_dir(&path).expect("read the canary");
                waiting.extend(entries.map(|entry| entry.expect("an entry").path()));
            }
            let line = format!(
                "mode {:o} owner {}:{} inode {} links {} changed {}.{:09} {content}",
                at.mode(),
                at.uid(),
                at.gid(),
                at.ino(),
                at.nlink(),
                at.ctime(),
                at.ctime_nsec()
            );
            seen.insert(path, line);
        }
        seen
    }

    /// # Panics
    ///
    /// When anything of it is not what it was.
    pub fn assert_unharmed(&self, after: &str) {
        assert_eq!(self.look(), self.before, "{after}: files of the node were changed");
    }
}
