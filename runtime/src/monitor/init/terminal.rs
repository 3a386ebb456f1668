//! The container's terminal: of its own devpts, known by descriptor, and shown as `/dev/console`.

use super::resolve::{self, Kind, Links};
use super::{Channel, Stdio, Step, Word};
use crate::refuse::{Explain, refusal};
use plan::Process;
use rustix::fs::{OFlags, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::mount;

/// The process's side of a terminal.
#[derive(Debug)]
pub(super) struct Peer(OwnedFd);

/// `DEVPTS_SUPER_MAGIC` of `<linux/magic.h>`.
const DEVPTS: u32 = 0x1cd1;

/// Opens a terminal where the process wants one, and hands the other side to the monitor.
pub(super) fn open(
    process: &Process,
    root: BorrowedFd<'_>,
    dev: Option<&OwnedFd>,
    channel: &Channel,
) -> Step<Option<Peer>> {
    let Some(size) = process.terminal else { return Ok(None) };
    let step = "open terminal";
    let dev = dev.ok_or_else(|| refusal(step, "/dev is no tmpfs of the plan", 0))?;
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let ours =
        resolve::open(root, "/dev/pts/ptmx", flags, Links::Refused).step(step, "/dev/pts")?;
    if u32::try_from(rustix::fs::fstatfs(&ours).step(step, "/dev/pts")?.f_type) != Ok(DEVPTS) {
        return Err(refusal(step, "/dev/pts is no devpts", 0));
    }
    rustix::pty::unlockpt(&ours).step(step, "")?;
    // Not by its name, which a symbolic link could stand for (CVE-2025-52565).
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).step(step, "")?;
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&ours, size).step("set size of terminal", "")?;
    let owner = Some(Uid::from_raw(process.identity.uid));
    rustix::fs::fchown(&theirs, owner, None).step("own terminal", "")?;
    let console = resolve::target(dev.as_fd(), "console", Kind::File, Links::Refused)
        .step("resolve mount target", "/dev/console")?;
    mount::bind(&theirs, "", false)
        .and_then(|bound| mount::attach(bound, console))
        .step("mount", "/dev/console")?;
    channel.say_with(&Word::Terminal, ours.as_fd())?;
    Ok(Some(Peer(theirs)))
}

impl Peer {
    /// Makes it the controlling terminal of this process's session.
    pub(super) fn control(&self) -> Step<()> {
        rustix::process::ioctl_tiocsctty(&self.0).step("control terminal", "")
    }

    pub(super) fn stdio(&self) -> Stdio<'_> {
        let fd = self.0.as_fd();
        Stdio { stdin: fd, stdout: fd, stderr: fd }
    }
}
