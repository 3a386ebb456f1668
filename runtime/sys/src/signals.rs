//! Signals as events, and back to how a new program expects them.

use crate::result::check;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

/// A descriptor that becomes readable when a child has ended. SIGCHLD is blocked from now on.
///
/// # Errors
///
/// Those of `sigprocmask(2)` and `signalfd(2)`.
pub fn children_ended() -> io::Result<OwnedFd> {
    let set = only(libc::SIGCHLD);
    // SAFETY: `set` is initialised and the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })?;
    // SAFETY: -1 asks for a new descriptor; `set` is initialised and only read.
    let fd = check(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    })?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Ignores SIGPIPE: a peer that is gone is an error of the write that met it.
///
/// # Errors
///
/// Those of `sigaction(2)`.
pub fn ignore_broken_pipes() -> io::Result<()> {
    handle(libc::SIGPIPE, libc::SIG_IGN)
}

/// Gives every signal its default action and blocks none, for a program about to be executed.
///
/// # Errors
///
/// Those of `sigprocmask(2)`.
pub fn reset() -> io::Result<()> {
    for signal in 1..=64 {
        // SIGKILL, SIGSTOP and the two that the C library keeps for itself refuse; they are at their default.
        handle(signal, libc::SIG_DFL).ok();
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) writes the whole set.
    check(unsafe { libc::sigemptyset(none.as_mut_ptr()) })?;
    // SAFETY: the set is initialised by the call above; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) })?;
    Ok(())
}

/// Has the kernel reap children as they end (`wait(2)`, "NOTES"): for a process that nobody asks how they ended.
///
/// # Errors
///
/// Those of `sigaction(2)`.
pub fn ignore_children() -> io::Result<()> {
    handle(libc::SIGCHLD, libc::SIG_IGN)
}

fn handle(signal: i32, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: the action is SIG_IGN or SIG_DFL (the callers above), so no code of ours can run as a handler.
    match unsafe { libc::signal(signal, action) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn only(signal: i32) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) writes the whole set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set is initialised by the call above, and `signal` is a constant of this file.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}
