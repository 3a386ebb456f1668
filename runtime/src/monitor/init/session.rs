//! The beginning: nothing is left of the monitor but what the next steps need.

use super::Step;
use crate::refuse::{Explain, refusal};
use crate::world::World;
use plan::Process;
use std::os::fd::BorrowedFd;
use sys::clone::{self, SingleThreaded};

/// Closes all descriptors but `needed`: those of other containers, the socket, the monitor's connections.
pub(crate) fn keep_only(needed: Vec<BorrowedFd<'_>>, proof: &SingleThreaded) -> Step<()> {
    clone::close_all_but(&needed, proof).step("close descriptors", "")
}

/// Signals, session and keys of its own; what only the host's procfs can set.
pub(super) fn begin(world: &World, process: &Process) -> Step<()> {
    begin_with(world, process, world.oom_score_adj)
}

/// As [`begin`], with the score that holds where the process names none.
pub(super) fn begin_with(world: &World, process: &Process, oom_score_adj: i32) -> Step<()> {
    alone()?;
    let score = process.oom_score_adj.unwrap_or(oom_score_adj);
    world.set_oom_score_adj(score).step("set oom_score_adj", score.to_string())?;
    label(world, process)
}

/// Signals, session, keys and file modes owe nothing to the monitor's.
pub(crate) fn alone() -> Step<()> {
    sys::signals::reset().step("reset signals", "")?;
    rustix::process::setsid().step("start a session", "")?;
    sys::rights::own_session_keyring().step("leave the session keyring", "")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

/// Writes the label that holds from `execve` on, and reads it back: a label that is not what was asked for is no label
/// (CVE-2019-16884, CVE-2025-52881).
fn label(world: &World, process: &Process) -> Step<()> {
    let own = "attr/exec";
    let (step, text, name) = match (&process.apparmor, &process.selinux) {
        (None, None) => return Ok(()),
        (Some(profile), None) => ("set AppArmor profile", format!("exec {profile}"), profile),
        (None, Some(label)) => ("set SELinux label", label.clone(), label),
        (Some(_), Some(_)) => return Err(refusal("set label", "of both AppArmor and SELinux", 0)),
    };
    world.write_own(own, text.as_bytes()).step(step, name)?;
    let got = world.read_own(own).step(step, name)?;
    let got = got.trim_end_matches(['\0', '\n']);
    if got == name || got.strip_prefix(name.as_str()).is_some_and(|mode| mode.starts_with(" (")) {
        Ok(())
    } else {
        Err(refusal(step, &format!("{name}: reads back as {got}"), 0))
    }
}
