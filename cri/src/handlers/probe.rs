//! What a runtime's program can do, as it says itself: OCI's `features`, and the help of its `exec`.

use super::Features;
use plan::ExecCgroup;
use serde::Deserialize;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What was found out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probed {
    pub(super) features: Features,
    pub(super) exec_cgroup: ExecCgroup,
}

impl Default for Probed {
    fn default() -> Self {
        Self { features: Features::default(), exec_cgroup: ExecCgroup::None }
    }
}

/// Why a program could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("run {} {command}", program.display())]
pub(super) struct ProbeError {
    program: PathBuf,
    command: &'static str,
    source: io::Error,
}

/// The longest answer. It takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const MOST: u64 = 1 << 20;

/// Asks the program. One without `features`, which came to the runtime spec with 1.1, has none.
pub(super) fn probe(program: &Path) -> Result<Probed, ProbeError> {
    let ask = |arguments: &[&str], command| {
        let failed = |source| ProbeError { program: program.to_owned(), command, source };
        ask(program, arguments).map_err(failed)
    };
    let help = ask(&["exec", "--help"], "exec --help")?;
    let features = ask(&["features"], "features")?;
    Ok(Probed { features: read_features(&features), exec_cgroup: read_exec_cgroup(&help) })
}

/// `features.md` of the runtime spec, as far as it is of interest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    mount_options: Vec<String>,
}

fn read_features(json: &str) -> Features {
    // A program that does not know the command says so in words.
    let document: Document = serde_json::from_str(json).unwrap_or_default();
    Features {
        recursive_read_only_mounts: document.mount_options.iter().any(|option| option == "rro"),
        user_namespaces: false,
    }
}

fn read_exec_cgroup(help: &str) -> ExecCgroup {
    match help.lines().find(|line| line.trim_start().starts_with("--cgroup")) {
        Some(line) if line.contains("<controller>") => ExecCgroup::ByController,
        Some(_) => ExecCgroup::Path,
        None => ExecCgroup::None,
    }
}

/// What a program prints, within a bounded time and of a bounded size; how it ends says nothing.
fn ask(program: &Path, arguments: &[&str]) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = child.stdout.take().map(OwnedFd::from);
    let text = output.map_or(Ok(String::new()), |pipe| read(pipe, Instant::now() + PATIENCE));
    // It has nothing more to say, or has said too much or too slowly.
    child.kill().ok();
    child.wait()?;
    text
}

fn read(pipe: OwnedFd, until: Instant) -> io::Result<String> {
    rustix::io::ioctl_fionbio(&pipe, true)?;
    let mut file = std::fs::File::from(pipe);
    let mut text = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if sys::seqpacket::wait(&[file.as_fd()], left)? != [true] {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let ended = match Read::by_ref(&mut file).take(MOST).read_to_end(&mut text) {
            Ok(_) => true,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => false,
            Err(err) => return Err(err),
        };
        if text.len() as u64 >= MOST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if ended {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_the_runtime_spec() {
        let cases = [
            ("no such command", "unknown command features", false),
            ("no such option", r#"{"mountOptions":["ro"]}"#, false),
            ("the option", r#"{"mountOptions":["ro","rro"],"linux":{}}"#, true),
        ];
        for (name, json, rro) in cases {
            let want = Features { recursive_read_only_mounts: rro, user_namespaces: false };
            assert_eq!(read_features(json), want, "{name}");
        }
    }

    #[test]
    fn the_help_says_how_exec_takes_a_cgroup() {
        let runc = "   --cgroup value    run the process in an (existing) sub-cgroup(s). Format is [<controller>:]<cgroup>.";
        assert_eq!(read_exec_cgroup(runc), ExecCgroup::ByController);
        assert_eq!(read_exec_cgroup("      --cgroup=PATH   sub-cgroup"), ExecCgroup::Path);
        assert_eq!(read_exec_cgroup("  --cwd=CWD"), ExecCgroup::None);
    }

    #[test]
    fn a_program_that_hangs_or_floods_is_not_waited_for() {
        let answer = ask(Path::new("/bin/sh"), &["-c", "echo yes; exit 3"]).unwrap();
        assert_eq!(answer, "yes\n");
        assert!(ask(Path::new("/bin/sh"), &["-c", "yes"]).is_err());
        assert!(ask(Path::new("/nonexistent"), &[]).is_err());
    }
}
