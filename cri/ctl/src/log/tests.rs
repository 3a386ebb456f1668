use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::*;
use crate::output::Out;

/// What a container writes, and where both streams end up.
struct Scene {
    directory: tempfile::TempDir,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
}

struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, stdout: Arc::default(), stderr: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("0.log")
    }

    fn file(&self) -> File {
        OpenOptions::new().append(true).create(true).open(self.path()).unwrap()
    }

    fn outs(&self) -> (Out, Out) {
        let out = |bytes: &Arc<Mutex<Vec<u8>>>| Out::to(Shared(Arc::clone(bytes)));
        (out(&self.stdout), out(&self.stderr))
    }

    fn printed(&self) -> (String, String) {
        let text =
            |bytes: &Mutex<Vec<u8>>| String::from_utf8(bytes.lock().unwrap().clone()).unwrap();
        (text(&self.stdout), text(&self.stderr))
    }

    fn print(&self, last: Option<u64>, options: Options) -> (String, String) {
        self.stdout.lock().unwrap().clear();
        self.stderr.lock().unwrap().clear();
        let (mut out, mut err) = self.outs();
        super::print(&self.path(), last, &mut Printer::new(&mut out, &mut err, options)).unwrap();
        self.printed()
    }

    async fn until_printed(&self, text: &str) {
        while self.printed().0 != text {
            tokio::task::yield_now().await;
        }
    }
}

fn line(second: u32, rest: &str) -> String {
    format!("2026-01-01T00:00:{second:02}.5Z {rest}\n")
}

#[test]
fn a_log_is_printed_as_the_options_want_it() {
    let scene = Scene::new();
    let text = [
        line(1, "stdout F one"),
        line(2, "stderr F two"),
        line(3, "stdout P thr"),
        line(4, "stdout F ee"),
        "not a log line\n".into(),
        line(5, "stdout F four").trim_end().into(),
    ];
    scene.file().write_all(text.concat().as_bytes()).unwrap();

    let default = Options::default;
    assert_eq!(scene.print(None, default()), ("one\nthree\nfour\n".into(), "two\n".into()));
    assert_eq!(scene.print(Some(2), default()).0, "ee\nfour\n");
    let since = Some("2026-01-01T00:00:04Z".parse().unwrap());
    assert_eq!(scene.print(None, Options { since, ..default() }).0, "ee\nfour\n");
    let only = Some(Stream::Stderr);
    assert_eq!(scene.print(None, Options { only, ..default() }), (String::new(), "two\n".into()));
    let limit = Options { limit_bytes: Some(7), ..default() };
    assert_eq!(scene.print(None, limit), ("one\n".into(), "two".into()));
    let stamped = scene.print(None, Options { timestamps: true, ..default() }).0;
    let want = "2026-01-01T00:00:01.500000000Z one\n2026-01-01T00:00:03.500000000Z three\n\
                2026-01-01T00:00:05.500000000Z four\n";
    assert_eq!(stamped, want, "a line of two parts has one time");
}

#[tokio::test]
async fn following_survives_rotation_and_loses_nothing_at_the_end() {
    let scene = Scene::new();
    let mut old = scene.file();
    old.write_all(line(1, "stdout F before").as_bytes()).unwrap();
    let (over, end) = oneshot::channel();
    let (mut out, mut err) = scene.outs();
    let mut printer = Printer::new(&mut out, &mut err, Options::default());
    let path = scene.path();
    let following = follow(&path, None, &mut printer, end);

    let writing = async {
        scene.until_printed("before\n").await;
        old.write_all(line(2, "stdout F more").as_bytes()).unwrap();
        scene.until_printed("before\nmore\n").await;

        // Rotation: moved away, made anew, and only then does the writer change over.
        fs::rename(scene.path(), scene.directory.path().join("0.log.1")).unwrap();
        old.write_all(line(3, "stdout F moved").as_bytes()).unwrap();
        let mut new = scene.file();
        scene.until_printed("before\nmore\nmoved\n").await;
        old.write_all(line(4, "stdout F late").as_bytes()).unwrap();
        new.write_all(line(5, "stdout F new").as_bytes()).unwrap();
        scene.until_printed("before\nmore\nmoved\nlate\nnew\n").await;

        // The last words come with the end.
        new.write_all(line(6, "stdout F last").as_bytes()).unwrap();
        new.write_all(line(7, "stdout F words").trim_end().as_bytes()).unwrap();
        over.send(7).unwrap();
    };
    let (followed, ()) = tokio::join!(following, writing);
    assert_eq!(followed.unwrap(), Some(Ok(7)));
    assert_eq!(scene.printed().0, "before\nmore\nmoved\nlate\nnew\nlast\nwords\n");
}

#[tokio::test]
async fn following_goes_on_in_a_file_that_was_cut() {
    let scene = Scene::new();
    let mut file = scene.file();
    file.write_all(line(1, "stdout F a long first line").as_bytes()).unwrap();
    let (over, end) = oneshot::channel();
    let (mut out, mut err) = scene.outs();
    let mut printer = Printer::new(&mut out, &mut err, Options::default());
    let path = scene.path();
    let writing = async {
        scene.until_printed("a long first line\n").await;
        file.set_len(0).unwrap();
        file.write_all(line(2, "stdout F x").as_bytes()).unwrap();
        scene.until_printed("a long first line\nx\n").await;
        over.send(()).unwrap();
    };
    let (followed, ()) = tokio::join!(follow(&path, None, &mut printer, end), writing);
    assert_eq!(followed.unwrap(), Some(Ok(())));
}

#[tokio::test]
async fn following_stops_at_the_limit() {
    let scene = Scene::new();
    scene.file().write_all(line(1, "stdout F hello").as_bytes()).unwrap();
    let (mut out, mut err) = scene.outs();
    let options = Options { limit_bytes: Some(3), ..Options::default() };
    let mut printer = Printer::new(&mut out, &mut err, options);
    let end = std::future::pending::<()>();
    assert_eq!(follow(&scene.path(), None, &mut printer, end).await.unwrap(), None);
    assert_eq!(scene.printed().0, "hel");
}
