//! The last steps, the same for a container's first process and an exec: from the inside, with ever fewer rights.

use super::resolve::{self, Kind, Links};
use super::{Channel, Stdio, Step, Word, identity};
use crate::refuse::{Explain, refusal};
use plan::{Process, Seccomp};
use rustix::fs::{FileType, Mode, Uid};
use rustix::io::Errno;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::exec::{Strings, execve};
use sys::rights::{self, Instruction};

/// Runs the program; returns only what went wrong.
pub(super) fn run(
    process: &Process,
    root: BorrowedFd<'_>,
    stdio: Stdio<'_>,
    channel: &Channel,
) -> Step<Infallible> {
    identity::limit(process)?;
    let directory = directory(process, root)?;
    let entered = enter(&directory);
    connect(stdio, process)?;
    sys::clone::close_on_exec_from_3().step("close descriptors", "on execve")?;
    let filter = process.seccomp.as_ref();
    if !process.no_new_privileges {
        // A filter needs CAP_SYS_ADMIN then, which is about to go.
        channel.say(&Word::Executing)?;
        restrict(filter)?;
    }
    identity::assume(&process.identity, process.capabilities)?;
    // The directory may be one that only the user can enter, on a network file system say.
    entered.or_else(|_| enter(&directory)).step("enter working directory", &process.cwd)?;
    reachable(process)?;
    rustix::process::umask(Mode::from_raw_mode(process.identity.umask.unwrap_or(0o022)));
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("set no_new_privs", "")?;
        channel.say(&Word::Executing)?;
        restrict(filter)?;
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

fn restrict(filter: Option<&Seccomp>) -> Step<()> {
    let Some(filter) = filter else { return Ok(()) };
    let program: Vec<Instruction> = filter
        .program
        .iter()
        .map(|at| Instruction { code: at.code, jt: at.jt, jf: at.jf, k: at.k })
        .collect();
    rights::filter_system_calls(&program, filter.flags).step("load system call filter", "")
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
