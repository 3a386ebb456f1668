//! A log file as a series of whole lines, across rotation.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::tail::start_of_last;

/// Reads what is there and remembers where it stopped. It never waits.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: File,
    /// The beginning of a line whose end has not been written yet.
    pending: Vec<u8>,
}

impl Reader {
    /// Begins at the last `last` lines, or at the beginning.
    pub(super) fn open(path: &Path, last: Option<u64>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(count) = last {
            let start = start_of_last(&file, count)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Self { path: path.to_owned(), file, pending: Vec::new() })
    }

    /// Gives all whole lines that are there by now, without their line ends.
    pub(super) fn read(
        &mut self,
        mut on_line: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        loop {
            if self.drain(&mut on_line)?.is_break() {
                return Ok(());
            }
            let Some(successor) = self.successor()? else { return Ok(()) };
            // The writer has gone over to the new file, so this is the last of the old one.
            if self.drain(&mut on_line)?.is_break() {
                return Ok(());
            }
            self.file = successor;
        }
    }

    /// What has been written of a line that has no end yet.
    pub(super) fn incomplete(&self) -> &[u8] {
        &self.pending
    }

    fn drain(
        &mut self,
        on_line: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        // Cut to make room, instead of being moved away (logrotate's copytruncate).
        if self.file.metadata()?.len() < self.file.stream_position()? {
            self.file.rewind()?;
            self.pending.clear();
        }
        let mut block = vec![0; 64 * 1024];
        loop {
            let length = match self.file.read(&mut block) {
                Ok(0) => return Ok(ControlFlow::Continue(())),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for piece in block[..length].split_inclusive(|&byte| byte == b'\n') {
                self.pending.extend_from_slice(piece);
                if self.pending.pop_if(|byte| *byte == b'\n').is_some() {
                    let flow = on_line(&self.pending);
                    self.pending.clear();
                    if flow.is_break() {
                        return Ok(flow);
                    }
                }
            }
        }
    }

    /// The file that has taken the place of ours, once it is written to: until then lines still come to ours,
    /// since the new file is made before the writer takes it.
    fn successor(&self) -> io::Result<Option<File>> {
        let ours = self.file.metadata()?;
        let there = match fs::metadata(&self.path) {
            Ok(there) => there,
            // Moved away, and not made anew yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) || there.len() == 0 {
            return Ok(None);
        }
        File::open(&self.path).map(Some)
    }
}
