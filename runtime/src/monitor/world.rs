//! The little that a monitor has: itself, a null device, a place for roots, the pod's shared memory. It lives in a mount
//! namespace of its own, in which there is nothing of the host.

use crate::refuse::Explain;
use runtime::oom_score::set_as_low_as_granted;
use runtime::protocol::Refusal;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Pid, getpid};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use sys::clone::{self, SingleThreaded};
use sys::mount::{self, Change, Propagation};

/// The empty directory on which each container's root is attached, in the container's own mount namespace.
pub(crate) const ROOT: &str = "/root";
/// The pod's `/dev/shm`.
pub(crate) const SHM: &str = "/shm";
/// The procfs of the PID namespace that containers of the pod share, where they do.
pub(crate) const PROC: &str = "/proc";
/// A null device that no container can have changed.
pub(crate) const NULL: &str = "/null";
/// A directory with nothing in it.
pub(crate) const EMPTY: &str = "/empty";
/// Where a process that makes a container in a user namespace mounts a procfs, in its own mount namespace.
pub(crate) const SEEN_PROC: &str = "/seen-proc";
/// Likewise, a sysfs.
pub(crate) const SEEN_SYS: &str = "/seen-sys";

/// What the monitor holds for as long as it lives.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) proof: SingleThreaded,
    /// A procfs that shows processes only and is mounted nowhere, from before anything of a container was there.
    pub(crate) proc: OwnedFd,
    pub(crate) null: OwnedFd,
    /// The value this process had before it protected itself; a container that asks for none gets it.
    pub(crate) oom_score_adj: i32,
}

/// The pod's shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shm {
    pub(crate) bytes: u64,
    /// Who owns the directory: the root of the pod's user namespace, as the host counts.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The monitor's own: the node does not give up a pod's output and exit codes for want of memory.
const PROTECTED: i32 = -999;

impl World {
    /// Leaves everything of the starter's behind but the socket, its standard input, which is returned.
    pub(crate) fn make(shm: &Shm) -> Result<(Self, OwnedFd), Refusal> {
        let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
            .step("keep", "the listening socket")?;
        let proc =
            mount::new("proc", [("subset", "pid")], attributes()).step("make mount", "proc")?;
        let proof = SingleThreaded::prove(proc.as_fd()).step("count threads", "")?;
        clone::close_all_but(&[listener.as_fd(), proc.as_fd()], &proof)
            .step("close", "descriptors")?;
        withdraw().step("withdraw", "from the starter")?;
        let null = furnish(shm)?;
        let mut world = Self { proof, proc, null, oom_score_adj: 0 };
        world.oom_score_adj = world.own_oom_score_adj().step("read", "oom_score_adj")?;
        // Without CAP_SYS_RESOURCE it stays where it is.
        world.write_own("oom_score_adj", PROTECTED.to_string().as_bytes()).ok();
        rustix::stdio::dup2_stdin(&world.null).step("close", "standard input")?;
        rustix::stdio::dup2_stdout(&world.null).step("close", "standard output")?;
        Ok((world, listener))
    }

    /// Sets this process's `oom_score_adj`, or the lowest value above it that the kernel grants.
    pub(crate) fn set_oom_score_adj(&self, wished: i32) -> io::Result<()> {
        let set = |score: i32| self.write_own("oom_score_adj", score.to_string().as_bytes());
        set_as_low_as_granted(wished, set, || self.own_oom_score_adj())
    }

    fn own_oom_score_adj(&self) -> io::Result<i32> {
        self.read_own("oom_score_adj")?
            .trim()
            .parse()
            .map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Writes a file of this process's own directory in the procfs, all at once.
    pub(crate) fn write_own(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let file = self.open_own(name, OFlags::WRONLY)?;
        if rustix::io::write(&file, content)? == content.len() {
            Ok(())
        } else {
            Err(Errno::IO.into())
        }
    }

    /// Reads the first page of a file of this process's own directory in the procfs.
    pub(crate) fn read_own(&self, name: &str) -> io::Result<String> {
        read_page(&self.open_own(name, OFlags::RDONLY)?)
    }

    /// The directory is known by this process's number in the procfs's PID namespace, which is what `self` says there;
    /// beyond it no link is followed and no mount is entered (CVE-2025-52881).
    fn open_own(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let own = rustix::fs::readlinkat(&self.proc, "self", Vec::new())?;
        self.open(&[own.as_bytes(), b"/", name.as_bytes()].concat(), flags)
    }

    /// Opens a namespace that this process is in.
    pub(crate) fn own_namespace(&self, name: &str) -> io::Result<OwnedFd> {
        let own = rustix::fs::readlinkat(&self.proc, "self", Vec::new())?;
        let own = [own.as_bytes(), b"/ns/", name.as_bytes()].concat();
        // It is a link to no path: nothing that anybody could have put something else onto.
        Ok(rustix::fs::openat(&self.proc, own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Writes a file of another process's directory in the procfs, all at once.
    pub(crate) fn write_of(&self, pid: Pid, name: &str, content: &str) -> io::Result<()> {
        let path = format!("{}/{name}", pid.as_raw_pid());
        let file = self.open(path.as_bytes(), OFlags::WRONLY)?;
        if rustix::io::write(&file, content.as_bytes())? == content.len() {
            Ok(())
        } else {
            Err(Errno::IO.into())
        }
    }

    /// Reads the first page of a file of the procfs.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        read_page(&self.open(path.as_bytes(), OFlags::RDONLY)?)
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.proc, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Attaches a procfs for the containers that share their PID namespace; they bind it into their roots.
    pub(crate) fn show_processes(&self, proc: &OwnedFd) -> Result<(), Errno> {
        attach(proc, PROC)
    }

    /// Takes it down again.
    pub(crate) fn hide_processes(&self) {
        // Mostly there is none. Containers that still end keep their own.
        rustix::mount::unmount(PROC, UnmountFlags::DETACH).ok();
    }
}

fn read_page(file: &OwnedFd) -> io::Result<String> {
    let mut buffer = [0; 4096];
    let count = rustix::io::read(file, &mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

/// What a process must be to look after others.
fn withdraw() -> io::Result<()> {
    // It was executed from a descriptor, whose number would be its name.
    rustix::thread::set_name(c"berth-monitor")?;
    // Orphans of the pod's containers come to this process, and not to the host's init.
    rustix::process::set_child_subreaper(Some(getpid()))?;
    // No container may look into it while it enters that container (CVE-2016-9962).
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    sys::signals::ignore_broken_pipes()?;
    rustix::process::setsid()?;
    rustix::process::umask(Mode::empty());
    sys::rights::own_mount_namespace()
}

fn attributes() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV
}

/// Makes the monitor's own root and moves there. Gives the null device.
fn furnish(shm: &Shm) -> Result<OwnedFd, Refusal> {
    let host = mount::root().step("open", "/")?;
    let private =
        Change { propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
    mount::set_attributes(&host, private).step("make private", "/")?;
    let own = attributes().difference(MountAttrFlags::MOUNT_ATTR_NODEV);
    let small = [("size", "16k"), ("nr_inodes", "10"), ("mode", "0755")];
    let root = mount::new("tmpfs", small, own).step("make mount", "own root")?;
    for name in [ROOT, SHM, EMPTY, PROC, SEEN_PROC, SEEN_SYS] {
        rustix::fs::mkdirat(&root, &name[1..], Mode::from_raw_mode(0o555)).step("make", name)?;
    }
    let (number, mode) = (rustix::fs::makedev(1, 3), Mode::from_raw_mode(0o666));
    rustix::fs::mknodat(&root, &NULL[1..], FileType::CharacterDevice, mode, number)
        .step("make device", NULL)?;
    mount::attach(&root, &host).step("attach", "own root")?;
    mount::pivot(&root).step("pivot", "to own root")?;
    let (size, uid, gid) = (shm.bytes.to_string(), shm.uid.to_string(), shm.gid.to_string());
    let options = [("mode", "1777"), ("size", &size), ("uid", &uid), ("gid", &gid)];
    let shm = mount::new("tmpfs", options, attributes()).step("make mount", SHM)?;
    attach(&shm, SHM).step("attach", SHM)?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
    mount::set_attributes(&root, Change { set, ..Change::default() })
        .step("make read-only", "own root")?;
    null().step("open", NULL)
}

/// Attaches a mount to one of the directories above.
pub(crate) fn attach(mount: &OwnedFd, at: &str) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    mount::attach(mount, rustix::fs::openat(CWD, at, flags, Mode::empty())?)
}

fn null() -> Result<OwnedFd, Errno> {
    let null = rustix::fs::openat(CWD, NULL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&null)?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if device && stat.st_rdev == rustix::fs::makedev(1, 3) { Ok(null) } else { Err(Errno::NODEV) }
}
