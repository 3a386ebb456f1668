//! The tests by CVE can fail: the same scenarios, played to a runtime that has the holes.
//!
//! Debian 12 has runc 1.1.5, with some of the holes found since then mended and others not. What is played here is what
//! `privileged_cve_paths` and `privileged_cve_races` play to Berth.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suite::daemon::write;
use suite::process::output;
use suite::race::Racers;
use suite::{Canary, World, in_bare_world};

/// A root file system of busybox and a configuration for it, as `runc spec` writes it.
struct Bundle {
    directory: PathBuf,
    state: PathBuf,
}

impl Bundle {
    fn new(world: &World, name: &str) -> Self {
        let directory = world.directory(name);
        for below in ["bin", "proc", "sys", "dev", "etc"] {
            fs::create_dir_all(directory.join("rootfs").join(below)).expect("make a root");
        }
        fs::copy("/bin/busybox", directory.join("rootfs/bin/busybox")).expect("copy busybox");
        let written = output(Command::new("runc").arg("spec").current_dir(&directory));
        assert!(written.status.success(), "{written:?}");
        Self { state: world.directory(&format!("{name}-state")), directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// Runs a script in it; what that printed.
    fn run(&self, script: &str, change: impl FnOnce(&mut Value)) -> String {
        let path = self.directory.join("config.json");
        let text = fs::read_to_string(&path).expect("read the configuration");
        let mut config: Value = serde_json::from_str(&text).expect("runc writes JSON");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/busybox", "sh", "-c", script]);
        config["root"]["readonly"] = json!(false);
        change(&mut config);
        write(&path, &config.to_string());
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state).args(["run", "calibration"]);
        let ran = output(command.current_dir(&self.directory));
        write(&path, &text);
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }
}

/// `None` where there is no runc, or another than the one that these holes are known of.
fn old_runc() -> Option<String> {
    let told = Command::new("runc").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let version = text.lines().next()?.strip_prefix("runc version ")?.to_owned();
    version.starts_with("1.1.5").then_some(version)
}

#[test]
fn privileged_an_old_runc_fails_where_berth_does_not() {
    let Some(version) = old_runc() else {
        println!("NOT RUN: runc 1.1.5 is not here");
        return;
    };
    in_bare_world(move |world| {
        let canary = Canary::plant(world);
        let devices = made_on_the_node(world, &canary);
        println!(
            "runc {version}, CVE-2026-41579: made on the node by a link in place of /dev: {devices:?}"
        );
        assert!(!devices.is_empty(), "the scenario does not show the hole");
        let mask = masked_by(world);
        println!("runc {version}, CVE-2025-31133: what hides /proc/timer_list: {mask}");
        assert!(mask.starts_with("regular"), "the scenario does not show the hole");
        let raced = raced_out(world);
        println!("runc {version}, CVE-2024-45310 and 2021-30465: {raced}");
    });
}

/// What appears in a directory of the node that a link in place of the image's `/dev` points at.
fn made_on_the_node(world: &World, canary: &Canary) -> Vec<String> {
    let bundle = Bundle::new(world, "devices");
    let target = canary.path().join("directory/empty");
    fs::remove_dir(bundle.root().join("dev")).expect("remove a directory");
    symlink(&target, bundle.root().join("dev")).expect("make a link");
    bundle.run("true", |_| {});
    names(&target)
}

/// What covers a hidden file where the image has a link in place of `/dev/null`.
fn masked_by(world: &World) -> String {
    let bundle = Bundle::new(world, "masks");
    // The published way out is a link to a setting of the node. This one stays in the root, and shows the same.
    let mine = bundle.root().join("etc/mine");
    write(&mine, "");
    symlink("/etc/mine", bundle.root().join("dev/null")).expect("make a link");
    let script = "/bin/busybox stat -c %F /proc/timer_list";
    let printed = bundle.run(script, |config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        let is_dev =
            |mount: &Value| mount["destination"].as_str().is_some_and(|at| at.starts_with("/dev"));
        mounts.retain(|mount| !is_dev(mount));
    });
    // Streams that are the node's null device are opened anew by that name as well (CVE-2026-88265 is crun's case).
    let written = fs::read_to_string(&mine).expect("read a file of the root");
    format!("{printed}{written}").trim().to_owned()
}

/// Whether directories appear on the node while the way to a mount point is raced, for a while.
fn raced_out(world: &World) -> String {
    let bundle = Bundle::new(world, "race");
    let (arena, node, data) =
        (world.directory("raced"), world.directory("node"), world.directory("mounted"));
    fs::create_dir_all(arena.join("changing")).expect("make a directory");
    symlink(&node, arena.join("other")).expect("make a link");
    let racers = Racers::exchange(&arena.join("changing"), &arena.join("other"));
    let until = Instant::now() + Duration::from_secs(20);
    let mut runs = 0;
    while Instant::now() < until && names(&node).is_empty() {
        bundle.run("true", |config| {
            let bind = |from: &Path, to: &str| {
                json!({ "destination": to, "source": from, "type": "bind", "options": ["rbind", "rw"] })
            };
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            mounts.push(bind(&arena, "/arena"));
            mounts.push(bind(&data, &format!("/arena/changing/a-{runs}/b/c")));
        });
        runs += 1;
    }
    let made = names(&node);
    let swaps = racers.swaps();
    drop(racers);
    format!("{runs} runs under {swaps} exchanges; made on the node: {made:?}")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("read a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
