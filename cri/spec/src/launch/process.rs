//! The process part of a plan: a container's first process, and an exec with the same rights.

use super::{Compile, compile, noted};
use crate::capabilities::bits;
use crate::container::{STDIN, STDIN_ONCE};
use crate::error::SpecError;
use oci_spec::runtime::{Linux, LinuxCapabilities, PosixRlimit, PosixRlimitType, Spec};
use plan::{Capabilities, Identity, Rlimit, Terminal};

/// The first process of the container.
pub(super) fn process(
    spec: &Spec,
    linux: &Linux,
    compile: &mut Compile<'_>,
) -> Result<plan::Process, SpecError> {
    let process = spec.process().as_ref();
    let process = process.ok_or_else(|| SpecError::missing("process", "is needed"))?;
    let args = process.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::missing("process.args", "a program is needed"));
    }
    let cwd = process.cwd().to_string_lossy().into_owned();
    if !cwd.starts_with('/') {
        return Err(SpecError::invalid("process.cwd", cwd, "must be an absolute path"));
    }
    Ok(plan::Process {
        args,
        env: process.env().clone().unwrap_or_default(),
        cwd,
        identity: identity(process.user()),
        capabilities: capabilities(process.capabilities().as_ref())?,
        no_new_privileges: process.no_new_privileges().unwrap_or_default(),
        rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
        oom_score_adj: process.oom_score_adj(),
        seccomp: linux.seccomp().as_ref().map(compile).transpose()?,
        apparmor: process.apparmor_profile().clone().filter(|name| !name.is_empty()),
        selinux: process.selinux_label().clone().filter(|label| !label.is_empty()),
        terminal: terminal(process)?,
        stdin: noted(spec, STDIN),
        stdin_once: noted(spec, STDIN_ONCE),
    })
}

/// One more process in the container of `spec`: user, groups, capabilities, filter, labels, limits, environment and
/// working directory are the container's, so it never has more rights than the container (CVE-2025-27612).
///
/// # Errors
///
/// [`SpecError`] where there is no command, or the spec is one that [`launch`](super::launch) refuses.
pub fn exec(spec: &Spec, command: &[String], tty: bool) -> Result<plan::Process, SpecError> {
    exec_with(spec, command, tty, &mut compile)
}

/// [`exec`], with compiled filters from elsewhere.
///
/// # Errors
///
/// As [`exec`], and what `compile` says.
pub fn exec_with(
    spec: &Spec,
    command: &[String],
    tty: bool,
    compile: &mut Compile<'_>,
) -> Result<plan::Process, SpecError> {
    super::refuse::unsupported(spec)?;
    if command.first().is_none_or(String::is_empty) {
        return Err(SpecError::missing("cmd", "a program is needed"));
    }
    if let Some(arg) = command.iter().find(|arg| arg.contains('\0')) {
        return Err(SpecError::invalid("cmd", arg, "must not have a NUL in it"));
    }
    let linux = spec.linux().as_ref().ok_or_else(|| SpecError::missing("linux", "is needed"))?;
    let mut process = process(spec, linux, compile)?;
    command.clone_into(&mut process.args);
    process.terminal = tty.then(Terminal::default);
    if tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
        process.env.push("TERM=xterm".to_owned());
    }
    // An exec's input comes from its own caller.
    process.stdin = false;
    process.stdin_once = false;
    Ok(process)
}

fn identity(user: &oci_spec::runtime::User) -> Identity {
    let others = user.additional_gids().as_deref().unwrap_or_default();
    let others = others.iter().copied().filter(|group| *group != user.gid());
    Identity {
        uid: user.uid(),
        gid: user.gid(),
        groups: std::iter::once(user.gid()).chain(others).collect(),
        umask: user.umask(),
    }
}

fn capabilities(sets: Option<&LinuxCapabilities>) -> Result<Capabilities, SpecError> {
    let Some(sets) = sets else { return Ok(Capabilities::default()) };
    let ambient = bits(sets.ambient().as_ref());
    if bits(sets.inheritable().as_ref()) & !ambient != 0 {
        let field = "process.capabilities.inheritable";
        return Err(SpecError::unsupported(field, "inheritable sets beyond the ambient one are"));
    }
    Ok(Capabilities {
        bounding: bits(sets.bounding().as_ref()),
        permitted: bits(sets.permitted().as_ref()),
        effective: bits(sets.effective().as_ref()),
        ambient,
    })
}

/// Numbers of `<asm-generic/resource.h>`, which x86 and ARM share.
fn rlimit(limit: &PosixRlimit) -> Rlimit {
    let resource = match limit.typ() {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    };
    Rlimit { resource, soft: limit.soft(), hard: limit.hard() }
}

fn terminal(process: &oci_spec::runtime::Process) -> Result<Option<Terminal>, SpecError> {
    if !process.terminal().unwrap_or_default() {
        return Ok(None);
    }
    let Some(size) = process.console_size() else { return Ok(Some(Terminal::default())) };
    let length = |length: u64| {
        u16::try_from(length).map_err(|_| {
            let rule = "is more than a terminal can have";
            SpecError::invalid("process.consoleSize", length.to_string(), rule)
        })
    };
    let (rows, columns) = (length(size.height())?, length(size.width())?);
    Ok(Some(Terminal { rows, columns }))
}
