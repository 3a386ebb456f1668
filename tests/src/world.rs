//! A test, from start to census.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use cri_api::runtime::v1::{ImageSpec, PullImageRequest, RemoveImageRequest};

use crate::census::Census;
use crate::cri::Cri;
use crate::daemon::{self, Daemon, binary, configure, log_tail};
use crate::image::ImageBuilder;
use crate::patience::{eventually, pause};
use crate::peer;
use crate::process::Process;
use crate::registry::Registry;
use crate::stage::Stage;

/// A test's own machine with a daemon on it.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: nothing may use the stage when it is taken down.
    daemon: Option<Daemon>,
    registry: Registry,
    pub stage: Stage,
    /// The busybox image: its reference and its id.
    pub busybox: PulledImage,
    baseline: Census,
}

/// An image as the daemon knows it.
#[derive(Clone, Debug, Default)]
pub struct PulledImage {
    pub reference: String,
    pub id: String,
}

/// Runs `test` on a machine that has the busybox image, and takes the census: pods and containers
/// that the test leaves behind are removed first, what is still there then is a leak.
///
/// # Panics
///
/// When `test` does, or on a leak.
pub fn in_world(test: impl FnOnce(&mut World) + Send + 'static) {
    on_own_thread(|| {
        let mut world = World::new(Stage::enter());
        world.busybox = world.pull_busybox();
        world.play(test);
    });
}

/// As [`in_world`], on a machine that suits a runtime handler other than our own.
///
/// # Panics
///
/// As [`in_world`].
pub fn in_world_for(handler: &'static str, test: impl FnOnce(&mut World) + Send + 'static) {
    on_own_thread(move || {
        let mut world = World::new(Stage::enter_for(Some(handler)));
        world.busybox = world.pull_busybox();
        world.play(test);
    });
}

/// As [`in_world`], without an image, and without one in the end.
///
/// # Panics
///
/// As [`in_world`].
pub fn in_bare_world(test: impl FnOnce(&mut World) + Send + 'static) {
    on_own_thread(|| World::new(Stage::enter()).play(test));
}

/// The namespaces that a test enters end with its thread.
fn on_own_thread(work: impl FnOnce() + Send + 'static) {
    let name = thread::current().name().unwrap_or("test").to_owned();
    let thread = thread::Builder::new().name(name).spawn(work).expect("start a thread");
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
}

impl World {
    fn new(stage: Stage) -> Self {
        let registry = Registry::start();
        configure(&stage, &[]);
        if peer::is_wanted() {
            peer::configure(&stage, &registry);
        }
        let daemon = Daemon::start(&stage);
        let baseline = Census::take(&stage, Some(daemon.pid()));
        Self { daemon: Some(daemon), registry, stage, busybox: PulledImage::default(), baseline }
    }

    fn play(mut self, test: impl FnOnce(&mut World)) {
        self.baseline = self.settled();
        test(&mut self);
        self.remove_all_pods();
        self.assert_nothing_is_left();
        let daemon = self.daemon.take().expect("the test ends with a running daemon");
        let status = daemon.stop().expect("berthd ends on SIGTERM");
        assert!(status.success(), "berthd ends well on SIGTERM: {status}");
    }

    /// # Panics
    ///
    /// When the daemon is down.
    pub fn cri(&self) -> &Cri {
        self.daemon.as_ref().expect("the daemon runs").cri()
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// # Panics
    ///
    /// When the daemon is down.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").pid()
    }

    pub fn is_daemon_up(&self) -> bool {
        self.daemon.is_some()
    }

    /// SIGKILL to the daemon alone.
    pub fn kill_daemon(&mut self) {
        self.daemon.take().expect("the daemon runs").kill();
    }

    /// Starts it again on what the last one left.
    pub fn start_daemon(&mut self) {
        self.daemon = Some(Daemon::start(&self.stage));
    }

    /// SIGTERM, and a new one.
    pub fn restart_daemon(&mut self) {
        let status = self.daemon.take().expect("the daemon runs").stop();
        assert!(status.is_some_and(|status| status.success()), "berthd ends well: {status:?}");
        self.start_daemon();
    }

    /// SIGTERM while the test's client stays connected, and how the daemon ended.
    pub fn stop_daemon_under_a_client(&mut self) -> Option<std::process::ExitStatus> {
        self.daemon.take().expect("the daemon runs").stop_under_a_client()
    }

    pub fn socket(&self) -> PathBuf {
        daemon::socket(&self.stage)
    }

    /// A directory of the test, for volumes and files.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.stage.directory().join("test").join(name);
        std::fs::create_dir_all(&path).expect("make a directory of the test");
        path
    }

    /// The command line `berth`, pointed at this daemon.
    pub fn berth(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("berth"));
        command.env("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{}", self.socket().display()));
        command.args(arguments).stdin(std::process::Stdio::null());
        command
    }

    pub fn pull(&self, reference: &str) -> PulledImage {
        let answer = self.cri().pull_image(PullImageRequest {
            image: Some(ImageSpec { image: reference.to_owned(), ..Default::default() }),
            ..Default::default()
        });
        let id = answer.unwrap_or_else(|status| panic!("pull {reference}: {status}")).image_ref;
        PulledImage { reference: reference.to_owned(), id }
    }

    pub fn remove_image(&self, name: &str) {
        let image = Some(ImageSpec { image: name.to_owned(), ..Default::default() });
        let answer = self.cri().remove_image(RemoveImageRequest { image });
        answer.unwrap_or_else(|status| panic!("remove {name}: {status}"));
    }

    fn pull_busybox(&self) -> PulledImage {
        let reference = self.registry.push("busybox", "1", &ImageBuilder::busybox().build());
        self.pull(&reference)
    }

    pub fn census(&self) -> Census {
        Census::take(&self.stage, self.daemon.as_ref().map(Daemon::pid))
    }

    /// A census to compare with later: taken when nothing changes any more.
    pub fn settled(&self) -> Census {
        let mut last = self.census();
        let settled = eventually(|| {
            pause(Duration::from_millis(50));
            let now = self.census();
            let is_settled = now == last;
            last = now;
            is_settled.then_some(())
        });
        assert!(settled.is_some(), "the census keeps changing: {last:?}");
        last
    }

    /// Compares with the time before the test, once the kernel has had time to clean up.
    ///
    /// # Panics
    ///
    /// Naming what is left.
    pub fn assert_nothing_is_left(&self) {
        self.assert_census_is(&self.baseline);
    }

    /// As [`World::assert_nothing_is_left`], compared with an earlier census of the test.
    ///
    /// # Panics
    ///
    /// Naming what is left.
    pub fn assert_census_is(&self, before: &Census) {
        if peer::is_wanted() {
            return; // Its leaks are not ours to count.
        }
        let mut difference = String::new();
        let settled = eventually(|| {
            difference = self.census().difference(before);
            difference.is_empty().then_some(())
        });
        assert!(settled.is_some(), "the census differs (+ is left, - is gone):\n{difference}");
    }

    /// Counts from here: what is there now may stay.
    pub fn accept_what_is_there(&mut self) {
        self.baseline = self.settled();
    }

    pub fn log_tail(&self) -> String {
        log_tail(&self.stage)
    }

    pub fn config_path(&self) -> PathBuf {
        daemon::config_path(&self.stage)
    }

    /// Where the daemon keeps what outlives a reboot.
    pub fn root(&self) -> PathBuf {
        self.stage.root()
    }

    /// Runs another process in this world's namespaces, for as long as the value lives.
    pub fn background(&self, command: &mut Command) -> Process {
        Process::spawn(command).unwrap_or_else(|error| panic!("start {command:?}: {error}"))
    }

    pub fn path(&self) -> &Path {
        self.stage.directory()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- berthd's log ---\n{}", self.log_tail());
        }
    }
}
