//! Past holes that were races: a name means one thing when it is looked at and another when it is used.
//!
//! Two racers on processors of their own exchange a directory and a link to the node, at least 100,000 times a test, while
//! containers are started on top of that. `tests/SECURITY.md` says which hole each of these is.

use std::os::unix::fs::symlink;

use cri_api::runtime::v1::{Mount, RemoveContainerRequest};
use suite::canary::SECRET;
use suite::daemon::write;
use suite::hostile::volume;
use suite::pods::security;
use suite::race::Racers;
use suite::{Canary, Pod, World, in_world};

/// A volume in which `changing` is a directory now and a link to the canary then.
struct Arena {
    volume: std::path::PathBuf,
    canary: Canary,
}

/// As many starts as a race sees at the least.
const STARTS: u32 = 25;

impl Arena {
    fn new(world: &World) -> Self {
        let volume = world.directory("arena");
        let canary = Canary::plant(world);
        std::fs::create_dir_all(volume.join("changing/below")).expect("as the test has made it");
        // As the racing container would write it: a path of the node, which in a container's root is nothing.
        symlink(canary.path().join("directory"), volume.join("other"))
            .expect("as the test has made it");
        Self { volume, canary }
    }

    fn race(&self) -> Racers {
        Racers::exchange(&self.volume.join("changing"), &self.volume.join("other"))
    }

    /// Starts containers with these mounts beside the arena at `/arena`; whether each starts is a matter of luck.
    fn against(self, world: &World, mounts: &[Mount], script: &str) {
        let pod = world.run_pod("race");
        let (mut started, mut refused) = (0, 0);
        self.race().against(STARTS, |attempt| {
            let name = format!("race-{attempt}");
            let mut config = world.container_config(&name, &["sh", "-c", script]);
            config.mounts = vec![volume(&self.volume, "/arena")];
            config.mounts.extend(mounts.iter().cloned());
            match world.try_run(&pod, config) {
                Ok(id) => {
                    started += 1;
                    check_end(world, &id);
                }
                Err(_) => refused += 1,
            }
        });
        eprintln!("{started} started, {refused} refused");
        self.canary.assert_unharmed("a race");
        world.remove_all_pods();
        self.canary.assert_unharmed("the removal after a race");
    }
}

/// What it wrote is no secret of the node's, and it did not find out that it is where it must not be.
fn check_end(world: &World, id: &str) {
    let status = world.wait(id);
    let written = suite::log::written(&world.log_of(id), "stdout");
    assert!(!written.contains(SECRET.trim()), "{written}");
    assert!(!written.contains("escaped"), "{status:?}: {written}");
    world.remove(id);
}

#[test]
fn privileged_cve_2021_30465_2018_15664_a_raced_target_never_lands_on_the_node() {
    in_world(|world| {
        let data = world.directory("data");
        write(&data.join("mine"), "mine\n");
        let arena = Arena::new(world);
        let mounts = [volume(&data, "/arena/changing/below")];
        arena.against(world, &mounts, "cat /arena/changing/file /arena/other/file 2>/dev/null");
        assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1, "nothing was made in the volume");
    });
}

#[test]
fn privileged_cve_2024_45310_2017_1002101_directories_on_the_way_are_made_inside() {
    in_world(|world| {
        let data = world.directory("data");
        let mounts = [
            volume(&data, "/arena/changing/a/b/c"),
            volume(&data.join("file"), "/arena/changing/d/e"),
        ];
        Arena::new(world).against(world, &mounts, "true");
    });
}

#[test]
fn privileged_cve_2019_19921_2025_52881_a_raced_process_list_hides_no_label_and_no_setting() {
    in_world(|world| {
        let core = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let before = core();
        let data = world.directory("data");
        write(&data.join("exec"), "");
        let mounts = [volume(&data, "/arena/changing/self/attr")];
        // Who has been tricked into another procfs would find this one writable.
        let script = "(echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && echo escaped; \
                      stat -f -c %T /proc | grep -qx proc || echo escaped";
        Arena::new(world).against(world, &mounts, script);
        assert_eq!(core(), before);
    });
}

#[test]
fn privileged_cve_2025_31133_2025_62161_a_raced_null_device_takes_no_mask_away() {
    in_world(|world| {
        // The whole of /dev is a volume that somebody else changes: `null` is a file now and a link to the node then.
        let (dev, canary) = (world.directory("dev"), Canary::plant(world));
        write(&dev.join("null"), "");
        symlink(canary.path().join("file"), dev.join("other")).unwrap();
        let pod = world.run_pod("masks");
        let racers = Racers::exchange(&dev.join("null"), &dev.join("other"));
        racers.against(STARTS, |attempt| {
            let script = "stat -c %t:%T /proc/kallsyms /proc/timer_list; cat /proc/kallsyms /proc/timer_list; \
                          ls -A /sys/firmware; (echo x > /proc/kallsyms); echo end";
            let mut config = world.container_config(&format!("masks-{attempt}"), &["sh", "-c", script]);
            config.mounts = vec![volume(&dev, "/dev")];
            let context = security(&mut config);
            context.masked_paths =
                ["/proc/kallsyms", "/proc/timer_list", "/sys/firmware"].map(str::to_owned).into();
            let Ok(id) = world.try_run(&pod, config) else { return };
            world.wait(&id);
            let written = suite::log::written(&world.log_of(&id), "stdout");
            assert_eq!(written, "1:3\n1:3\nend\n", "attempt {attempt}");
            world.remove(&id);
        });
        canary.assert_unharmed("masks whose null device is raced");
    });
}

#[test]
fn privileged_cve_2025_52565_a_raced_console_is_a_terminal_of_the_container() {
    in_world(|world| {
        let (dev, canary) = (world.directory("dev"), Canary::plant(world));
        std::fs::create_dir(dev.join("pts")).unwrap();
        symlink(canary.path(), dev.join("other")).unwrap();
        let pod = world.run_pod("console");
        let racers = Racers::exchange(&dev.join("pts"), &dev.join("other"));
        racers.against(STARTS, |attempt| {
            let script = "stat -L -c %F /proc/self/fd/0; stat -f -L -c %T /proc/self/fd/0";
            let mut config =
                world.container_config(&format!("tty-{attempt}"), &["sh", "-c", script]);
            config.tty = true;
            config.mounts = vec![volume(&dev, "/dev")];
            let Ok(id) = world.try_run(&pod, config) else { return };
            world.wait(&id);
            let written = suite::log::written(&world.log_of(&id), "stdout").replace('\r', "");
            assert_eq!(written, "character special file\ndevpts\n", "attempt {attempt}");
            world.remove(&id);
        });
        canary.assert_unharmed("a terminal whose directory is raced");
    });
}

#[test]
fn privileged_cve_2021_41568_2024_10220_working_directories_are_made_inside_a_raced_volume() {
    in_world(|world| {
        let arena = Arena::new(world);
        let pod = world.run_pod("workdir");
        arena.race().against(STARTS, |attempt| {
            let mut config =
                world.container_config(&format!("cwd-{attempt}"), &["sh", "-c", "pwd; cat file"]);
            config.mounts = vec![volume(&arena.volume, "/arena")];
            config.working_dir = format!("/arena/changing/new-{attempt}");
            if let Ok(id) = world.try_run(&pod, config) {
                check_end(world, &id);
            }
        });
        arena.canary.assert_unharmed("a raced working directory");
    });
}

#[test]
fn privileged_cve_2022_21658_2024_23652_a_removal_follows_no_link() {
    in_world(|world| {
        let canary = Canary::plant(world);
        let pod = world.run_pod("removal");
        let mut seen = 0;
        for attempt in 0.. {
            // The container's own tree, of which it may have kept processes: its directory becomes a link while it goes.
            let id = full_tree(world, &pod, attempt);
            let upper = writable(world, &id);
            let (tree, link) = (upper.join("tree"), upper.join("link"));
            symlink(canary.path(), &link).unwrap();
            let racers = Racers::until_gone(&tree, &link);
            // It may find a link where it has just seen a directory, and say so.
            let request = RemoveContainerRequest { container_id: id.clone() };
            let removed = world.cri().remove_container(request);
            seen += racers.swaps();
            drop(racers);
            canary.assert_unharmed("the removal of a raced tree");
            if removed.is_err() {
                world.remove(&id);
            }
            if attempt >= 20 && seen > 1_000 {
                break;
            }
        }
        eprintln!("{seen} exchanges during removals");
    });
}

/// An ended container with many files of its own.
fn full_tree(world: &World, pod: &Pod, attempt: u32) -> String {
    let script = "mkdir -p /tree/directory/a /tree/directory/b; cd /tree/directory; \
                  for i in $(seq 200); do echo $i > a/$i; echo $i > b/$i; done";
    let id =
        world.run(pod, world.container_config(&format!("tree-{attempt}"), &["sh", "-c", script]));
    assert_eq!(world.wait(&id).exit_code, 0);
    id
}

/// The directory on the node that holds what a container has written.
fn writable(world: &World, id: &str) -> std::path::PathBuf {
    let mut waiting = vec![world.root().join("containers").join(id)];
    while let Some(path) = waiting.pop() {
        if path.join("tree/directory").is_dir() {
            return path;
        }
        let entries = std::fs::read_dir(&path).expect("read the container's directory").flatten();
        waiting.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    panic!("nothing of container {id} is on the node");
}
