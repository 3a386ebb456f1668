//! A systemd of a test's own: the real program, as process 1 of a PID namespace, on cgroups below the test's.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::cgroup::{self, CgroupParent, is_v2};
use crate::patience::eventually;
use crate::process::{Process, output};
use crate::stage::Stage;

/// The cgroup of what is left outside of its namespaces.
const OUTSIDE: &str = "outside";

const PROGRAM: &str = "/lib/systemd/systemd";

/// Runs until it is dropped, and everything that it has started with it.
#[derive(Debug)]
pub struct Systemd {
    process: Process,
    cgroups: CgroupParent,
    /// Process 1 of its namespace, as we number it.
    init: String,
}

impl Systemd {
    /// Why this machine has none, if it has none.
    pub fn missing() -> Option<String> {
        (!Path::new(PROGRAM).exists()).then(|| format!("{PROGRAM} is not installed"))
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not, with what it logged.
    pub fn start(stage: &Stage) -> Self {
        let log = stage.directory().join("systemd.log");
        let place = format!("{}/systemd", stage.cgroups.name());
        let script = format!("{}\n{BOOT}", enter(&stage.cgroups, &place));
        let mut command = Command::new("bash");
        command.arg("-c").arg(script).stdin(Stdio::null());
        let file = fs::File::create_new(&log).expect("create systemd's log");
        command.stderr(file.try_clone().expect("share the log")).stdout(file);
        let process = Process::spawn(&mut command).expect("start systemd");
        let child = format!("/proc/{0}/task/{0}/children", process.id());
        let told = || fs::read_to_string(&log).unwrap_or_default();
        let init = eventually(|| {
            let children = fs::read_to_string(&child).unwrap_or_default();
            let is_systemd = |pid: &&str| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|n| n == "systemd\n")
            };
            children.split_whitespace().find(is_systemd).map(str::to_owned)
        });
        let init = init.unwrap_or_else(|| panic!("systemd does not start:\n{}", told()));
        if is_v2() {
            // Whoever waits for process 1 is in the root of its cgroups, which then could not have children with limits.
            let outside = Path::new("/sys/fs/cgroup").join(stage.cgroups.name()).join(OUTSIDE);
            fs::create_dir_all(&outside).expect("make a cgroup");
            let moved = fs::OpenOptions::new().write(true).open(outside.join("cgroup.procs"));
            moved
                .and_then(|mut file| file.write_all(process.id().to_string().as_bytes()))
                .expect("move a process");
        }
        let this = Self { process, cgroups: stage.cgroups.clone(), init };
        let runs = || {
            let state = this.try_run(&["systemctl", "is-system-running"]);
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            matches!(state.as_str(), "running" | "degraded").then_some(())
        };
        assert!(eventually(runs).is_some(), "systemd does not come up:\n{}", told());
        this
    }

    /// A command inside.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init, "-m", "-p", "-C", "--"]).args(words);
        command.stdin(Stdio::null());
        command
    }

    pub fn try_run(&self, words: &[&str]) -> Output {
        output(&mut self.command(words))
    }

    /// What a command inside prints.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> String {
        let done = self.try_run(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        assert!(done.status.success(), "{words:?}: {}", text(&done.stderr));
        text(&done.stdout)
    }

    /// What systemd says of a property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "-p", name, unit])
    }

    /// The directory of a cgroup in a hierarchy, as we see it; of v2's where there is one only.
    pub fn cgroup(&self, stage: &Stage, controller: &str, path: &str) -> PathBuf {
        let top = Path::new("/sys/fs/cgroup");
        let top = if is_v2() { top.to_owned() } else { top.join(controller) };
        top.join(stage.cgroups.name()).join("systemd").join(path.trim_start_matches('/'))
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The end of process 1 is the end of all in its namespace.
        self.process.kill();
        for name in ["systemd", OUTSIDE] {
            let mine = self.cgroups.child(name);
            eventually(|| {
                cgroup::remove_tree(&mine);
                // The parent itself may be busy for as long as its last process takes to go.
                mine.hierarchies().iter().all(|top| !top.join(mine.name()).exists()).then_some(())
            });
        }
    }
}

/// Puts a shell into cgroups of its own, and then into namespaces in which those are the roots.
fn enter(parent: &CgroupParent, place: &str) -> String {
    let mut script = String::from("set -e\n");
    for top in parent.hierarchies() {
        let top = top.display();
        script += &format!(
            "mkdir -p {top}/{place}\n\
             for d in {name} {place}; do for f in cpuset.cpus cpuset.mems; do\n\
             [[ ! -e {top}/$d/$f || -n $(cat {top}/$d/$f) || -e {top}/cgroup.controllers ]] ||\n\
             cat {top}/$f >{top}/$d/$f; done; done\n\
             [[ ! -e {top}/cgroup.controllers || -z $(cat {top}/cgroup.controllers) ]] ||\n\
             for d in . {name}; do for c in $(cat {top}/$d/cgroup.controllers); do\n\
             echo +$c >{top}/$d/cgroup.subtree_control 2>/dev/null || true; done; done\n\
             echo $$ >{top}/{place}/cgroup.procs\n",
            name = parent.name()
        );
    }
    script
}

/// The little that systemd wants of a machine, and one target without any services.
const BOOT: &str = r#"exec unshare --mount --pid --cgroup --fork --kill-child bash -ec '
kinds=(); for d in /sys/fs/cgroup/*/; do [[ -e $d/cgroup.procs && ! -e $d/cgroup.controllers ]] && kinds+=("$(basename $d)"); done
pure=; [[ -e /sys/fs/cgroup/cgroup.controllers ]] && pure=1
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 run /run
umount -R /sys/fs/cgroup || true
if [[ $pure ]]; then
  mount -t cgroup2 cgroup /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
  for kind in "${kinds[@]}"; do
    mkdir /sys/fs/cgroup/$kind
    [[ $kind == systemd ]] && options=none,name=systemd || options=$kind
    mount -t cgroup -o $options cgroup /sys/fs/cgroup/$kind
  done
fi
mkdir /run/units
printf "[Unit]\nDescription=nothing\nDefaultDependencies=no\nAllowIsolate=yes\n" >/run/units/test.target
export SYSTEMD_UNIT_PATH=/run/units container=test
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=0
'"#;
