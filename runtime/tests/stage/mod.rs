//! What a monitor's tests need: a root made of busybox, plans, and a pod that leaves nothing behind.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test may")]

pub mod cgroup;

use plan::{
    Attributes, Capabilities, Device, DeviceKind, Fd, Identity, LaunchPlan, Link, Mount,
    PidNamespace, Process, Propagation, Source,
};
use runtime::cgroup::Cgroup;
use runtime::exit::{self, Exit};
use runtime::id::{ContainerId, PodId};
use runtime::monitor::{
    Exec, ExecError, ExecRequest, ExecStreams, Launch, Monitor, MonitorBinary, Program, Setup,
    StartError, Started,
};
use rustix::mount::MountAttrFlags;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;

/// A program that somebody has open for writing cannot be executed (`ETXTBSY`), and a process that is being started holds
/// copies of all descriptors for a moment: so no monitor is started while a root is made.
static WRITING: Mutex<()> = Mutex::new(());

/// The longest that anything here is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn binary() -> MonitorBinary {
    assert!(rustix::process::getuid().is_root(), "this test needs root");
    MonitorBinary::load(Path::new(env!("CARGO_BIN_EXE_berth-monitor"))).unwrap()
}

/// A pod with its monitor. Dropping it shuts that down and checks that nothing is left of it.
pub struct Pod {
    pub id: PodId,
    pub dir: TempDir,
    pub monitor: Monitor,
}

impl Pod {
    pub fn new() -> Self {
        let (id, dir) = (PodId::generate(), tempfile::tempdir().unwrap());
        let setup = Setup { shm_bytes: 1 << 20, shm_owner: (0, 0) };
        let _writing = WRITING.lock();
        let monitor = Monitor::spawn(&binary(), &id, dir.path(), &setup).unwrap();
        Self { id, dir, monitor }
    }

    pub fn container(&self) -> Container<'_> {
        Container::new(self)
    }

    /// Runs `args` in a container of its own and gives how it ended, and its log.
    pub fn run(&self, args: &[&str]) -> (Exit, Vec<String>) {
        let container = self.container();
        container.start(&plan(args)).unwrap();
        (container.wait(), container.log())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let pid = self.monitor.pid();
        let down = self.monitor.shutdown();
        if std::thread::panicking() {
            return;
        }
        down.unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "no zombie is left");
        assert!(!self.dir.path().join("monitor.sock").exists());
    }
}

/// One container with its files on the host.
pub struct Container<'a> {
    pub id: ContainerId,
    pub pod: &'a Pod,
    pub root: OwnedFd,
    pub cgroup: Option<Cgroup>,
    dir: PathBuf,
    trees: Vec<OwnedFd>,
}

impl<'a> Container<'a> {
    fn new(pod: &'a Pod) -> Self {
        let id = ContainerId::generate();
        let dir = pod.dir.path().join(id.as_str());
        std::fs::create_dir(&dir).unwrap();
        Self { id, pod, root: root(), cgroup: None, dir, trees: Vec::new() }
    }

    /// The root's directory, as the test sees it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()))
    }

    /// Adds a descriptor that travels with the plan.
    pub fn with(&mut self, tree: OwnedFd) -> Fd {
        self.trees.push(tree);
        Fd(u16::try_from(self.trees.len()).unwrap())
    }

    pub fn start(&self, plan: &LaunchPlan) -> Result<Started, StartError> {
        let log = File::options().append(true).create(true).open(self.log_path()).unwrap();
        let trees = self.trees.iter().map(|tree| tree.try_clone().unwrap());
        let descriptors = [self.root.try_clone().unwrap()].into_iter().chain(trees).collect();
        let launch = Launch {
            plan,
            descriptors,
            cgroup: self.cgroup.as_ref().map(|cgroup| cgroup.descriptors().unwrap()),
            log: Some(log.into()),
            exit_record: exit::create(&self.record_path()).unwrap(),
        };
        self.pod.monitor.start(&self.id, launch)
    }

    pub fn record_path(&self) -> PathBuf {
        self.dir.join("exit")
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn record(&self) -> Option<Exit> {
        exit::read(&self.record_path()).unwrap()
    }

    /// Waits until the exit record is written.
    pub fn wait(&self) -> Exit {
        wait_for("an exit record", || self.record())
    }

    /// The log's records without their times.
    pub fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.log_path()).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// Runs one more process in the container; gives its code and what it said on both streams.
    pub fn exec(&self, args: &[&str]) -> Result<(i32, String, String), ExecError> {
        let (exec, stdout, stderr) = self.begin_exec(args)?;
        let out = read(stdout);
        let err = read(stderr);
        let code = wait_for("the end of an exec", || exec.ended().unwrap());
        Ok((code, out, err))
    }

    pub fn begin_exec(&self, args: &[&str]) -> Result<(Exec, OwnedFd, OwnedFd), ExecError> {
        self.begin_exec_of(&process(args))
    }

    pub fn begin_exec_of(&self, process: &Process) -> Result<(Exec, OwnedFd, OwnedFd), ExecError> {
        let (stdout, their_stdout) = rustix::pipe::pipe().unwrap();
        let (stderr, their_stderr) = rustix::pipe::pipe().unwrap();
        let streams =
            ExecStreams::Pipes { stdin: None, stdout: their_stdout, stderr: their_stderr };
        let request = ExecRequest { process: Program::Plan(process), streams };
        let exec = self.pod.monitor.exec(&self.id, request)?;
        Ok((exec, stdout, stderr))
    }
}

pub fn read(fd: OwnedFd) -> String {
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    text
}

/// Asks again and again, for want of an event that a test could wait for.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < until {
        if let Some(answer) = ask() {
            return answer;
        }
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        sys::seqpacket::wait(&[reader.as_fd()], Duration::from_millis(5)).unwrap();
    }
    panic!("waited in vain for {what}");
}

/// A detached tmpfs with busybox in it.
pub fn root() -> OwnedFd {
    let _writing = WRITING.lock();
    let root = sys::mount::new("tmpfs", [("mode", "755")], MountAttrFlags::empty()).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    for dir in ["bin", "dev", "proc", "sys", "etc", "tmp"] {
        std::fs::create_dir(path.join(dir)).unwrap();
    }
    let busybox = path.join("bin/busybox");
    std::fs::copy("/bin/busybox", &busybox).expect("install busybox-static");
    std::fs::set_permissions(&busybox, std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in [
        "sh", "true", "false", "cat", "ls", "id", "sleep", "touch", "grep", "readlink", "stat",
        "kill", "mount",
    ] {
        symlink("busybox", path.join("bin").join(name)).unwrap();
    }
    File::create_new(path.join("etc/passwd"))
        .unwrap()
        .write_all(b"root:x:0:0::/:/bin/sh\n")
        .unwrap();
    root
}

/// The capabilities that containers have as a rule.
pub const DEFAULT: u64 = 0xa804_25fb;

pub fn process(args: &[&str]) -> Process {
    Process {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        identity: Identity { uid: 0, gid: 0, groups: vec![0], umask: None },
        capabilities: Capabilities {
            bounding: DEFAULT,
            permitted: DEFAULT,
            effective: DEFAULT,
            ambient: 0,
        },
        no_new_privileges: true,
        rlimits: Vec::new(),
        oom_score_adj: None,
        seccomp: None,
        apparmor: None,
        selinux: None,
        terminal: None,
        stdin: false,
        stdin_once: false,
    }
}

pub fn mount(target: &str, source: Source) -> Mount {
    let attributes = Attributes { nosuid: true, ..Attributes::default() };
    Mount { target: target.to_owned(), source, attributes, propagation: Propagation::Private }
}

pub fn options(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn plan(args: &[&str]) -> LaunchPlan {
    let device = |name: &str, minor| Device {
        path: format!("/dev/{name}"),
        kind: DeviceKind::Char,
        major: 1,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    let link = |path: &str, target: &str| Link { path: path.to_owned(), target: target.to_owned() };
    LaunchPlan {
        root: Fd(0),
        root_readonly: false,
        root_propagation: Propagation::Private,
        join: Vec::new(),
        pids: PidNamespace::Own,
        cgroup_namespace: false,
        mounts: vec![
            mount("/proc", Source::Proc),
            mount("/dev", Source::Tmpfs(options(&[("mode", "755"), ("size", "64k")]))),
            mount(
                "/dev/pts",
                Source::Devpts(options(&[
                    ("newinstance", ""),
                    ("ptmxmode", "0666"),
                    ("mode", "0620"),
                ])),
            ),
            mount("/dev/shm", Source::PodShm),
            mount("/sys", Source::Sysfs),
        ],
        devices: vec![device("null", 3), device("zero", 5)],
        links: vec![link("/dev/fd", "/proc/self/fd"), link("/dev/stdout", "/proc/self/fd/1")],
        masked: Vec::new(),
        readonly: Vec::new(),
        process: process(args),
        user: None,
    }
}
