//! The commands that crictl has too.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::daemon::Daemon;
use crate::{berth, ended, printed, run};

const IMAGE: &str = "docker.io/library/busybox:1";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The two files of a pod and a container whose script is `words`.
fn files(daemon: &Daemon, words: &[&str]) -> (String, String) {
    let pod = serde_json::json!({
        "metadata": { "name": "web", "namespace": "default" },
        "log_directory": daemon.logs(),
    });
    let container = serde_json::json!({
        "metadata": { "name": "top" },
        "image": { "image": IMAGE },
        "args": words,
        "envs": [{ "key": "A", "value": "plain" }],
        "log_path": "top.log",
    });
    (daemon.file("pod.json", &pod.to_string()), daemon.file("ctr.json", &container.to_string()))
}

/// A running container, by files; gives the ids of pod and container.
fn start(daemon: &Daemon, words: &[&str]) -> (String, String) {
    let (pod_file, container_file) = files(daemon, words);
    let line = |words: &[&str]| printed(daemon, words).trim_end().to_owned();
    let pod = line(&["runp", &pod_file]);
    let container = line(&["create", &pod, &container_file, &pod_file]);
    assert_eq!(line(&["start", &container]), container);
    (pod, container)
}

#[test]
fn version_is_printed_as_crictl_prints_it() {
    let daemon = Daemon::start();
    assert_eq!(
        printed(&daemon, &["version"]),
        "Version:  0.1.0\nRuntimeName:  fake\u{1b}[31m\nRuntimeVersion:  1.2.3\nRuntimeApiVersion:  v1\n",
        "a program gets every byte"
    );
    assert_eq!(printed(&daemon, &["runtime-config"]), "cgroup driver:   CGROUPFS\n");
}

#[test]
fn a_pod_is_led_through_its_life_by_files() {
    let daemon = Daemon::start();
    let (pod, container) = start(&daemon, &["out", "hello", "err", "oops", "wait"]);
    {
        let state = daemon.state();
        let uid = &state.pods[&pod].metadata.as_ref().unwrap().uid;
        assert_eq!(uid.len(), 36, "a pod without a uid gets one");
        assert_eq!(state.containers[&container].config.envs[0].value, b"plain");
    }

    let listed = printed(&daemon, &["ps"]);
    let row = listed.lines().nth(1).unwrap();
    assert!(row.starts_with(&container[..13]) && !row.contains(&container[..14]), "{row}");
    assert!(row.contains(IMAGE) && row.contains("Running") && row.contains("top"), "{row}");
    assert_eq!(printed(&daemon, &["ps", "-q"]), format!("{container}\n"));
    let pods = printed(&daemon, &["pods", "--no-trunc"]);
    assert!(pods.contains(&pod) && pods.contains("web") && pods.contains("(default)"), "{pods}");

    let answer = run(&daemon, &["logs", &container]);
    assert_eq!(answer, (0, "hello\n".into(), "oops\n".into()));
    assert_eq!(
        printed(&daemon, &["logs", "-t", "--tail", "2", &container]),
        "2026-01-01T00:00:00.000000000Z hello\n"
    );
    let answer = run(&daemon, &["exec", "-s", &container, "ls", "-l", "--all"]);
    assert_eq!(answer, (0, "ls -l --all\n".into(), "a word of warning\n".into()));
    assert_eq!(run(&daemon, &["exec", "-s", &container, "exit"]).0, 9);

    let refused = run(&daemon, &["rm", &container]);
    assert_eq!(refused.0, 1);
    assert!(refused.2.contains("is running"), "{}", refused.2);
    assert_eq!(printed(&daemon, &["stop", "-t", "3", &container]), format!("{container}\n"));
    assert_eq!(daemon.state().stops, [3]);
    assert_eq!(printed(&daemon, &["ps"]).lines().count(), 1);
    assert!(printed(&daemon, &["ps", "-a"]).contains("Exited"));
    assert!(daemon.logs().join("top.log").exists());
    assert_eq!(printed(&daemon, &["rm", &container]), format!("{container}\n"));
    assert_eq!(
        printed(&daemon, &["rmp", "-f", &pod]),
        format!("Stopped sandbox {pod}\nRemoved sandbox {pod}\n")
    );
    daemon.assert_empty();
}

#[test]
fn documents_have_the_shape_that_scripts_know() {
    let daemon = Daemon::start();
    let (pod, container) = start(&daemon, &["wait"]);
    let inspected = json(&printed(&daemon, &["inspectp", &pod]));
    assert_eq!(inspected["status"]["state"], "SANDBOX_READY");
    assert_eq!(inspected["status"]["createdAt"], "1970-01-01T00:00:01Z");
    assert_eq!(inspected["info"]["pid"], 7);
    let inspected = json(&printed(&daemon, &["inspect", &container]));
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    assert_eq!(inspected["status"]["finishedAt"], "0001-01-01T00:00:00Z");
    let both = json(&printed(&daemon, &["inspect", &container, &container]));
    assert_eq!(both.as_array().map(Vec::len), Some(2));
    let listed = json(&printed(&daemon, &["ps", "-o", "json"]));
    assert_eq!(listed["containers"][0]["id"], container.as_str());
    assert_eq!(listed["containers"][0]["createdAt"], "0");
    let yaml = printed(&daemon, &["pods", "-o", "yaml"]);
    assert!(yaml.contains("items:") && yaml.contains("namespace: default"), "{yaml}");
}

#[test]
fn images_are_pulled_listed_and_removed() {
    let daemon = Daemon::start();
    let id = format!("sha256:{}", "1a".repeat(32));
    assert_eq!(printed(&daemon, &["pull", IMAGE]), format!("Image is up to date for {id}\n"));
    assert_eq!(
        printed(&daemon, &["images"]),
        "IMAGE                       TAG                 IMAGE ID            SIZE\n\
         docker.io/library/busybox   1                   1a1a1a1a1a1a1       4.26MB\n"
    );
    assert_eq!(printed(&daemon, &["images", "-q"]), format!("{id}\n"));
    let inspected = json(&printed(&daemon, &["inspecti", IMAGE]));
    assert_eq!(inspected["status"]["size"], "4262003");
    assert_eq!(printed(&daemon, &["rmi", IMAGE]), format!("Deleted: {IMAGE}\n"));
    let missing = run(&daemon, &["rmi", IMAGE, "other:1"]);
    assert_eq!(missing.0, 1);
    assert_eq!(missing.2.lines().count(), 2, "a line for each: {}", missing.2);
}

#[test]
fn following_a_log_ends_with_the_container() {
    let daemon = Daemon::start();
    let (_, container) = start(&daemon, &["out", "first", "wait"]);
    let mut follower =
        berth(&daemon, &["logs", "-f", &container]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = follower.stdout.take().unwrap();
    let mut first = [0; 6];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    printed(&daemon, &["stop", &container]);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "stopped\n");
    assert!(follower.wait().unwrap().success());
}

#[test]
fn what_goes_wrong_is_one_line_that_says_what_to_do() {
    let daemon = Daemon::start();
    let cases = [
        (
            "an unknown container",
            vec!["inspect", "nope"],
            "berth: get the status of container nope: no container nope\n",
        ),
        (
            "a bad state",
            vec!["ps", "-s", "odd"],
            "berth: --state \"odd\": it is one of created, running, exited, unknown\n",
        ),
        ("no id", vec!["rmp"], "berth: name at least one pod, or give --all\n"),
        (
            "no such file",
            vec!["runp", "/nonexistent"],
            "berth: read /nonexistent: open it: no such file or directory (os error 2)\n",
        ),
        ("a call that is not there", vec!["info"], "berth: get the runtime's status: "),
    ];
    for (name, words, want) in cases {
        let (code, stdout, stderr) = run(&daemon, &words);
        assert_eq!((code, stdout.as_str()), (1, ""), "{name}");
        assert!(stderr.starts_with(want) && stderr.lines().count() == 1, "{name}: {stderr}");
    }
    let nobody = berth(&daemon, &["version"])
        .env("CONTAINER_RUNTIME_ENDPOINT", "unix:///nonexistent/berth.sock")
        .output()
        .unwrap();
    assert_eq!(
        ended(&nobody).2,
        "berth: connect to /nonexistent/berth.sock: no such file or directory (os error 2); is berthd running?\n"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let daemon = Daemon::start();
    daemon.has_image(IMAGE);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = berth(&daemon, &["images"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), ended(&output).2), (Some(0), String::new()));
}
