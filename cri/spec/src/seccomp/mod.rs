//! System call filters: which profile a container gets, and profiles as programs.
//!
//! ```text
//!   request ──▶ wanted() ──▶ default_profile(capabilities) ──┐
//!                   └──────▶ read(content of a file) ────────┴─▶ LinuxSeccomp in the spec ──▶ compile() ──▶ classic BPF
//! ```
//!
//! A profile in a spec is complete: its architectures and flags are spelled out, so [`compile`] needs nothing else,
//! and equal profiles give equal programs. [`key`] names a profile, for a cache of compiled ones.

mod abi;
mod bpf;
mod compile;
mod default;
mod localhost;
mod wanted;

#[cfg(test)]
mod tests;
pub use compile::compile;
pub use default::default_profile;
pub use wanted::localhost_profile;

pub(crate) use wanted::profile;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
};

/// A name for everything about `profile` that its program depends on: equal keys have equal programs.
pub fn key(profile: &LinuxSeccomp) -> String {
    serde_json::to_string(profile).expect("a profile is made of strings and numbers")
}

/// One condition on an argument of a call.
fn argument(
    index: usize,
    op: LinuxSeccompOperator,
    value: u64,
    value_two: Option<u64>,
) -> LinuxSeccompArg {
    let mut builder = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    if let Some(value_two) = value_two {
        builder = builder.value_two(value_two);
    }
    builder.build().expect("every field has a default")
}

/// Why a seccomp profile cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A `Localhost` profile was asked for, but there is nothing in it. It must not run unconfined (CVE-2023-2431).
    #[error("profile is empty")]
    Empty,

    /// The file is larger than any profile has reason to be.
    #[error("profile has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The size of the file.
        bytes: usize,
        /// The largest size that is read.
        limit: usize,
    },

    /// The file is no JSON, or has keys that are not of the OCI format.
    #[error("read profile: {message}")]
    Syntax {
        /// What is wrong, and the line and column.
        message: String,
    },

    /// An action hands calls to another process, which nobody here listens for.
    #[error("action {action} is not supported")]
    Action {
        /// The action, as it is written in a profile.
        action: String,
    },

    /// A filter flag that has no meaning without a listener.
    #[error("flag {flag} is not supported")]
    Flag {
        /// The flag, as it is written in a profile.
        flag: String,
    },

    /// `errnoRet` beside an action that returns no number, or out of range.
    #[error("errnoRet {value} does not go with {action}")]
    Errno {
        /// The action, as it is written in a profile.
        action: String,
        /// The value.
        value: u32,
    },

    /// A system call has six arguments.
    #[error("{call} has no argument {index}")]
    Argument {
        /// The name of the call.
        call: String,
        /// The index, counted from 0.
        index: usize,
    },

    /// No architecture of the profile is one of this host.
    #[error("no architecture is one of this host")]
    NoArchitecture,

    /// The kernel takes 4,096 instructions.
    #[error("filter has {instructions} instructions, the kernel takes 4096")]
    TooLong {
        /// The size of the compiled program.
        instructions: usize,
    },
}
