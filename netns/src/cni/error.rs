//! Why a network plugin did not do its part.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::plugin::Command;

/// Why plugins could not give a pod its network, or take it away.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// No configuration is there that could be used.
    #[error("{0}")]
    NoConfiguration(String),

    /// A program that a configuration names is nowhere.
    #[error("network plugin {kind} is in none of {}", .directories.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotInstalled {
        /// The plugin's type.
        kind: String,
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },

    /// A plugin does not speak the version of its configuration.
    #[error("network plugin {kind} does not know version {wanted} of the configuration, only {}", .known.join(", "))]
    Version {
        /// The plugin's type.
        kind: String,
        /// The configuration's version.
        wanted: &'static str,
        /// The plugin's versions.
        known: Vec<String>,
    },

    /// A plugin could not be started or spoken to.
    #[error("{step} network plugin {kind}")]
    Run {
        /// What was to be done.
        step: &'static str,
        /// The plugin's type.
        kind: String,
        /// What the kernel answered.
        source: io::Error,
    },

    /// A plugin took too long and was killed.
    #[error("network plugin {kind} did not end its {command} within {} s and was killed", .after.as_secs())]
    TimedOut {
        /// The plugin's type.
        kind: String,
        /// What it was to do.
        command: Command,
        /// How long it had.
        after: Duration,
    },

    /// A plugin printed more than anybody can mean, and was killed.
    #[error("network plugin {kind} printed more than {most} bytes in its {command} and was killed")]
    TooMuch {
        /// The plugin's type.
        kind: String,
        /// What it was to do.
        command: Command,
        /// The most it may print.
        most: usize,
    },

    /// A plugin said that it failed, and why.
    #[error("network plugin {kind} failed its {command}: {text} (code {code})")]
    Failed {
        /// The plugin's type.
        kind: String,
        /// What it was to do.
        command: Command,
        /// The plugin's own words.
        text: String,
        /// The plugin's own code, of the specification below 100.
        code: u64,
    },

    /// A plugin ended badly without saying why as the specification wants it.
    #[error("network plugin {kind} ended its {command} with {status}: {output}")]
    Crashed {
        /// The plugin's type.
        kind: String,
        /// What it was to do.
        command: Command,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it printed, shortened.
        output: String,
    },

    /// A plugin said something that is no result.
    #[error("network plugin {kind} answered its {command} with {what}")]
    Garbage {
        /// The plugin's type.
        kind: String,
        /// What it was to do.
        command: Command,
        /// What is wrong with the answer.
        what: String,
    },

    /// What is noted of an attachment could not be written, read or removed.
    #[error("{step} {}", .path.display())]
    Journal {
        /// What was to be done.
        step: &'static str,
        /// The note's file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },

    /// The directory of configurations could not be watched.
    #[error("watch {}", .path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
}
