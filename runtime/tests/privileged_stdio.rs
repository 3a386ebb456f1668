//! Terminals, input, clients that follow a container, and logs that cannot be written, on a real kernel.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod stage;

use plan::{LaunchPlan, Terminal};
use runtime::exit;
use runtime::id::ContainerId;
use runtime::monitor::{
    AttachRequest, Attachment, Detached, Exec, ExecError, ExecRequest, ExecStreams, Launch, Program,
};
use runtime::watch::{Event, Watch};
use rustix::io::Errno;
use stage::{Container, Pod, plan, process, wait_for};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

const SIZE: Terminal = Terminal { rows: 24, columns: 80 };
const OTHER: Terminal = Terminal { rows: 50, columns: 132 };

/// A client's end of what it reads.
struct Reader {
    pipe: OwnedFd,
    heard: String,
}

impl Reader {
    fn new(pipe: OwnedFd) -> Self {
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        Self { pipe, heard: String::new() }
    }

    /// Reads until `word` was heard, or the end.
    fn hear(&mut self, word: &str) -> &str {
        wait_for(word, || (self.read() || self.heard.contains(word)).then_some(()));
        assert!(self.heard.contains(word), "{word:?} in {:?}", self.heard);
        &self.heard
    }

    fn rest(mut self) -> String {
        wait_for("the end", || self.read().then_some(()));
        self.heard
    }

    /// Whether the end is reached.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 65_536];
        loop {
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) | Err(Errno::IO) => return true,
                Ok(count) => self.heard.push_str(&String::from_utf8_lossy(&buffer[..count])),
                Err(Errno::AGAIN) => return false,
                Err(err) => panic!("{err}"),
            }
        }
    }
}

fn write(to: &OwnedFd, text: &str) {
    assert_eq!(rustix::io::write(to, text.as_bytes()), Ok(text.len()));
}

fn attach(container: &Container<'_>) -> (Attachment, Option<OwnedFd>, Reader) {
    let (reader, stdout) = rustix::pipe::pipe().unwrap();
    // Room for all that is said in the tests where nobody is to be cut off.
    rustix::pipe::fcntl_setpipe_size(&stdout, 1 << 20).unwrap();
    let what = AttachRequest { stdin: true, stdout: Some(stdout), stderr: None };
    let mut attachment = container.pod.monitor.attach(&container.id, what).unwrap();
    let input = attachment.take_input();
    (attachment, input, Reader::new(reader))
}

fn interactive(args: &[&str], terminal: bool, once: bool) -> LaunchPlan {
    let mut plan = plan(args);
    plan.process.stdin = true;
    plan.process.stdin_once = once;
    plan.process.terminal = terminal.then_some(SIZE);
    plan
}

fn exec_on_a_terminal(container: &Container<'_>, args: &[&str]) -> Result<Exec, ExecError> {
    let mut process = process(args);
    process.terminal = Some(SIZE);
    let request = ExecRequest { process: Program::Plan(&process), streams: ExecStreams::Terminal };
    container.pod.monitor.exec(&container.id, request)
}

fn code(exec: &Exec) -> i32 {
    wait_for("the end of an exec", || exec.ended().unwrap())
}

#[test]
fn privileged_an_exec_gets_a_terminal_of_the_containers_own() {
    let pod = Pod::new();
    let container = pod.container();
    container.start(&plan(&["sleep", "1000"])).unwrap();
    let script = "busybox tty; busybox stty size; read x; busybox stty size; echo got $x; exit 7";
    let mut exec = exec_on_a_terminal(&container, &["sh", "-c", script]).unwrap();
    let terminal = exec.take_terminal().unwrap();
    let mut reader = Reader::new(terminal.try_clone().unwrap());
    let heard = reader.hear("24 80");
    assert!(heard.starts_with("/dev/pts/0\r\n"), "{heard:?}");
    let size = rustix::termios::Winsize { ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, size).unwrap();
    write(&terminal, "word\n");
    reader.hear("50 132\r\ngot word");
    assert_eq!(code(&exec), 7);
    let heard = reader.rest();
    assert!(heard.ends_with("got word\r\n"), "{heard:?}");
}

#[test]
fn privileged_an_exec_on_a_terminal_dies_with_its_client() {
    let pod = Pod::new();
    let container = pod.container();
    container.start(&plan(&["sleep", "1000"])).unwrap();
    let exec = exec_on_a_terminal(&container, &["sleep", "999"]).unwrap();
    let there = || std::path::Path::new(&format!("/proc/{}", exec.pid())).exists();
    assert!(there());
    let path = format!("/proc/{}", exec.pid());
    drop(exec);
    wait_for("its end", || (!std::path::Path::new(&path).exists()).then_some(()));
}

/// CVE-2025-52565, and what else could be put where a terminal is expected.
#[test]
fn privileged_a_terminal_is_never_what_somebody_put_in_its_place() {
    let cases = [
        ("a file over ptmx", "mount -o bind /etc/passwd /dev/pts/ptmx"),
        ("a device over ptmx", "mount -o bind /dev/null /dev/pts/ptmx"),
        ("another file system", "mount -t tmpfs none /dev/pts && touch /dev/pts/ptmx"),
        (
            "a link",
            "busybox umount /dev/pts && busybox rmdir /dev/pts && \
                    busybox ln -s /tmp /dev/pts && touch /tmp/ptmx",
        ),
    ];
    for (name, script) in cases {
        let pod = Pod::new();
        let container = pod.container();
        let mut plan = plan(&["sh", "-c", &format!("{script} && echo done; sleep 1000")]);
        let all = plan.process.capabilities.bounding | 1 << 21;
        plan.process.capabilities.bounding = all;
        plan.process.capabilities.permitted = all;
        plan.process.capabilities.effective = all;
        container.start(&plan).unwrap();
        wait_for(name, || (!container.log().is_empty()).then_some(()));
        assert_eq!(container.log(), ["stdout F done"], "{name}");
        let refused = exec_on_a_terminal(&container, &["true"]).unwrap_err();
        let ExecError::Refused { step, message } = &refused else { panic!("{name}: {refused}") };
        assert!(step == "open terminal" && message.starts_with("/dev/pts"), "{name}: {refused}");
    }
}

#[test]
fn privileged_clients_write_to_a_container_and_hear_it() {
    let pod = Pod::new();
    let container = pod.container();
    container.start(&interactive(&["cat"], false, false)).unwrap();
    let (first, input, mut heard) = attach(&container);
    write(input.as_ref().unwrap(), "one\n");
    heard.hear("one\n");
    let (second, other, mut also) = attach(&container);
    write(other.as_ref().unwrap(), "two\n");
    also.hear("two\n");
    assert_eq!(heard.hear("two\n"), "one\ntwo\n");
    assert_eq!(also.heard, "two\n", "nothing from before it came");
    drop((first, input, second, other));
    let (_third, input, mut heard) = attach(&container);
    write(input.as_ref().unwrap(), "three\n");
    heard.hear("three\n");
    wait_for("the log", || (container.log().len() == 3).then_some(()));
    assert_eq!(container.log(), ["stdout F one", "stdout F two", "stdout F three"]);
}

#[test]
fn privileged_input_that_comes_once_ends_with_its_client() {
    let cases = [("it says so", true), ("it leaves", false)];
    for (name, says) in cases {
        let pod = Pod::new();
        let container = pod.container();
        let script = ["sh", "-c", "cat; echo end"];
        container.start(&interactive(&script, false, true)).unwrap();
        let (attachment, input, mut heard) = attach(&container);
        write(input.as_ref().unwrap(), "all\n");
        heard.hear("all\n");
        let (_other, none, _) = attach(&container);
        assert!(none.is_none(), "{name}: one client writes");
        drop(input);
        if says {
            attachment.end_input().unwrap();
            assert_eq!(heard.rest(), "all\nend\n", "and goes on hearing");
            assert_eq!(attachment.ended().unwrap(), Some(Detached::Ended));
        } else {
            drop(attachment);
        }
        assert_eq!(container.wait().code, 0, "{name}");
        assert_eq!(container.log(), ["stdout F all", "stdout F end"], "{name}");
    }
}

#[test]
fn privileged_a_terminal_has_clients_a_size_and_one_stream_of_log() {
    let pod = Pod::new();
    let container = pod.container();
    let script = "echo err >&2; while read x; do busybox stty size; done";
    container.start(&interactive(&["sh", "-c", script], true, true)).unwrap();
    let (attachment, input, mut heard) = attach(&container);
    write(input.as_ref().unwrap(), "\n");
    heard.hear("24 80");
    pod.monitor.resize(&container.id, OTHER).unwrap();
    write(input.as_ref().unwrap(), "\n");
    heard.hear("50 132");
    let log = container.log();
    assert!(log.iter().all(|line| line.starts_with("stdout F ")), "{log:?}");
    assert!(log.iter().any(|line| line.trim_end() == "stdout F err"), "{log:?}");
    // Its client has gone, and the line stands: the next one goes on where it was.
    drop((attachment, input));
    let (_next, input, mut heard) = wait_for("the next client to be let in", || {
        let (attachment, input, heard) = attach(&container);
        input.is_some().then_some((attachment, input, heard))
    });
    // What ends input on a terminal.
    write(input.as_ref().unwrap(), "\n");
    heard.hear("50 132");
    write(input.as_ref().unwrap(), "\u{4}");
    assert_eq!(container.wait().code, 0);
}

#[test]
fn privileged_a_container_without_a_terminal_has_no_size() {
    let pod = Pod::new();
    let container = pod.container();
    container.start(&plan(&["sleep", "1000"])).unwrap();
    assert!(pod.monitor.resize(&container.id, OTHER).is_err());
    assert!(pod.monitor.resize(&ContainerId::generate(), OTHER).is_err());
    let (mut attachment, input, _) = attach(&container);
    assert!(input.is_none() && attachment.take_input().is_none(), "it reads nothing");
    pod.monitor.kill(&container.id).unwrap();
    let why = wait_for("the end", || attachment.ended().unwrap());
    assert_eq!(why, Detached::Ended);
    let what = AttachRequest { stdin: false, stdout: None, stderr: None };
    assert!(pod.monitor.attach(&container.id, what).is_err(), "it has ended");
}

#[test]
fn privileged_a_client_that_does_not_read_holds_nobody_up() {
    const BYTES: usize = 4_000_000;
    let pod = Pod::new();
    let container = pod.container();
    let script = format!("read x; busybox yes | busybox head -c {BYTES}");
    container.start(&interactive(&["sh", "-c", &script], false, false)).unwrap();
    let (slow, input, unread) = attach(&container);
    let (quick, _, heard) = attach(&container);
    let (gone, _, _) = attach(&container);
    drop(gone);
    let heard = std::thread::spawn(move || heard.rest());
    write(input.as_ref().unwrap(), "go\n");
    assert_eq!(container.wait().code, 0);
    assert_eq!(slow.ended().unwrap(), Some(Detached::TooSlow));
    let heard = heard.join().unwrap();
    let why = quick.ended().unwrap();
    match why {
        Some(Detached::Ended) => assert_eq!(heard.len(), BYTES),
        // On a busy machine this one cannot always keep up either, and is told so.
        Some(Detached::TooSlow) => assert!(heard.len() < BYTES),
        Some(Detached::Left) | None => panic!("{why:?}"),
    }
    assert!(!unread.rest().is_empty());
    assert_eq!(container.log().len(), BYTES / 2, "the log has all of it");
}

/// G3: nothing of a container's output is lost, doubled or mixed while clients come and go.
#[test]
fn privileged_clients_that_come_and_go_change_nothing_of_the_log() {
    let pod = Pod::new();
    let container = pod.container();
    let script = "read x; i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done";
    container.start(&interactive(&["sh", "-c", script], false, false)).unwrap();
    let (first, input, _) = attach(&container);
    write(input.as_ref().unwrap(), "go\n");
    for _ in 0..100 {
        let (reader, stdout) = rustix::pipe::pipe().unwrap();
        let what = AttachRequest { stdin: false, stdout: Some(stdout), stderr: None };
        let client = pod.monitor.attach(&container.id, what);
        drop((client, reader));
    }
    assert_eq!(container.wait().code, 0);
    drop(first);
    let want: Vec<_> = (0..3000).map(|line| format!("stdout F {line}")).collect();
    assert_eq!(container.log(), want);
}

#[test]
fn privileged_a_full_log_stops_nothing_and_says_what_is_missing() {
    let pod = Pod::new();
    let (sender, events) = mpsc::channel();
    let watch = Watch::new(move |event| sender.send(event).unwrap_or_default()).unwrap();
    watch.add(&pod.monitor).unwrap();
    let none = rustix::mount::MountAttrFlags::empty();
    let disk = sys::mount::new("tmpfs", [("size", "64k")], none).unwrap();
    let open = |name: &str| -> File {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
        rustix::fs::openat(&disk, name, flags, Mode::from_raw_mode(0o600)).unwrap().into()
    };
    let container = pod.container();
    let script = "read x; busybox yes | busybox head -c 200000; echo full; read x; echo after";
    let plan = interactive(&["sh", "-c", script], false, false);
    let launch = Launch {
        plan: &plan,
        descriptors: vec![container.root.try_clone().unwrap()],
        cgroup: None,
        log: Some(open("log").into()),
        exit_record: exit::create(&container.record_path()).unwrap(),
    };
    pod.monitor.start(&container.id, launch).unwrap();
    let (_client, input, mut heard) = attach(&container);
    write(input.as_ref().unwrap(), "go\n");
    heard.hear("full");
    let event = events.recv_timeout(stage::PATIENCE).unwrap();
    assert!(matches!(event, Event::LogFails { errno: 28, .. }), "{event:?}");
    // The old one is rotated away, and room is made.
    open("log").set_len(0).unwrap();
    pod.monitor.reopen_log(&container.id, open("new").into()).unwrap();
    write(input.as_ref().unwrap(), "go\n");
    assert_eq!(container.wait().code, 0);
    let text = stage::read(open("new").into());
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].contains("bytes of log are missing here: No space left"), "{lines:?}");
    assert!(lines[1].ends_with(" stdout F after"), "{lines:?}");
    assert!(matches!(events.recv_timeout(stage::PATIENCE).unwrap(), Event::Exited { .. }));
    assert!(events.recv_timeout(Duration::ZERO).is_err(), "told once");
}
