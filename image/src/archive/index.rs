//! What is where in a tar archive. Only headers are read.

use super::ArchiveError;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use tar::{EntryType, Header};

/// Entries of one archive; an image has a few dozen.
const MAX_ENTRIES: usize = 100_000;

/// Bytes of one name, and of a header that extends another.
const MAX_NAME: u64 = 4096;
const MAX_EXTENSION: u64 = 64 << 10;

const BLOCK: u64 = 512;

/// Links that are followed to a file.
const MAX_LINKS: usize = 8;

/// A piece of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Files by name, without a leading `./`.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    File(Span),
    /// Relative to the directory that the link is in.
    Link(String),
    /// Relative to the archive.
    Hard(String),
}

impl Index {
    /// Reads all headers.
    pub(super) fn read(file: &File) -> Result<Self, ArchiveError> {
        let end = file.metadata().map_err(ArchiveError::Read)?.len();
        let mut index = Self::default();
        let (mut at, mut name, mut link) = (0, None, None);
        while at + BLOCK <= end {
            let mut header = Header::new_old();
            file.read_exact_at(header.as_mut_bytes(), at).map_err(ArchiveError::Read)?;
            if header.as_bytes().iter().all(|byte| *byte == 0) {
                return Ok(index);
            }
            let bad = |_| ArchiveError::NotTar(at);
            let sum = header.as_bytes().iter().enumerate();
            let sum: u32 = sum
                .map(
                    |(index, byte)| if (148..156).contains(&index) { 32 } else { u32::from(*byte) },
                )
                .sum();
            if header.cksum().map_err(bad)? != sum {
                return Err(ArchiveError::NotTar(at));
            }
            let size = header.entry_size().map_err(bad)?;
            let span = Span { offset: at + BLOCK, size };
            let next =
                size.checked_next_multiple_of(BLOCK).and_then(|size| size.checked_add(span.offset));
            at = next.filter(|_| span.offset + size <= end).ok_or(ArchiveError::NotTar(at))?;
            let text = |limit| super::read(file, span, limit, "");
            let kind = header.entry_type();
            if kind.is_gnu_longname() {
                name = Some(until_nul(&text(MAX_NAME)?));
            } else if kind.is_gnu_longlink() {
                link = Some(until_nul(&text(MAX_NAME)?));
            } else if kind.is_pax_local_extensions() {
                let text = text(MAX_EXTENSION)?;
                name = extension(&text, "path").or(name);
                link = extension(&text, "linkpath").or(link);
            } else if !kind.is_pax_global_extensions() {
                let name = name.take().unwrap_or_else(|| lossy(&header.path_bytes()));
                let link = link.take().or_else(|| header.link_name_bytes().map(|l| lossy(&l)));
                index.add(kind, &name, link.unwrap_or_default(), span)?;
            }
        }
        Ok(index)
    }

    fn add(
        &mut self,
        kind: EntryType,
        name: &str,
        link: String,
        span: Span,
    ) -> Result<(), ArchiveError> {
        let entry = if kind.is_file() || kind.is_contiguous() {
            Entry::File(span)
        } else if kind.is_symlink() {
            Entry::Link(link)
        } else if kind.is_hard_link() {
            Entry::Hard(link)
        } else {
            // Directories, and what no image has.
            return Ok(());
        };
        self.entries.insert(normal(name), entry);
        if self.entries.len() > MAX_ENTRIES {
            return Err(ArchiveError::TooMany { what: "entries", limit: MAX_ENTRIES as u64 });
        }
        Ok(())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Where the file `name` is, through links.
    pub(super) fn find(&self, name: &str) -> Result<Span, ArchiveError> {
        let missing = || ArchiveError::Missing(crate::document::excerpt(name));
        let mut name = normal(name);
        for _ in 0..MAX_LINKS {
            name = match self.entries.get(&name).ok_or_else(missing)? {
                Entry::File(span) => return Ok(*span),
                Entry::Hard(target) => normal(target),
                Entry::Link(target) => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    normal(&format!("{directory}/{target}"))
                }
            };
        }
        Err(missing())
    }

    /// All files whose name begins with `start`, and the rest of their names.
    pub(super) fn below<'a>(&'a self, start: &'a str) -> impl Iterator<Item = (&'a str, Span)> {
        self.entries.iter().filter_map(move |(name, entry)| match entry {
            Entry::File(span) => Some((name.strip_prefix(start)?, *span)),
            Entry::Link(_) | Entry::Hard(_) => None,
        })
    }
}

/// The name without `.`, `..` and empty parts. It is a key, and never a path.
fn normal(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn until_nul(bytes: &[u8]) -> String {
    lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// The value of a key in a PAX header: `length key=value\n`.
fn extension(text: &[u8], key: &str) -> Option<String> {
    tar::PaxExtensions::new(text)
        .filter_map(Result::ok)
        .filter(|extension| extension.key() == Ok(key))
        .last()
        .map(|extension| lossy(extension.value_bytes()))
}
