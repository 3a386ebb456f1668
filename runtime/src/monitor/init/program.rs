//! The last steps, the same for a container's first process and an exec: from the inside, with ever fewer rights.
//!
//! [`prepare`] does all that takes more rights than the program will have, and gives them up; [`finish`] needs none of
//! them. Between the two, where others can see the process, it can be taken over without a gain (CVE-2016-9962).

use super::resolve::{self, Kind, Links};
use super::{Channel, Stdio, Step, Word, identity};
use crate::refuse::{Explain, refusal};
use plan::{Process, Seccomp};
use rustix::fs::{FileType, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal};
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::exec::{Strings, execve};
use sys::foresight;
use sys::rights::{self, Instruction};

/// What stands between a prepared process and its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// Nothing: there is none, or it holds already.
    Done,
    /// The filter. Where the process may gain rights by `execve`, the kernel wants CAP_SYS_ADMIN for it, so that is held
    /// until then: `execve` takes it away, as the bounding set does not have it.
    ToLoad,
}

/// Becomes what the program will be: limits, directory, standard streams, user, capabilities.
pub(super) fn prepare(process: &Process, root: BorrowedFd<'_>, stdio: Stdio<'_>) -> Step<Filter> {
    identity::limit(process)?;
    let directory = directory(process, root)?;
    let entered = enter(&directory);
    connect(stdio, process)?;
    sys::clone::close_on_exec_from_3().step("close descriptors", "on execve")?;
    let filter = if process.seccomp.is_some() { Filter::ToLoad } else { Filter::Done };
    let kept = filter == Filter::ToLoad && !process.no_new_privileges;
    let kept = if kept { identity::TO_FILTER } else { 0 };
    identity::assume(&process.identity, process.capabilities, kept)?;
    // A change of user makes a process dumpable where `fs.suid_dumpable` says so.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step("protect", "from its neighbours")?;
    // The directory may be one that only the user can enter, on a network file system say.
    entered.or_else(|_| enter(&directory)).step("enter working directory", &process.cwd)?;
    reachable(process)?;
    rustix::process::umask(Mode::from_raw_mode(process.identity.umask.unwrap_or(0o022)));
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("set no_new_privs", "")?;
    }
    Ok(filter)
}

/// Loads the filter ahead of [`finish`], where that leaves the calls up to `execve` alone: a process that others can see
/// then never holds the right to load it. Other filters, which no program that starts others can live with, wait.
pub(super) fn restrict_early(process: &Process, filter: Filter) -> Step<Filter> {
    let held = filter == Filter::ToLoad && !process.no_new_privileges;
    let Some(seccomp) = process.seccomp.as_ref().filter(|_| held) else { return Ok(filter) };
    let program = instructions(seccomp);
    if !foresight::allows(&program, &foresight::TO_HAND_OVER) {
        return Ok(filter);
    }
    restrict(&program, seccomp.flags)?;
    identity::settle(process.capabilities)?;
    Ok(Filter::Done)
}

/// Runs the program; returns only what went wrong. After the filter there is nothing but write(2) and `execve`: what a
/// filter answers to a change of user, say, cannot deceive anybody here.
pub(super) fn finish(process: &Process, filter: Filter, channel: &Channel) -> Step<Infallible> {
    // Who ends with the monitor is not left to run without anybody who knows of it. A change of user would undo it, and so
    // does an `execve` that changes the label of AppArmor or SELinux: then it takes the daemon to end what is left.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("end with", "the monitor")?;
    // It fails where the monitor has ended before that.
    channel.say(&Word::Executing)?;
    if let (Filter::ToLoad, Some(seccomp)) = (filter, &process.seccomp) {
        restrict(&instructions(seccomp), seccomp.flags)?;
    }
    execute(process)
}

fn directory(process: &Process, root: BorrowedFd<'_>) -> Step<OwnedFd> {
    resolve::target(root, &process.cwd, Kind::Directory, Links::Followed)
        .step("resolve working directory", &process.cwd)
}

fn enter(directory: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(directory)
}

/// A directory outside the root would read "(unreachable)/…" (CVE-2024-21626).
fn reachable(process: &Process) -> Step<()> {
    let inside =
        rustix::process::getcwd(Vec::new()).is_ok_and(|cwd| cwd.as_bytes().starts_with(b"/"));
    if inside {
        return Ok(());
    }
    Err(refusal("enter working directory", &format!("{}: is outside the root", process.cwd), 0))
}

/// Puts the three descriptors into their places. Pipes become the user's, who may want to open `/dev/stdout`.
fn connect(stdio: Stdio<'_>, process: &Process) -> Step<()> {
    let step = "connect standard streams";
    rustix::stdio::dup2_stdin(stdio.stdin).step(step, "")?;
    rustix::stdio::dup2_stdout(stdio.stdout).step(step, "")?;
    rustix::stdio::dup2_stderr(stdio.stderr).step(step, "")?;
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let stat = rustix::fs::fstat(fd).step(step, "")?;
        let own = stat.st_uid == process.identity.uid;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && !own {
            let owner = Some(Uid::from_raw(process.identity.uid));
            rustix::fs::fchown(fd.as_fd(), owner, None).step(step, "")?;
        }
    }
    Ok(())
}

fn instructions(filter: &Seccomp) -> Vec<Instruction> {
    let program = filter.program.iter();
    program.map(|at| Instruction { code: at.code, jt: at.jt, jf: at.jf, k: at.k }).collect()
}

fn restrict(program: &[Instruction], flags: u32) -> Step<()> {
    rights::filter_system_calls(program, flags).step("load system call filter", "")
}

fn execute(process: &Process) -> Step<Infallible> {
    let step = "execute";
    let name = process.args.first().ok_or(Errno::INVAL).step(step, "nothing")?;
    let arguments = Strings::new(process.args.iter().map(String::as_str)).step(step, name)?;
    let environment = Strings::new(process.env.iter().map(String::as_str)).step(step, name)?;
    let mut reason = Errno::NOENT;
    for candidate in candidates(name, &process.env) {
        let candidate = CString::new(candidate).step(step, name)?;
        let err = execve(&candidate, &arguments, &environment);
        match Errno::from_io_error(&err) {
            // As execvp(3): look on, and in the end say that there was one that may not be run.
            Some(Errno::NOENT | Errno::NOTDIR) => {}
            Some(Errno::ACCESS) => reason = Errno::ACCESS,
            other => return Err(other.unwrap_or(Errno::IO)).step(step, name),
        }
    }
    if reason == Errno::NOENT && !name.contains('/') {
        return Err(refusal(step, &format!("{name:?}: executable file not found in $PATH"), 0));
    }
    Err(reason).step(step, name)
}

/// Where to look for a program; `PATH` is the container's own, and no other is assumed for it.
fn candidates(name: &str, env: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
    let directories =
        path.filter(|_| !name.is_empty()).into_iter().flat_map(|path| path.split(':'));
    directories
        .map(|dir| if dir.is_empty() { format!("./{name}") } else { format!("{dir}/{name}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_in_the_containers_path() {
        let path = |value: &str| vec!["A=PATH=x".to_owned(), format!("PATH={value}")];
        let cases = [
            ("a path", "/bin/sh", path("/usr/bin"), "/bin/sh"),
            ("a relative path", "bin/sh", path("/usr/bin"), "bin/sh"),
            ("two directories", "sh", path("/usr/bin:/bin"), "/usr/bin/sh /bin/sh"),
            ("an empty directory is the current one", "sh", path(":/bin"), "./sh /bin/sh"),
            ("no path", "sh", Vec::new(), ""),
            ("no name", "", path("/bin"), ""),
        ];
        for (name, program, env, want) in cases {
            assert_eq!(candidates(program, &env).join(" "), want, "{name}");
        }
    }
}
