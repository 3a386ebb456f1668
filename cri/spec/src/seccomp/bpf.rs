//! Classic BPF as code that is put together from blocks.
//!
//! A *block* is a piece of program that never falls out of its end: each way through it ends in a return. So blocks
//! can be placed behind each other freely, and a jump is only ever a skip over a block.

use plan::Instruction;

/// A piece of program in which each way ends in a return.
pub(super) type Block = Vec<Instruction>;

// Operation codes of <linux/bpf_common.h>.
pub(super) const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const JUMP_IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(super) const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Loads the 32-bit word at `offset` of `struct seccomp_data` into the accumulator.
pub(super) fn load(offset: u32) -> Instruction {
    plain(LOAD_WORD, offset)
}

/// Keeps those bits of the accumulator that are in `mask`.
pub(super) fn and(mask: u32) -> Instruction {
    plain(AND, mask)
}

/// Ends the program with `verdict`, a `SECCOMP_RET_*`.
pub(super) fn give(verdict: u32) -> Instruction {
    plain(RETURN, verdict)
}

/// `then` where the accumulator compares to `operand` as `comparison` says, else `otherwise`.
///
/// A conditional jump reaches 255 instructions only, so a longer `then` is skipped by an unconditional one.
pub(super) fn branch(comparison: u16, operand: u32, then: Block, otherwise: Block) -> Block {
    let mut code = Vec::with_capacity(2 + then.len() + otherwise.len());
    match u8::try_from(then.len()) {
        Ok(skip) => code.push(Instruction { code: comparison, jt: 0, jf: skip, k: operand }),
        Err(_) => {
            let skip = u32::try_from(then.len()).unwrap_or(u32::MAX);
            code.push(Instruction { code: comparison, jt: 1, jf: 0, k: operand });
            code.push(plain(JUMP, skip));
        }
    }
    code.extend(then);
    code.extend(otherwise);
    code
}

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}
