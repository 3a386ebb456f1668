//! The daemon under a service manager: what it is told, and what it is asked for.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use suite::daemon::{binary, config_path, socket, write};
use suite::in_bare_world;
use suite::patience::patience;
use suite::process::{self, Process, Signal};
use suite::world::World;

/// A daemon whose notifications are read here.
struct Supervised {
    notifications: UnixDatagram,
    process: Process,
    log: std::path::PathBuf,
}

impl Supervised {
    /// In the place of the world's own daemon.
    fn start(world: &mut World) -> Self {
        world.kill_daemon();
        let directory = world.directory("supervised");
        let (notify, log) = (directory.join("notify"), directory.join("log"));
        let notifications = UnixDatagram::bind(&notify).expect("bind a socket");
        notifications.set_read_timeout(Some(patience())).expect("limit waiting");
        let stage = &world.stage;
        let mut command = Command::new(binary("berthd"));
        command.arg("--config").arg(config_path(stage));
        command.arg("--root").arg(stage.root()).arg("--state").arg(stage.state());
        command.arg("--socket").arg(socket(stage));
        command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "400000");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create_new(&log).expect("make a log"));
        Self { notifications, process: Process::spawn(&mut command).expect("start berthd"), log }
    }

    /// The next notification that is not a sign of life, or the next one if it is what is waited for.
    fn next(&self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.notifications.recv(&mut buffer).expect("a notification in time");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let is_life = text.lines().any(|line| line == "WATCHDOG=1");
            if !is_life || wanted == "WATCHDOG=1" {
                return text;
            }
        }
    }

    fn expect(&self, line: &str) {
        let text = self.next(line);
        assert!(text.lines().any(|found| found == line), "{line} expected, was {text:?}");
    }

    /// Has it read this configuration, and gives what it logs of that.
    fn reload(&self, config: &Path, text: &str) -> String {
        let before = self.logged().len();
        write(config, text);
        process::signal(self.process.id(), Signal::SIGHUP);
        self.expect("RELOADING=1");
        self.expect("READY=1");
        self.logged().split_off(before)
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).expect("read the log")
    }
}

#[test]
fn privileged_the_service_manager_hears_of_readiness_life_reloads_and_the_end() {
    in_bare_world(|world| {
        let mut daemon = Supervised::start(world);
        daemon.expect("READY=1");
        for _ in 0..3 {
            daemon.expect("WATCHDOG=1");
        }

        let config = config_path(&world.stage);
        let before = fs::read_to_string(&config).unwrap();
        let reload = |text: &str| daemon.reload(&config, text);
        let logged = reload(&format!("{before}\n[log]\nlevel = \"debug\"\n"));
        // Root, state and socket are of the command line, at the start as now.
        assert!(logged.contains("configuration read again"), "{logged}");
        assert!(!logged.contains("take a restart"), "nothing else has changed: {logged}");

        let changed = before.replace("10.77.0.0", "10.78.0.0");
        let logged = reload(&format!("socket_gid = 7\n{changed}\n[stream]\nidle_timeout_s = 7\n"));
        let line = logged.lines().find(|line| line.contains("these keys take a restart"));
        let line = line.unwrap_or_else(|| panic!("it says what is not taken: {logged}"));
        let named = r#"["socket_gid", "network", "stream"]"#;
        assert!(line.contains(named), "{line}");

        for (text, why) in [
            ("[log]\nlevel = \"loud\"\n", "loud"),
            ("default_handler = \"nobody\"\n", "no handler"),
        ] {
            let logged = reload(text);
            let line = logged.lines().find(|line| line.contains("the old one stays"));
            assert!(line.is_some_and(|line| line.contains(why)), "{logged}");
        }

        write(&config, &before);
        process::signal(daemon.process.id(), Signal::SIGTERM);
        daemon.expect("STOPPING=1");
        let status = daemon.process.terminate().expect("it ends");
        assert!(status.success(), "{status}");
        world.start_daemon();
    });
}

#[test]
fn privileged_a_reload_of_the_log_level_is_seen_at_once() {
    in_bare_world(|world| {
        let mut daemon = Supervised::start(world);
        daemon.expect("READY=1");
        let config = config_path(&world.stage);
        let before = fs::read_to_string(&config).unwrap();
        write(&config, &format!("{before}\n[log]\nlevel = \"error\"\n"));
        process::signal(daemon.process.id(), Signal::SIGHUP);
        daemon.expect("RELOADING=1");
        daemon.expect("READY=1");
        let length = daemon.logged().len();
        // An end at this level is not worth a line.
        let status = daemon.process.terminate().expect("it ends");
        assert!(status.success(), "{status}");
        assert_eq!(daemon.logged().len(), length, "{}", daemon.logged());
        write(&config, &before);
        world.start_daemon();
    });
}
