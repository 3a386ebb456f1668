//! The built `berthd`.

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::cri::Cri;
use crate::handler;
use crate::patience::eventually;
use crate::peer;
use crate::process::Process;
use crate::stage::Stage;

/// A running daemon on a stage, and its client.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    cri: Cri,
}

impl Daemon {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not, with what it logged.
    pub fn start(stage: &Stage) -> Self {
        if peer::is_wanted() {
            let (process, cri) = peer::start(stage);
            return Self { process, cri };
        }
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(log_path(stage))
            .expect("open the daemon's log");
        let mut command = Command::new(binary("berthd"));
        command.arg("--config").arg(config_path(stage));
        command.arg("--root").arg(stage.root()).arg("--state").arg(stage.state());
        command.arg("--socket").arg(socket(stage));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = Process::spawn(&mut command).expect("start berthd");
        let mut answer = || match process.ended() {
            Some(status) => panic!("berthd ended, {status}:\n{}", log_tail(stage)),
            None => Cri::connect(&socket(stage)).ok(),
        };
        // It gives a monitor that stands still its ten seconds before it serves.
        let cri = eventually(&mut answer).or_else(|| eventually(&mut answer));
        let cri = cri.unwrap_or_else(|| panic!("berthd does not answer:\n{}", log_tail(stage)));
        Self { process, cri }
    }

    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL: nothing gets to run after it.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Hangs up, then SIGTERM, as a service manager stops it.
    pub fn stop(self) -> Option<ExitStatus> {
        let Self { mut process, cri } = self;
        drop(cri);
        process.terminate()
    }

    /// SIGTERM while a client stays connected that does not even read.
    pub fn stop_under_a_client(mut self) -> Option<ExitStatus> {
        self.process.terminate()
    }
}

/// Writes the configuration that keeps this daemon apart from every other on the machine.
pub fn configure(stage: &Stage, insecure_registries: &[String]) {
    let cgroup = stage.cgroups.path();
    let plugins = stage.directory().join("cni/net.d");
    let plugins = plugins.display();
    let registries: Vec<String> =
        insecure_registries.iter().map(|name| format!("{name:?}")).collect();
    let text = format!(
        "[network]\ncni_config = \"{plugins}\"\nbridge = \"{BRIDGE}\"\nsubnet = \"10.77.0.0/16\"\ntable = \"berth-test\"\n\n\
         [cgroup]\nparent = \"{cgroup}\"\n\n[metrics]\naddress = \"{METRICS}\"\n\n[image]\ninsecure_registries = [{}]\n\
         keep_unfinished_s = 0\nregistry_config = \"\"\n{}",
        registries.join(", "),
        handler::tables(),
    );
    write(&config_path(stage), &(handler::default_key() + &text));
}

/// Where every daemon is scraped: each has a loopback of its own.
pub const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9711);

/// The bridge of every test; each has a network of its own.
pub const BRIDGE: &str = "berth-t0";

pub fn socket(stage: &Stage) -> PathBuf {
    stage.directory().join("berth.sock")
}

pub fn config_path(stage: &Stage) -> PathBuf {
    stage.directory().join("config.toml")
}

fn log_path(stage: &Stage) -> PathBuf {
    stage.directory().join("berthd.log")
}

/// The last lines that the daemons of this stage logged.
pub fn log_tail(stage: &Stage) -> String {
    let text = fs::read_to_string(log_path(stage)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A built binary: of `BERTH_BIN_DIR`, else of the build that made this test.
pub fn binary(name: &str) -> PathBuf {
    let directory = std::env::var_os("BERTH_BIN_DIR").map_or_else(built_here, PathBuf::from);
    let path = directory.join(name);
    assert!(path.exists(), "{} is not built; hack/build builds it", path.display());
    path
}

/// target/debug, for a test in target/debug/deps.
fn built_here() -> PathBuf {
    let exe = std::env::current_exe().expect("path of this test");
    exe.ancestors().nth(2).expect("a test lies two levels below its build").to_owned()
}

/// Writes a small file of a test.
///
/// # Panics
///
/// When that is not possible.
#[expect(
    clippy::disallowed_methods,
    reason = "no crash to survive: the directory ends with the test"
)]
pub fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}
