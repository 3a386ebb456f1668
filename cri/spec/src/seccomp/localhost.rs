//! Profiles that an operator wrote.

use super::{ProfileError, argument};
use crate::Architecture;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;
use std::path::PathBuf;

/// More than the largest profile in use by a factor of thirty.
const MAX_BYTES: usize = 1 << 20;

/// Reads a profile in the OCI runtime format, and spells out what it leaves open: the host's architecture is always
/// among the architectures, and absent flags are the ones that runc sets.
///
/// Keys that are not of the format are refused, because they would change what the profile means: Docker's format has
/// rules that hold for some capabilities only, and a reader that passes over that condition allows them to all.
pub(super) fn read(content: &[u8], host: Architecture) -> Result<LinuxSeccomp, ProfileError> {
    if content.len() > MAX_BYTES {
        return Err(ProfileError::TooLarge { bytes: content.len(), limit: MAX_BYTES });
    }
    if content.trim_ascii().is_empty() {
        return Err(ProfileError::Empty);
    }
    let written: Written = serde_json::from_slice(content)
        .map_err(|error| ProfileError::Syntax { message: error.to_string() })?;
    Ok(written.complete(host))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<Arch>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<WrittenArgument>,
    /// Says something to readers only; widely used.
    #[serde(rename = "comment")]
    _comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenArgument {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

impl Written {
    fn complete(self, host: Architecture) -> LinuxSeccomp {
        let [native, compatible] = host.seccomp();
        let mut architectures = vec![native];
        if self.architectures.contains(&compatible) {
            architectures.push(compatible);
        }
        let flags =
            self.flags.unwrap_or_else(|| vec![LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow]);

        let mut profile = LinuxSeccomp::default();
        profile
            .set_default_action(self.default_action)
            .set_default_errno_ret(self.default_errno_ret)
            .set_architectures(Some(architectures))
            .set_flags(Some(flags))
            .set_listener_path(self.listener_path)
            .set_listener_metadata(self.listener_metadata)
            .set_syscalls(Some(self.syscalls.into_iter().map(WrittenRule::complete).collect()));
        profile
    }
}

impl WrittenRule {
    fn complete(self) -> LinuxSyscall {
        let arguments: Vec<LinuxSeccompArg> =
            self.args.into_iter().map(WrittenArgument::complete).collect();
        let mut rule = LinuxSyscall::default();
        rule.set_names(self.names)
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args((!arguments.is_empty()).then_some(arguments));
        rule
    }
}

impl WrittenArgument {
    fn complete(self) -> LinuxSeccompArg {
        argument(self.index, self.op, self.value, self.value_two)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_profiles_of_the_format_are_read() {
        let cases = [
            ("empty file", "", "profile is empty"),
            ("only spaces", " \n", "profile is empty"),
            ("no JSON", "default", "read profile: expected value at line 1 column 1"),
            ("no default action", "{}", "read profile: missing field `defaultAction`"),
            (
                "unknown action",
                r#"{"defaultAction":"SCMP_ACT_NO"}"#,
                "read profile: unknown variant",
            ),
            (
                "key twice",
                r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultAction":"SCMP_ACT_ERRNO"}"#,
                "read profile: duplicate field",
            ),
            (
                "unknown key",
                r#"{"defaultAction":"SCMP_ACT_ERRNO","default":1}"#,
                "read profile: unknown field `default`",
            ),
            (
                "a rule for some capabilities",
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}}]}"#,
                "read profile: unknown field `includes`",
            ),
            (
                "trailing text",
                r#"{"defaultAction":"SCMP_ACT_ALLOW"} x"#,
                "read profile: trailing characters",
            ),
        ];
        for (case, content, want) in cases {
            let error = read(content.as_bytes(), Architecture::X86_64).expect_err(case);
            assert!(error.to_string().starts_with(want), "{case}: {error}");
        }

        let large = vec![b' '; MAX_BYTES + 1];
        let error = read(&large, Architecture::X86_64).expect_err("too large");
        assert_eq!(error, ProfileError::TooLarge { bytes: MAX_BYTES + 1, limit: MAX_BYTES });
    }

    #[test]
    fn what_a_profile_leaves_open_is_spelled_out() {
        let content = br#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X32","SCMP_ARCH_X86","SCMP_ARCH_ARM"],
            "syscalls":[{"names":["kill"],"action":"SCMP_ACT_ALLOW","comment":"why","args":[]}]}"#;
        let profile = read(content, Architecture::X86_64).expect("read");
        assert_eq!(
            profile.architectures().as_deref(),
            Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..]),
            "its own first, and what this host can run"
        );
        assert_eq!(
            profile.flags().as_deref(),
            Some(&[LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow][..])
        );
        assert_eq!(profile.syscalls().as_ref().map(Vec::len), Some(1));
    }
}
