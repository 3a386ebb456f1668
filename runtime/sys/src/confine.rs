//! Shutting a worker process in: a root of its own, no descriptors, a list of system calls.
//!
//! Each step is irrevocable and meant for the first lines of a process that is about to read what strangers wrote.
//! Capabilities and limits need nothing unsafe: rustix has them.

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use rustix::thread::UnshareFlags;
use std::io;
use std::path::Path;

/// Which step of shutting a process in did not work.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct ConfineError {
    /// The step.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

fn step<T, E: Into<io::Error>>(
    step: &'static str,
    result: Result<T, E>,
) -> Result<T, ConfineError> {
    result.map_err(|source| ConfineError { step, source: source.into() })
}

/// Closes every descriptor but the standard three.
///
/// For the first line of a process: a descriptor that something in this process still owns would be pulled from under
/// it.
///
/// # Errors
///
/// The kernel is older than 5.9.
pub fn close_inherited() -> Result<(), ConfineError> {
    // SAFETY: close_range takes three integers and touches no memory. The descriptors it closes came with the exec; by
    // this function's contract nothing in this process has opened or adopted one yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    step(
        "close inherited descriptors",
        if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) },
    )
}

/// Moves this process into mount, network, IPC and UTS namespaces of its own, in which the directory `root` is all there
/// is: the whole tree that was visible before is detached.
///
/// `root` is a path of the caller's own: links on the way to it are followed, it must not be one itself. The new root is
/// mounted without set-id, devices and programs. For a process with one thread; needs `CAP_SYS_ADMIN`.
///
/// # Errors
///
/// The step that the kernel refused. The process must end then: it may be half-way.
pub fn enter_root(root: &Path) -> Result<(), ConfineError> {
    let flags =
        UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: the flags do not contain FILES, the one that would part threads from each other's descriptors.
    let unshared = unsafe { rustix::thread::unshare_unsafe(flags) };
    step("enter new namespaces", unshared)?;
    // Nothing done here may reach the mounts of the host, and the other way round.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("make mounts private", mount_change("/", private))?;
    // Only now: a descriptor from before would belong to the mounts of the host.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = step("open the new root", openat(CWD, root, flags, Mode::empty()))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = step("clone the new root", open_tree(&root, "", flags))?;
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    step("attach the new root", move_mount(&tree, "", &root, "", whole))?;
    step("enter the new root", fchdir(&tree))?;
    let inert = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::BIND;
    step("restrict the new root", mount_remount(".", inert, ""))?;
    // With both arguments the same the old root ends up on top of the new one, and is taken off there: pivot_root(2).
    step("pivot", pivot_root(".", "."))?;
    step("detach the old root", unmount(".", UnmountFlags::DETACH))?;
    step("enter the new root", chdir("/"))
}

/// The system calls a process may make from now on; any other ends it with `SIGSYS`.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    always: Vec<libc::c_long>,
    without_exec: Vec<libc::c_long>,
}

impl Calls {
    /// Starts with `calls`, in the order in which they are looked up.
    #[must_use]
    pub fn allow(calls: &[libc::c_long]) -> Self {
        Self { always: calls.to_vec(), without_exec: Vec::new() }
    }

    /// Adds calls that take page protection bits as third argument (`mmap`, `mprotect`), for memory that is not
    /// executable.
    #[must_use]
    pub fn allow_without_exec(mut self, calls: &[libc::c_long]) -> Self {
        self.without_exec.extend_from_slice(calls);
        self
    }

    /// Puts the list in force, for all threads of the process and for ever. Sets no-new-privileges.
    ///
    /// # Errors
    ///
    /// The kernel has no seccomp filters, or the list is too long for one.
    pub fn enforce(&self) -> Result<(), ConfineError> {
        step("renounce new privileges", rustix::thread::set_no_new_privs(true))?;
        let program = self.program();
        let program_len =
            u16::try_from(program.len()).map_err(|_| io::Error::from(rustix::io::Errno::TOOBIG));
        let fprog = libc::sock_fprog {
            len: step("load the system call filter", program_len)?,
            filter: program.as_ptr().cast_mut(),
        };
        let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
        // SAFETY: `fprog` points at `program`, whose length it carries; both outlive the call, and the kernel copies the
        // program without writing to it.
        let loaded = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog)
        };
        let result = match loaded {
            0 => Ok(()),
            // The id of a thread that has another filter already.
            1.. => Err(io::Error::from(rustix::io::Errno::BUSY)),
            _ => Err(io::Error::last_os_error()),
        };
        step("load the system call filter", result)
    }

    /// The filter in classic BPF: exact matches only, so calls of another ABI (x32) match nothing either.
    fn program(&self) -> Vec<libc::sock_filter> {
        let kill = || statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS);
        let pass = || statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
        let mut program = vec![
            load(std::mem::offset_of!(libc::seccomp_data, arch)),
            jump(libc::BPF_JEQ, AUDIT_ARCH, 1, 0),
            kill(),
            load(std::mem::offset_of!(libc::seccomp_data, nr)),
        ];
        for &call in &self.always {
            program.extend([jump(libc::BPF_JEQ, number(call), 0, 1), pass()]);
        }
        for &call in &self.without_exec {
            program.extend([
                jump(libc::BPF_JEQ, number(call), 0, 4),
                load(THIRD_ARGUMENT),
                jump(libc::BPF_JSET, libc::PROT_EXEC.cast_unsigned(), 0, 1),
                kill(),
                pass(),
            ]);
        }
        program.push(kill());
        program
    }
}

/// The lower half of the third argument: protection bits are an `int`.
const THIRD_ARGUMENT: usize = std::mem::offset_of!(libc::seccomp_data, args)
    + 16
    + if cfg!(target_endian = "big") { 4 } else { 0 };

// <linux/audit.h>: the ELF machine with the bits for 64-bit and little endian.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 62 | 0xc000_0000;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 183 | 0xc000_0000;
#[cfg(target_arch = "riscv64")]
const AUDIT_ARCH: u32 = 243 | 0xc000_0000;

/// A call number as the kernel compares it: 32 bits.
fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("system call numbers are small and positive")
}

fn load(offset: usize) -> libc::sock_filter {
    let offset = u32::try_from(offset).expect("seccomp_data has 64 bytes");
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    let code = u16::try_from(code).expect("BPF codes have 8 bits");
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { jt, jf, ..statement(libc::BPF_JMP | libc::BPF_K | condition, k) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says about a call, by running it: only the instructions that `program` emits.
    fn verdict(program: &[libc::sock_filter], arch: u32, nr: u32, third: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let op = program[at];
            at += 1;
            match u32::from(op.code) {
                c if c == libc::BPF_RET | libc::BPF_K => return op.k,
                c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    accumulator = match op.k {
                        0 => nr,
                        4 => arch,
                        32 => third,
                        other => panic!("load of {other}"),
                    };
                }
                c => {
                    let holds = match c & 0xf0 {
                        libc::BPF_JEQ => accumulator == op.k,
                        libc::BPF_JSET => accumulator & op.k != 0,
                        other => panic!("condition {other}"),
                    };
                    at += usize::from(if holds { op.jt } else { op.jf });
                }
            }
        }
    }

    #[test]
    fn only_listed_calls_of_this_architecture_pass() {
        let program = Calls::allow(&[1, 7]).allow_without_exec(&[9, 10]).program();
        let cases = [
            ("first of the list", AUDIT_ARCH, 1, 4, true),
            ("last of the list", AUDIT_ARCH, 7, 4, true),
            ("not in the list", AUDIT_ARCH, 2, 0, false),
            ("the same number of another architecture", 0x4000_0003, 1, 0, false),
            ("the same number of x32", AUDIT_ARCH, 0x4000_0001, 0, false),
            ("readable and writable memory", AUDIT_ARCH, 9, 3, true),
            ("executable memory", AUDIT_ARCH, 9, 7, false),
            ("executable memory by the other call", AUDIT_ARCH, 10, 4, false),
        ];
        for (name, arch, nr, third, passes) in cases {
            let want =
                if passes { libc::SECCOMP_RET_ALLOW } else { libc::SECCOMP_RET_KILL_PROCESS };
            assert_eq!(verdict(&program, arch, nr, third), want, "{name}");
        }
    }
}
