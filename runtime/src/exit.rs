//! Exit records: how a container ended, kept where neither the daemon nor a full disk can lose it.
//!
//! The daemon makes the file before the start, at its full size; the monitor overwrites it in place with one write when
//! the container has ended, before it tells anybody. The file lives in the state directory, a tmpfs: it outlives both
//! processes, and no reboot, after which no container runs that it could speak of. So nothing is synced.

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What it returned, or 128 + N where signal N ended it.
    pub code: i32,
    /// When.
    pub at: SystemTime,
    /// Why.
    pub cause: Cause,
    /// More words for people, at most 200 bytes; empty where there is nothing to add.
    pub message: String,
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Its first process ended, by itself or by a signal.
    Ended,
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// Its program never ran.
    StartFailed,
}

/// The exit code of a container whose program never ran, as other runtimes report it.
pub const START_FAILED: i32 = 128;

/// The most bytes that [`Exit::message`] keeps.
pub const MAX_MESSAGE: usize = 200;

/// Why an exit record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    /// It cannot be opened or read; it may be missing.
    #[error("read exit record {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// What is in it was not written by us, or not whole.
    #[error("exit record {} is corrupt", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
}

/// One record: magic and version, length, postcard, zeros, and a sum of all before it.
const SIZE: usize = 512;
const MAGIC: &[u8; 8] = b"berthex1";
const HEADER: usize = MAGIC.len() + 2;
const SUM: usize = SIZE - 8;

/// Makes an empty record at `path`, in place of an old one, and gives a descriptor to write it by.
///
/// # Errors
///
/// Any failure of the file system; a disk that is full is met here, and never when the record is written.
pub fn create(path: &Path) -> io::Result<OwnedFd> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(err) => return Err(err.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    overwrite(&fd, &[0; SIZE])?;
    Ok(fd)
}

/// Writes `exit` into a record that [`create`] made.
///
/// # Errors
///
/// Any failure of the file system.
pub fn write(record: impl AsFd, exit: &Exit) -> io::Result<()> {
    let content = encode(exit).ok_or(Errno::INVAL)?;
    overwrite(record, &content)
}

/// Reads the record at `path`; `None` where the container has not ended.
///
/// # Errors
///
/// [`ExitError::Read`] where there is no such file, [`ExitError::Corrupt`] where it holds no record.
pub fn read(path: &Path) -> Result<Option<Exit>, ExitError> {
    let content =
        std::fs::read(path).map_err(|source| ExitError::Read { path: path.to_owned(), source })?;
    decode(&content).ok_or_else(|| ExitError::Corrupt { path: path.to_owned() })
}

/// Cuts `text` to what [`Exit::message`] keeps, at the border of a character.
#[must_use]
pub fn cut_message(text: &str) -> String {
    let end = (0..=MAX_MESSAGE.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

fn overwrite(record: impl AsFd, content: &[u8; SIZE]) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| rustix::io::pwrite(&record, content, 0))? {
        SIZE => Ok(()),
        _ => Err(Errno::NOSPC.into()),
    }
}

fn encode(exit: &Exit) -> Option<[u8; SIZE]> {
    let mut content = [0; SIZE];
    content[..MAGIC.len()].copy_from_slice(MAGIC);
    let exit = Exit { message: cut_message(&exit.message), ..exit.clone() };
    let length = postcard::to_slice(&exit, &mut content[HEADER..SUM]).ok()?.len();
    content[MAGIC.len()..HEADER].copy_from_slice(&u16::try_from(length).ok()?.to_le_bytes());
    let sum = sum(&content[..SUM]);
    content[SUM..].copy_from_slice(&sum.to_le_bytes());
    Some(content)
}

/// The outer `None` is a corrupt record, the inner one an empty record.
#[expect(
    clippy::option_option,
    reason = "the two are named above, and one caller turns them into a result"
)]
fn decode(content: &[u8]) -> Option<Option<Exit>> {
    let content: &[u8; SIZE] = content.try_into().ok()?;
    if content == &[0; SIZE] {
        return Some(None);
    }
    if !content.starts_with(MAGIC) || content[SUM..] != sum(&content[..SUM]).to_le_bytes() {
        return None;
    }
    let length = u16::from_le_bytes([content[MAGIC.len()], content[MAGIC.len() + 1]]);
    let body = content[HEADER..SUM].get(..usize::from(length))?;
    postcard::from_bytes(body).ok().map(Some)
}

/// FNV-1a, 64 bits: it has to find a torn or damaged record, not an enemy, who would have to be root.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn exit(message: &str) -> Exit {
        Exit {
            code: 137,
            at: UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
            cause: Cause::OutOfMemory,
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_record_is_empty_until_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit");
        let fd = create(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        write(&fd, &exit("killed")).unwrap();
        assert_eq!(read(&path).unwrap(), Some(exit("killed")));
        create(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None, "a new record replaces the old one");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit");
        let fd = create(&path).unwrap();
        write(&fd, &exit(&format!("x{}", "é".repeat(300)))).unwrap();
        let message = read(&path).unwrap().unwrap().message;
        assert_eq!(message, format!("x{}", "é".repeat(99)));
    }

    #[test]
    fn damage_is_found() {
        let whole = encode(&exit("m")).unwrap();
        let mut flipped = whole;
        flipped[20] ^= 1;
        let mut torn = whole;
        torn[256..].fill(0);
        let mut other_version = whole;
        other_version[7] = b'9';
        let cases: [(&str, &[u8], bool); 7] = [
            ("whole", &whole, true),
            ("empty record", &[0; SIZE], true),
            ("empty file", &[], false),
            ("cut short", &whole[..300], false),
            ("one bit flipped", &flipped, false),
            ("half written", &torn, false),
            ("another version", &other_version, false),
        ];
        for (name, content, want) in cases {
            assert_eq!(decode(content).is_some(), want, "{name}");
        }
    }

    #[test]
    fn a_missing_record_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let missing = read(&dir.path().join("exit"));
        assert!(matches!(missing, Err(ExitError::Read { .. })));
    }
}
