//! The system call interfaces that a filter can tell apart, and the numbers of their calls.

use crate::Architecture;
use oci_spec::runtime::Arch;
use std::str::FromStr;

/// A system call interface of the kernel: one value of `seccomp_data.arch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Abi {
    X86_64,
    X86,
    Aarch64,
    Arm,
}

impl Abi {
    /// The interface that a profile's architecture stands for; `None` for those that no host of ours can run.
    ///
    /// x32 is one of these: it shares its `seccomp_data.arch` with x86_64 and is told apart by a bit of the number.
    /// Such calls answer `ENOSYS` in every filter, as on a kernel without x32, which is how distributions build it.
    pub(super) fn of(arch: Arch) -> Option<Abi> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "twenty processors that Berth does not run on"
        )]
        match arch {
            Arch::ScmpArchX86_64 => Some(Abi::X86_64),
            Arch::ScmpArchX86 => Some(Abi::X86),
            Arch::ScmpArchAarch64 => Some(Abi::Aarch64),
            Arch::ScmpArchArm => Some(Abi::Arm),
            _ => None,
        }
    }

    /// `AUDIT_ARCH_*` of `<linux/audit.h>`.
    pub(super) fn audit(self) -> u32 {
        match self {
            Abi::X86_64 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 64 bits. With 32 the upper halves are always 0.
    pub(super) fn is_wide(self) -> bool {
        match self {
            Abi::X86_64 | Abi::Aarch64 => true,
            Abi::X86 | Abi::Arm => false,
        }
    }

    /// The number of the call with this name, if the interface has it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let number = match self {
            Abi::X86_64 => syscalls::x86_64::Sysno::from_str(name).ok()?.id(),
            Abi::X86 => syscalls::x86::Sysno::from_str(name).ok()?.id(),
            Abi::Aarch64 => syscalls::aarch64::Sysno::from_str(name).ok()?.id(),
            Abi::Arm => syscalls::arm::Sysno::from_str(name).ok()?.id(),
        };
        u32::try_from(number).ok()
    }
}

impl Architecture {
    /// Its own architecture first, then the 32-bit one whose programs it runs as well.
    pub(crate) fn seccomp(self) -> [Arch; 2] {
        match self {
            Architecture::X86_64 => [Arch::ScmpArchX86_64, Arch::ScmpArchX86],
            Architecture::Aarch64 => [Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_each_interface() {
        let cases = [
            ("plain", Abi::X86_64, "openat", Some(257)),
            ("same name, other number", Abi::X86, "openat", Some(295)),
            ("generic table", Abi::Aarch64, "openat", Some(56)),
            ("old ARM", Abi::Arm, "openat", Some(322)),
            ("gone from newer interfaces", Abi::Aarch64, "open", None),
            ("only on 32 bits", Abi::X86_64, "socketcall", None),
            ("only on 32 bits", Abi::X86, "socketcall", Some(102)),
            ("leading underscore", Abi::X86, "_llseek", Some(140)),
            ("new", Abi::X86_64, "removexattrat", Some(466)),
            ("not a call", Abi::X86_64, "no_such_call", None),
            ("empty", Abi::X86_64, "", None),
        ];
        for (case, abi, name, want) in cases {
            assert_eq!(abi.number(name), want, "{case}: {name} on {abi:?}");
        }
    }
}
