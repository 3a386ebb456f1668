//! The systemd cgroup driver, on a real systemd.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cri_api::runtime::v1::{
    AuthConfig, CgroupDriver, CreateContainerRequest, ImageSpec, LinuxContainerResources,
    PullImageRequest, RemovePodSandboxRequest, RunPodSandboxRequest, RuntimeConfigRequest,
    StartContainerRequest, StopPodSandboxRequest, UpdateContainerResourcesRequest,
};
use suite::cri::Cri;
use suite::daemon::{binary, write};
use suite::patience::{eventually, until};
use suite::process::{Process, output, succeed};
use suite::systemd::Systemd;
use suite::{World, cgroup, in_world};

const LIMIT: i64 = 64 << 20;

/// A second daemon of the world, in systemd's namespaces, with everything of its own.
struct Managed {
    cri: Cri,
    _process: Process,
}

impl Managed {
    fn start(world: &World, systemd: &Systemd) -> Self {
        let directory = world.directory("managed");
        let config = directory.join("config.toml");
        write(
            &config,
            "[network]\nbridge = \"berth-t1\"\nsubnet = \"10.78.0.0/16\"\ntable = \"berth-test1\"\n\n\
             [cgroup]\ndriver = \"systemd\"\nparent = \"berth-test.slice\"\n",
        );
        let socket = directory.join("berth.sock");
        let text = |path: &Path| path.display().to_string();
        let mut command = systemd.command(&[
            &text(&binary("berthd")),
            "--config",
            &text(&config),
            "--root",
            &text(&directory.join("root")),
            "--state",
            &text(&directory.join("state")),
            "--socket",
            &text(&socket),
        ]);
        let log = directory.join("log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let process = world.background(command.stdout(Stdio::null()).stderr(file));
        let cri = eventually(|| Cri::connect(&socket).ok());
        let told = || fs::read_to_string(&log).unwrap_or_default();
        Self { cri: cri.unwrap_or_else(|| panic!("no answer:\n{}", told())), _process: process }
    }

    fn run_pod(&self, world: &World, parent: &str) -> String {
        let mut config = world.pod_config("managed");
        config.linux.as_mut().expect("linux").cgroup_parent = parent.to_owned();
        let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
        self.cri.run_pod_sandbox(request).expect("run a pod").pod_sandbox_id
    }

    fn run_container(&self, world: &World, pod: &str) -> String {
        let mut config = world.container_config("managed", &["sleep", "1000"]);
        config.log_path = String::new();
        config.linux.as_mut().expect("linux").resources =
            Some(LinuxContainerResources { memory_limit_in_bytes: LIMIT, ..Default::default() });
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(Default::default()),
        };
        let id = self.cri.create_container(request).expect("create").container_id;
        self.cri
            .start_container(StartContainerRequest { container_id: id.clone() })
            .expect("start");
        id
    }

    fn remove_pod(&self, id: &str) {
        let pod_sandbox_id = id.to_owned();
        let request = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        self.cri.stop_pod_sandbox(request).expect("stop");
        let request = RemovePodSandboxRequest { pod_sandbox_id };
        self.cri.remove_pod_sandbox(request).expect("remove");
    }
}

#[test]
fn privileged_systemd_delegates_a_unit_for_each_pod_and_gets_it_back() {
    if let Some(why) = Systemd::missing() {
        return println!("NOT RUN: {why}");
    }
    in_world(|world| {
        let systemd = Systemd::start(&world.stage);
        let managed = Managed::start(world, &systemd);
        let answer = managed.cri.runtime_config(RuntimeConfigRequest {}).unwrap();
        assert_eq!(answer.linux.unwrap().cgroup_driver(), CgroupDriver::Systemd);
        let image = ImageSpec { image: world.busybox.reference.clone(), ..Default::default() };
        let auth = Some(AuthConfig::default());
        let request = PullImageRequest { image: Some(image), auth, ..Default::default() };
        managed.cri.pull_image(request).expect("pull");

        let slice = "kubepods-besteffort-pod1_2.slice";
        let path = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice";
        let cases = [
            (slice, path, slice),
            // As kubelet says it.
            (path, path, slice),
            ("", "/berth.slice/berth-test.slice", "berth-test.slice"),
        ];
        for (parent, path, slice) in cases {
            let pod = managed.run_pod(world, parent);
            let unit = format!("berth-{pod}.service");
            assert_eq!(systemd.property(&unit, "ActiveState"), "active");
            assert_eq!(systemd.property(&unit, "Slice"), slice);
            assert_eq!(systemd.property(&unit, "Delegate"), "yes");
            assert_eq!(systemd.property(&unit, "ControlGroup"), format!("{path}/{unit}"));
            let container = managed.run_container(world, &pod);
            let (controller, file) = ("memory", limit_file());
            let place =
                systemd.cgroup(&world.stage, controller, &format!("{path}/{unit}/{container}"));
            let limit = || fs::read_to_string(place.join(file)).expect("a limit");
            assert_eq!(limit().trim(), LIMIT.to_string());
            let processes = fs::read_to_string(place.join("cgroup.procs")).unwrap();
            assert_eq!(processes.lines().count(), 1, "the container is in it");

            systemd.run(&["systemctl", "daemon-reload"]);
            assert_eq!(limit().trim(), LIMIT.to_string(), "systemd leaves it alone");
            let linux =
                LinuxContainerResources { memory_limit_in_bytes: LIMIT * 2, ..Default::default() };
            let request = UpdateContainerResourcesRequest {
                container_id: container.clone(),
                linux: Some(linux),
                ..Default::default()
            };
            managed.cri.update_container_resources(request).expect("update");
            assert_eq!(limit().trim(), (LIMIT * 2).to_string());

            managed.remove_pod(&pod);
            let is_gone = || systemd.property(&unit, "ActiveState") == "inactive";
            until("the unit is gone", is_gone);
            assert!(!place.parent().unwrap().exists(), "{} is gone", place.display());
        }
        let units =
            systemd.run(&["systemctl", "list-units", "--all", "--no-legend", "berth-*.service"]);
        assert_eq!(units, "", "no unit is left");
        drop(managed);
        drop(systemd);
        succeed(Command::new("ip").args(["link", "delete", "berth-t1"]));
        // One for each family that the daemon has rules in.
        let tables = succeed(Command::new("nft").args(["list", "tables"]));
        for table in tables.lines().filter(|line| line.ends_with(" berth-test1")) {
            succeed(Command::new("nft").arg("delete").args(table.split(' ')));
        }
    });
}

fn limit_file() -> &'static str {
    if cgroup::is_v2() { "memory.max" } else { "memory.limit_in_bytes" }
}

#[test]
fn privileged_a_daemon_that_is_to_use_systemd_does_not_start_without_it() {
    in_world(|world| {
        for place in ["/run/systemd", "/run/dbus"].iter().filter(|path| Path::new(path).exists()) {
            succeed(Command::new("mount").args(["-t", "tmpfs", "none", place]));
        }
        let directory = world.directory("refused");
        let config = directory.join("config.toml");
        let cases = [
            ("", "connect to systemd"),
            ("parent = \"/berth\"\n", "cgroup.parent"),
            ("parent = \"a--b.slice\"\n", "cgroup.parent"),
        ];
        for (parent, mentioned) in cases {
            write(&config, &format!("[cgroup]\ndriver = \"systemd\"\n{parent}"));
            let mut command = Command::new(binary("berthd"));
            command.arg("--config").arg(&config).arg("--root").arg(directory.join("root"));
            command.arg("--state").arg(directory.join("state"));
            command.arg("--socket").arg(directory.join("socket"));
            let done = output(&mut command);
            let told = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!done.status.success() && told.contains(mentioned), "{parent:?}: {told}");
        }
        for place in ["/run/systemd", "/run/dbus"].iter().filter(|path| Path::new(path).exists()) {
            succeed(Command::new("umount").arg(place));
        }
    });
}
