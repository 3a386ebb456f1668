//! What a new process does on its way to becoming a runtime's program.

use super::Driven;
use super::place::{self, Places};
use crate::init::{self, Channel, Stdio, Step, Word};
use crate::refuse::Explain;
use crate::world::{SHM, World};
use rustix::fs::{CWD, Mode};
use rustix::io::FdFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use sys::exec::{Strings, execve};
use sys::mount;

/// One run of a program.
#[derive(Debug)]
pub(super) struct Program<'a> {
    pub(super) driven: &'a Driven,
    /// Everything behind the program's name.
    pub(super) arguments: &'a [String],
    pub(super) stdio: Stdio<'a>,
    /// What is attached to the bundle for it.
    pub(super) places: Option<Places<'a>>,
    /// A descriptor that stays open, at the same number.
    pub(super) input: Option<BorrowedFd<'a>>,
}

/// The whole environment: where a runtime finds the helpers it calls. Nothing of the daemon's reaches it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the program. Gives the exit status of a process that did not.
pub(super) fn execute(program: &Program<'_>, world: &World, channel: &Channel) -> i32 {
    match steps(program, world, channel) {
        Ok(never) => match never {},
        Err(refusal) => {
            // The monitor may be gone, and then nobody reads it.
            channel.say(&Word::Failed(refusal)).ok();
            1
        }
    }
}

fn steps(program: &Program<'_>, world: &World, channel: &Channel) -> Step<Infallible> {
    let drive = &program.driven.0.drive;
    init::keep_only(needed(program, world, channel), &world.proof)?;
    init::alone()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    world.set_oom_score_adj(world.oom_score_adj).step("set oom_score_adj", "")?;
    // The monitor's world is left with the next step, and the pod's shared memory with it.
    let shm = program.places.as_ref().map(|_| mount::bind(CWD, SHM, false));
    let shm = shm.transpose().step("bind", SHM)?;
    move_into_link_name_space(program.driven.0.host.as_fd(), Some(LinkNameSpaceType::Mount))
        .step("enter", "the host's mount namespace")?;
    if let (Some(places), Some(shm)) = (&program.places, &shm) {
        place::furnish(&drive.bundle, places, shm)?;
    }
    rustix::process::chdir(drive.bundle.as_str()).step("enter", &drive.bundle)?;
    let step = "connect standard streams";
    rustix::stdio::dup2_stdin(program.stdio.stdin).step(step, "")?;
    rustix::stdio::dup2_stdout(program.stdio.stdout).step(step, "")?;
    rustix::stdio::dup2_stderr(program.stdio.stderr).step(step, "")?;
    sys::clone::close_on_exec_from_3().step("close descriptors", "on execve")?;
    if let Some(input) = program.input {
        rustix::io::fcntl_setfd(input, FdFlags::empty()).step("keep", "a descriptor")?;
    }
    let step = "execute";
    let name = drive.program.as_str();
    let arguments = std::iter::once(name).chain(program.arguments.iter().map(String::as_str));
    let arguments = Strings::new(arguments).step(step, name)?;
    let environment = Strings::new([PATH]).step(step, name)?;
    let path = CString::new(name).step(step, name)?;
    Err(execve(&path, &arguments, &environment)).step(step, name)
}

fn needed<'a>(
    program: &'a Program<'a>,
    world: &'a World,
    channel: &'a Channel,
) -> Vec<BorrowedFd<'a>> {
    let Stdio { stdin, stdout, stderr } = program.stdio;
    let host = program.driven.0.host.as_fd();
    let always = [channel.as_fd(), world.proc.as_fd(), host, stdin, stdout, stderr];
    let root = program.places.as_ref().map(|places| places.root);
    always.into_iter().chain(root).chain(program.input).collect()
}
