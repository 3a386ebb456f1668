//! Manifests and configurations on disk, named by their digests. Layers are not here: their one copy is unpacked.
//!
//! ```text
//! blobs/sha256/<hex>      a document, 0600
//! blobs/ingest/           kept free for the partial layers of a resume across restarts
//! ```

use crate::digest::{Algorithm, Digest, Hasher};
use rustix::fs::Mode;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// A store of small documents.
#[derive(Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
    /// `durable::replace` wants one writer of a name at a time.
    writing: Mutex<()>,
}

/// A document that is there.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

impl Blobs {
    /// The store in the directory `root`, which is made where it is missing.
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        make_private_dir(&root)?;
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            make_private_dir(&root.join(algorithm.as_str()))?;
        }
        Ok(Self { root, writing: Mutex::new(()) })
    }

    /// The document `digest`, of at most `limit` bytes. One that has rotted on disk counts as missing.
    pub(crate) fn get(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.path(digest)) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if bytes.len() as u64 <= limit && hasher.finish() == *digest {
            return Ok(Some(bytes));
        }
        tracing::warn!(%digest, "document on disk is damaged, it is fetched again");
        Ok(None)
    }

    /// Whether there is a document of that name.
    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Keeps `bytes`, whose digest the caller has checked. Durable when this returns.
    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        sys::durable::replace(&self.path(digest), bytes, 0o600)
    }

    /// Removes a document; a missing one is fine.
    pub(crate) fn remove(&self, digest: &Digest) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Every document. Other names are nobody's, and removed: what a crash left half-written.
    pub(crate) fn list(&self) -> io::Result<Vec<Stored>> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for entry in fs::read_dir(self.root.join(algorithm.as_str()))? {
                let entry = entry?;
                let name = entry.file_name();
                let digest = format!("{}:{}", algorithm.as_str(), name.to_string_lossy()).parse();
                match digest {
                    Ok(digest) => all.push(Stored { digest, bytes: entry.metadata()?.len() }),
                    Err(_) => fs::remove_file(entry.path())?,
                }
            }
        }
        Ok(all)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.algorithm().as_str()).join(digest.hex())
    }
}

/// Makes `path` where it is missing, for this user alone.
fn make_private_dir(path: &std::path::Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn documents_are_kept_privately_under_their_digest() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        let digest = Digest::of(b"document");
        assert_eq!(blobs.get(&digest, 100).unwrap(), None);
        blobs.put(&digest, b"document").unwrap();
        blobs.put(&digest, b"document").unwrap();
        assert_eq!(blobs.get(&digest, 100).unwrap().as_deref(), Some(&b"document"[..]));
        let mode =
            |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("blobs"), 0o700);
        assert_eq!(mode(&format!("blobs/sha256/{}", digest.hex())), 0o600);
        let stored = Blobs::open(dir.path().join("blobs")).unwrap().list().unwrap();
        assert_eq!((&stored[0].digest, stored[0].bytes, stored.len()), (&digest, 8, 1));
        blobs.remove(&digest).unwrap();
        blobs.remove(&digest).unwrap();
        assert!(!blobs.contains(&digest));
    }

    #[test]
    fn a_damaged_document_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().to_owned()).unwrap();
        let digest = Digest::of(b"document");
        for (name, content, limit) in [
            ("a bit flipped", &b"documens"[..], 100),
            ("emptied", b"", 100),
            ("too large", b"document", 7),
        ] {
            blobs.put(&digest, content).unwrap();
            assert_eq!(blobs.get(&digest, limit).unwrap(), None, "{name}");
        }
    }

    #[test]
    fn what_a_crash_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().to_owned()).unwrap();
        sys::durable::replace(&dir.path().join("sha256/.abc.new"), b"half", 0o600).unwrap();
        assert!(blobs.list().unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("sha256")).unwrap().count(), 0);
    }
}
