//! What a kubelet and an operator ask of the node itself.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use cri_api::runtime::v1::{
    CgroupDriver, ImageFsInfoRequest, RuntimeConfigRequest, StatusRequest, VersionRequest,
};
use suite::daemon::{binary, config_path, socket, write};
use suite::process::{output, succeed};
use suite::{in_bare_world, in_world};

#[test]
fn privileged_version_has_the_four_fields_that_a_kubelet_checks() {
    in_bare_world(|world| {
        let version = world.cri().version(VersionRequest { version: "v1".into() }).unwrap();
        assert_eq!(version.version, "0.1.0");
        assert_eq!(version.runtime_api_version, "v1");
        assert!(!version.runtime_name.is_empty());
        let numbers: Vec<&str> = version.runtime_version.split('.').collect();
        assert_eq!(numbers.len(), 3, "{} is a semantic version", version.runtime_version);
    });
}

#[test]
fn privileged_status_says_ready_and_names_the_default_handler_with_an_empty_name() {
    in_bare_world(|world| {
        let answer = world.cri().status(StatusRequest { verbose: true }).unwrap();
        let status = answer.status.unwrap();
        for kind in ["RuntimeReady", "NetworkReady"] {
            let condition = status.conditions.iter().find(|condition| condition.r#type == kind);
            let condition = condition.unwrap_or_else(|| panic!("no condition {kind}"));
            assert!(condition.status, "{kind}: {} {}", condition.reason, condition.message);
        }
        assert!(answer.runtime_handlers.iter().any(|handler| handler.name.is_empty()));
        assert!(answer.info.contains_key("config"), "verbose status shows the configuration");
    });
}

#[test]
fn privileged_runtime_config_names_a_cgroup_driver() {
    in_bare_world(|world| {
        let answer = world.cri().runtime_config(RuntimeConfigRequest {}).unwrap();
        assert_eq!(answer.linux.unwrap().cgroup_driver(), CgroupDriver::Cgroupfs);
    });
}

#[test]
fn privileged_image_fs_info_counts_the_layer_store_and_names_a_real_directory() {
    in_world(|world| {
        let info = world.cri().image_fs_info(ImageFsInfoRequest {}).unwrap();
        let store = &info.image_filesystems[0];
        let mountpoint = &store.fs_id.as_ref().unwrap().mountpoint;
        assert!(std::fs::metadata(mountpoint).unwrap().is_dir(), "{mountpoint}");
        assert!(store.used_bytes.unwrap().value > 500_000, "a busybox layer is there");
        assert!(store.inodes_used.unwrap().value > 0);
        assert_ne!(store.timestamp, 0);
    });
}

#[test]
fn privileged_the_socket_is_open_to_its_owner_and_group_only() {
    in_bare_world(|world| {
        let socket = std::fs::metadata(world.socket()).unwrap();
        assert_eq!(socket.permissions().mode() & 0o777, 0o660);
        assert_eq!((socket.uid(), socket.gid()), (0, 0));
    });
}

#[test]
fn privileged_directories_of_the_daemon_are_closed_to_users() {
    in_world(|world| {
        for directory in [world.root(), world.stage.state()] {
            let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", directory.display());
        }
    });
}

#[test]
fn privileged_a_second_daemon_on_the_same_directories_is_refused() {
    in_bare_world(|world| {
        let second = world.stage.directory().join("second.sock");
        let mut command = Command::new(binary("berthd"));
        command.arg("--config").arg(config_path(&world.stage));
        command.arg("--root").arg(world.root()).arg("--state").arg(world.stage.state());
        command.arg("--socket").arg(&second);
        let mut process = world.background(&mut command);
        let ended = suite::patience::eventually(|| process.ended());
        assert!(ended.is_some_and(|status| !status.success()), "it ends, and not well: {ended:?}");
        // And the first one has not noticed.
        world.cri().version(VersionRequest::default()).unwrap();
        std::fs::remove_file(second).ok(); // It may have got as far as its socket.
    });
}

#[test]
fn privileged_an_unknown_key_in_the_configuration_is_refused_with_its_line() {
    in_bare_world(|world| {
        let path = world.directory("config").join("bad.toml");
        write(&path, "[network]\nbridge = \"b0\"\nsubnett = \"10.0.0.0/16\"\n");
        let socket = socket(&world.stage).with_extension("other");
        let mut command = Command::new(binary("berthd"));
        command.arg("--config").arg(&path).arg("--socket").arg(&socket);
        let output = output(&mut command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(text.contains("subnett") && text.contains("line 3"), "{text}");
        assert!(!socket.exists(), "it refuses before it serves");
    });
}

#[test]
fn privileged_the_default_configuration_is_accepted_as_it_is_printed() {
    in_bare_world(|world| {
        let text = succeed(Command::new(binary("berthd")).args(["config", "default"]));
        assert!(text.contains('#'), "it is commented");
        write(&world.config_path(), &text);
        // Flags win over the file: root, state and socket stay those of this test.
        world.restart_daemon();
        world.cri().version(VersionRequest::default()).unwrap();
        world.accept_what_is_there(); // The default bridge and table, in this test's network.
    });
}

#[test]
fn privileged_a_client_that_does_not_hang_up_does_not_keep_the_daemon_from_ending() {
    in_bare_world(|world| {
        let status = world.stop_daemon_under_a_client();
        assert!(status.is_some_and(|status| status.success()), "it ends in time: {status:?}");
        world.start_daemon();
    });
}
