//! What is left of layers when the process is killed, or the power goes, at any moment. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "the killed process reports there")]

mod corpus;

use corpus::{Tree, archive, chain, file, worker};
use image::Limits;
use image::layer::{Choice, Compression, LayerError, LayerStore, Layers};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Where the process that is going to be killed works, and how.
const ROOT: &str = "BERTH_TEST_ROOT";
const CHOICE: &str = "BERTH_TEST_CHOICE";

/// Kills, and cuts, for each form.
const ROUNDS: u64 = 4;

fn content(n: u8) -> Vec<u8> {
    vec![n; usize::from(n) * 7919 % 200_000]
}

fn layer(n: u8) -> Vec<u8> {
    let small = (0..20).map(|f| file(&format!("d/{f}"), &[n; 100]));
    archive(small.chain([file("large", &content(n))]))
}

/// Commits layers and removes some, telling of each, until it is killed.
#[test]
#[ignore = "the process that the tests below kill"]
fn privileged_committing_until_killed() {
    let choice = match std::env::var(CHOICE).unwrap().as_str() {
        "Erofs" => Choice::Erofs,
        _ => Choice::Overlay,
    };
    let root = PathBuf::from(std::env::var_os(ROOT).unwrap());
    let store = LayerStore::open(&root, worker(), choice).unwrap();
    for n in (1..=u8::MAX).cycle() {
        println!("removing {n}");
        store.remove(&chain(n)).unwrap();
        let mut staging = store.begin(Compression::Plain, &Limits::default()).unwrap();
        let mut input = staging.input().unwrap();
        let feeder = std::thread::spawn(move || input.write_all(&layer(n)).unwrap());
        let staged = staging.finish().unwrap();
        feeder.join().unwrap();
        staged.commit(&chain(n)).unwrap();
        println!("committed {n}");
        if n % 3 == 0 {
            println!("removing {}", n - 1);
            store.remove(&chain(n - 1)).unwrap();
        }
    }
}

/// The process, and what it tells.
struct Victim {
    child: Child,
    lines: Receiver<String>,
    committed: BTreeSet<u8>,
}

impl Victim {
    fn start(root: &Path, choice: Choice) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "privileged_committing_until_killed"])
            .env(ROOT, root)
            .env(CHOICE, format!("{choice:?}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                send.send(line).ok();
            }
        });
        Self { child, lines, committed: BTreeSet::new() }
    }

    /// Listens for so long, and to what is left then.
    fn listen(&mut self, time: Duration) {
        let end = std::time::Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let Ok(line) = self.lines.recv_timeout(left.max(Duration::from_millis(20))) else {
                return;
            };
            let number = |text: &str| text.parse::<u8>().unwrap();
            if let Some(n) = line.strip_prefix("committed ") {
                self.committed.insert(number(n));
            } else if let Some((_, n)) = line.split_once("removing ") {
                self.committed.remove(&number(n));
            }
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Opens the store and looks at everything in it: what was `committed` is there, what is there is whole, and nothing else
/// takes any place.
fn check(root: &Path, choice: Choice, committed: &BTreeSet<u8>, when: &str) {
    let store = LayerStore::open(root, worker(), choice).unwrap();
    let listed: BTreeSet<u8> = (1..=u8::MAX).filter(|&n| store.contains(&chain(n))).collect();
    assert!(committed.is_subset(&listed), "{when}: {committed:?} in {listed:?}");
    assert_eq!(store.list().unwrap().len(), listed.len(), "{when}: nothing unknown");
    for &n in &listed {
        let tree = Tree(store.open(&chain(n)).unwrap());
        assert!(fs::read(tree.join("large")).unwrap() == content(n), "{when}: layer {n}");
        for f in 0..20 {
            assert_eq!(fs::read(tree.join(format!("d/{f}"))).unwrap(), [n; 100], "{when}: {n}");
        }
    }
    let layers = root.join("layers");
    let names = fs::read_dir(&layers).unwrap().count();
    assert_eq!(names, listed.len() + 2, "{when}: the layers, the staging areas and nothing");
    let deadline = std::time::Instant::now() + Duration::from_secs(120); // on a busy disk
    while fs::read_dir(layers.join("staging")).unwrap().count() > 0 {
        assert!(std::time::Instant::now() < deadline, "{when}: left-overs are swept");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    for &n in &listed {
        store.remove(&chain(n)).unwrap();
    }
    assert_eq!(store.usage(), image::Usage::default(), "{when}: every byte is accounted for");
}

/// The forms that the disk at `root` can have.
fn choices(root: &Path) -> Vec<Choice> {
    match LayerStore::open(root, worker(), Choice::Erofs) {
        Err(LayerError::NoImages(_)) => {
            println!("NOT RUN on images: they cannot be mounted here");
            vec![Choice::Overlay]
        }
        _ => vec![Choice::Overlay, Choice::Erofs],
    }
}

#[test]
fn privileged_a_kill_at_any_moment_loses_nothing_that_was_complete() {
    let dir = tempfile::tempdir().unwrap();
    for choice in choices(dir.path()) {
        let mut seen = 0;
        for round in 0..ROUNDS {
            let mut victim = Victim::start(dir.path(), choice);
            victim.listen(Duration::from_millis(60 + round * 37));
            victim.signal(rustix::process::Signal::KILL);
            victim.listen(Duration::from_millis(100));
            let committed = victim.committed.clone();
            drop(victim);
            check(dir.path(), choice, &committed, &format!("{choice:?}, kill {round}"));
            seen += committed.len();
        }
        assert!(seen > 0, "{choice:?}: some were committed before");
    }
}

#[test]
fn privileged_a_power_cut_at_any_moment_loses_nothing_that_was_complete() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let me = std::env::current_exe().unwrap();
    // In a mount namespace of its own, so nothing is left.
    let output = Command::new("unshare")
        .arg("-m")
        .arg(me)
        .args(["--exact", "--ignored", "--nocapture", "privileged_power_cuts"])
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("failed to setup loop device") {
        println!("NOT RUN: this host has no loop devices");
        return;
    }
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

/// What is on the disk at some moment is what a power cut leaves: ext4 on a file, whose copy does not have what was not
/// written back.
#[test]
#[ignore = "run by the test above, in a mount namespace of its own"]
fn privileged_power_cuts() {
    let dir = std::env::temp_dir();
    let at = |name: &str| dir.join(name).display().to_string();
    let run = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for name in ["on", "after"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let (disk, on, cut, after) = (at("disk"), at("on"), at("cut"), at("after"));
    for choice in choices(&dir) {
        run(&format!(
            "truncate -s 256M {disk} && mkfs.ext4 -q -F {disk} && mount -o loop {disk} {on}"
        ));
        let root = dir.join("on/root");
        let mut victim = Victim::start(&root, choice);
        let mut seen = 0;
        for round in 0..ROUNDS {
            victim.listen(Duration::from_millis(100 + round * 41));
            victim.signal(rustix::process::Signal::STOP);
            victim.listen(Duration::from_millis(50));
            run(&format!("cp {disk} {cut}"));
            let committed = victim.committed.clone();
            victim.signal(rustix::process::Signal::CONT);
            run(&format!("mount -o loop {cut} {after}"));
            let when = format!("{choice:?}, cut {round}");
            check(&dir.join("after/root"), choice, &committed, &when);
            run(&format!("umount {after}"));
            seen += committed.len();
        }
        assert!(seen > 0, "{choice:?}: some were committed before");
        drop(victim);
        // The worker of the victim ends on its own, a moment later.
        run(&format!("umount -l {on}"));
        File::open(&disk).unwrap().sync_all().unwrap();
    }
}
