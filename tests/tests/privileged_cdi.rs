//! Devices of the Container Device Interface.

use std::fs;

use cri_api::runtime::v1::{CdiDevice, ContainerConfig};
use suite::daemon::write;
use suite::{World, in_world};
use tonic::Code;

/// Gives the daemon a directory of its own with one file about a device.
fn described(world: &mut World) {
    let directory = world.directory("cdi");
    let library = world.directory("library");
    write(&library.join("driver"), "driver\n");
    let spec = format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "acme.com/gpu",
            "containerEdits": {{"env": ["ALL=yes"]}},
            "devices": [
              {{"name": "zero", "containerEdits": {{
                "env": ["GPU=0"], "additionalGids": [4242],
                "deviceNodes": [{{"path": "/dev/gpu0", "hostPath": "/dev/zero", "permissions": "r"}}],
                "mounts": [{{"hostPath": "{}", "containerPath": "/opt/gpu", "options": ["ro"]}}]}}}},
              {{"name": "gone", "containerEdits": {{
                "deviceNodes": [{{"path": "/dev/gpu1", "hostPath": "/dev/no-such-device"}}]}}}}]}}"#,
        library.display()
    );
    write(&directory.join("acme.json"), &spec);
    let mut config = fs::read_to_string(world.config_path()).expect("the configuration");
    config += &format!("\n[container]\ncdi_spec_dirs = [\"{}\"]\n", directory.display());
    write(&world.config_path(), &config);
    world.restart_daemon();
}

fn asking(mut config: ContainerConfig, name: &str) -> ContainerConfig {
    config.cdi_devices = vec![CdiDevice { name: name.to_owned() }];
    config
}

#[test]
fn privileged_cdi_devices_bring_their_nodes_mounts_environment_and_groups() {
    in_world(|world| {
        described(world);
        let pod = world.run_pod("cdi");
        let script = "head -c 3 /dev/gpu0 | wc -c; \
                      cat /opt/gpu/driver; touch /opt/gpu/x 2>/dev/null || echo read-only; \
                      echo $ALL $GPU; id -G";
        let config = asking(world.container_config("field", &[]), "acme.com/gpu=zero");
        let want = "3\ndriver\nread-only\nyes 0\n0 4242\n";
        assert_eq!(world.printed(&pod, config, script), want);
        let mut config = world.container_config("annotation", &[]);
        config.annotations.insert("cdi.k8s.io/plugin".into(), "acme.com/gpu=zero".into());
        assert_eq!(world.printed(&pod, config, script), want, "by annotation");
    });
}

#[test]
fn privileged_cdi_devices_that_cannot_be_had_are_refused_and_nothing_is_made() {
    in_world(|world| {
        described(world);
        let pod = world.run_pod("cdi-refused");
        let before = world.settled();
        for name in ["acme.com/gpu=two", "acme.com/gpu=gone", "other.com/gpu=zero", "gpu"] {
            let config = asking(world.container_config("refused", &["true"]), name);
            let error = world.try_create(&pod, config).expect_err(name);
            assert_eq!(error.code(), Code::InvalidArgument, "{name}: {error}");
            assert!(error.message().contains(name), "{name}: {error}");
        }
        world.assert_census_is(&before);
    });
}
