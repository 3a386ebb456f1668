//! Paths inside a container's root: resolved once, used as descriptors.
//!
//! The content of the root belongs to the image, and a volume in it to somebody who may change it right now. So nothing
//! here leaves the root: a path goes through `openat2(RESOLVE_IN_ROOT)`, and what is missing is made one component at a
//! time, relative to the descriptor of its directory.

use rustix::fs::{
    Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, mkdirat, openat, openat2, readlinkat,
};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What is made where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory of mode 0755.
    Directory,
    /// An empty file of mode 0644.
    File,
}

/// What symbolic links on the way are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Resolved, inside the root.
    Followed,
    /// An error (`ELOOP`): for what must be where it says (CVE-2023-27561, CVE-2025-54867).
    Refused,
}

/// As many links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;
/// `openat2` gives up where something is renamed or mounted meanwhile (`EAGAIN`); nobody can keep that up for long.
const MAX_TRIES: u32 = 128;

/// Finds what `path` is; `ENOENT` where it is nothing.
pub(super) fn existing(root: BorrowedFd<'_>, path: &str, links: Links) -> Result<OwnedFd, Errno> {
    open(root, path, OFlags::PATH, links)
}

/// Opens what `path` is.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    links: Links,
) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refused {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let path = if path.is_empty() { "." } else { path };
    let mut tries = 0;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < MAX_TRIES => tries += 1,
            result => return result,
        }
    }
}

/// Finds what `path` is, and makes it where it is nothing.
pub(super) fn target(
    root: BorrowedFd<'_>,
    path: &str,
    kind: Kind,
    links: Links,
) -> Result<OwnedFd, Errno> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match existing(root, &path, links) {
            Err(Errno::NOENT) => match make(root, &path, kind, links)? {
                Made::There(fd) => return Ok(fd),
                Made::LeadsTo(other) => path = other,
            },
            result => return result,
        }
    }
    Err(Errno::LOOP)
}

enum Made {
    There(OwnedFd),
    /// A symbolic link led nowhere; this is where it wanted to.
    LeadsTo(String),
}

fn make(root: BorrowedFd<'_>, path: &str, kind: Kind, links: Links) -> Result<Made, Errno> {
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    let (mut at, mut dir) = deepest(root, &names, links)?;
    // Nothing is made there, and the text of a magic link such as /proc/self/fd/3 is no path.
    if rustix::fs::fstatfs(&dir)?.f_type == PROC_SUPER_MAGIC {
        return Err(Errno::NOENT);
    }
    while let Some(name) = names.get(at) {
        let last = at + 1 == names.len();
        if *name == ".." {
            return Err(Errno::NOENT);
        }
        let made = if last && kind == Kind::File {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&dir, *name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            mkdirat(&dir, *name, Mode::from_raw_mode(0o755))
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) if links == Links::Followed => {
                if let Ok(link) = readlinkat(&dir, *name, Vec::new()) {
                    let link = link.to_str().map_err(|_| Errno::ILSEQ)?;
                    return Ok(Made::LeadsTo(redirect(&names, at, link)));
                }
            }
            // Somebody else was faster; what it is shows below.
            Err(Errno::EXIST) => {}
            Err(err) => return Err(err),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let flags = if last && kind == Kind::File { flags } else { flags | OFlags::DIRECTORY };
        dir = openat(&dir, *name, flags, Mode::empty())?;
        at += 1;
    }
    Ok(Made::There(dir))
}

/// The longest part of the path that exists: how many names, and what they lead to.
fn deepest(root: BorrowedFd<'_>, names: &[&str], links: Links) -> Result<(usize, OwnedFd), Errno> {
    for count in (0..names.len()).rev() {
        match existing(root, &names[..count].join("/"), links) {
            Err(Errno::NOENT) => {}
            result => return result.map(|fd| (count, fd)),
        }
    }
    Err(Errno::NOENT)
}

/// The path that `names` mean when the one at `at` is a link with this text.
fn redirect(names: &[&str], at: usize, link: &str) -> String {
    let before = if link.starts_with('/') { &[] } else { &names[..at] };
    [&before.join("/"), link, &names[at + 1..].join("/")].join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    struct Fixture {
        _dir: tempfile::TempDir,
        outside: std::path::PathBuf,
        inside: std::path::PathBuf,
        root: OwnedFd,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let root = sys::seqpacket::directory(&inside).unwrap();
        Fixture { _dir: dir, outside, inside, root }
    }

    fn names(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn what_is_missing_is_made_inside_the_root() {
        let cases = [
            ("plain", None, "/a/b/c", "a/b/c"),
            ("up and over the top", None, "../../x/y", "x/y"),
            ("absolute link", Some(("l", "/in")), "/l/f", "in/f"),
            ("relative link", Some(("l", "in/deeper")), "/l", "in/deeper"),
            ("link out by dots", Some(("l", "../../outside")), "/l/f", "outside/f"),
            ("link that is the last name", Some(("l", "/gone")), "/l", "gone"),
        ];
        for (name, link, path, made) in cases {
            for kind in [Kind::Directory, Kind::File] {
                let fixture = fixture();
                if let Some((at, to)) = link {
                    symlink(to, fixture.inside.join(at)).unwrap();
                }
                target(fixture.root.as_fd(), path, kind, Links::Followed).unwrap();
                let made = std::fs::symlink_metadata(fixture.inside.join(made)).unwrap();
                assert_eq!(made.is_dir(), kind == Kind::Directory, "{name}");
                assert_eq!(names(&fixture.outside), 0, "{name}");
            }
        }
    }

    #[test]
    fn links_to_the_host_stay_inside() {
        let fixture = fixture();
        symlink(&fixture.outside, fixture.inside.join("l")).unwrap();
        target(fixture.root.as_fd(), "/l/f", Kind::File, Links::Followed).unwrap();
        assert_eq!(names(&fixture.outside), 0);
    }

    #[test]
    fn links_are_refused_where_they_must_not_be() {
        let fixture = fixture();
        symlink(&fixture.outside, fixture.inside.join("dev")).unwrap();
        for path in ["/dev", "/dev/shm", "/dev/a/b"] {
            let found = target(fixture.root.as_fd(), path, Kind::Directory, Links::Refused);
            assert_eq!(found.unwrap_err(), Errno::LOOP, "{path}");
        }
        assert_eq!(names(&fixture.outside), 0);
    }

    #[test]
    fn links_in_a_circle_end() {
        let fixture = fixture();
        symlink("b", fixture.inside.join("a")).unwrap();
        symlink("a/x", fixture.inside.join("b")).unwrap();
        let found = target(fixture.root.as_fd(), "/a", Kind::File, Links::Followed);
        assert_eq!(found.unwrap_err(), Errno::LOOP);
    }
}
