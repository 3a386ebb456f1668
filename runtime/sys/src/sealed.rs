//! Content that nobody can change any more: sealed memory files (`memfd_create(2)`).

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// What a sealed file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To be read.
    Data,
    /// To be executed.
    Program,
}

/// Makes a file in memory with this content, which can neither be written nor change its size.
///
/// # Errors
///
/// Those of `memfd_create(2)`; no memory.
pub fn create(name: &str, mut content: impl Read, what: Use) -> io::Result<OwnedFd> {
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let wished = match what {
        Use::Data => base | MemfdFlags::NOEXEC_SEAL,
        Use::Program => base | MemfdFlags::EXEC,
    };
    let fd = match rustix::fs::memfd_create(name, wished) {
        // Kernels before 6.3 know neither flag; every memory file is executable there.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, base)?,
        result => result?,
    };
    let mut file = File::from(fd);
    io::copy(&mut content, &mut file)?;
    file.flush()?;
    rustix::fs::fcntl_add_seals(&file, SEALS | SealFlags::SEAL)?;
    Ok(file.into())
}

const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

/// Reads a sealed file of at most `limit` bytes whole.
///
/// # Errors
///
/// `InvalidData` where it is not sealed, or longer.
pub fn read(fd: impl AsFd, limit: usize) -> io::Result<Vec<u8>> {
    if !rustix::fs::fcntl_get_seals(&fd)?.contains(SEALS) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let size = usize::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = vec![0; size];
    // Not by its own position, which the sender shares.
    File::from(fd.as_fd().try_clone_to_owned()?).read_exact_at(&mut content, 0)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_content_reads_back_and_stays() {
        let fd = create("t", &b"content"[..], Use::Data).unwrap();
        assert_eq!(read(&fd, 7).unwrap(), b"content");
        assert!(read(&fd, 6).is_err(), "longer than asked for");
        assert_eq!(rustix::io::pwrite(&fd, b"x", 0), Err(Errno::PERM));
    }

    #[test]
    fn an_unsealed_file_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(read(&file, 10).is_err());
    }
}
