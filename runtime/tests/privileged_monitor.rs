//! A real monitor and real containers: starts, exits, logs, execs, the end of a pod.

mod stage;

use runtime::exit::Cause;
use runtime::id::ContainerId;
use runtime::monitor::{ExecError, Monitor, MonitorError, Reported, StartError};
use runtime::watch::{Event, Watch};
use stage::{Pod, plan, wait_for};
use std::fs::File;
use std::path::Path;
use std::sync::mpsc;

#[test]
fn privileged_exit_codes_are_what_the_program_returned() {
    let pod = Pod::new();
    let cases: [(&[&str], i32); 5] = [
        (&["true"], 0),
        (&["/bin/false"], 1),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$; exit 7"], 7),
        (&["sh", "-c", "exit 255"], 255),
    ];
    for (args, want) in cases {
        let (exit, _) = pod.run(args);
        assert_eq!((exit.code, exit.cause), (want, Cause::Ended), "{args:?}");
    }
}

#[test]
fn privileged_a_signal_is_sent_and_told() {
    let pod = Pod::new();
    let container = pod.container();
    let started = container.start(&plan(&["sleep", "1000"])).unwrap();
    assert!(Path::new(&format!("/proc/{}", started.pid)).exists());
    assert!(container.record().is_none());
    pod.monitor.signal(&container.id, 9).unwrap();
    assert_eq!(container.wait().code, 137);
    let code = wait_for("the report", || match pod.monitor.report().unwrap().remove(0).state {
        Reported::Exited(exit) => Some(exit.code),
        Reported::Running { .. } => None,
    });
    assert_eq!(code, 137);
    pod.monitor.signal(&container.id, 15).expect("gone already is fine");
    pod.monitor.kill(&container.id).expect("gone already is fine");
    pod.monitor.signal(&ContainerId::generate(), 9).expect("and so is forgotten already");
    pod.monitor.forget(&container.id).unwrap();
    pod.monitor.forget(&container.id).expect("twice is fine");
    assert!(pod.monitor.report().unwrap().is_empty());
}

#[test]
fn privileged_logs_hold_both_streams_and_the_last_part_of_a_line() {
    let pod = Pod::new();
    let script = "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo three; sleep 0.1; printf end";
    let (exit, log) = pod.run(&["sh", "-c", script]);
    assert_eq!(exit.code, 0);
    assert_eq!(log, ["stdout F one", "stderr F two", "stdout F three", "stdout P end"]);
}

#[test]
fn privileged_nothing_of_a_flood_is_lost() {
    let pod = Pod::new();
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i of a flood; i=$((i+1)); done";
    let (_, log) = pod.run(&["sh", "-c", script]);
    assert_eq!(log.len(), 20_000);
    for (number, line) in log.iter().enumerate() {
        assert_eq!(*line, format!("stdout F line {number} of a flood"));
    }
}

#[test]
fn privileged_a_log_is_reopened() {
    let pod = Pod::new();
    let container = pod.container();
    container
        .start(&plan(&[
            "sh",
            "-c",
            "echo one; until [ -e /tmp/go ]; do sleep 0.02; done; echo two",
        ]))
        .unwrap();
    wait_for("the first line", || (container.log().len() == 1).then_some(()));
    let old = container.log_path().with_extension("old");
    std::fs::rename(container.log_path(), &old).unwrap();
    let new = File::options().append(true).create(true).open(container.log_path()).unwrap();
    pod.monitor.reopen_log(&container.id, new.into()).unwrap();
    File::create_new(container.path().join("tmp/go")).unwrap();
    container.wait();
    assert_eq!(container.log(), ["stdout F two"]);
    assert!(std::fs::read_to_string(old).unwrap().ends_with("stdout F one\n"));
    let late = File::open("/dev/null").unwrap();
    assert!(pod.monitor.reopen_log(&container.id, late.into()).is_err(), "it has ended");
}

#[test]
fn privileged_a_program_that_is_not_there_is_named() {
    let pod = Pod::new();
    let cases = [
        ("nosuch", "\"nosuch\": executable file not found in $PATH"),
        ("/bin/nosuch", "/bin/nosuch: No such file or directory"),
        ("/etc/passwd", "/etc/passwd: Permission denied"),
    ];
    for (program, want) in cases {
        let container = pod.container();
        let Err(StartError::Refused { step, message }) = container.start(&plan(&[program])) else {
            panic!("{program} cannot have started");
        };
        assert_eq!((step.as_str(), message.as_str()), ("execute", want));
        let exit = container.record().expect("the record is written before the answer");
        assert_eq!((exit.code, exit.cause), (128, Cause::StartFailed));
    }
}

#[test]
fn privileged_an_exec_runs_in_the_container() {
    let pod = Pod::new();
    let container = pod.container();
    container.start(&plan(&["sh", "-c", "echo here > /tmp/mark; sleep 1000"])).unwrap();
    wait_for("the mark", || container.path().join("tmp/mark").exists().then_some(()));
    let (code, out, err) =
        container.exec(&["sh", "-c", "cat /tmp/mark; echo oops >&2; exit 3"]).unwrap();
    assert_eq!((code, out.as_str(), err.as_str()), (3, "here\n", "oops\n"));
    let (_, out, _) =
        container.exec(&["sh", "-c", "ls /proc | grep -c '^1$'; kill -9 $$"]).unwrap();
    assert_eq!(out, "1\n", "it sees the container's processes");
    let missing = container.exec(&["nosuch"]);
    assert!(matches!(missing, Err(ExecError::Refused { step, .. }) if step == "execute"));
    pod.monitor.kill(&container.id).unwrap();
    container.wait();
    assert!(matches!(container.exec(&["true"]), Err(ExecError::NotRunning)));
}

#[test]
fn privileged_an_exec_dies_with_its_client() {
    let pod = Pod::new();
    let container = pod.container();
    container.start(&plan(&["sleep", "1000"])).unwrap();
    let (exec, _out, _err) = container.begin_exec(&["sh", "-c", "sleep 999 & sleep 998"]).unwrap();
    let pid = exec.pid();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(exec.ended().unwrap(), None);
    drop(exec);
    wait_for("its end", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    wait_for("the end of what it started", || {
        let (_, out, _) = container.exec(&["sh", "-c", "ls /proc | grep -c '^[0-9]'"]).unwrap();
        // The first process, the shell, its two.
        (out.trim().parse::<u32>().unwrap() <= 4).then_some(())
    });
    let (exec, _out, _err) = container.begin_exec(&["sleep", "997"]).unwrap();
    exec.kill().unwrap();
    assert_eq!(wait_for("its end", || exec.ended().unwrap()), 137);
}

#[test]
fn privileged_a_background_child_outlives_its_exec() {
    let pod = Pod::new();
    let container = pod.container();
    container.start(&plan(&["sleep", "1000"])).unwrap();
    let (exec, _out, _err) =
        container.begin_exec(&["sh", "-c", "sleep 996 & echo $! > /tmp/child"]).unwrap();
    assert_eq!(wait_for("its end", || exec.ended().unwrap()), 0);
    drop(exec);
    let (code, _, _) = container.exec(&["sh", "-c", "kill -0 $(cat /tmp/child)"]).unwrap();
    assert_eq!(code, 0, "the child is alive");
}

#[test]
fn privileged_the_monitor_outlives_its_handle() {
    let pod = Pod::new();
    let container = pod.container();
    container.start(&plan(&["sh", "-c", "sleep 0.3; echo late; exit 4"])).unwrap();
    let again = Monitor::connect(&pod.id, pod.dir.path()).unwrap();
    assert_eq!(again.pid(), pod.monitor.pid());
    assert!(matches!(again.report().unwrap()[0].state, Reported::Running { .. }));
    assert_eq!(container.wait().code, 4);
    assert_eq!(container.log(), ["stdout F late"]);
}

#[test]
fn privileged_fifty_starts_at_once_all_end_well() {
    let pod = Pod::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..50).map(|_| scope.spawn(|| pod.run(&["true"]).0)).collect();
        for run in runs {
            let exit = run.join().unwrap();
            assert_eq!((exit.code, exit.cause), (0, Cause::Ended));
        }
    });
    assert_eq!(pod.monitor.report().unwrap().len(), 50);
}

#[test]
fn privileged_exits_are_told_to_those_who_watch_now_and_later() {
    let pod = Pod::new();
    let early = pod.container();
    early.start(&plan(&["sh", "-c", "exit 5"])).unwrap();
    early.wait();
    wait_for("the report", || {
        matches!(pod.monitor.report().unwrap()[0].state, Reported::Exited(_)).then_some(())
    });
    let (sender, events) = mpsc::channel();
    let watch = Watch::new(move |event| sender.send(event).unwrap()).unwrap();
    watch.add(&pod.monitor).unwrap();
    let next = || events.recv_timeout(stage::PATIENCE).unwrap();
    let Event::Exited { container, exit, .. } = next() else { panic!("an exit comes first") };
    assert_eq!((container, exit.code), (early.id.clone(), 5));
    let late = pod.container();
    late.start(&plan(&["sh", "-c", "exit 6"])).unwrap();
    let Event::Exited { container, exit, .. } = next() else { panic!("an exit comes next") };
    assert_eq!((container, exit), (late.id.clone(), late.record().unwrap()));
    pod.monitor.shutdown().unwrap();
    assert_eq!(next(), Event::MonitorGone { pod: pod.id.clone() });
    pod.monitor.shutdown().expect("gone already is fine");
    assert!(matches!(pod.monitor.report(), Err(MonitorError::Gone { .. })));
}

#[test]
fn privileged_nothing_is_left_after_a_shutdown() {
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pod = Pod::new();
    let container = pod.container();
    let started = container.start(&plan(&["sh", "-c", "sleep 995 & sleep 994"])).unwrap();
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    pod.monitor.shutdown().unwrap();
    assert!(!Path::new(&format!("/proc/{}", started.pid)).exists());
    assert_eq!(container.record().unwrap().code, 137);
}

#[test]
fn privileged_a_monitor_has_nothing_of_the_host() {
    let pod = Pod::new();
    let proc = format!("/proc/{}", pod.monitor.pid());
    let mounts = std::fs::read_to_string(format!("{proc}/mountinfo")).unwrap();
    let places: Vec<_> = mounts.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert_eq!(places, ["/", "/shm"]);
    assert_eq!(std::fs::read_to_string(format!("{proc}/comm")).unwrap(), "berth-monitor\n");
    let mut names: Vec<_> = std::fs::read_dir(format!("{proc}/root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["empty", "null", "proc", "root", "seen-proc", "seen-sys", "shm"]);
}
