//! Programs of Debian's packages, put into layers with the libraries that they need.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use suite::image::Tree;
use suite::process;

use crate::at;

/// Packages unpacked over each other, not installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packages<'a>(pub(crate) &'a Path);

/// A layer that is being filled: directories are made once, as tar wants them before what is in them.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    tree: Tree,
    made: BTreeSet<String>,
}

impl Packages<'_> {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The shared objects that a program loads: name and file.
    fn libraries(&self, program: &Path) -> Vec<(String, PathBuf)> {
        let search = format!(
            "{0}/usr/lib/x86_64-linux-gnu:{0}/lib/x86_64-linux-gnu:{0}/usr/lib/aarch64-linux-gnu:{0}/lib/aarch64-linux-gnu",
            self.0.display()
        );
        let listed =
            process::output(Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", search));
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        text.lines().filter_map(library).collect()
    }
}

/// A line of ldd: `name => /file (address)`, or the loader itself as `/lib64/file (address)`.
fn library(line: &str) -> Option<(String, PathBuf)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [name, "=>", file, ..] => Some((format!("usr/lib/{name}"), PathBuf::from(file))),
        [file, ..] if file.starts_with('/') => {
            Some((file.trim_start_matches('/').to_owned(), PathBuf::from(file)))
        }
        _ => None,
    }
}

impl Layer {
    /// A directory and those above it.
    pub(crate) fn directory(&mut self, path: &str) -> &mut Self {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
        if self.made.insert(path.to_owned()) {
            self.change(|tree| tree.directory(path));
        }
        self
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> &mut Self {
        if self.made.insert(path.to_owned()) {
            self.above(path).change(|tree| tree.file(path, mode, content));
        }
        self
    }

    pub(crate) fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        if self.made.insert(path.to_owned()) {
            self.above(path).change(|tree| tree.hard_link(path, target));
        }
        self
    }

    /// A program with the libraries that it loads.
    pub(crate) fn program(
        &mut self,
        packages: Packages<'_>,
        path: &str,
        from: &str,
    ) -> Result<&mut Self, String> {
        let from = packages.path(from);
        let content = at(&from, fs::read(&from))?;
        self.file(path, 0o755, &content);
        for (name, file) in packages.libraries(&from) {
            let content = at(&file, fs::read(&file))?;
            self.file(&name, 0o755, &content);
        }
        Ok(self)
    }

    fn above(&mut self, path: &str) -> &mut Self {
        match path.rsplit_once('/') {
            Some((above, _)) => self.directory(above),
            None => self,
        }
    }

    pub(crate) fn change(&mut self, change: impl FnOnce(Tree) -> Tree) {
        self.tree = change(std::mem::take(&mut self.tree));
    }

    pub(crate) fn tree(self) -> Tree {
        self.tree
    }
}
