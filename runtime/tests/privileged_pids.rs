//! Containers that share the PID namespace of their pod.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod stage;

use plan::{Fd, Join, LaunchPlan, NamespaceKind, PidNamespace};
use runtime::cgroup::Limits;
use runtime::exit::Cause;
use runtime::monitor::StartError;
use rustix::process::{Pid, Signal, kill_process};
use stage::cgroup::Stage;
use stage::{Pod, wait_for};
use std::convert::Infallible;
use std::fs::{read_dir, read_link, read_to_string};
use std::path::Path;

/// A plan for a container that shares.
fn plan(args: &[&str]) -> LaunchPlan {
    LaunchPlan { pids: PidNamespace::Pod, ..stage::plan(args) }
}

fn script(text: &str) -> LaunchPlan {
    plan(&["sh", "-c", text])
}

fn alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn ended(pid: i32) -> Option<()> {
    (!alive(pid)).then_some(())
}

/// A field of a process's status, as the host sees it.
fn status(pid: i32, field: &str) -> Option<String> {
    let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The children of a pod's monitor that are process 1 of a PID namespace which they share with `of`.
fn inits(pod: &Pod, of: i32) -> Vec<i32> {
    let namespace = |pid: i32| read_link(format!("/proc/{pid}/ns/pid")).ok();
    let all = read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().parse::<i32>().ok());
    all.filter(|pid| status(*pid, "PPid") == Some(pod.monitor.pid().to_string()))
        .filter(|pid| status(*pid, "NSpid").is_some_and(|numbers| numbers.ends_with("\t1")))
        .filter(|pid| namespace(*pid) == namespace(of))
        .collect()
}

fn init(pod: &Pod, of: i32) -> i32 {
    let inits = inits(pod, of);
    assert_eq!(inits.len(), 1, "{inits:?}");
    inits[0]
}

#[test]
fn privileged_containers_of_a_pod_see_each_other() {
    let (one, two, pod) = (Stage::new("see-1"), Stage::new("see-2"), Pod::new());
    let first = one.container(&pod, &Limits::default());
    let second = two.container(&pod, &Limits::default());
    let started = first.start(&plan(&["sleep", "1011"])).unwrap();
    let also = second.start(&plan(&["sleep", "1012"])).unwrap();
    assert_eq!(init(&pod, started.pid), init(&pod, also.pid), "one for both");
    let list = "cat /proc/1/comm; for p in /proc/[0-9]*/cmdline; do cat $p; echo; done";
    for container in [&first, &second] {
        let (code, out, _) = container.exec(&["sh", "-c", list]).unwrap();
        assert_eq!(code, 0);
        assert!(out.starts_with("berth-pod-init\n"), "{out:?}");
        assert!(out.contains("sleep\x001011") && out.contains("sleep\x001012"), "{out:?}");
        let (_, own, _) = container.exec(&["sh", "-c", "readlink /proc/self; echo $$"]).unwrap();
        assert!(!own.starts_with("1\n"), "{own:?}");
    }
    // Process numbers are the same in both, so they can signal each other.
    let number = status(also.pid, "NSpid").unwrap();
    let number = number.rsplit('\t').next().unwrap();
    assert_eq!(first.exec(&["kill", "-TERM", number]).unwrap().0, 0);
    assert_eq!(second.wait().code, 143);
    assert!(first.record().is_none());
}

#[test]
fn privileged_other_containers_of_the_pod_do_not_share() {
    let (one, pod) = (Stage::new("mixed"), Pod::new());
    let shares = one.container(&pod, &Limits::default());
    shares.start(&plan(&["sleep", "1013"])).unwrap();
    let (exit, log) =
        pod.run(&["sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'; cat /proc/1/comm; true"]);
    assert_eq!(exit.code, 0);
    // The shell, ls and grep.
    assert_eq!(log, ["stdout F 1", "stdout F 3", "stdout F sh"]);
}

#[test]
fn privileged_exit_codes_and_logs_are_whole() {
    let (stage, pod) = (Stage::new("codes"), Pod::new());
    let cases: [(&[&str], i32, &[&str]); 7] = [
        (&["true"], 0, &[]),
        (&["/bin/false"], 1, &[]),
        (&["sh", "-c", "exit 7"], 7, &[]),
        // Not process 1, so its own signals reach it.
        (&["sh", "-c", "kill -9 $$; exit 7"], 137, &[]),
        (&["sh", "-c", "kill $$; exit 7"], 143, &[]),
        (
            &["sh", "-c", "echo out; echo err >&2; printf rest; exit 255"],
            255,
            &["out", "err", "rest"],
        ),
        (&["readlink", "/proc/self/ns/pid_for_children"], 0, &["pid:["]),
    ];
    for (args, want, said) in cases {
        let container = stage.container(&pod, &Limits::default());
        container.start(&plan(args)).unwrap();
        let exit = container.wait();
        assert_eq!((exit.code, exit.cause), (want, Cause::Ended), "{args:?}");
        let log = container.log().join("\n");
        assert!(said.iter().all(|word| log.contains(word)), "{args:?}: {log}");
    }
}

#[test]
fn privileged_many_starts_at_once_all_end_well() {
    let stages: Vec<_> = (0..30).map(|number| Stage::new(&format!("many-{number}"))).collect();
    let pod = Pod::new();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for (number, stage) in stages.iter().enumerate() {
                let pod = &pod;
                scope.spawn(move || {
                    let container = stage.container(pod, &Limits::default());
                    container.start(&script(&format!("echo {number}; exit {number}"))).unwrap();
                    let exit = container.wait();
                    assert_eq!(
                        (exit.code, exit.cause),
                        (i32::try_from(number).unwrap(), Cause::Ended)
                    );
                    assert_eq!(container.log(), [format!("stdout F {number}")]);
                });
            }
        });
    }
}

#[test]
fn privileged_a_start_that_fails_says_why_and_leaves_the_rest_alone() {
    let (one, two, pod) = (Stage::new("fails-1"), Stage::new("fails-2"), Pod::new());
    let lives = one.container(&pod, &Limits::default());
    lives.start(&plan(&["sleep", "1014"])).unwrap();
    let fails = |plan: &LaunchPlan| {
        let container = two.container(&pod, &Limits::default());
        let Err(StartError::Refused { step, message }) = container.start(plan) else {
            panic!("it cannot have started");
        };
        let exit = container.record().expect("the record is written before the answer");
        assert_eq!((exit.code, exit.cause), (128, Cause::StartFailed));
        format!("{step}: {message}")
    };
    let inside = fails(&plan(&["nosuch"]));
    assert_eq!(inside, "execute: \"nosuch\": executable file not found in $PATH");
    let mut cyclic = plan(&["true"]);
    cyclic.mounts.push(stage::mount("/proc/sys", plan::Source::Tmpfs(Vec::new())));
    assert_eq!(fails(&cyclic), "mount: /proc/sys: nothing may cover the process list");
    // Without one, nobody could tell its processes from those of others.
    let Err(StartError::Refused { step, message }) = pod.container().start(&plan(&["true"])) else {
        panic!("it cannot have started");
    };
    assert_eq!((step.as_str(), message.as_str()), ("share PID namespace", "without a cgroup"));
    assert_eq!(lives.exec(&["true"]).unwrap().0, 0);
}

#[test]
fn privileged_the_end_of_one_is_the_end_of_all_its_processes_and_of_no_others() {
    let (one, two, pod) = (Stage::new("end-1"), Stage::new("end-2"), Pod::new());
    let stays = two.container(&pod, &Limits::default());
    stays.start(&script("busybox setsid sleep 1016 & sleep 1015; true")).unwrap();
    wait_for("both", || (two.processes().len() == 3).then_some(()));
    let daemons = "for i in 1 2 3; do busybox setsid sleep 1017 & done; ";
    let cases = [
        ("by itself", format!("{daemons} echo last; exit 3"), 3),
        ("killed", format!("{daemons} echo last; sleep 1018"), 137),
    ];
    for (name, text, code) in cases {
        let ends = one.container(&pod, &Limits::default());
        ends.start(&script(&text)).unwrap();
        wait_for("its word", || (!ends.log().is_empty()).then_some(()));
        if code == 137 {
            pod.monitor.kill(&ends.id).unwrap();
        }
        assert_eq!(ends.wait().code, code, "{name}");
        wait_for("the end of the rest", || one.processes().is_empty().then_some(()));
        assert_eq!(ends.log(), ["stdout F last"], "{name}");
        assert_eq!(two.processes().len(), 3, "{name}");
        assert!(stays.record().is_none(), "{name}");
        assert_eq!(stays.exec(&["true"]).unwrap().0, 0, "{name}");
    }
}

#[test]
fn privileged_a_polite_signal_stops_one() {
    let (one, two, pod) = (Stage::new("polite-1"), Stage::new("polite-2"), Pod::new());
    let (stops, stays) =
        (one.container(&pod, &Limits::default()), two.container(&pod, &Limits::default()));
    stays.start(&plan(&["sleep", "1019"])).unwrap();
    stops
        .start(&script("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done"))
        .unwrap();
    wait_for("its word", || (!stops.log().is_empty()).then_some(()));
    pod.monitor.signal(&stops.id, 15).unwrap();
    assert_eq!(stops.wait().code, 9);
    assert_eq!(stops.log(), ["stdout F up", "stdout F bye"]);
    assert!(stays.record().is_none());
}

#[test]
fn privileged_orphans_go_to_process_1_and_leave_no_zombies() {
    let (stage, pod) = (Stage::new("orphans"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let text = "i=0; while [ $i -lt 50 ]; do (sleep 0.1 & true); i=$((i+1)); done; \
        (sleep 1021 & echo $! > /tmp/orphan; true); sleep 1020; true";
    let started = container.start(&script(text)).unwrap();
    let (_, parent, _) = wait_for("an orphan", || {
        let asked = container.exec(&["sh", "-c", "grep PPid /proc/$(cat /tmp/orphan)/status"]);
        Some(asked.unwrap()).filter(|(code, _, _)| *code == 0)
    });
    assert_eq!(parent, "PPid:\t1\n");
    // The shell, its sleep and the long orphan.
    wait_for("the end of the others", || (stage.processes().len() == 3).then_some(()));
    let zombies = "grep -l 'State:.Z' /proc/[0-9]*/status; true";
    assert_eq!(container.exec(&["sh", "-c", zombies]).unwrap().1, "");
    let monitor = pod.monitor.pid().to_string();
    let strangers = read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.unwrap().file_name().into_string().unwrap().parse::<i32>().ok()?;
        (status(pid, "PPid")? == monitor).then_some(pid)
    });
    let mut own: Vec<_> = strangers.collect();
    own.sort_unstable();
    let mut want = vec![init(&pod, started.pid), started.pid];
    want.sort_unstable();
    assert_eq!(own, want, "the monitor has these two children");
}

#[test]
fn privileged_execs_live_and_die_as_elsewhere() {
    let (stage, pod) = (Stage::new("exec"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let started = container.start(&plan(&["sleep", "1022"])).unwrap();
    let (code, out, err) = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 5"]).unwrap();
    assert_eq!((code, out.as_str(), err.as_str()), (5, "out\n", "err\n"));
    let (exec, _out, _err) = container.begin_exec(&["sleep", "1023"]).unwrap();
    let namespace = |pid: i32| read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    assert_eq!(namespace(exec.pid()), namespace(started.pid));
    exec.kill().unwrap();
    assert_eq!(wait_for("its end", || exec.ended().unwrap()), 137);
    let (exec, _out, _err) = container.begin_exec(&["sleep", "1024"]).unwrap();
    let pid = exec.pid();
    drop(exec);
    wait_for("its end", || ended(pid));
    let (exec, _out, _err) = container.begin_exec(&["sleep", "1025"]).unwrap();
    pod.monitor.kill(&container.id).unwrap();
    assert_eq!(container.wait().code, 137);
    assert_eq!(wait_for("its end", || exec.ended().unwrap()), 137, "with its container");
}

#[test]
fn privileged_process_1_has_nothing_and_heeds_nobody_inside() {
    let (stage, pod) = (Stage::new("nothing"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    // CAP_SYS_PTRACE, as people give it to look into other containers.
    let ptrace = 1 << 19;
    let mut plan = plan(&["sleep", "1026"]);
    let sets = &mut plan.process.capabilities;
    sets.bounding |= ptrace;
    let started = container.start(&plan).unwrap();
    let init = init(&pod, started.pid);
    assert_eq!(read_dir(format!("/proc/{init}/fd")).unwrap().count(), 0);
    assert_eq!(read_dir(format!("/proc/{init}/root")).unwrap().count(), 0);
    let mounts = read_to_string(format!("/proc/{init}/mountinfo")).unwrap();
    let places: Vec<_> = mounts.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert_eq!(places, ["/"]);
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigCgt"] {
        assert_eq!(status(init, field).unwrap(), "0000000000000000", "{field}");
    }
    assert_eq!(status(init, "NoNewPrivs").unwrap(), "1");
    let cgroup = |pid: i32| read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroup(init), cgroup(pod.monitor.pid()), "it is no container's");
    let look = "ls /proc/1/fd; readlink /proc/1/root; ls /proc/1/root/; cat /proc/1/environ; \
        readlink /proc/1/exe; cat /proc/1/maps; echo x > /proc/1/mem; true";
    let (_, out, err) = container.exec(&["sh", "-c", look]).unwrap();
    assert_eq!(out, "");
    for file in ["root/", "environ", "maps", "mem"] {
        assert!(err.contains(&format!("/proc/1/{file}")), "{file}: {err}");
    }
    let (_, out, _) = container.exec(&["grep", "PPid", "/proc/1/status"]).unwrap();
    assert_eq!(out, "PPid:\t0\n");
    for signal in ["KILL", "TERM", "INT", "HUP", "SEGV", "BUS", "STOP", "CHLD", "USR1"] {
        assert_eq!(container.exec(&["kill", "-s", signal, "1"]).unwrap().0, 0, "{signal}");
    }
    assert!(alive(init) && alive(started.pid));
    assert!(status(init, "State").unwrap().starts_with('S'));
}

#[test]
fn privileged_whoever_may_trace_process_1_finds_it_empty() {
    let (stage, pod) = (Stage::new("trace"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let mut plan = script(
        "ls /proc/1/fd; ls -a /proc/1/root/; readlink /proc/1/root; touch /proc/1/root/x; \
        ls /proc/1/task/1/fd; echo end",
    );
    let sets = &mut plan.process.capabilities;
    for set in [&mut sets.bounding, &mut sets.permitted, &mut sets.effective] {
        *set |= 1 << 19;
    }
    container.start(&plan).unwrap();
    container.wait();
    let log = container.log();
    let out: Vec<_> = log.iter().filter_map(|line| line.strip_prefix("stdout F ")).collect();
    assert_eq!(out, [".", "..", "/", "end"], "{log:?}");
}

#[test]
fn privileged_process_1_is_in_the_pods_namespaces() {
    let (stage, pod) = (Stage::new("namespaces"), Pod::new());
    let pins = tempfile::tempdir().unwrap();
    let kinds = [sys::pin::Kind::Network, sys::pin::Kind::Ipc, sys::pin::Kind::Uts];
    sys::pin::create::<Infallible>(pins.path(), &kinds, || Ok(())).unwrap();
    let mut container = stage.container(&pod, &Limits::default());
    let mut plan = script("wc -l < /proc/1/net/dev; sleep 1027");
    for (pin, kind) in
        kinds.into_iter().zip([NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts])
    {
        let fd: Fd = container.with(sys::pin::open(pins.path(), pin).unwrap().unwrap());
        plan.join.push(Join { kind, fd });
    }
    let started = container.start(&plan).unwrap();
    let init = init(&pod, started.pid);
    for kind in ["net", "ipc", "uts"] {
        let of = |pid: i32| read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(of(init), of(started.pid), "{kind}");
        assert_ne!(of(init), read_link(format!("/proc/self/ns/{kind}")).unwrap(), "{kind}");
    }
    wait_for("its word", || (!container.log().is_empty()).then_some(()));
    assert_eq!(container.log(), ["stdout F 3"], "a title and the loopback device");
    pod.monitor.shutdown().unwrap();
    sys::pin::remove(pins.path()).unwrap();
}

#[test]
fn privileged_a_terminal_is_the_containers_own() {
    let (stage, pod) = (Stage::new("terminal"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let mut plan = script("readlink /proc/self/fd/0; echo x > /dev/console; echo y > /dev/tty");
    plan.process.terminal = Some(plan::Terminal { rows: 24, columns: 80 });
    plan.devices.push(plan::Device {
        path: "/dev/tty".into(),
        major: 5,
        minor: 0,
        ..plan.devices[0].clone()
    });
    container.start(&plan).unwrap();
    assert_eq!(container.wait().code, 0);
    let log: Vec<_> = container.log().iter().map(|line| line.trim_end().to_owned()).collect();
    assert_eq!(log, ["stdout F /dev/pts/0", "stdout F x", "stdout F y"]);
}

#[test]
fn privileged_hidden_paths_are_hidden_here_too() {
    let (stage, pod) = (Stage::new("hidden"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let mut plan = script(
        "grep -c . /proc/keys; echo x > /proc/sys/kernel/hostname || echo file; \
        test -e /proc/self/status && echo self",
    );
    plan.masked = vec!["/proc/keys".to_owned()];
    plan.readonly = vec!["/proc/sys".to_owned()];
    container.start(&plan).unwrap();
    container.wait();
    let log = container.log();
    let out: Vec<_> = log.iter().filter_map(|line| line.strip_prefix("stdout F ")).collect();
    assert_eq!(out, ["0", "file", "self"], "{log:?}");
}

#[test]
fn privileged_killed_for_want_of_memory_is_told_and_hurts_nobody_else() {
    let (one, two, pod) = (Stage::new("oom-1"), Stage::new("oom-2"), Pod::new());
    let stays = two.container(&pod, &Limits::default());
    let started = stays.start(&plan(&["sleep", "1028"])).unwrap();
    let init = init(&pod, started.pid);
    let limits = Limits {
        memory_bytes: Some(16 << 20),
        memory_swap_bytes: Some(16 << 20),
        ..Limits::default()
    };
    let greedy = one.container(&pod, &limits);
    greedy.start(&script("x=0123456789abcdef; while true; do x=$x$x; done")).unwrap();
    let exit = greedy.wait();
    assert_eq!((exit.code, exit.cause), (137, Cause::OutOfMemory));
    assert!(alive(init) && stays.record().is_none());
    assert_eq!(stays.exec(&["true"]).unwrap().0, 0);
}

#[test]
fn privileged_the_end_of_process_1_ends_all_and_the_next_start_makes_another() {
    let (one, two, pod) = (Stage::new("init-1"), Stage::new("init-2"), Pod::new());
    let mut before = 0;
    for round in 0..20 {
        let (first, second) =
            (one.container(&pod, &Limits::default()), two.container(&pod, &Limits::default()));
        let started = first.start(&script("sleep 1029 & sleep 1030")).unwrap();
        second.start(&plan(&["sleep", "1031"])).unwrap();
        let init = init(&pod, started.pid);
        assert_ne!(init, before, "round {round}");
        kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
        for container in [&first, &second] {
            let exit = container.wait();
            assert_eq!((exit.code, exit.cause), (137, Cause::Ended), "round {round}");
        }
        before = init;
    }
    // Its predecessors are gone and no zombies.
    wait_for("the end of the last", || ended(before));
}

#[test]
fn privileged_nothing_is_left_after_a_shutdown() {
    let (one, two, pod) = (Stage::new("down-1"), Stage::new("down-2"), Pod::new());
    let (first, second) =
        (one.container(&pod, &Limits::default()), two.container(&pod, &Limits::default()));
    let started = first.start(&script("busybox setsid sleep 1032 & sleep 1033")).unwrap();
    second.start(&plan(&["true"])).unwrap();
    second.wait();
    let init = init(&pod, started.pid);
    pod.monitor.shutdown().unwrap();
    assert!(!alive(init) && !alive(started.pid));
    assert_eq!(first.record().unwrap().code, 137);
    assert!(one.processes().is_empty());
}

#[test]
fn privileged_process_1_outlives_its_containers_but_not_the_pod() {
    let (stage, pod) = (Stage::new("idle"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let started = container.start(&plan(&["sleep", "0.2"])).unwrap();
    let init = init(&pod, started.pid);
    container.wait();
    let again = stage.container(&pod, &Limits::default());
    let number = again.start(&plan(&["sleep", "1034"])).unwrap().pid;
    assert_eq!(inits(&pod, number), [init], "the same");
    pod.monitor.kill(&again.id).unwrap();
    again.wait();
    assert!(alive(init));
    pod.monitor.shutdown().unwrap();
    assert!(!alive(init));
}

#[test]
fn privileged_process_1_ends_with_a_monitor_that_is_killed() {
    let (stage, pod) = (Stage::new("orphaned"), Pod::new());
    let container = stage.container(&pod, &Limits::default());
    let started = container.start(&script("busybox setsid sleep 1035 & sleep 1036")).unwrap();
    let init = init(&pod, started.pid);
    kill_process(Pid::from_raw(pod.monitor.pid()).unwrap(), Signal::KILL).unwrap();
    wait_for("the end of its processes", || stage.processes().is_empty().then_some(()));
    wait_for("the end of process 1", || {
        // Whoever inherits it reaps it, which on this machine may be nobody.
        status(init, "State").is_none_or(|state| state.starts_with('Z')).then_some(())
    });
}
