//! A cgroup for one test, and processes in it.

use runtime::cgroup::{Cgroup, CgroupPath, Cgroups, Descriptors, Held, Limits, Version};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Long enough for an emulated processor.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Room {
    pub(crate) cgroups: Cgroups,
    pub(crate) path: CgroupPath,
}

impl Room {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/berth-cgroup-test-{}-{number}", std::process::id()).parse().unwrap();
        Self { cgroups: Cgroups::detect().unwrap(), path }
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.cgroups.version() == Version::V2
    }

    /// The container's cgroup: two levels down, as in production.
    pub(crate) fn container(&self) -> CgroupPath {
        self.path.join("pod").unwrap().join("container").unwrap()
    }

    pub(crate) fn create(&self, limits: &Limits) -> Cgroup {
        self.cgroups.create(&self.container(), limits).unwrap()
    }

    /// The file of a cgroup, found without the code that is tested: the hierarchy that has the file.
    pub(crate) fn file(&self, path: &CgroupPath, file: &str) -> PathBuf {
        let below = |mount: PathBuf| mount.join(&path.as_str()[1..]).join(file);
        let mut candidates = self.cgroups.hierarchies().into_iter().map(below);
        candidates
            .find(|candidate| candidate.exists())
            .unwrap_or_else(|| panic!("no {file} in {path}"))
    }

    pub(crate) fn read(&self, path: &CgroupPath, file: &str) -> String {
        std::fs::read_to_string(self.file(path, file)).unwrap().trim_end().to_owned()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let removed = self.cgroups.remove(&self.path);
        if std::thread::panicking() {
            return;
        }
        removed.unwrap();
        for hierarchy in self.cgroups.hierarchies() {
            assert!(
                !hierarchy.join(&self.path.as_str()[1..]).exists(),
                "left in {}",
                hierarchy.display()
            );
        }
    }
}

/// What the monitor gets: through the parts that are sent.
pub(crate) fn held(cgroup: &Cgroup) -> Held {
    let (labels, descriptors) = cgroup.descriptors().unwrap().into_parts();
    Held::from_descriptors(Descriptors::from_parts(labels, descriptors).unwrap()).unwrap()
}

/// A shell that runs its script when it is told to.
pub(crate) struct Shell {
    child: Child,
}

impl Shell {
    pub(crate) fn new(script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read go; {script}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap() }
    }

    /// Starts the script in `held`.
    pub(crate) fn started(script: &str, held: &Held) -> Self {
        let mut shell = Self::new(script);
        held.enter(shell.pid()).unwrap();
        shell.go();
        shell
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn go(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn wait(self) -> Output {
        self.child.wait_with_output().unwrap()
    }

    /// Waits for the script's next line of output.
    pub(crate) fn line(&mut self) -> String {
        use std::io::Read;
        let mut line = Vec::new();
        let mut byte = [0];
        while self.child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

/// Asks again until it is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        // No descriptors: this only waits.
        poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).unwrap();
    }
}

pub(crate) fn is_readable(descriptor: BorrowedFd<'_>, within: Duration) -> bool {
    let within = Timespec::try_from(within).unwrap();
    poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&within)).unwrap() == 1
}
