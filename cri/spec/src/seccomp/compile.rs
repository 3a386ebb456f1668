//! Profiles to classic BPF.
//!
//! ```text
//!   which interface? ──▶ binary search over the call's number ──▶ verdict
//!      │ unknown                                             └──▶ arguments, rule by rule ──▶ verdict
//!      └──▶ kill
//! ```
//!
//! What several rules for one call mean is what runc and libseccomp make of them, so that profiles behave as written
//! for those:
//!
//! - A rule that says what happens anyway (the default action) is skipped.
//! - A rule without arguments decides for its call, the first of several; rules with arguments then do not matter.
//! - Of rules with arguments the first that holds decides; if none does, the default action.
//! - The arguments of a rule must all hold. If it names one argument twice, each of its arguments is a rule of its own.
//! - Calls newer than every call that the profile names answer `ENOSYS` where the default action refuses, because libc
//!   falls back to older calls on `ENOSYS` and gives up on `EPERM`.
//!
//! One thing differs: on 32-bit interfaces `socketcall(2)` and `ipc(2)` are only what the profile says of these two
//! names; rules of the calls behind them are not carried over.

use super::ProfileError;
use super::abi::Abi;
use super::bpf::{
    self, Block, JUMP_IF_EQUAL, JUMP_IF_GREATER, JUMP_IF_GREATER_OR_EQUAL, and, give, load,
};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use plan::{Instruction, Seccomp};
use std::collections::{BTreeMap, BTreeSet};

/// The kernel's `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

// Offsets in struct seccomp_data of <linux/seccomp.h>. Both architectures of ours are little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

// SECCOMP_RET_* of <linux/seccomp.h>.
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// The largest error number that a system call can return (the kernel's `MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// From here on numbers are x32 calls (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;

/// From here on are the private calls of 32-bit ARM, which say nothing about how new a profile is.
const ARM_PRIVATE: u32 = 0x000f_0000;

/// Compiles `profile` to a program for `seccomp(2)`.
///
/// Architectures that no host of ours runs are passed over; names of calls that an architecture does not have are, too,
/// as libseccomp does. A process that calls through an architecture that is not in the profile is killed.
///
/// # Errors
///
/// [`ProfileError`] where the profile needs a listener, is contradictory, or is too long for the kernel.
pub fn compile(profile: &LinuxSeccomp) -> Result<Seccomp, ProfileError> {
    if profile.listener_path().is_some() {
        return Err(ProfileError::Action { action: LinuxSeccompAction::ScmpActNotify.to_string() });
    }
    let mut abis = Vec::new();
    for abi in profile.architectures().iter().flatten().filter_map(|arch| Abi::of(*arch)) {
        if !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    if abis.is_empty() {
        return Err(ProfileError::NoArchitecture);
    }

    let mut program = vec![give(KILL_PROCESS)];
    for abi in abis.into_iter().rev() {
        let body = Rules::of(profile, abi)?.block();
        program = bpf::branch(JUMP_IF_EQUAL, abi.audit(), body, program);
    }
    program.insert(0, load(ARCHITECTURE));

    if program.len() > MAX_INSTRUCTIONS {
        return Err(ProfileError::TooLong { instructions: program.len() });
    }
    Ok(Seccomp { program, flags: flags(profile)? })
}

/// A profile for one interface, by number.
struct Rules {
    abi: Abi,
    default: u32,
    calls: BTreeMap<u32, Verdict>,
    /// Calls above this number answer `ENOSYS`.
    newest: Option<u32>,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Always this `SECCOMP_RET_*`.
    Return(u32),
    /// It depends on the arguments: the first rule that holds.
    Check(Vec<Rule>),
}

/// What happens to a call whose arguments all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    arguments: Vec<LinuxSeccompArg>,
    verdict: u32,
}

impl Rules {
    fn of(profile: &LinuxSeccomp, abi: Abi) -> Result<Self, ProfileError> {
        let default = verdict(profile.default_action(), profile.default_errno_ret())?;
        let mut rules = Rules { abi, default, calls: BTreeMap::new(), newest: None };
        let mut newest = None;
        for call in profile.syscalls().iter().flatten() {
            let verdict = verdict(call.action(), call.errno_ret())?;
            for name in call.names() {
                check_arguments(name, call)?;
                let Some(number) = abi.number(name) else { continue };
                if number < ARM_PRIVATE {
                    newest = newest.max(Some(number));
                }
                if verdict != default {
                    rules.add(number, call, verdict);
                }
            }
        }
        if refuses(profile.default_action()) && default != (ERRNO | ENOSYS) {
            rules.newest = newest;
        }
        Ok(rules)
    }

    fn add(&mut self, number: u32, call: &LinuxSyscall, verdict: u32) {
        let arguments = call.args().as_deref().unwrap_or_default();
        let entry = self.calls.entry(number).or_insert_with(|| Verdict::Check(Vec::new()));
        let Verdict::Check(rules) = entry else { return };
        if arguments.is_empty() {
            *entry = Verdict::Return(verdict);
        } else if names_one_twice(arguments) {
            rules.extend(
                arguments.iter().map(|argument| Rule { arguments: vec![*argument], verdict }),
            );
        } else {
            rules.push(Rule { arguments: arguments.to_vec(), verdict });
        }
    }

    /// The filter for this interface, beginning with the call's number.
    fn block(&self) -> Block {
        let mut code = vec![load(NUMBER)];
        code.extend(self.search(&self.ranges()));
        code
    }

    /// Every number has the verdict of the last range that begins at or below it. The first range begins at 0.
    fn ranges(&self) -> Vec<(u32, Verdict)> {
        let mut starts: BTreeSet<u32> =
            self.calls.keys().flat_map(|number| [*number, number + 1]).collect();
        starts.insert(0);
        starts.extend(self.newest.map(|newest| newest + 1));
        if self.abi == Abi::X86_64 {
            starts.insert(X32);
        }
        let mut ranges: Vec<(u32, Verdict)> =
            starts.into_iter().map(|number| (number, self.verdict(number))).collect();
        ranges.dedup_by(|next, previous| next.1 == previous.1);
        ranges
    }

    fn verdict(&self, number: u32) -> Verdict {
        let is_x32 = self.abi == Abi::X86_64 && number >= X32;
        match self.calls.get(&number) {
            Some(verdict) if !is_x32 => verdict.clone(),
            None if !is_x32 && self.newest.is_none_or(|newest| number <= newest) => {
                Verdict::Return(self.default)
            }
            Some(_) | None => Verdict::Return(ERRNO | ENOSYS),
        }
    }

    fn search(&self, ranges: &[(u32, Verdict)]) -> Block {
        match ranges {
            [] => vec![give(self.default)],
            [(_, verdict)] => self.leaf(verdict),
            _ => {
                let (below, from) = ranges.split_at(ranges.len() / 2);
                bpf::branch(
                    JUMP_IF_GREATER_OR_EQUAL,
                    from[0].0,
                    self.search(from),
                    self.search(below),
                )
            }
        }
    }

    fn leaf(&self, verdict: &Verdict) -> Block {
        match verdict {
            Verdict::Return(verdict) => vec![give(*verdict)],
            Verdict::Check(rules) => {
                let mut code = vec![give(self.default)];
                for rule in rules.iter().rev() {
                    let mut with_rule = self.rule(rule);
                    with_rule.extend(code);
                    code = with_rule;
                }
                code
            }
        }
    }

    /// Code that gives the rule's verdict, or falls out of its end where an argument does not hold.
    fn rule(&self, rule: &Rule) -> Vec<Instruction> {
        let mut code = vec![give(rule.verdict)];
        for argument in rule.arguments.iter().rev() {
            let fail = code.len();
            let mut with_argument = self.argument(argument, fail);
            with_argument.extend(code);
            code = with_argument;
        }
        code
    }

    /// Code that falls out of its end where `argument` holds, and skips `fail` further instructions where it does not.
    fn argument(&self, argument: &LinuxSeccompArg, fail: usize) -> Vec<Instruction> {
        use Outcome::{Fail, Hold, Next};
        let index = u32::try_from(argument.index()).unwrap_or(0);
        let [high, low] = [ARGUMENTS + 8 * index + 4, ARGUMENTS + 8 * index];
        let [value_high, value_low] = halves(argument.value());
        let [two_high, two_low] = halves(argument.value_two().unwrap_or(0));
        let (equal, greater) = (JUMP_IF_EQUAL, JUMP_IF_GREATER);
        let at_least = JUMP_IF_GREATER_OR_EQUAL;

        // With 64 bits the upper half decides first; the steps for the lower half come behind it.
        let (upper, lower) = match argument.op() {
            LinuxSeccompOperator::ScmpCmpEq => {
                (vec![step(equal, value_high, Next, Fail)], step(equal, value_low, Hold, Fail))
            }
            LinuxSeccompOperator::ScmpCmpNe => {
                (vec![step(equal, value_high, Next, Hold)], step(equal, value_low, Fail, Hold))
            }
            LinuxSeccompOperator::ScmpCmpGt => (
                vec![step(greater, value_high, Hold, Next), step(equal, value_high, Next, Fail)],
                step(greater, value_low, Hold, Fail),
            ),
            LinuxSeccompOperator::ScmpCmpGe => (
                vec![step(greater, value_high, Hold, Next), step(equal, value_high, Next, Fail)],
                step(at_least, value_low, Hold, Fail),
            ),
            LinuxSeccompOperator::ScmpCmpLt => (
                vec![step(greater, value_high, Fail, Next), step(equal, value_high, Next, Hold)],
                step(at_least, value_low, Fail, Hold),
            ),
            LinuxSeccompOperator::ScmpCmpLe => (
                vec![step(greater, value_high, Fail, Next), step(equal, value_high, Next, Hold)],
                step(greater, value_low, Fail, Hold),
            ),
            LinuxSeccompOperator::ScmpCmpMaskedEq => (
                vec![Step::Plain(and(value_high)), step(equal, two_high, Next, Fail)],
                step(equal, two_low, Hold, Fail),
            ),
        };
        let masked = argument.op() == LinuxSeccompOperator::ScmpCmpMaskedEq;

        let mut steps = Vec::new();
        // A mask without an upper half does not look at it.
        if self.abi.is_wide() && !(masked && value_high == 0 && two_high == 0) {
            steps.push(Step::Plain(load(high)));
            steps.extend(upper);
        }
        steps.push(Step::Plain(load(low)));
        if masked {
            steps.push(Step::Plain(and(value_low)));
        }
        steps.push(lower);
        resolve(&steps, fail)
    }
}

/// An instruction whose jumps are still named.
enum Step {
    Plain(Instruction),
    Compare { code: u16, operand: u32, holds: Outcome, else_: Outcome },
}

/// Where a comparison of half an argument leads.
#[derive(Clone, Copy)]
enum Outcome {
    /// To the next step.
    Next,
    /// The argument holds.
    Hold,
    /// The argument does not hold.
    Fail,
}

fn step(code: u16, operand: u32, holds: Outcome, else_: Outcome) -> Step {
    Step::Compare { code, operand, holds, else_ }
}

fn resolve(steps: &[Step], fail: usize) -> Vec<Instruction> {
    let resolve = |(at, step): (usize, &Step)| match *step {
        Step::Plain(instruction) => instruction,
        Step::Compare { code, operand, holds, else_ } => {
            let rest = steps.len() - at - 1;
            let skip = |outcome| match outcome {
                Outcome::Next => 0,
                Outcome::Hold => short(rest),
                Outcome::Fail => short(rest + fail),
            };
            Instruction { code, jt: skip(holds), jf: skip(else_), k: operand }
        }
    };
    steps.iter().enumerate().map(resolve).collect()
}

fn short(skip: usize) -> u8 {
    u8::try_from(skip).expect("a rule has at most six arguments of at most six instructions each")
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

fn check_arguments(name: &str, call: &LinuxSyscall) -> Result<(), ProfileError> {
    match call.args().iter().flatten().find(|argument| argument.index() > 5) {
        Some(argument) => {
            Err(ProfileError::Argument { call: name.to_owned(), index: argument.index() })
        }
        None => Ok(()),
    }
}

fn names_one_twice(arguments: &[LinuxSeccompArg]) -> bool {
    (0..arguments.len())
        .any(|at| arguments[..at].iter().any(|other| other.index() == arguments[at].index()))
}

fn refuses(action: LinuxSeccompAction) -> bool {
    match action {
        LinuxSeccompAction::ScmpActAllow
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActTrace => false,
        LinuxSeccompAction::ScmpActKill
        | LinuxSeccompAction::ScmpActKillThread
        | LinuxSeccompAction::ScmpActKillProcess
        | LinuxSeccompAction::ScmpActTrap
        | LinuxSeccompAction::ScmpActErrno
        | LinuxSeccompAction::ScmpActNotify => true,
    }
}

/// The `SECCOMP_RET_*` of an action.
fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, ProfileError> {
    let base = match action {
        LinuxSeccompAction::ScmpActErrno => {
            return match errno.unwrap_or(EPERM) {
                errno @ 0..=MAX_ERRNO => Ok(ERRNO | errno),
                value => Err(ProfileError::Errno { action: action.to_string(), value }),
            };
        }
        LinuxSeccompAction::ScmpActTrace => {
            return match errno.unwrap_or(EPERM) {
                message @ 0..=0xffff => Ok(TRACE | message),
                value => Err(ProfileError::Errno { action: action.to_string(), value }),
            };
        }
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(ProfileError::Action { action: action.to_string() });
        }
    };
    match errno {
        Some(value) => Err(ProfileError::Errno { action: action.to_string(), value }),
        None => Ok(base),
    }
}

/// `SECCOMP_FILTER_FLAG_*` of `<linux/seccomp.h>`.
fn flags(profile: &LinuxSeccomp) -> Result<u32, ProfileError> {
    let mut bits = 0;
    for flag in profile.flags().iter().flatten() {
        bits |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(ProfileError::Flag { flag: flag.to_string() });
            }
        };
    }
    Ok(bits)
}
