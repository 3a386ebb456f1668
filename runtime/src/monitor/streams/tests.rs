use super::*;
use rustix::pipe::{PipeFlags, pipe_with};

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
}

/// What a pipe holds now.
fn content(pipe: &OwnedFd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count) = rustix::io::read(pipe, &mut buffer) {
        if count == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..count]);
    }
    all
}

struct Stage {
    streams: Streams,
    output: OwnedFd,
    /// The container's end.
    stdin: OwnedFd,
    events: Events,
    buffer: Vec<u8>,
}

fn stage(once: bool) -> Stage {
    let ((ours, output), (stdin, writer)) = (pipe(), pipe());
    let mut process = process();
    process.stdin_once = once;
    let ends = Ends { stdin: Some(writer), stdout: Some(ours), stderr: None };
    let streams = Streams::new(&process, ends, Log::new(None));
    Stage { streams, output, stdin, events: Events::new().unwrap(), buffer: vec![0; 32 << 10] }
}

impl Stage {
    fn says(&mut self, bytes: &[u8]) {
        rustix::io::write(&self.output, bytes).unwrap();
        self.streams.read(Voice::Output, &mut self.buffer, &self.events);
    }

    /// Attaches a client that follows the output; gives its end of that, and the input it got.
    fn attach(&mut self, connection: Key) -> (OwnedFd, Option<OwnedFd>) {
        let (theirs, stdout) = pipe();
        let client = Client { connection, stdout: Some(stdout), stderr: None };
        let input = self.streams.attach(client, true);
        (theirs, input)
    }

    fn end_input(&mut self, connection: Key) {
        self.streams.end_input(connection);
    }

    fn input_has_ended(&self) -> bool {
        rustix::io::read(&self.stdin, &mut [0; 1]) == Ok(0)
    }
}

fn process() -> plan::Process {
    plan::Process {
        args: Vec::new(),
        env: Vec::new(),
        cwd: "/".to_owned(),
        identity: plan::Identity { uid: 0, gid: 0, groups: Vec::new(), umask: None },
        capabilities: plan::Capabilities::default(),
        no_new_privileges: true,
        rlimits: Vec::new(),
        oom_score_adj: None,
        seccomp: None,
        apparmor: None,
        selinux: None,
        terminal: None,
        stdin: true,
        stdin_once: false,
    }
}

#[test]
fn everybody_who_is_attached_gets_what_is_said_from_then_on() {
    let mut stage = stage(false);
    stage.says(b"before ");
    let (first, _) = stage.attach(1);
    stage.says(b"one ");
    let (second, _) = stage.attach(2);
    stage.says(b"two");
    assert_eq!(content(&first), b"one two");
    assert_eq!(content(&second), b"two");
}

#[test]
fn a_client_that_does_not_keep_up_is_cut_off_alone() {
    let mut stage = stage(false);
    let (slow, _) = stage.attach(1);
    let (quick, _) = stage.attach(2);
    let (gone, _) = stage.attach(3);
    drop(gone);
    let mut got = 0;
    for _ in 0..64 {
        stage.says(&[b'x'; 4096]);
        got += content(&quick).len();
    }
    assert_eq!(got, 64 * 4096, "nobody else misses anything");
    let cut: Vec<_> =
        stage.streams.take_cut().iter().map(|cut| (cut.connection, cut.why)).collect();
    assert_eq!(cut, [(3, Detached::Left), (1, Detached::TooSlow)]);
    assert!(!content(&slow).is_empty(), "what fitted is there to be read");
}

#[test]
fn input_ends_with_its_only_writer_or_not_at_all() {
    let mut often = stage(false);
    let (_first, input) = often.attach(1);
    drop(input);
    often.end_input(1);
    assert!(!often.input_has_ended(), "the next client can write");
    let (_second, input) = often.attach(2);
    assert!(input.is_some());

    let mut once = stage(true);
    let (_first, input) = once.attach(1);
    let (_second, none) = once.attach(2);
    assert!(none.is_none(), "one writes already");
    once.end_input(2);
    assert!(!once.input_has_ended(), "it was not the writer");
    drop(input);
    once.streams.leave(1);
    assert!(once.input_has_ended());
    let (_third, none) = once.attach(3);
    assert!(none.is_none(), "it has ended for good");
}

#[test]
fn the_end_reaches_those_who_are_attached_after_the_last_word() {
    let mut stage = stage(false);
    let (client, _) = stage.attach(7);
    rustix::io::write(&stage.output, b"last").unwrap();
    stage.streams.end(&mut stage.buffer, &stage.events);
    assert_eq!(content(&client), b"last");
    let cut = stage.streams.take_cut();
    assert_eq!((cut[0].connection, cut[0].why), (7, Detached::Ended));
}
