//! Content as registries have it, named by its digest: manifests and configurations, and some layers.
//!
//! ```text
//! blobs/sha256/<hex>            a document, or a layer that is kept, 0600
//! blobs/ingest/sha256-<hex>     a layer on its way: what came before a cut or a kill
//! ```
//!
//! A layer's file in `ingest` goes when the layer is unpacked, because then its one copy is the unpacked one: a push asks
//! the registry it came from again. Only what no registry has (`berth load`) stays, and what the configuration says is to.

use crate::digest::{Algorithm, Digest, Hasher};
use rustix::fs::Mode;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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

/// A layer's file to be filled.
#[derive(Debug)]
pub(crate) struct Ingest {
    /// Written at its end, read from anywhere.
    pub(crate) file: Arc<File>,
    /// What it has already, unchecked.
    pub(crate) bytes: u64,
    /// Whether it is one of the store, and not to be changed.
    pub(crate) is_whole: bool,
}

const INGEST: &str = "ingest";

impl Blobs {
    /// The store in the directory `root`, which is made where it is missing.
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        make_private_dir(&root)?;
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            make_private_dir(&root.join(algorithm.as_str()))?;
        }
        make_private_dir(&root.join(INGEST))?;
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

    /// Whether there is certainly no such document: a disk that fails to answer has not lost it.
    pub(crate) fn is_gone(&self, digest: &Digest) -> bool {
        matches!(self.path(digest).metadata(), Err(err) if err.kind() == io::ErrorKind::NotFound)
    }

    /// Keeps `bytes`, whose digest the caller has checked. Durable when this returns.
    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        sys::durable::replace(&self.path(digest), bytes, 0o600)
    }

    /// The file of the layer `digest`, of `size` bytes in the end: as an earlier try left it, or empty.
    pub(crate) fn ingest(&self, digest: &Digest, size: u64) -> io::Result<Ingest> {
        if let Some(file) = self.open_blob(digest)?
            && file.metadata()?.len() == size
        {
            return Ok(Ingest { file: Arc::new(file), bytes: size, is_whole: true });
        }
        let path = self.ingest_path(digest);
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o600).open(&path)
        };
        let mut file = open()?;
        let mut bytes = file.metadata()?.len();
        if bytes > size {
            fs::remove_file(&path)?;
            file = open()?;
            bytes = 0;
        }
        Ok(Ingest { file: Arc::new(file), bytes, is_whole: false })
    }

    /// Removes a layer's file that has served.
    pub(crate) fn end_ingest(&self, digest: &Digest) -> io::Result<()> {
        remove_if_there(&self.ingest_path(digest))
    }

    /// Makes a layer's file, whole and checked, one of the store. Durable when this returns.
    pub(crate) fn settle(&self, digest: &Digest) -> io::Result<()> {
        let (from, to) = (self.ingest_path(digest), self.path(digest));
        File::open(&from)?.sync_all()?;
        fs::rename(&from, &to)?;
        File::open(to.parent().unwrap_or(&self.root))?.sync_all()
    }

    /// The layer or document `digest`, unchecked.
    pub(crate) fn open_blob(&self, digest: &Digest) -> io::Result<Option<File>> {
        match File::open(self.path(digest)) {
            Ok(file) => Ok(Some(file)),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Bytes that are free for this user where the store is.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let about = rustix::fs::statvfs(&self.root)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }

    /// Removes a document or layer, and what there is of it on its way; a missing one is fine.
    pub(crate) fn remove(&self, digest: &Digest) -> io::Result<()> {
        remove_if_there(&self.path(digest))?;
        self.end_ingest(digest)
    }

    /// Every document and layer, and what is on its way. Other names are nobody's, and removed: what a crash left
    /// half-written.
    pub(crate) fn list(&self) -> io::Result<Vec<Stored>> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        let mut look = |directory: &str, name_digest: &dyn Fn(&str) -> String| -> io::Result<()> {
            for entry in fs::read_dir(self.root.join(directory))? {
                let entry = entry?;
                match name_digest(&entry.file_name().to_string_lossy()).parse() {
                    Ok(digest) => all.push(Stored { digest, bytes: entry.metadata()?.len() }),
                    Err(_) => fs::remove_file(entry.path())?,
                }
            }
            Ok(())
        };
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            look(algorithm.as_str(), &|name| format!("{}:{name}", algorithm.as_str()))?;
        }
        look(INGEST, &|name| name.replacen('-', ":", 1))?;
        Ok(all)
    }

    fn ingest_path(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
        self.root.join(INGEST).join(name)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.algorithm().as_str()).join(digest.hex())
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes `path` where it is missing, for this user alone.
fn make_private_dir(path: &Path) -> io::Result<()> {
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
    fn a_layer_on_its_way_goes_on_where_it_was_and_becomes_a_blob() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().to_owned()).unwrap();
        let digest = Digest::of(b"whole layer");
        let Ingest { file, bytes, is_whole } = blobs.ingest(&digest, 11).unwrap();
        assert_eq!((bytes, is_whole), (0, false));
        (&*file).write_all(b"whole").unwrap();
        let Ingest { file, bytes, .. } = blobs.ingest(&digest, 11).unwrap();
        assert_eq!(bytes, 5);
        (&*file).write_all(b" layer").unwrap();
        assert_eq!(blobs.list().unwrap()[0].digest, digest, "it can be collected");
        assert!(blobs.open_blob(&digest).unwrap().is_none(), "not one of the store yet");
        blobs.settle(&digest).unwrap();
        let Ingest { bytes, is_whole, .. } = blobs.ingest(&digest, 11).unwrap();
        assert_eq!((bytes, is_whole), (11, true));
        assert_eq!(blobs.ingest(&digest, 7).unwrap().bytes, 0, "of another size");
        blobs.remove(&digest).unwrap();
        assert!(blobs.list().unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_too_long_begins_anew() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().to_owned()).unwrap();
        let digest = Digest::of(b"layer");
        (&*blobs.ingest(&digest, 100).unwrap().file).write_all(&[0; 50]).unwrap();
        assert_eq!(blobs.ingest(&digest, 5).unwrap().bytes, 0);
        blobs.end_ingest(&digest).unwrap();
        blobs.end_ingest(&digest).unwrap();
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
