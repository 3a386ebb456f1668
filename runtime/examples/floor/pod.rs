//! One pod: made, entered, ended.

use crate::link;
use rustix::fd::AsFd;
use rustix::fs::{CWD, Mode, OFlags, mkdir, openat};
use rustix::mount::MountAttrFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::clone::{SingleThreaded, Spawn, Spawned};
use sys::exec::{Strings, execve};
use sys::pin::{self, Kind};

const BUSYBOX: &CStr = c"/bin/busybox";
const KINDS: [Kind; 3] = [Kind::Network, Kind::Ipc, Kind::Uts];
const NO_ATTRIBUTES: MountAttrFlags = MountAttrFlags::empty();

/// What every pod of this run shares.
pub(crate) struct Ground {
    /// Scratch space on the file system that is measured.
    pub(crate) directory: PathBuf,
    /// The unpacked image.
    pub(crate) layer: OwnedFd,
    /// An empty directory, for the root to be attached to. By path: each pod has its own copy of the mount it is on.
    pub(crate) place: PathBuf,
    pub(crate) proc: OwnedFd,
    pub(crate) host: OwnedFd,
    pub(crate) bridge: u32,
}

/// A pod with one running process.
pub(crate) struct Pod {
    directory: PathBuf,
    first: Spawned,
}

impl Pod {
    /// From nothing to `execve` of the pod's program.
    pub(crate) fn start(ground: &Ground, number: usize) -> io::Result<Self> {
        let directory = ground.directory.join(number.to_string());
        for part in ["", "upper", "work"] {
            mkdir(directory.join(part), Mode::RWXU)?;
        }
        let mut socket = None;
        pin::create(&directory, &KINDS, || {
            socket = Some(link::socket()?);
            io::Result::Ok(())
        })
        .map_err(io::Error::other)?;
        let namespaces = KINDS.map(|kind| pin::open(&directory, kind));
        let namespaces: Vec<OwnedFd> = namespaces
            .into_iter()
            .map(|pinned| pinned?.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .collect::<io::Result<_>>()?;
        let link = format!("fl{}-{number}", std::process::id());
        link::connect_pod(&ground.host, &link, ground.bridge, namespaces[0].as_fd())?;
        link::configure_pod(socket.ok_or(io::ErrorKind::NotFound)?)?;
        let root = root(&directory, &ground.layer)?;
        let proof = prove(ground)?;
        let how = Spawn { mount_namespace: true, pid_namespace: true, ..Spawn::default() };
        let first = spawn(&proof, &how, || {
            become_first(ground, &namespaces, root.as_fd(), &["busybox", "sleep", "1000000"])
        })?;
        Ok(Self { directory, first })
    }

    /// One more process in the pod, from nothing to its end.
    pub(crate) fn exec(&self, ground: &Ground) -> io::Result<()> {
        let proof = prove(ground)?;
        let run = || -> io::Result<()> {
            // Only children go into the PID namespace; so it takes two processes, as everywhere.
            let all = ThreadNameSpaceType::MOUNT
                | ThreadNameSpaceType::NETWORK
                | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
                | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
                | ThreadNameSpaceType::PROCESS_ID;
            move_into_thread_name_spaces(self.first.pidfd.as_fd(), all)?;
            let entered = Spawn::default().run(&proof, || {
                program(&["busybox", "true"]).ok();
                1
            })?;
            wait(&entered.pidfd)
        };
        let helper = Spawn::default().run(&proof, || i32::from(run().is_err()))?;
        wait(&helper.pidfd)
    }

    /// The process, the namespaces, the directories. The links end with their namespace, some time later.
    pub(crate) fn stop(self) -> io::Result<()> {
        pidfd_send_signal(&self.first.pidfd, Signal::KILL)?;
        waitid(WaitId::PidFd(self.first.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        pin::remove(&self.directory)?;
        std::fs::remove_dir_all(&self.directory)
    }
}

/// A detached overlay with a writable layer, as a container's root is.
fn root(directory: &Path, layer: &OwnedFd) -> io::Result<OwnedFd> {
    let below = |name: &str| directory.join(name).display().to_string();
    let (lower, upper, work) =
        (format!("/proc/self/fd/{}", layer.as_raw_fd()), below("upper"), below("work"));
    let options = [
        ("lowerdir", lower.as_str()),
        ("upperdir", &upper),
        ("workdir", &work),
        ("volatile", ""),
        ("index", "off"),
    ];
    Ok(sys::mount::new("overlay", options, NO_ATTRIBUTES)?)
}

/// The thread that pinned the namespaces has ended and holds nothing; the kernel may need a moment to say so.
pub(crate) fn prove(ground: &Ground) -> io::Result<SingleThreaded> {
    loop {
        match SingleThreaded::prove(ground.proc.as_fd()) {
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy => std::thread::yield_now(),
            result => return result,
        }
    }
}

/// Returns when `child` has become its program.
fn spawn(
    proof: &SingleThreaded,
    how: &Spawn<'_>,
    child: impl FnOnce() -> io::Result<()>,
) -> io::Result<Spawned> {
    // Its end is closed by `execve`, or by the end of a process that came to none.
    let (heard, said) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let spawned = how.run(proof, || {
        if let Err(err) = child() {
            let code = err.raw_os_error().unwrap_or(0);
            // Nobody is left to be told of a failure to tell.
            rustix::io::write(&said, &code.to_ne_bytes()).ok();
        }
        1
    })?;
    drop(said);
    let mut code = [0; 4];
    match rustix::io::read(&heard, &mut code)? {
        0 => Ok(spawned),
        _ => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code))),
    }
}

fn become_first(
    ground: &Ground,
    namespaces: &[OwnedFd],
    root: BorrowedFd<'_>,
    arguments: &[&str],
) -> io::Result<()> {
    let kinds = [
        LinkNameSpaceType::Network,
        LinkNameSpaceType::InterProcessCommunication,
        LinkNameSpaceType::HostNameAndNISDomainName,
    ];
    for (namespace, kind) in namespaces.iter().zip(kinds) {
        move_into_link_name_space(namespace.as_fd(), Some(kind))?;
    }
    sys::mount::attach(root, directory(&ground.place)?)?;
    for (kind, target) in [("proc", "proc"), ("tmpfs", "dev"), ("sysfs", "sys")] {
        let mount = sys::mount::new(kind, [], NO_ATTRIBUTES)?;
        sys::mount::attach(&mount, directory_at(root, target)?)?;
    }
    sys::mount::pivot(root)?;
    program(arguments)
}

fn program(arguments: &[&str]) -> io::Result<()> {
    let arguments = Strings::new(arguments.iter().copied())?;
    let environment = Strings::new(["PATH=/bin"])?;
    Err(execve(BUSYBOX, &arguments, &environment))
}

pub(crate) fn wait(pidfd: &OwnedFd) -> io::Result<()> {
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        _ => Err(io::Error::other("a process did not get to its end")),
    }
}

/// Opens a directory without reading it.
pub(crate) fn directory_at(
    at: impl AsFd,
    path: impl rustix::path::Arg,
) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// As [`directory_at`], from the working directory.
pub(crate) fn directory(path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    directory_at(CWD, path)
}
