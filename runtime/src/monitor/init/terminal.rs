//! A terminal of the container's own devpts, known by descriptor; a container shows its own as `/dev/console`.

use super::resolve::{self, Kind, Links};
use super::{Channel, Stdio, Step, Word};
use crate::refuse::{Explain, refusal};
use plan::Process;
use rustix::fs::{Mode, OFlags, ResolveFlags, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::mount;

/// The process's side of a terminal.
#[derive(Debug)]
pub(super) struct Peer(OwnedFd);

/// `DEVPTS_SUPER_MAGIC` of `<linux/magic.h>`.
const DEVPTS: u32 = 0x1cd1;

const STEP: &str = "open terminal";

/// Opens a terminal where the process wants one, and hands the other side to the monitor.
pub(super) fn open(
    process: &Process,
    root: BorrowedFd<'_>,
    channel: &Channel,
) -> Step<Option<Peer>> {
    let Some(size) = process.terminal else { return Ok(None) };
    let ours = multiplexer(root)?;
    rustix::pty::unlockpt(&ours).step(STEP, "")?;
    // Not by its name, which a symbolic link could stand for (CVE-2025-52565).
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).step(STEP, "")?;
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&ours, size).step("set size of terminal", "")?;
    let owner = Some(Uid::from_raw(process.identity.uid));
    rustix::fs::fchown(&theirs, owner, None).step("own terminal", "")?;
    channel.say_with(&Word::Terminal, ours.as_fd())?;
    Ok(Some(Peer(theirs)))
}

/// Opens `/dev/pts/ptmx`. Whoever rules the container may have put anything there, and opening a device can do things: so
/// the directory is looked at first, and nothing that is mounted over its file is entered.
fn multiplexer(root: BorrowedFd<'_>) -> Step<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let directory =
        resolve::open(root, "/dev/pts", flags, Links::Refused).step(STEP, "/dev/pts")?;
    let kind = rustix::fs::fstatfs(&directory).step(STEP, "/dev/pts")?.f_type;
    if u32::try_from(kind) != Ok(DEVPTS) {
        return Err(refusal(STEP, "/dev/pts is no devpts", 0));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(&directory, "ptmx", flags, Mode::empty(), resolve)
        .step(STEP, "/dev/pts/ptmx")
}

impl Peer {
    /// Mounts it as `/dev/console`, on the tmpfs that we have made.
    pub(super) fn show(&self, dev: Option<&OwnedFd>) -> Step<()> {
        let dev = dev.ok_or_else(|| refusal(STEP, "/dev is no tmpfs of the plan", 0))?;
        let console = resolve::target(dev.as_fd(), "console", Kind::File, Links::Refused)
            .step("resolve mount target", "/dev/console")?;
        mount::bind(&self.0, "", false)
            .and_then(|bound| mount::attach(bound, console))
            .step("mount", "/dev/console")
    }

    /// Makes it the controlling terminal of this process's session.
    pub(super) fn control(&self) -> Step<()> {
        rustix::process::ioctl_tiocsctty(&self.0).step("control terminal", "")
    }

    pub(super) fn stdio(&self) -> Stdio<'_> {
        let fd = self.0.as_fd();
        Stdio { stdin: fd, stdout: fd, stderr: fd }
    }
}
