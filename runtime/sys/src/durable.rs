//! Files that are either the old or the new one, whatever dies when.

use rustix::fs::{self, AtFlags, Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// Puts a file with `content` and permission bits `mode` at `path`, in place of whatever was there.
///
/// Readers see the old file or the new one, and after a power loss one of them is there whole: the content is on disk
/// before the name is, and the name before this returns.
///
/// # Errors
///
/// Any failure of the file system; the old file is untouched then and nothing is left beside it.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(rustix::io::Errno::INVAL)?;
    let dir = fs::open(parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".new");
    // A left-over of a crash: nobody else writes names of this form.
    fs::unlinkat(&dir, &beside, AtFlags::empty()).ok();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    let mut file = File::from(fs::openat(&dir, &beside, flags, mode)?);
    let written = file
        .write_all(content)
        .and_then(|()| Ok(fs::fchmod(file.as_fd(), mode)?))
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(fs::renameat(&dir, &beside, &dir, name)?));
    if written.is_err() {
        // The failure to report is the one above.
        fs::unlinkat(&dir, &beside, AtFlags::empty()).ok();
    }
    written?;
    Ok(fs::fsync(&dir)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_new_content_takes_the_old_ones_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"old", 0o600).unwrap();
        replace(&path, b"new", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_left_over_of_a_crash_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join(".file.new")).unwrap();
        replace(&dir.path().join("file"), b"x", 0o600).unwrap();
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"x");
    }
}
