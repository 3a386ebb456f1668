//! The real `berth` against a daemon that is not one: it keeps its pods in memory, and its containers are scripts
//! of a few words.

#![expect(clippy::unwrap_used, reason = "also the daemon is part of the tests, and may panic")]

mod commands;
mod daemon;
mod run;

use std::process::{Command, Output, Stdio};

use daemon::Daemon;

/// `berth` with these words, pointed at the daemon.
fn berth(daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command
        .args(words)
        .env("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{}", daemon.socket().display()))
        .env("BERTH_LOG_DIR", daemon.logs())
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    command
}

/// Exit code, stdout and stderr.
fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn run(daemon: &Daemon, words: &[&str]) -> (i32, String, String) {
    ended(&berth(daemon, words).output().unwrap())
}

/// What a command that must succeed has printed.
fn printed(daemon: &Daemon, words: &[&str]) -> String {
    let (code, stdout, stderr) = run(daemon, words);
    assert_eq!(code, 0, "{words:?}: {stderr}");
    stdout
}
