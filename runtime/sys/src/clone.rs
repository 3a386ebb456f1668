//! New processes by `clone3(2)`, for the single-threaded monitor only.

use crate::result::check;
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Proof that this process had one thread when it asked, and that only that thread can hold the proof.
///
/// A copy of a process holds one thread only; were there others, they could leave locks (the allocator's, for one) held
/// for ever in the copy. A program that takes this proof starts no thread afterwards.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

impl SingleThreaded {
    /// Counts the threads of this process in the procfs of which `proc` is a directory.
    ///
    /// # Errors
    ///
    /// `EBUSY` where there is more than one thread; any failure to read the procfs.
    pub fn prove(proc: BorrowedFd<'_>) -> io::Result<Self> {
        let own = format!("{}/task", rustix::process::getpid().as_raw_nonzero());
        let tasks =
            rustix::fs::openat(proc, own, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // A task directory's link count is two for itself, and one for each thread.
        match rustix::fs::fstat(&tasks)?.st_nlink {
            3 => Ok(Self(PhantomData)),
            _ => Err(rustix::io::Errno::BUSY.into()),
        }
    }
}

/// Where a new process starts.
#[derive(Debug, Default)]
pub struct Spawn<'a> {
    /// In a new mount namespace, a copy of this one.
    pub mount_namespace: bool,
    /// As process 1 of a new PID namespace.
    pub pid_namespace: bool,
    /// In a new user namespace, which nobody has mapped any ids into yet.
    pub user_namespace: bool,
    /// In this cgroup v2 directory (Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// As a child of this process's own parent, instead of this one's.
    pub sibling: bool,
}

/// A process that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its number, in the PID namespace of the caller.
    pub pid: Pid,
    /// The process itself, whatever becomes of its number.
    pub pidfd: OwnedFd,
}

impl Spawn<'_> {
    /// Starts a copy of this process, which runs `child` and nothing else. The status that it returns becomes its own.
    ///
    /// # Errors
    ///
    /// Those of `clone3(2)`.
    pub fn run(&self, _proof: &SingleThreaded, child: impl FnOnce() -> i32) -> io::Result<Spawned> {
        let mut pidfd: libc::c_int = -1;
        let mut flags = u64::from(libc::CLONE_PIDFD.cast_unsigned());
        if self.mount_namespace {
            flags |= u64::from(libc::CLONE_NEWNS.cast_unsigned());
        }
        if self.pid_namespace {
            flags |= u64::from(libc::CLONE_NEWPID.cast_unsigned());
        }
        if self.user_namespace {
            flags |= u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        }
        if self.sibling {
            flags |= u64::from(libc::CLONE_PARENT.cast_unsigned());
        }
        let mut cgroup = 0;
        if let Some(dir) = self.cgroup {
            flags |= CLONE_INTO_CGROUP;
            cgroup = u64::from(dir.as_raw_fd().cast_unsigned());
        }
        // With CLONE_PARENT the kernel takes the exit signal of this process, and wants none here.
        let exit_signal = if self.sibling { 0 } else { u64::from(libc::SIGCHLD.cast_unsigned()) };
        let mut args = libc::clone_args {
            flags,
            pidfd: (&raw mut pidfd).expose_provenance() as u64,
            child_tid: 0,
            parent_tid: 0,
            exit_signal,
            stack: 0,
            stack_size: 0,
            tls: 0,
            set_tid: 0,
            set_tid_size: 0,
            cgroup,
        };
        // SAFETY: neither CLONE_VM nor a stack is given, so the child continues here on its own copy of this stack, as
        // after fork(2); `args` and the integer it points to live across the call. That no other thread's locks are
        // copied is what `_proof` stands for.
        let pid = check(unsafe {
            libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>())
        })?;
        let pid = i32::try_from(pid).map_err(|_| rustix::io::Errno::OVERFLOW)?;
        let Some(pid) = Pid::from_raw(pid) else { exit(child()) };
        // SAFETY: the kernel has stored a new descriptor there (CLONE_PIDFD), which nobody else knows.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Spawned { pid, pidfd })
    }
}

/// The flags of [`sibling`], for those who have to know whether a filter allows it.
pub const SIBLING: u64 = 0x8000 | 0x1000; // CLONE_PARENT | CLONE_PIDFD

/// Starts a copy of this process as a child of its own parent, as [`Spawn::run`] does for its own children.
///
/// By `clone(2)`: system call filters look at its flags, and know `clone3` as a call that is not there.
///
/// # Errors
///
/// Those of `clone(2)`.
pub fn sibling(_proof: &SingleThreaded, child: impl FnOnce() -> i32) -> io::Result<Spawned> {
    let mut pidfd: libc::c_int = -1;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: neither CLONE_VM nor a stack is given, so the child continues here on its own copy of this stack, as after
    // fork(2); the integer that CLONE_PIDFD has the kernel write to lives across the call. That no other thread's locks
    // are copied is what `_proof` stands for.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone, SIBLING, none, &raw mut pidfd, none, none)
    })?;
    let pid = i32::try_from(pid).map_err(|_| rustix::io::Errno::OVERFLOW)?;
    let Some(pid) = Pid::from_raw(pid) else { exit(child()) };
    // SAFETY: the kernel has stored a new descriptor there (CLONE_PIDFD), which nobody else knows.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Spawned { pid, pidfd })
}

/// Of `<linux/sched.h>`; `libc` has it as an integer too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Ends this process at once, without any clean-up of the program it was copied from.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions; it does not return.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor from 3 up but those in `keep`.
///
/// For a copied process alone: its owned descriptors are gone afterwards and must not be used or dropped, which holds
/// where the process ends by `execve` or [`exit`].
///
/// # Errors
///
/// Those of `close_range(2)` (Linux 5.9).
pub fn close_all_but(keep: &[BorrowedFd<'_>], _proof: &SingleThreaded) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_fd().as_raw_fd().cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX, 0)
}

/// Closes every descriptor, the standard ones too.
///
/// For a copied process alone, as [`close_all_but`].
///
/// # Errors
///
/// Those of `close_range(2)` (Linux 5.9).
pub fn close_all(_proof: &SingleThreaded) -> io::Result<()> {
    close_range(0, u32::MAX, 0)
}

/// Marks every descriptor from 3 up to be closed by `execve`.
///
/// # Errors
///
/// Those of `close_range(2)` (`CLOSE_RANGE_CLOEXEC`: Linux 5.11).
pub fn close_on_exec_from_3() -> io::Result<()> {
    close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes numbers only. Which descriptors may go is the contract of the callers above.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })?;
    Ok(())
}
