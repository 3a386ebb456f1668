//! What a system call filter will answer, before it is loaded.

use crate::rights::Instruction;

/// A system call of this processor, by its number and first argument; the others count as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    number: libc::c_long,
    first: u64,
}

/// What a process needs to start a sibling, to leave, and, as that sibling, to get as far as `execve`.
pub const TO_HAND_OVER: [Call; 21] = [
    Call { number: libc::SYS_clone, first: crate::clone::SIBLING },
    plain(libc::SYS_capget),
    plain(libc::SYS_capset),
    plain(libc::SYS_sendmsg),
    plain(libc::SYS_recvmsg),
    plain(libc::SYS_write),
    plain(libc::SYS_close),
    plain(libc::SYS_exit_group),
    plain(libc::SYS_setsid),
    plain(libc::SYS_ioctl),
    Call { number: libc::SYS_prctl, first: libc::PR_SET_PDEATHSIG as u64 },
    plain(libc::SYS_execve),
    // The allocator's, and those of a copied process's C library.
    plain(libc::SYS_brk),
    plain(libc::SYS_mmap),
    plain(libc::SYS_munmap),
    plain(libc::SYS_mremap),
    plain(libc::SYS_madvise),
    plain(libc::SYS_mprotect),
    plain(libc::SYS_futex),
    plain(libc::SYS_rt_sigprocmask),
    plain(libc::SYS_getpid),
];

const fn plain(number: libc::c_long) -> Call {
    Call { number, first: 0 }
}

/// Whether `program` lets all of `calls` happen. A program with an instruction that is not known here does not.
#[must_use]
pub fn allows(program: &[Instruction], calls: &[Call]) -> bool {
    calls.iter().all(|call| {
        let answer = run(program, *call).map(|answer| answer & libc::SECCOMP_RET_ACTION_FULL);
        matches!(answer, Some(libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG))
    })
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64 of <linux/audit.h>
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// What the kernel does with a classic program (`seccomp_check_filter` in `kernel/seccomp.c` lists what filters may have).
fn run(program: &[Instruction], call: Call) -> Option<u32> {
    let mut accumulator = 0_u32;
    let mut at = 0_usize;
    loop {
        let Instruction { code, jt, jf, k } = *program.get(at)?;
        let skip = |holds: bool| usize::from(if holds { jt } else { jf });
        at += 1;
        match code {
            0x20 => accumulator = word(call, k)?, // BPF_LD | BPF_W | BPF_ABS
            0x54 => accumulator &= k,             // BPF_ALU | BPF_AND | BPF_K
            0x05 => at = at.checked_add(usize::try_from(k).ok()?)?, // BPF_JMP | BPF_JA
            0x15 => at += skip(accumulator == k), // BPF_JMP | BPF_JEQ | BPF_K
            0x25 => at += skip(accumulator > k),  // BPF_JMP | BPF_JGT | BPF_K
            0x35 => at += skip(accumulator >= k), // BPF_JMP | BPF_JGE | BPF_K
            0x45 => at += skip(accumulator & k != 0), // BPF_JMP | BPF_JSET | BPF_K
            0x06 => return Some(k),               // BPF_RET | BPF_K
            _ => return None,
        }
    }
}

/// The word at `offset` of `struct seccomp_data`, on a little-endian machine.
fn word(call: Call, offset: u32) -> Option<u32> {
    match offset {
        0 => u32::try_from(call.number).ok(),
        4 => Some(ARCHITECTURE),
        16 => u32::try_from(call.first & 0xffff_ffff).ok(),
        20 => u32::try_from(call.first >> 32).ok(),
        8 | 12 | 24..64 if offset.is_multiple_of(4) => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;

    fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    /// Answers a call of this number with `verdict`, and all others with `otherwise`.
    fn but(number: libc::c_long, verdict: u32, otherwise: u32) -> Vec<Instruction> {
        let number = u32::try_from(number).unwrap();
        vec![
            op(0x20, 0, 0, 0),
            op(0x15, 0, 1, number),
            op(0x06, 0, 0, verdict),
            op(0x06, 0, 0, otherwise),
        ]
    }

    #[test]
    fn only_filters_that_let_every_call_happen_do() {
        let by_flags = |mask: u32| {
            let number = u32::try_from(libc::SYS_clone).unwrap();
            vec![
                op(0x20, 0, 0, 0),
                op(0x15, 0, 3, number),
                op(0x20, 0, 0, 16),
                op(0x45, 0, 1, mask),
                op(0x06, 0, 0, ERRNO | 1),
                op(0x06, 0, 0, ALLOW),
            ]
        };
        let cases = [
            ("everything", vec![op(0x06, 0, 0, ALLOW)], true),
            ("everything, logged", vec![op(0x06, 0, 0, libc::SECCOMP_RET_LOG)], true),
            ("nothing", vec![op(0x06, 0, 0, ERRNO | 1)], false),
            ("another call refused", but(libc::SYS_mount, ERRNO | 1, ALLOW), true),
            ("success that is none", but(libc::SYS_capset, ERRNO, ALLOW), false),
            ("no new processes", but(libc::SYS_clone, ERRNO | 1, ALLOW), false),
            (
                "told to a supervisor",
                but(libc::SYS_execve, libc::SECCOMP_RET_USER_NOTIF, ALLOW),
                false,
            ),
            ("no new namespaces", by_flags(0x7e02_0000), true),
            ("no siblings", by_flags(0x8000), false),
            ("cut short", vec![op(0x20, 0, 0, 0)], false),
            ("unknown", vec![op(0x07, 0, 0, 0), op(0x06, 0, 0, ALLOW)], false),
        ];
        for (name, program, want) in cases {
            assert_eq!(allows(&program, &TO_HAND_OVER), want, "{name}");
        }
    }
}
