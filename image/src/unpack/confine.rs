//! What the worker gives up before it reads a byte of a layer.

use image::layer::wire::Form;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use std::os::fd::OwnedFd;
use std::path::Path;
use sys::confine::{Calls, ConfineError, close_inherited, enter_root};

/// Memory of the worker, in bytes: a window of 128 MiB, and as much again where only directories are remembered. An image
/// has its directories at its end, so all names are.
fn max_data(form: Form) -> u64 {
    match form {
        Form::Directories => 256 << 20,
        Form::Erofs => 512 << 20,
    }
}

/// CPU time, in seconds for a GiB of layer.
const CPU_PER_GIB: u64 = 60;

/// What the worker needs to make files as a layer describes them.
const FOR_FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Makes `area` all that this process can see, with the rights to fill it and no others, but for the list of system calls.
/// Gives the area.
///
/// For the first lines of `main`: it closes every descriptor but the standard three.
pub(crate) fn shut_in(form: Form, area: &Path, layer_bytes: u64) -> Result<OwnedFd, ConfineError> {
    close_inherited()?;
    step("forbid to be traced", set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    umask(Mode::empty());
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, 64)?;
    limit(Resource::Data, max_data(form))?;
    // Holes count in the length of an image, and what fills up blocks.
    limit(Resource::Fsize, layer_bytes.saturating_mul(2).saturating_add(4 << 30))?;
    limit(Resource::Cpu, (layer_bytes >> 30).saturating_add(1).saturating_mul(CPU_PER_GIB))?;
    enter_root(area)?;
    drop_capabilities(match form {
        Form::Directories => FOR_FILES,
        Form::Erofs => CapabilitySet::empty(),
    })?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    step("open the staging area", rustix::fs::openat(CWD, "/", flags, Mode::empty()))
}

/// Forbids every system call that unpacking has no use for. Threads have to be running already.
pub(crate) fn forbid_calls(form: Form) -> Result<(), ConfineError> {
    let own = match form {
        Form::Directories => FOR_DIRECTORIES,
        Form::Erofs => FOR_AN_IMAGE,
    };
    Calls::allow(&[own, ALWAYS].concat())
        .allow_without_exec(&[libc::SYS_mmap, libc::SYS_mprotect])
        .enforce()
}

fn drop_capabilities(kept: CapabilitySet) -> Result<(), ConfineError> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(Errno::INVAL) => break,
            Err(source) => return step("drop a capability", Err(source)),
        }
    }
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) => {}
        Err(source) => return step("clear ambient capabilities", Err(source)),
    }
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    step("drop capabilities", set_capabilities(None, sets))
}

fn limit(resource: Resource, most: u64) -> Result<(), ConfineError> {
    // A lower limit that is in force already stays: raising it may not be ours to do.
    let now = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let most = Some(most.min(now));
    step("limit resources", setrlimit(resource, Rlimit { current: most, maximum: most }))
}

fn step<T>(step: &'static str, result: rustix::io::Result<T>) -> Result<T, ConfineError> {
    result.map_err(|source| ConfineError { step, source: source.into() })
}

/// What making files needs, the most frequent first. Nothing here, or below, makes a process, a socket or a mount, or
/// reaches another process.
const FOR_DIRECTORIES: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_utimensat,
    libc::SYS_mkdirat,
    libc::SYS_openat2,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fsetxattr,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
];

/// What an image needs: nothing that takes a name.
const FOR_AN_IMAGE: &[libc::c_long] = &[libc::SYS_pread64];

const ALWAYS: &[libc::c_long] = &[
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_futex,
    libc::SYS_close,
    libc::SYS_ftruncate,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    // Memory, threads and time, as the allocator and the standard library use them.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];
