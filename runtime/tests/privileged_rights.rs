//! Whoever looks at a process on its way into a container finds no rights there that the container does not have, and
//! nothing of it is left without its monitor.

mod stage;

use plan::{Instruction, PidNamespace, Process, Seccomp};
use rustix::process::{Pid, Signal, kill_process};
use stage::{DEFAULT, Pod, plan, process, read, wait_for};
use std::fs::{read_dir, read_link, read_to_string};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const ALLOW: u32 = 0x7fff_0000;
const SUCCESS: u32 = 0x0005_0000; // SECCOMP_RET_ERRNO | 0
const REFUSED: u32 = 0x0005_0001; // SECCOMP_RET_ERRNO | EPERM

/// A filter that answers these calls so, and lets all others happen.
fn filter(calls: &[i64], answer: u32) -> Seccomp {
    let at = |code, jt, jf, k| Instruction { code, jt, jf, k };
    let mut program = vec![at(0x20, 0, 0, 0)];
    for call in calls {
        program.push(at(0x15, 0, 1, u32::try_from(*call).expect("a number of a call")));
        program.push(at(0x06, 0, 0, answer));
    }
    program.push(at(0x06, 0, 0, ALLOW));
    Seccomp { program, flags: 0 }
}

fn number(name: &str) -> i64 {
    // `seccomp(2)` knows calls by number; these are x86-64's and 64-bit ARM's.
    let arm = cfg!(target_arch = "aarch64");
    let (x86, arm64) = match name {
        "capset" => (126, 91),
        "clone" => (56, 220),
        "setgroups" => (116, 159),
        "setresgid" => (119, 149),
        "setresuid" => (117, 147),
        "prctl" => (157, 167),
        other => panic!("no number of {other}"),
    };
    if arm { arm64 } else { x86 }
}

/// A process as anybody on the host sees it.
struct Seen {
    permitted: u64,
    is_inside: bool,
    descriptors: Vec<String>,
}

fn look(pid: &str) -> Option<Seen> {
    let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    };
    let links = read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    Some(Seen {
        permitted: u64::from_str_radix(field("CapPrm")?, 16).ok()?,
        // A number in the container's PID namespace beside the host's.
        is_inside: field("NSpid")?.split_whitespace().count() > 1,
        descriptors: links
            .filter_map(|link| Some(read_link(link.path()).ok()?.display().to_string()))
            .collect(),
    })
}

/// Looks at the monitor's children as fast as it can while `work` runs; gives what was seen of those that could be seen
/// from inside their container.
fn watched(pod: &Pod, work: impl FnOnce()) -> Vec<Seen> {
    let monitor = pod.monitor.pid();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let children = format!("/proc/{monitor}/task/{monitor}/children");
                let children = read_to_string(children).expect("the monitor lives");
                seen.extend(children.split_whitespace().filter_map(look).filter(|it| it.is_inside));
            }
            seen
        });
        work();
        done.store(true, Ordering::Relaxed);
        watcher.join().expect("a watcher")
    })
}

#[test]
fn privileged_cve_2016_9962_who_enters_a_container_has_no_more_rights_and_files_than_the_program() {
    let pod = Pod::new();
    let container = pod.container();
    let mut sleeper = plan(&["sleep", "1000"]);
    sleeper.process.no_new_privileges = false;
    container.start(&sleeper).unwrap();
    // A filter, and the right to gain rights: what would take CAP_SYS_ADMIN in the container.
    let entering = Process {
        no_new_privileges: false,
        seccomp: Some(filter(&[number("capset")], ALLOW)),
        ..process(&["true"])
    };
    let seen = watched(&pod, || {
        for _ in 0..300 {
            let (exec, stdout, _stderr) = container.begin_exec_of(&entering).unwrap();
            read(stdout);
            wait_for("the end of an exec", || exec.ended().unwrap());
        }
    });
    assert!(seen.len() > 100, "only {} looks", seen.len());
    for Seen { permitted, descriptors, .. } in &seen {
        assert_eq!(permitted & !DEFAULT, 0, "capabilities {permitted:x}");
        let strange: Vec<_> = descriptors
            .iter()
            .filter(|link| !link.starts_with("pipe:") && !link.starts_with("socket:"))
            .filter(|link| !matches!(link.as_str(), "/null" | "/dev/null"))
            // busybox reads its own files.
            .filter(|link| !link.starts_with("/proc/") && !link.starts_with("/etc/"))
            .collect();
        assert!(strange.is_empty(), "{strange:?}");
    }
}

#[test]
fn privileged_a_filter_that_says_yes_and_does_nothing_deceives_nobody() {
    let pod = Pod::new();
    let deceived = ["setresuid", "setresgid", "setgroups", "capset", "prctl"].map(number);
    for no_new_privileges in [true, false] {
        for pids in [PidNamespace::Own, PidNamespace::Host] {
            let mut plan = plan(&[
                "sh",
                "-c",
                "id -u; id -g; id -G; grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status",
            ]);
            plan.pids = pids.clone();
            let process = &mut plan.process;
            process.no_new_privileges = no_new_privileges;
            process.identity = plan::Identity { uid: 7, gid: 8, groups: vec![8, 9], umask: None };
            process.capabilities = plan::Capabilities::default();
            process.seccomp = Some(filter(&deceived, SUCCESS));
            let container = pod.container();
            container.start(&plan).unwrap();
            container.wait();
            let none = "0000000000000000";
            let want = [
                "7".to_owned(),
                "8".to_owned(),
                "8 9".to_owned(),
                format!("CapPrm:\t{none}"),
                format!("CapEff:\t{none}"),
                format!("CapBnd:\t{none}"),
            ]
            .map(|line| format!("stdout F {line}"));
            assert_eq!(container.log(), want, "no_new_privileges {no_new_privileges}, {pids:?}");
        }
    }
}

#[test]
fn privileged_a_filter_that_allows_no_new_processes_holds_for_execs_too() {
    let pod = Pod::new();
    let container = pod.container();
    container.start(&plan(&["sleep", "1000"])).unwrap();
    let narrow = Process {
        no_new_privileges: false,
        seccomp: Some(filter(&[number("clone"), number("setresuid")], REFUSED)),
        ..process(&["grep", "-E", "Seccomp:|CapPrm", "/proc/self/status"])
    };
    let (exec, stdout, _stderr) = container.begin_exec_of(&narrow).unwrap();
    assert_eq!(read(stdout), format!("CapPrm:\t{DEFAULT:016x}\nSeccomp:\t2\n"));
    assert_eq!(wait_for("the end of an exec", || exec.ended().unwrap()), 0);
}

#[test]
fn privileged_containers_and_execs_end_with_a_monitor_that_is_killed() {
    for signal in [Signal::KILL, Signal::SEGV] {
        let pod = Pod::new();
        let container = pod.container();
        let mut user = plan(&["sh", "-c", "sleep 1000 & sleep 1001"]);
        user.process.identity = plan::Identity { uid: 7, gid: 8, groups: vec![8], umask: None };
        user.process.capabilities = plan::Capabilities::default();
        let started = container.start(&user).unwrap();
        let other = pod.container();
        let of_host = {
            let mut plan = plan(&["sleep", "1002"]);
            plan.pids = PidNamespace::Host;
            other.start(&plan).unwrap()
        };
        let (exec, _stdout, _stderr) = container.begin_exec(&["sleep", "1003"]).unwrap();
        let monitor = Pid::from_raw(pod.monitor.pid()).unwrap();
        wait_for("the monitor's end", || {
            // The first SIGSEGV only takes the handler away that looks for overflows of the stack; a fault comes again.
            kill_process(monitor, signal).ok();
            gone(pod.monitor.pid())
        });
        for pid in [started.pid, of_host.pid, exec.pid()] {
            wait_for(&format!("the end of {pid} after {signal:?}"), || gone(pid));
        }
    }
}

/// Whoever inherits it reaps it, which on this machine may be nobody.
fn gone(pid: i32) -> Option<()> {
    let status = read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let dead = status.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"));
    (dead || !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
}
