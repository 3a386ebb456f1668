//! Compiled filters against a direct reading of their profiles: every call number, with arguments around every value
//! that a profile compares with.

use super::abi::Abi;
use super::{ProfileError, argument, bpf, compile, default_profile, key};
use crate::Architecture;
use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use plan::Instruction;
use std::collections::BTreeSet;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// `struct seccomp_data`, without the instruction pointer that no profile can name.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let half = |value: u64, upper| {
            u32::try_from(if upper { value >> 32 } else { value & 0xffff_ffff })
        };
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..64 if offset.is_multiple_of(4) => {
                let argument = self.arguments[usize::try_from((offset - 16) / 8).expect("small")];
                half(argument, offset % 8 == 4).expect("half of a word")
            }
            _ => panic!("the kernel refuses to load from offset {offset}"),
        }
    }
}

/// What the kernel does with a classic program, for the instructions that it lets filters have.
fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    for _ in 0..=program.len() {
        let Instruction { code, jt, jf, k } = program[at];
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        at += 1;
        match code {
            bpf::LOAD_WORD => accumulator = call.word(k),
            bpf::AND => accumulator &= k,
            bpf::JUMP => at += usize::try_from(k).expect("small"),
            bpf::JUMP_IF_EQUAL => at += jump(accumulator == k),
            bpf::JUMP_IF_GREATER => at += jump(accumulator > k),
            bpf::JUMP_IF_GREATER_OR_EQUAL => at += jump(accumulator >= k),
            bpf::RETURN => return k,
            other => panic!("unknown operation {other:#x}"),
        }
    }
    panic!("jumps only go forward, so a program of this length must have ended");
}

/// A profile read from top to bottom as `compile` documents it, with no regard to speed.
struct Reference<'a> {
    profile: &'a LinuxSeccomp,
    interfaces: Vec<Interface<'a>>,
}

/// The rules of one interface, each with the numbers of its calls.
struct Interface<'a> {
    abi: Abi,
    rules: Vec<(BTreeSet<u32>, &'a LinuxSyscall)>,
}

impl<'a> Reference<'a> {
    fn of(profile: &'a LinuxSeccomp) -> Self {
        let abis = profile.architectures().iter().flatten().filter_map(|arch| Abi::of(*arch));
        let interface = |abi: Abi| {
            let numbers = |rule: &LinuxSyscall| {
                rule.names().iter().filter_map(|name| abi.number(name)).collect()
            };
            let rules = profile.syscalls().iter().flatten();
            Interface { abi, rules: rules.map(|rule| (numbers(rule), rule)).collect() }
        };
        Self { profile, interfaces: abis.map(interface).collect() }
    }

    fn verdict(&self, call: &Call) -> u32 {
        let mut interfaces = self.interfaces.iter();
        let Some(Interface { abi, rules }) =
            interfaces.find(|interface| interface.abi.audit() == call.architecture)
        else {
            return KILL_PROCESS;
        };
        if *abi == Abi::X86_64 && call.number >= 0x4000_0000 {
            return ERRNO | ENOSYS;
        }
        let default = verdict(self.profile.default_action(), self.profile.default_errno_ret());
        let of_rule = |rule: &LinuxSyscall| verdict(rule.action(), rule.errno_ret());
        let naming: Vec<&LinuxSyscall> = rules
            .iter()
            .filter(|(numbers, _)| numbers.contains(&call.number))
            .map(|(_, rule)| *rule)
            .collect();
        let telling = || naming.iter().filter(|rule| of_rule(rule) != default);
        if let Some(rule) = telling().find(|rule| rule.args().iter().flatten().count() == 0) {
            return of_rule(rule);
        }
        if let Some(rule) = telling().find(|rule| all_hold(rule, *abi, call)) {
            return of_rule(rule);
        }
        let newest =
            rules.iter().flat_map(|(numbers, _)| numbers).filter(|n| **n < 0x000f_0000).max();
        let refuses = self.profile.default_action() == LinuxSeccompAction::ScmpActErrno;
        if refuses && naming.is_empty() && newest.is_some_and(|newest| call.number > *newest) {
            return ERRNO | ENOSYS;
        }
        default
    }

    fn compares(&self, number: u32) -> bool {
        let rules = self.interfaces.iter().flat_map(|interface| &interface.rules);
        rules.into_iter().any(|(numbers, rule)| rule.args().is_some() && numbers.contains(&number))
    }
}

fn all_hold(rule: &LinuxSyscall, abi: Abi, call: &Call) -> bool {
    let arguments: Vec<LinuxSeccompArg> = rule.args().iter().flatten().copied().collect();
    let indices: BTreeSet<usize> = arguments.iter().map(LinuxSeccompArg::index).collect();
    if indices.len() < arguments.len() {
        arguments.iter().any(|argument| holds(argument, abi, call))
    } else {
        arguments.iter().all(|argument| holds(argument, abi, call))
    }
}

fn holds(argument: &LinuxSeccompArg, abi: Abi, call: &Call) -> bool {
    let cut = |value: u64| if abi.is_wide() { value } else { value & 0xffff_ffff };
    let given = cut(call.arguments[argument.index()]);
    let value = cut(argument.value());
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => given == value,
        LinuxSeccompOperator::ScmpCmpNe => given != value,
        LinuxSeccompOperator::ScmpCmpLt => given < value,
        LinuxSeccompOperator::ScmpCmpLe => given <= value,
        LinuxSeccompOperator::ScmpCmpGt => given > value,
        LinuxSeccompOperator::ScmpCmpGe => given >= value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            given & value == cut(argument.value_two().unwrap_or(0))
        }
    }
}

fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    match action {
        LinuxSeccompAction::ScmpActAllow => ALLOW,
        LinuxSeccompAction::ScmpActErrno => ERRNO | errno.unwrap_or(EPERM),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | errno.unwrap_or(EPERM),
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActNotify => panic!("refused by compile"),
    }
}

/// Values around everything that `profile` compares with, also with rubbish in the upper half.
fn interesting(profile: &LinuxSeccomp) -> Vec<u64> {
    let arguments =
        profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
    let mut values = BTreeSet::from([0, 1, u64::MAX, 0xffff_ffff, 1 << 32]);
    for argument in arguments {
        for value in [argument.value(), argument.value_two().unwrap_or(0)] {
            for near in [value.wrapping_sub(1), value, value.wrapping_add(1)] {
                values.extend([near, near ^ (1 << 32), near | 0xdead_0000_0000_0000]);
            }
        }
    }
    values.extend((0..64).flat_map(|family| [family, family | 1 << 40]));
    values.into_iter().collect()
}

/// Compares a compiled profile with the reference, for every call of every interface.
fn agrees(profile: &LinuxSeccomp) {
    let program = compile(profile).expect("compile").program;
    let reference = Reference::of(profile);
    let values = interesting(profile);
    let audit = [Abi::X86_64, Abi::X86, Abi::Aarch64, Abi::Arm].map(Abi::audit);
    let strange = [0x3fff_ffff, 0x4000_0000, 0x4000_003b, 0x7fff_ffff, u32::MAX];
    for architecture in audit.into_iter().chain([0, 0x8000_0016]) {
        for number in (0..700).chain(strange).chain(0x000f_0000..0x000f_0010) {
            // Where no rule looks at arguments, two sets of them are enough.
            let tried = if reference.compares(number) { &values[..] } else { &values[..2] };
            for (at, value) in tried.iter().enumerate() {
                let other = values[(at * 7 + 3) % values.len()];
                for arguments in [[*value; 6], [*value, other, *value, other, *value, other]] {
                    let call = Call { number, architecture, arguments };
                    assert_eq!(run(&program, &call), reference.verdict(&call), "{call:x?}");
                }
            }
        }
    }
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    arguments: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect())
        .set_action(action)
        .set_args((!arguments.is_empty()).then_some(arguments));
    rule
}

fn profile(default: LinuxSeccompAction, rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(default)
        .set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]))
        .set_syscalls(Some(rules));
    profile
}

fn capabilities(names: &[Capability]) -> Capabilities {
    names.iter().copied().collect()
}

#[test]
fn the_default_profile_compiles_to_what_it_says() {
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        for granted in [
            capabilities(&[]),
            capabilities(&[Capability::SysChroot]),
            capabilities(&[Capability::SysAdmin, Capability::SysPtrace, Capability::SysTime]),
        ] {
            let profile = default_profile(&granted, architecture);
            agrees(&profile);
            let program = compile(&profile).expect("compile").program;
            assert!(program.len() < 600, "{} instructions", program.len());
        }
    }
}

#[test]
fn every_comparison_compiles_to_what_it_says() {
    use LinuxSeccompOperator::{
        ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe,
    };
    let values = [0, 5, 0xffff_ffff, 0x1_0000_0000, 0x5_0000_0005, u64::MAX];
    for op in [ScmpCmpEq, ScmpCmpNe, ScmpCmpLt, ScmpCmpLe, ScmpCmpGt, ScmpCmpGe, ScmpCmpMaskedEq] {
        for value in values {
            let condition = argument(0, op, value, Some(5));
            let rules = vec![rule(&["read"], LinuxSeccompAction::ScmpActAllow, vec![condition])];
            agrees(&profile(LinuxSeccompAction::ScmpActErrno, rules));
        }
    }
}

#[test]
fn several_rules_for_one_call_compile_to_what_they_say() {
    use LinuxSeccompAction::{
        ScmpActAllow, ScmpActErrno, ScmpActKillProcess, ScmpActKillThread, ScmpActLog,
        ScmpActTrace, ScmpActTrap,
    };
    let equal = |index, value| argument(index, LinuxSeccompOperator::ScmpCmpEq, value, None);
    let all_six = (0..6).map(|index| equal(index, 7)).collect();
    let cases = [
        (
            "arguments, then none",
            vec![
                rule(&["read"], ScmpActTrap, vec![equal(0, 5)]),
                rule(&["read"], ScmpActAllow, vec![]),
            ],
        ),
        (
            "none, then arguments",
            vec![
                rule(&["read"], ScmpActAllow, vec![]),
                rule(&["read"], ScmpActTrap, vec![equal(0, 5)]),
            ],
        ),
        (
            "two without arguments",
            vec![rule(&["read"], ScmpActLog, vec![]), rule(&["read"], ScmpActTrace, vec![])],
        ),
        (
            "two that both hold",
            vec![
                rule(&["read"], ScmpActLog, vec![equal(0, 5)]),
                rule(&["read"], ScmpActAllow, vec![equal(1, 5)]),
            ],
        ),
        ("all six arguments", vec![rule(&["read", "write"], ScmpActAllow, all_six)]),
        ("one argument twice", vec![rule(&["read"], ScmpActAllow, vec![equal(0, 5), equal(0, 7)])]),
        (
            "what happens anyway",
            vec![
                rule(&["read"], ScmpActErrno, vec![]),
                rule(&["read"], ScmpActAllow, vec![equal(0, 5)]),
            ],
        ),
        (
            "killing",
            vec![
                rule(&["read"], ScmpActKillProcess, vec![]),
                rule(&["write"], ScmpActKillThread, vec![]),
            ],
        ),
        ("unknown names", vec![rule(&["no_such_call", "read"], ScmpActAllow, vec![])]),
        ("no rules", vec![]),
    ];
    for (case, rules) in cases {
        println!("{case}");
        agrees(&profile(ScmpActErrno, rules.clone()));
        agrees(&profile(ScmpActAllow, rules));
    }
}

#[test]
fn jumps_over_more_than_255_instructions_arrive() {
    let conditions = |call: &'static str| {
        (0..200).map(move |value| {
            let condition = argument(0, LinuxSeccompOperator::ScmpCmpEq, value * 3, None);
            rule(&[call], LinuxSeccompAction::ScmpActAllow, vec![condition])
        })
    };
    let rules = conditions("read").chain(conditions("openat")).collect();
    let profile = profile(LinuxSeccompAction::ScmpActErrno, rules);
    assert!(compile(&profile).expect("compile").program.len() > 2_000);
    agrees(&profile);
}

#[test]
fn sockets_of_doors_into_the_kernel_stay_shut() {
    const AF_ALG: u64 = 38;
    const AF_VSOCK: u64 = 40;
    let program = compile(&default_profile(&capabilities(&[]), Architecture::X86_64))
        .expect("compile")
        .program;
    let give = |abi: Abi, name: &str, first: u64| {
        let number = abi.number(name).expect("known");
        run(
            &program,
            &Call { number, architecture: abi.audit(), arguments: [first, 0, 0, 0, 0, 0] },
        )
    };
    for family in 0..46 {
        let want = if [AF_ALG, AF_VSOCK].contains(&family) { ERRNO | EPERM } else { ALLOW };
        for abi in [Abi::X86_64, Abi::X86] {
            assert_eq!(give(abi, "socket", family), want, "family {family} on {abi:?}");
        }
        // The kernel looks at 32 bits only.
        assert_eq!(
            give(Abi::X86_64, "socket", family | 1 << 32),
            want,
            "family {family}, disguised"
        );
    }
    assert_eq!(give(Abi::X86, "socketcall", 1), ERRNO | ENOSYS, "behind a pointer");

    let x32 =
        Call { number: 0x4000_0029, architecture: Abi::X86_64.audit(), arguments: [AF_ALG; 6] };
    assert_eq!(run(&program, &x32), ERRNO | ENOSYS, "by x32");
}

#[test]
fn namespaces_and_new_calls_are_refused_the_right_way() {
    const CLONE_NEWUSER: u64 = 0x1000_0000;
    const SIGCHLD: u64 = 17;
    let plain =
        compile(&default_profile(&capabilities(&[]), Architecture::X86_64)).expect("compile");
    let admin = default_profile(&capabilities(&[Capability::SysAdmin]), Architecture::X86_64);
    let admin = compile(&admin).expect("compile");
    let cases = [
        ("a thread", "clone", SIGCHLD, ALLOW, ALLOW),
        ("a user namespace", "clone", SIGCHLD | CLONE_NEWUSER, ERRNO | EPERM, ALLOW),
        ("flags behind a pointer", "clone3", 0, ERRNO | ENOSYS, ALLOW),
        ("unshare", "unshare", CLONE_NEWUSER, ERRNO | EPERM, ALLOW),
        ("io_uring", "io_uring_setup", 0, ERRNO | EPERM, ERRNO | EPERM),
        ("keys of the host", "keyctl", 0, ERRNO | EPERM, ERRNO | EPERM),
        ("randomised addresses off", "personality", 0x0004_0000, ERRNO | EPERM, ERRNO | EPERM),
        ("which personality", "personality", 0xffff_ffff, ALLOW, ALLOW),
    ];
    for (case, name, first, want, want_admin) in cases {
        let number = Abi::X86_64.number(name).expect(name);
        let call =
            Call { number, architecture: Abi::X86_64.audit(), arguments: [first, 0, 0, 0, 0, 0] };
        assert_eq!(run(&plain.program, &call), want, "{case}");
        assert_eq!(run(&admin.program, &call), want_admin, "{case}, with CAP_SYS_ADMIN");
    }
    let future = Call { number: 600, architecture: Abi::X86_64.audit(), arguments: [0; 6] };
    assert_eq!(run(&plain.program, &future), ERRNO | ENOSYS, "a call of a later kernel");
}

#[test]
fn profiles_that_cannot_be_are_refused() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno, ScmpActNotify};
    let with = |change: &dyn Fn(&mut LinuxSeccomp)| {
        let mut profile = profile(ScmpActErrno, vec![rule(&["read"], ScmpActAllow, vec![])]);
        change(&mut profile);
        compile(&profile).expect_err("refused").to_string()
    };
    let errno = |value| {
        let mut rule = rule(&["read"], ScmpActErrno, vec![]);
        rule.set_errno_ret(Some(value));
        rule
    };
    let seventh = argument(6, LinuxSeccompOperator::ScmpCmpEq, 0, None);
    let many = (0..1_100).map(|value| {
        let condition = argument(0, LinuxSeccompOperator::ScmpCmpEq, value, None);
        rule(&["read"], ScmpActAllow, vec![condition])
    });
    let many: Vec<LinuxSyscall> = many.collect();

    let cases: [(&str, String); 7] = [
        (
            "action SCMP_ACT_NOTIFY is not supported",
            with(&|p| {
                p.set_syscalls(Some(vec![rule(&["read"], ScmpActNotify, vec![])]));
            }),
        ),
        (
            "action SCMP_ACT_NOTIFY is not supported",
            with(&|p| {
                p.set_listener_path(Some("/run/agent.sock".into()));
            }),
        ),
        (
            "flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is not supported",
            with(&|p| {
                p.set_flags(Some(vec![LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv]));
            }),
        ),
        (
            "errnoRet 4096 does not go with SCMP_ACT_ERRNO",
            with(&|p| {
                p.set_syscalls(Some(vec![errno(4096)]));
            }),
        ),
        (
            "read has no argument 6",
            with(&|p| {
                p.set_syscalls(Some(vec![rule(&["read"], ScmpActAllow, vec![seventh])]));
            }),
        ),
        (
            "no architecture is one of this host",
            with(&|p| {
                p.set_architectures(Some(vec![Arch::ScmpArchS390x]));
            }),
        ),
        (
            "filter has 8817 instructions, the kernel takes 4096",
            with(&|p| {
                p.set_syscalls(Some(many.clone()));
            }),
        ),
    ];
    for (want, got) in cases {
        assert_eq!(got, want);
    }
    assert_eq!(
        compile(&LinuxSeccomp::default()).expect_err("no architectures"),
        ProfileError::NoArchitecture
    );
}

#[test]
fn keys_tell_profiles_apart() {
    let plain = default_profile(&capabilities(&[]), Architecture::X86_64);
    let again = default_profile(&capabilities(&[]), Architecture::X86_64);
    let admin = default_profile(&capabilities(&[Capability::SysAdmin]), Architecture::X86_64);
    let other = default_profile(&capabilities(&[]), Architecture::Aarch64);
    assert_eq!(key(&plain), key(&again));
    assert_ne!(key(&plain), key(&admin));
    assert_ne!(key(&plain), key(&other));
}
