//! `berth run`.

use std::io::Read;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::Daemon;
use crate::{berth, printed, run};

const IMAGE: &str = "docker.io/library/busybox:1";

#[test]
fn an_image_that_is_not_there_is_pulled_and_the_pod_is_gone_in_the_end() {
    let daemon = Daemon::start();
    let words = ["run", IMAGE, "out", "hello", "err", "oops", "exit", "7"];
    let (code, stdout, stderr) = run(&daemon, &words);
    assert_eq!((code, stdout.as_str()), (7, "hello\n"));
    assert_eq!(
        stderr,
        format!(
            "image {IMAGE} is not here locally; pulling it\npulling {IMAGE}\n\
             layer 3c3c3c3c3c3c3: 1.5MB to come\nlayer 3c3c3c3c3c3c3: done\noops\n"
        )
    );
    daemon.assert_empty();
    assert_eq!(run(&daemon, &words), (7, "hello\n".into(), "oops\n".into()), "it is there now");
    daemon.assert_empty();
}

#[test]
fn nothing_is_left_behind_by_what_fails() {
    let daemon = Daemon::start();
    daemon.has_image(IMAGE);
    let cases = [
        ("start", vec!["run", IMAGE, "fail"], "/no/such/program"),
        ("start, named", vec!["run", "--name", "web", IMAGE, "fail"], "/no/such/program"),
        ("start, detached", vec!["run", "-d", IMAGE, "fail"], "/no/such/program"),
        ("pod", vec!["run", "-r", "unknown", IMAGE], "no runtime handler"),
        ("pod, but it is there", vec!["run", "-r", "lost-answer", IMAGE], "too late"),
        ("pull", vec!["run", "missing:1"], "pull missing:1: no manifest of missing:1"),
        ("no pull", vec!["run", "--no-pull", "other:1"], "no such image"),
        ("option", vec!["run", "-p", "80", IMAGE], "-p \"80\": write it as"),
        ("name", vec!["run", "--name", "../up", IMAGE], "--name"),
        ("not an option", vec!["run", "--bogus", IMAGE], ""),
        ("detached removal", vec!["run", "-d", "--rm", IMAGE], "--rm"),
    ];
    for (name, words, want) in cases {
        let (code, stdout, stderr) = run(&daemon, &words);
        assert_eq!((code, stdout.as_str()), (125, ""), "{name}: {stderr}");
        let line = stderr.lines().last().unwrap();
        let is_ours = line.starts_with("berth: ") || stderr.starts_with("error: ");
        assert!(is_ours && line.contains(want), "{name}: {stderr}");
        daemon.assert_empty();
    }
}

#[test]
fn a_named_or_detached_pod_stays() {
    let daemon = Daemon::start();
    daemon.has_image(IMAGE);
    let id = printed(&daemon, &["run", "-d", "--name", "web", IMAGE, "out", "up", "wait"]);
    let id = id.trim_end();
    assert!(daemon.state().containers.contains_key(id));
    let listed = printed(&daemon, &["ps"]);
    let row = listed.lines().nth(1).unwrap();
    assert!(row.ends_with("web                 default"), "pod and namespace: {row:?}");
    assert_eq!(printed(&daemon, &["logs", id]), "up\n");

    let (code, _, stderr) = run(&daemon, &["run", "--name", "web", IMAGE]);
    assert_eq!(code, 125);
    assert!(stderr.contains("named web is there already"), "{stderr}");

    assert_eq!(run(&daemon, &["run", "--name", "job", IMAGE, "exit", "3"]).0, 3);
    assert_eq!(daemon.state().pods.len(), 2, "kept for its name");
    assert_eq!(run(&daemon, &["run", "--rm", "--name", "other", IMAGE, "exit", "3"]).0, 3);
    assert_eq!(daemon.state().pods.len(), 2, "removed, as asked");
    assert_eq!(run(&daemon, &["run", "--rm=false", IMAGE]).0, 0);
    assert_eq!(daemon.state().pods.len(), 3, "kept, as asked");

    assert_eq!(std::fs::read_dir(daemon.logs()).unwrap().count(), 3);
    printed(&daemon, &["rmp", "-f", "-a"]);
    daemon.assert_empty();
}

/// `berth run`, of which the first line has been read.
fn running(daemon: &Daemon, word: &str) -> Child {
    let mut child =
        berth(daemon, &["run", IMAGE, "out", "up", word]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"up\n");
    child
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).unwrap();
}

/// The exit code, and what was still printed.
fn wait(mut child: Child) -> (Option<i32>, String) {
    let mut rest = String::new();
    child.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    (child.wait().unwrap().code(), rest)
}

#[test]
fn an_interrupt_stops_the_container_and_its_last_words_are_heard() {
    let daemon = Daemon::start();
    daemon.has_image(IMAGE);
    for first in [Signal::INT, Signal::TERM] {
        let child = running(&daemon, "wait");
        signal(&child, first);
        assert_eq!(wait(child), (Some(143), "stopped\n".into()));
        daemon.assert_empty();
    }
    assert_eq!(daemon.state().stops, [10, 10]);
}

#[test]
fn a_second_interrupt_kills_it() {
    let daemon = Daemon::start();
    daemon.has_image(IMAGE);
    let child = running(&daemon, "deaf");
    signal(&child, Signal::INT);
    daemon.wait_for_stops(1);
    signal(&child, Signal::INT);
    assert_eq!(wait(child), (Some(137), "stopped\n".into()));
    assert_eq!(daemon.state().stops, [10, 0]);
    daemon.assert_empty();
}

#[test]
fn a_daemon_that_is_away_for_a_while_is_waited_for() {
    let daemon = Daemon::start();
    daemon.has_image(IMAGE);
    daemon.state().away = 2;
    assert_eq!(
        run(&daemon, &["run", IMAGE, "out", "hello", "exit", "5"]),
        (5, "hello\n".into(), String::new())
    );
    assert_eq!(daemon.state().away, 0);
    daemon.assert_empty();
}

#[test]
fn when_nobody_reads_the_output_the_pod_goes() {
    let daemon = Daemon::start();
    daemon.has_image(IMAGE);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        berth(&daemon, &["run", IMAGE, "out", "up", "wait"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    daemon.assert_empty();
}

#[test]
fn two_files_are_run_as_crictl_runs_them() {
    let daemon = Daemon::start();
    let pod = daemon.file("pod.yaml", "metadata: {name: web, namespace: default}\n");
    let container = daemon.file(
        "ctr.yaml",
        &format!("metadata: {{name: top}}\nimage: {{image: '{IMAGE}'}}\nargs: [wait]\n"),
    );
    let id = printed(&daemon, &["run", &container, &pod]);
    assert!(daemon.state().containers.contains_key(id.trim_end()));
    assert_eq!(daemon.state().images.len(), 1, "pulled first");
}
