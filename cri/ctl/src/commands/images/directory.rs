//! An OCI layout as a directory: made from the archive that the daemon sends, and packed for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

const BLOCK: usize = 512;

/// Unpacks an archive while it arrives. The daemon's archives have plain files with short names only.
pub(super) struct Writer {
    root: PathBuf,
    header: Vec<u8>,
    file: Option<File>,
    left: u64,
    padding: u64,
}

impl Writer {
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        if fs::read_dir(root)?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not empty"));
        }
        let root = root.to_owned();
        Ok(Self { root, header: Vec::new(), file: None, left: 0, padding: 0 })
    }

    pub(super) fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let take = |most: u64| usize::try_from(most).unwrap_or(usize::MAX).min(data.len());
            if self.left > 0 {
                let (now, later) = data.split_at(take(self.left));
                if let Some(file) = &mut self.file {
                    file.write_all(now)?;
                }
                self.left -= now.len() as u64;
                data = later;
            } else if self.padding > 0 {
                let (skipped, later) = data.split_at(take(self.padding));
                self.padding -= skipped.len() as u64;
                data = later;
            } else {
                let (now, later) = data.split_at(take((BLOCK - self.header.len()) as u64));
                self.header.extend_from_slice(now);
                data = later;
                if self.header.len() == BLOCK {
                    self.begin()?;
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let header = std::mem::take(&mut self.header);
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "the daemon sent no archive");
        if header.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let text = |from: usize, to: usize| {
            let field = header[from..to].split(|byte| *byte == 0).next().unwrap_or_default();
            std::str::from_utf8(field).map_err(|_| bad())
        };
        let (name, size) = (text(0, 100)?, text(124, 136)?);
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        if !name.split('/').all(is_plain) {
            return Err(bad());
        }
        self.left = u64::from_str_radix(size.trim(), 8).map_err(|_| bad())?;
        let over = self.left % BLOCK as u64;
        self.padding = (BLOCK as u64 - over) % BLOCK as u64;
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        self.file = Some(OpenOptions::new().write(true).create_new(true).open(path)?);
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<()> {
        match self.left == 0 && self.header.is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The layout in a directory as an archive, in a file without a name.
pub(super) fn archive(root: &Path) -> io::Result<File> {
    let directory = std::env::temp_dir();
    let flags =
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let file = rustix::fs::openat(rustix::fs::CWD, &directory, flags, mode)?;
    let mut file = File::from(file);
    add(&mut file, &root.join("index.json"), "index.json")?;
    for algorithm in ["sha256", "sha512"] {
        let Ok(entries) = fs::read_dir(root.join("blobs").join(algorithm)) else { continue };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            add(&mut file, &entry.path(), &format!("blobs/{algorithm}/{name}"))?;
        }
    }
    file.write_all(&[0; 2 * BLOCK])?;
    file.rewind()?;
    Ok(file)
}

fn add(archive: &mut File, path: &Path, name: &str) -> io::Result<()> {
    let mut from = File::open(path)?;
    let size = from.metadata()?.len();
    if name.len() > 100 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name is too long"));
    }
    let mut header = [0; BLOCK];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000444\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.write_all(&header)?;
    let copied = io::copy(&mut from, archive)?;
    if copied != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    archive.write_all(&[0; BLOCK][..(BLOCK - over) % BLOCK])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_layout_survives_the_way_through_an_archive() {
        let from = tempfile::tempdir().unwrap();
        let put = |path: &str, content: &[u8]| {
            let path = from.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            File::create_new(path).unwrap().write_all(content).unwrap();
        };
        put("index.json", b"{}");
        put("blobs/sha256/aa", &[7; 1000]);
        put("blobs/sha256/bb", &[1; 512]);
        let mut bytes = Vec::new();
        archive(from.path()).unwrap().read_to_end(&mut bytes).unwrap();
        let to = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(to.path()).unwrap();
        bytes.chunks(300).try_for_each(|chunk| writer.write(chunk)).unwrap();
        writer.finish().unwrap();
        let read = |path: &str| fs::read(to.path().join(path)).unwrap();
        assert_eq!(read("index.json"), b"{}");
        assert_eq!(read("blobs/sha256/aa"), [7; 1000]);
        assert_eq!(read("blobs/sha256/bb"), [1; 512]);
        assert!(Writer::new(to.path()).is_err(), "not into what is there already");
    }
}
