//! What a process gives up before it runs somebody else's program.

use crate::result::check;
use rustix::process::Pid;
use std::io;

/// One instruction of classic BPF, laid out as `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip where a comparison holds.
    pub jt: u8,
    /// Instructions to skip where it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

#[repr(C)]
struct Program {
    length: libc::c_ushort,
    first: *const Instruction,
}

/// Puts this thread under a system call filter, for good (`seccomp(2)`, `SECCOMP_SET_MODE_FILTER`).
///
/// # Errors
///
/// Those of `seccomp(2)`: `EACCES` without both CAP_SYS_ADMIN and no-new-privileges, `EINVAL` for a program the kernel
/// does not accept, such as one over 4,096 instructions.
pub fn filter_system_calls(program: &[Instruction], flags: u32) -> io::Result<()> {
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| rustix::io::Errno::INVAL)?;
    let program = Program { length, first: program.as_ptr() };
    // SAFETY: `program` is laid out as `struct sock_fprog` and gives the length of the slice it points to; the kernel
    // copies the slice.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    Ok(())
}

/// Sets a resource limit of this process, `u64::MAX` being none (`prlimit(2)`).
///
/// # Errors
///
/// `EINVAL` for a number that is no resource or a soft limit above the hard one, `EPERM` for raising the hard limit
/// without CAP_SYS_RESOURCE.
pub fn limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let new = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `new` is read only, the old value is not asked for, and any number is allowed as a resource.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const new,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })?;
    Ok(())
}

/// Leaves the mount namespace for a private copy of it.
///
/// # Errors
///
/// Those of `unshare(2)`.
pub fn own_mount_namespace() -> io::Result<()> {
    // SAFETY: CLONE_NEWNS does not touch the table of descriptors, which is what makes unshare(2) unsafe in general.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?)
}

/// Leaves the cgroup namespace for a new one whose root is the cgroup this process is in.
///
/// # Errors
///
/// Those of `unshare(2)`.
pub fn own_cgroup_namespace() -> io::Result<()> {
    // SAFETY: CLONE_NEWCGROUP does not touch the table of descriptors, which is what makes unshare(2) unsafe in general.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }?)
}

/// Sends any signal by its number to the process that `pidfd` stands for.
///
/// # Errors
///
/// `ESRCH` where it has ended, `EINVAL` where there is no such signal.
pub fn signal(pidfd: impl std::os::fd::AsFd, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means that of kill(2); the rest are numbers.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, none, 0)
    })?;
    Ok(())
}

/// Sends SIGKILL to every process of the session leader `leader`'s process group; none left is no error.
///
/// # Errors
///
/// Those of `kill(2)`.
pub fn kill_group(leader: Pid) -> io::Result<()> {
    match rustix::process::kill_process_group(leader, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

/// Leaves the session keyring, which the starter's other processes share, for an empty one (`keyctl(2)`).
///
/// # Errors
///
/// `EDQUOT` where the user has too many keys. A kernel without keys is no error.
pub fn own_session_keyring() -> io::Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name is allowed and asks for a new anonymous keyring.
    let joined = check(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, anonymous)
    });
    match joined {
        Err(err) if err.raw_os_error() != Some(libc::ENOSYS) => Err(err),
        _ => Ok(()),
    }
}
