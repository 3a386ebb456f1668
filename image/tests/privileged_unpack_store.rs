//! Both layer stores with the real worker: what is there, what is left, what survives. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod corpus;

use corpus::{Bench, archive, chain, dir, file, gzip, on_both, with_causes, worker};
use image::Digest;
use image::layer::{Choice, Compression, LayerError, LayerFault, LayerStore, Layers, Usage};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn plain(bench: &Bench, n: u8, layer: &[u8]) -> Result<Digest, LayerError> {
    bench.unpack_as(&chain(n), layer, Compression::Plain)
}

/// Waits for `done`, which another thread or process is about to make true.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn privileged_every_compression_gives_the_same_layer() {
    on_both(|bench| {
        let layer = archive([dir("d"), file("d/f", b"content")]);
        let cases = [
            (1, Compression::Plain, layer.clone()),
            (2, Compression::Gzip, gzip(&layer)),
            (3, Compression::Zstd, zstd::encode_all(&layer[..], 3).unwrap()),
        ];
        for (n, compression, bytes) in cases {
            assert!(!bench.store.contains(&chain(n)), "{compression:?}");
            let diff_id = bench.unpack_as(&chain(n), &bytes, compression).unwrap();
            assert_eq!(diff_id, Digest::of(&layer), "{compression:?}");
            assert!(bench.store.contains(&chain(n)), "{compression:?}");
            assert_eq!(bench.show(&chain(n)), "d/; d/f=content", "{compression:?}");
        }
    });
}

#[test]
fn privileged_the_diff_id_covers_what_follows_the_archive() {
    on_both(|bench| {
        let layer = [archive([file("a", b"1")]), b"trailing".to_vec()].concat();
        assert_eq!(plain(&bench, 0, &layer).unwrap(), Digest::of(&layer));
    });
}

#[test]
fn privileged_layers_are_found_listed_counted_and_removed() {
    on_both(|bench| {
        let store = &bench.store;
        assert_eq!(store.usage(), Usage::default());
        assert!(matches!(store.open(&chain(1)), Err(LayerError::Missing(_))));
        plain(&bench, 1, &archive([file("a", &[7; 5000]), dir("d")])).unwrap();
        plain(&bench, 2, &archive([file("b", b"1")])).unwrap();
        // Whole blocks: two for the file, one for each directory. Of an image what it takes on disk.
        let taken = |n| fs::metadata(bench.place(&chain(n))).unwrap().blocks() * 512;
        let (first, second) = match bench.has_images() {
            false => (Usage { bytes: 4 * 4096, inodes: 3 }, Usage { bytes: 2 * 4096, inodes: 2 }),
            true => (Usage { bytes: taken(1), inodes: 1 }, Usage { bytes: taken(2), inodes: 1 }),
        };
        let all = Usage { bytes: first.bytes + second.bytes, inodes: first.inodes + second.inodes };
        assert_eq!(store.usage(), all);
        let mut listed = store.list().unwrap();
        listed.sort();
        let mut want = vec![chain(1), chain(2)];
        want.sort();
        assert_eq!(listed, want);
        let same = |a: &OwnedFd, b: &OwnedFd| {
            let (a, b) = (rustix::fs::fstat(a).unwrap(), rustix::fs::fstat(b).unwrap());
            assert_eq!((a.st_dev, a.st_ino), (b.st_dev, b.st_ino), "one file system, one tree");
        };
        same(&store.open(&chain(1)).unwrap(), &store.open(&chain(1)).unwrap());
        store.remove(&chain(1)).unwrap();
        store.remove(&chain(1)).unwrap();
        assert!(!store.contains(&chain(1)));
        assert_eq!(store.list().unwrap(), [chain(2)]);
        assert_eq!(store.usage(), second);
        assert_eq!(
            entries(&bench.dir.path().join("root/layers")).len(),
            3,
            "the other layer, the staging areas and nothing"
        );
    });
}

#[test]
fn privileged_an_equal_layer_that_is_there_already_is_kept() {
    on_both(|bench| {
        let layer = archive([file("a", b"1")]);
        plain(&bench, 1, &layer).unwrap();
        let inode = fs::metadata(bench.place(&chain(1))).unwrap().ino();
        let usage = bench.store.usage();
        plain(&bench, 1, &layer).unwrap();
        assert_eq!(fs::metadata(bench.place(&chain(1))).unwrap().ino(), inode);
        assert_eq!(bench.store.usage(), usage);
        assert!(entries(&bench.dir.path().join("root/layers/staging")).is_empty());
    });
}

#[test]
fn privileged_layers_survive_the_process_and_half_layers_do_not() {
    on_both(|bench| {
        plain(&bench, 1, &archive([file("a", b"1"), file(".wh..wh..opq", b"")])).unwrap();
        plain(&bench, 2, &archive([file("b", b"1")])).unwrap();
        let usage = bench.store.usage();
        let root = bench.dir.path().join("root");
        let layers = root.join("layers");
        let staging = layers.join("staging");
        // What a crash leaves: areas of layers in the making, and a layer whose record never reached the disk.
        fs::create_dir_all(staging.join("left/diff/a/b")).unwrap();
        File::create_new(staging.join("left/diff/a/b/c")).unwrap();
        let half = layers.join(chain(3).digest().hex());
        fs::create_dir_all(half.join("diff/x")).unwrap();
        let half_image = layers.join(format!("{}.erofs", chain(4).digest().hex()));
        File::create_new(&half_image).unwrap().write_all(&[0; 5000]).unwrap();
        File::create_new(staging.join("image")).unwrap().write_all(&[7; 5000]).unwrap();
        fs::create_dir(layers.join("lost+found")).unwrap();
        let store = LayerStore::open(&root, worker(), bench.choice).unwrap();
        assert!(
            store.contains(&chain(1)) && store.contains(&chain(2)) && !store.contains(&chain(3))
        );
        assert_eq!(store.usage(), usage);
        assert!(store.hides_below(&chain(1)).unwrap() && !store.hides_below(&chain(2)).unwrap());
        assert!(!half.exists() && !half_image.exists());
        assert!(layers.join("lost+found").exists(), "what is no layer is left alone");
        eventually("left-overs are swept", || entries(&staging).is_empty());
    });
}

#[test]
fn privileged_overlayfs_shows_what_the_layers_say() {
    on_both(|bench| {
        let lower = [
            dir("d"),
            file("d/old", b"1"),
            dir("gone"),
            file("gone/f", b"1"),
            file("f", b"1"),
            dir("w"),
            file("w/x", b"1"),
        ];
        plain(&bench, 1, &archive(lower)).unwrap();
        let upper = [
            file("d/.wh..wh..opq", b""),
            file("d/new", b"2"),
            file(".wh.gone", b""),
            file("f", b"2"),
            file(".wh.w", b""),
            file("w/y", b"2"),
        ];
        plain(&bench, 2, &archive(upper)).unwrap();
        let lowers = [2, 1].map(|n| bench.store.open(&chain(n)).unwrap());
        let merged = sys::overlay::read_only(&lowers).unwrap();
        let shown = corpus::listing(&corpus::Tree(merged).path(), false).join("; ");
        assert_eq!(shown, "d/; d/new=2; f=2; w/; w/y=2", "{:?}", bench.choice);
    });
}

#[test]
fn privileged_dropping_a_layer_in_the_making_ends_its_worker() {
    on_both(|bench| {
        let mut staging = bench.store.begin(Compression::Plain, &bench.limits).unwrap();
        let mut input = staging.input().unwrap();
        // More than the worker decompresses ahead before it starts with the first entry.
        let begun = [file("a", b"1").bytes(), file("b", &[0; 1 << 20]).bytes()[..1 << 19].to_vec()];
        input.write_all(&begun.concat()).unwrap();
        let area = entries(&bench.dir.path().join("root/layers/staging")).remove(0);
        let begun = || area.join("diff/a").exists() || fs::metadata(&area).unwrap().len() > 4096;
        eventually("the worker is at work", begun);
        assert!(staging.input().is_none(), "given once");
        drop(staging);
        assert!(!area.exists());
        assert!(input.write_all(&[0; 1 << 20]).is_err(), "nobody reads any more");
    });
}

#[test]
fn privileged_a_finished_layer_that_is_dropped_leaves_nothing() {
    on_both(|bench| {
        let mut staging = bench.store.begin(Compression::Plain, &bench.limits).unwrap();
        staging.input().unwrap().write_all(&archive([file("a", b"1")])).unwrap();
        drop(staging.finish().unwrap());
        assert!(entries(&bench.dir.path().join("root/layers/staging")).is_empty());
        assert!(bench.store.list().unwrap().is_empty());
    });
}

/// The worker of the only layer in the making below `dir`.
fn worker_pid(dir: &Path) -> i32 {
    let layers = dir.join("root/layers");
    let is_its_worker = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0)
            .any(|argument| argument.starts_with(layers.as_os_str().as_encoded_bytes()))
    };
    let mut found = None;
    // A process that is being executed has no arguments for a moment.
    eventually("a worker is running", || {
        let names = entries(Path::new("/proc")).into_iter();
        let mut pids = names.filter_map(|path| path.file_name()?.to_str()?.parse().ok());
        found = pids.find(is_its_worker);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn privileged_the_worker_has_given_up_everything_it_does_not_need() {
    on_both(|bench| {
        let mut staging = bench.store.begin(Compression::Plain, &bench.limits).unwrap();
        let mut input = staging.input().unwrap();
        let pid = worker_pid(bench.dir.path());
        let proc = PathBuf::from(format!("/proc/{pid}"));
        // It has not been given a byte yet.
        eventually("the worker is shut in", || {
            fs::read_to_string(proc.join("status")).unwrap().contains("Seccomp:\t2")
        });
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let field: BTreeMap<_, _> =
            status.lines().filter_map(|line| line.split_once(":\t")).collect();
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP.
        // To write an image takes none of them.
        let kept = match bench.has_images() {
            false => 1u64 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1 << 31,
            true => 0,
        };
        let kept = format!("{kept:016x}");
        let none = "0".repeat(16);
        let want = [
            ("CapPrm", &kept),
            ("CapEff", &kept),
            ("CapInh", &none),
            ("CapBnd", &none),
            ("CapAmb", &none),
        ];
        for (name, want) in want {
            assert_eq!(field[name], want, "{name}");
        }
        assert_eq!(field["NoNewPrivs"], "1");
        assert_eq!(field["Umask"], "0000");
        for namespace in ["mnt", "net", "ipc", "uts"] {
            let of = |proc: &Path| fs::read_link(proc.join("ns").join(namespace)).unwrap();
            assert_ne!(of(&proc), of(Path::new("/proc/self")), "{namespace}");
        }
        for task in entries(&proc.join("task")) {
            let status = fs::read_to_string(task.join("status")).unwrap();
            assert!(status.contains("Seccomp:\t2"), "every thread");
        }
        let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "nothing but the area: {mounts}");
        for option in ["nosuid", "nodev", "noexec"] {
            assert!(mounts.contains(option), "{option}: {mounts}");
        }
        let targets: Vec<_> =
            entries(&proc.join("fd")).iter().map(|fd| fs::read_link(fd).unwrap()).collect();
        let is_fine = |target: &PathBuf| {
            let text = target.to_string_lossy();
            text.starts_with("pipe:")
                || text == "/dev/null"
                || text.ends_with("/diff")
                || text == "/"
                || bench.has_images() && text.contains("/staging/")
        };
        assert!(targets.iter().all(is_fine), "{targets:?}");
        let limits = fs::read_to_string(proc.join("limits")).unwrap();
        let memory = if bench.has_images() { "536870912" } else { "268435456" };
        for (name, want) in
            [("Max open files", "64"), ("Max core file size", "0"), ("Max data size", memory)]
        {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
            assert_eq!(line[name.len()..].split_whitespace().next(), Some(want), "{name}");
        }
        assert_eq!(fs::read(proc.join("environ")).unwrap(), b"");
        input.write_all(&archive([file("a", b"1")])).unwrap();
        drop(input);
        staging.finish().unwrap();
    });
}

#[test]
fn privileged_a_worker_that_dies_is_an_error_that_says_so() {
    on_both(|bench| {
        let mut staging = bench.store.begin(Compression::Plain, &bench.limits).unwrap();
        let _input = staging.input();
        let pid = rustix::process::Pid::from_raw(worker_pid(bench.dir.path())).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let err = staging.finish().err().unwrap();
        assert_eq!(err.to_string(), "the unpack worker ended early: signal: 9 (SIGKILL)");
        assert_eq!(err.fault(), LayerFault::Worker);
        assert!(entries(&bench.dir.path().join("root/layers/staging")).is_empty());
    });
}

#[test]
fn privileged_a_worker_that_is_missing_or_something_else_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let err = LayerStore::open(dir.path(), Path::new("/nonexistent"), Choice::Overlay).unwrap_err();
    assert_eq!(err.fault(), LayerFault::Worker);
    let store = LayerStore::open(dir.path(), Path::new("/bin/true"), Choice::Overlay).unwrap();
    let mut staging = store.begin(Compression::Plain, &image::Limits::default()).unwrap();
    drop(staging.input());
    let err = staging.finish().err().unwrap();
    assert_eq!(err.to_string(), "the unpack worker ended early: exit status: 0");
}

#[test]
fn privileged_a_full_disk_is_the_nodes_fault_and_leaves_nothing() {
    let outer = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let script = format!(
        "cd {dir} && truncate -s 16M disk && mkfs.ext4 -q disk && mkdir on && mount -o loop disk on && \
         TMPDIR={dir}/on {me} --exact --ignored privileged_on_a_small_disk",
        dir = outer.path().display(),
        me = me.display(),
    );
    // In a mount namespace of its own, so nothing is left.
    let output =
        std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("failed to setup loop device") {
        println!("NOT RUN: this host has no loop devices");
        return;
    }
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

#[test]
#[ignore = "run by the test above, on a disk of 16 MiB"]
fn privileged_on_a_small_disk() {
    on_both(|bench| {
        let err = plain(&bench, 0, &archive([file("big", &[7; 32 << 20])])).unwrap_err();
        assert_eq!(
            with_causes(&err),
            "unpack the layer: write entry \"big\": No space left on device (os error 28)"
        );
        assert_eq!(err.fault(), LayerFault::Disk);
        assert!(entries(&bench.dir.path().join("root/layers/staging")).is_empty());
        plain(&bench, 0, &archive([file("small", b"1")])).unwrap();
    });
}

#[test]
fn privileged_nobody_but_root_gets_at_layers() {
    on_both(|bench| {
        plain(&bench, 1, &archive([file("suid", b"1").mode(0o4755)])).unwrap();
        let layers = bench.dir.path().join("root/layers");
        for private in [layers.clone(), layers.join("staging"), bench.place(&chain(1))] {
            assert_eq!(
                fs::metadata(&private).unwrap().permissions().mode() & 0o077,
                0,
                "{}",
                private.display()
            );
        }
    });
}
