//! eBPF programs that decide which devices a cgroup may use (`BPF_PROG_TYPE_CGROUP_DEVICE`, Linux 4.15).
//!
//! Only what such programs need: a handful of instructions, loading with the verifier's words on failure, and attaching
//! to a cgroup of v2. A program lives as long as it is attached or a descriptor of it is open.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// One instruction of eBPF (`struct bpf_insn`, RFC 9669).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source in the high four.
    pub registers: u8,
    /// Distance of a jump in instructions, or of a load in bytes.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

/// A register. R1 holds the context at the start, R0 the answer at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
}

/// Operations on a register and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// The number itself.
    Move = 0xb7,
    /// The bits both have.
    And = 0x57,
    /// The register, shifted to the right by so many bits.
    ShiftRight = 0x77,
}

impl Instruction {
    /// Loads the four bytes at `from` plus `offset`.
    #[must_use]
    pub fn load_word(into: Register, from: Register, offset: i16) -> Self {
        Self { code: 0x61, registers: into as u8 | (from as u8) << 4, offset, immediate: 0 }
    }

    /// Copies a register.
    #[must_use]
    pub fn copy(into: Register, from: Register) -> Self {
        Self { code: 0xbf, registers: into as u8 | (from as u8) << 4, offset: 0, immediate: 0 }
    }

    /// Puts the result of `operation` on `register` and `number` into `register`.
    #[must_use]
    pub fn compute(operation: Operation, register: Register, number: i32) -> Self {
        Self { code: operation as u8, registers: register as u8, offset: 0, immediate: number }
    }

    /// Skips `distance` instructions unless `register` holds `number`.
    #[must_use]
    pub fn jump_unless_equal(register: Register, number: i32, distance: i16) -> Self {
        Self { code: 0x55, registers: register as u8, offset: distance, immediate: number }
    }

    /// Ends the program; the answer is in R0.
    #[must_use]
    pub fn exit() -> Self {
        Self { code: 0x95, registers: 0, offset: 0, immediate: 0 }
    }
}

/// Why a program could not be loaded or attached.
#[derive(Debug)]
pub struct ProgramError {
    step: &'static str,
    log: String,
    source: io::Error,
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.step)?;
        match self.log.trim_end() {
            "" => Ok(()),
            log => write!(f, ", of which the verifier says: {log}"),
        }
    }
}

impl std::error::Error for ProgramError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl ProgramError {
    /// What the verifier said; empty if the kernel refused for another reason.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }
}

/// Lets `program` decide on the devices of the cgroup (v2) whose directory is `cgroup`, in place of every program that is
/// attached there now.
///
/// A cgroup uses a device if its own programs and those of all cgroups above allow it. The old ones are detached after
/// the new one is in force, so nothing is allowed meanwhile that neither allows.
///
/// # Errors
///
/// [`ProgramError`] with the step: the verifier refuses the program (its log is in the error), EPERM without CAP_BPF and
/// CAP_NET_ADMIN, E2BIG for a 65th program. If an old program cannot be detached, both are in force.
pub fn decide_devices(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> Result<(), ProgramError> {
    let step = |step: &'static str| move |source| ProgramError { step, log: String::new(), source };
    let old = attached(cgroup).map_err(step("list attached programs"))?;
    let new = load(program)?;
    let mut attach = Attach::to(cgroup, new.as_fd());
    attach.flags = ALLOW_MULTI;
    // SAFETY: the structure is plain numbers without pointers; the kernel only reads the descriptors named in it, which
    // are open as long as `cgroup` and `new` are borrowed.
    let attached = unsafe { bpf(PROG_ATTACH, &mut attach) };
    attached.map_err(step("attach program"))?;
    for id in old {
        detach(cgroup, id).map_err(step("detach replaced program"))?;
    }
    Ok(())
}

/// How many programs decide on the devices of `cgroup`, not counting those of the cgroups above.
///
/// # Errors
///
/// EBADF or EINVAL if it is not the directory of a cgroup of v2, EPERM without CAP_NET_ADMIN.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> io::Result<usize> {
    attached(cgroup).map(|ids| ids.len())
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE_ATTACH: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: cgroups below may have programs of their own, as nested runtimes need.
const ALLOW_MULTI: u32 = 2;
/// How many programs the kernel attaches to one cgroup at most.
const MOST_PROGRAMS: usize = 64;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// For `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct Attach {
    cgroup: RawFd,
    program: RawFd,
    attach_type: u32,
    flags: u32,
}

impl Attach {
    fn to(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Self {
        let (cgroup, program) = (cgroup.as_raw_fd(), program.as_raw_fd());
        Self { cgroup, program, attach_type: CGROUP_DEVICE_ATTACH, flags: 0 }
    }
}

/// For `BPF_PROG_QUERY`; with all the room that the kernel may write answers to (Linux 6.17 writes the last field,
/// whatever size it is told).
#[repr(C)]
struct Query {
    cgroup: RawFd,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    each_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// For `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// `bpf(2)`.
///
/// # Safety
///
/// `attributes` must be the structure that belongs to `command`, and every pointer in it must be valid for what the
/// command reads or writes there, for as long as the call lasts.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    let attributes: *mut T = attributes;
    // SAFETY: the pointer and the size are those of one live, exclusively borrowed structure; the caller answers for
    // what it contains.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn load(program: &[Instruction]) -> Result<OwnedFd, ProgramError> {
    load_with_log(program, &mut []).or_else(|first| {
        // Only a refused program is verified once more for the log: writing one costs more than verifying.
        let mut log = vec![0; 64 << 10];
        load_with_log(program, &mut log).map_err(|_| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..end]).into_owned();
            ProgramError { step: "load program", log, source: first }
        })
    })
}

fn load_with_log(program: &[Instruction], log: &mut [u8]) -> io::Result<OwnedFd> {
    let too_long = |_| io::Error::from_raw_os_error(libc::E2BIG);
    let mut load = Load {
        program_type: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(program.len()).map_err(too_long)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(too_long)?,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kernel_version: 0,
        flags: 0,
        name: *b"berth_devices\0\0\0",
    };
    // SAFETY: `instructions` and `count` are pointer and length of `program`, `log` and `log_size` those of `log`, which
    // is borrowed exclusively, and the license is a static C string.
    let program = unsafe { bpf(PROG_LOAD, &mut load) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// The ids of the programs attached to `cgroup` itself.
fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST_PROGRAMS];
    let mut query = Query {
        cgroup: cgroup.as_raw_fd(),
        attach_type: CGROUP_DEVICE_ATTACH,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(ids.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        padding: 0,
        each_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: `ids` and `count` are pointer and length of the vector, which nothing else touches meanwhile; the other
    // pointers are null, which the kernel takes for "not asked".
    unsafe { bpf(PROG_QUERY, &mut query) }?;
    ids.truncate(usize::try_from(query.count).unwrap_or(0));
    Ok(ids)
}

fn detach(cgroup: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    let mut by_id = ById { id, next: 0, flags: 0 };
    // SAFETY: the structure is plain numbers without pointers.
    let program = match unsafe { bpf(PROG_GET_FD_BY_ID, &mut by_id) } {
        // Detached by somebody else since it was listed.
        Err(err) if err.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
        opened => opened?,
    };
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let mut attach = Attach::to(cgroup, program.as_fd());
    // SAFETY: the structure is plain numbers without pointers; the descriptors named in it are open.
    match unsafe { bpf(PROG_DETACH, &mut attach) } {
        Err(err) if err.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        detached => detached.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_layout() {
        assert_eq!(size_of::<Instruction>(), 8);
        assert_eq!(size_of::<Load>(), 64);
        assert_eq!(size_of::<Attach>(), 16);
        assert_eq!(size_of::<Query>(), 64);
        assert_eq!(size_of::<ById>(), 12);
    }

    #[test]
    fn privileged_a_refused_program_comes_with_the_verifiers_words() {
        let answer_nothing = [Instruction::exit()];
        let err = load(&answer_nothing).unwrap_err();
        assert!(err.log().contains("R0 !read_ok"), "{err}: {:?}", err.source);
        assert!(err.to_string().contains("R0 !read_ok"), "{err}");
    }

    #[test]
    fn privileged_a_sound_program_is_loaded() {
        let allow = Instruction::compute(Operation::Move, Register::R0, 1);
        load(&[allow, Instruction::exit()]).unwrap();
    }
}
