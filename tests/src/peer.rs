//! Debian's containerd in the place of the daemon: a second opinion on the suites, and the other
//! column of the benchmarks.
//!
//! `BERTH_TEST_PEER=containerd` makes every suite drive it. What fails then is a difference
//! between the two runtimes, or a mistake in the suite.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::cri::Cri;
use crate::daemon::{BRIDGE, socket, write};
use crate::image::{Compression, Flavour, ImageBuilder, Tree};
use crate::patience::eventually;
use crate::process::Process;
use crate::registry::Registry;
use crate::stage::Stage;

/// Where Debian puts the CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// Whether the suites are to drive containerd.
pub fn is_wanted() -> bool {
    std::env::var("BERTH_TEST_PEER").is_ok_and(|name| name == "containerd")
}

/// The programs that containerd needs and that are not here.
pub fn missing() -> Vec<&'static str> {
    let needed = [
        ("containerd", "/usr/bin/containerd"),
        ("runc", "/usr/sbin/runc"),
        ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ];
    needed
        .iter()
        .filter(|(_, path)| !fs::exists(path).unwrap_or(false))
        .map(|(name, _)| *name)
        .collect()
}

/// Pushes what stands for the pause image, and writes both configurations.
pub fn configure(stage: &Stage, registry: &Registry) {
    let binary = fs::read("/bin/busybox").expect("busybox-static is installed");
    let pause = ImageBuilder::new(Flavour::Oci)
        .layer(Compression::Gzip, Tree::default().file("sleep", 0o755, &binary))
        .config("Cmd", json!(["/sleep", "1000000"]))
        .build();
    let pause = registry.push("pause", "1", &pause);
    let plugins = stage.directory().join("cni");
    fs::create_dir_all(&plugins).expect("directory of the CNI configuration");
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "tests",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local", "dataDir": stage.directory().join("leases"),
                    "ranges": [[{ "subnet": "10.77.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    write(&plugins.join("10-tests.conflist"), &network.to_string());
    let text = format!(
        "version = 2\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = {pause:?}\nrestrict_oom_score_adj = true\n\
         enable_unprivileged_ports = true\nenable_unprivileged_icmp = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = {PLUGINS:?}\nconf_dir = {plugins:?}\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"runc\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
         runtime_type = \"io.containerd.runc.v2\"\n"
    );
    write(&config_path(stage), &text);
}

/// Starts containerd with the same root, state and socket that berthd would get.
pub fn start(stage: &Stage) -> (Process, Cri) {
    let log = stage.directory().join("berthd.log");
    let log = OpenOptions::new().append(true).create(true).open(log).expect("open a log");
    let mut command = Command::new("containerd");
    command.arg("--config").arg(config_path(stage)).arg("--address").arg(socket(stage));
    command.arg("--root").arg(stage.root()).arg("--state").arg(stage.state());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut process = Process::spawn(&mut command).expect("start containerd");
    let cri = eventually(|| {
        assert!(process.ended().is_none(), "containerd ended: see its log");
        Cri::connect(&socket(stage)).ok()
    });
    (process, cri.expect("containerd answers"))
}

fn config_path(stage: &Stage) -> PathBuf {
    stage.directory().join("containerd.toml")
}
