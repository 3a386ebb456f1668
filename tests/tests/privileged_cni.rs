//! Pod networks by plugins, and the choice between them and the built-in one.

use std::fs;
use std::path::PathBuf;

use suite::daemon::write;
use suite::network::{fetched, host_port, run};
use suite::patience::until;
use suite::{World, in_world};
use tonic::Code;

/// Where the suite's daemons look for configurations.
fn configurations(world: &World) -> PathBuf {
    world.stage.directory().join("cni/net.d")
}

fn configure(world: &World, file: &str, plugins: &serde_json::Value) {
    let text = serde_json::json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": plugins });
    fs::create_dir_all(configurations(world)).expect("make the directory of configurations");
    // In place at once, as installers do it.
    let temporary = world.stage.directory().join("configuration");
    write(&temporary, &text.to_string());
    fs::rename(temporary, configurations(world).join(file)).expect("put a configuration in place");
}

/// Debian's ptp plugin, which leaves nothing on the host but what belongs to pods.
fn ptp(world: &World) -> serde_json::Value {
    serde_json::json!({ "type": "ptp", "ipMasq": false, "ipam": {
        "type": "host-local", "dataDir": leases(world), "ranges": [[{ "subnet": "10.55.0.0/24" }]],
        "routes": [{ "dst": "0.0.0.0/0" }] } })
}

fn leases(world: &World) -> PathBuf {
    world.stage.directory().join("leases")
}

fn held(world: &World) -> usize {
    let files = fs::read_dir(leases(world).join("pods")).into_iter().flatten().flatten();
    files.filter(|file| file.file_name().to_string_lossy().starts_with("10.")).count()
}

fn notes(world: &World) -> usize {
    fs::read_dir(world.root().join("cni")).expect("list notes").count()
}

/// A plugin that does what `script` says before it does as ptp does.
fn scripted(world: &mut World, script: &str) {
    let bin = world.directory("bin");
    let text = format!("#!/bin/sh\n{script}\nexec /usr/lib/cni/ptp\n");
    write(&bin.join("scripted"), &text);
    run(&format!("chmod 755 {}", bin.join("scripted").display()));
    let plugins = format!("cni_plugins = [{:?}, \"/usr/lib/cni\"]", bin.display().to_string());
    world.restart_with_network(&["mode = \"cni\"", &plugins, "cni_timeout_s = 5"]);
    let mut plugin = ptp(world);
    plugin["type"] = "scripted".into();
    configure(world, "10-pods.conflist", &serde_json::json!([plugin]));
    until("the configuration is known", || world.network_condition().status);
}

#[test]
fn privileged_pods_keep_the_network_that_they_were_made_with() {
    in_world(|world| {
        let built_in = world.run_web_pod(world.pod_config("builtin"));
        assert!(world.address(&built_in).starts_with("10.77."));
        configure(world, "10-pods.conflist", &serde_json::json!([ptp(world)]));
        let mut count = 0;
        let plugged = loop {
            // The directory is watched; nobody says when it has been read.
            let pod = world.run_web_pod(world.pod_config(&format!("plugged{count}")));
            if world.address(&pod).starts_with("10.55.") {
                break pod;
            }
            count += 1;
            assert!(count < 20, "the configuration is not used");
            world.remove_pod(&pod.id);
        };
        let at = |pod| format!("{}:80", world.address(pod));
        assert_eq!((fetched(&at(&built_in)), notes(world)), ("builtin".into(), 1));
        assert!(fetched(&at(&plugged)).starts_with("plugged"));
        let (plugged_at, built_in_at) = (at(&plugged), at(&built_in));
        world.kill_daemon();
        fs::remove_dir_all(configurations(world).parent().unwrap()).unwrap();
        world.start_daemon();
        assert!(fetched(&plugged_at).starts_with("plugged"));
        assert_eq!(fetched(&built_in_at), "builtin");
        let next = world.run_pod("next");
        assert!(world.address(&next).starts_with("10.77."), "no configuration, so built in");
        // What the plugins made is taken down by their rules, though no configuration is there.
        world.remove_pod(&plugged.id);
        assert_eq!((held(world), notes(world)), (0, 0));
        assert!(!run("ip -o link").contains("veth"));
    });
}

#[test]
fn privileged_without_a_configuration_the_network_of_plugins_is_not_ready() {
    in_world(|world| {
        world.restart_with_network(&["mode = \"cni\""]);
        let condition = world.network_condition();
        assert!(
            !condition.status && condition.message.contains("no network configuration"),
            "{condition:?}"
        );
        let refused = world.try_run_pod(&world.pod_config("early")).unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        configure(world, "10-pods.conflist", &serde_json::json!([{ "type": "absent" }]));
        until("the plugin is missed", || world.network_condition().message.contains("absent"));
        configure(world, "10-pods.conflist", &serde_json::json!([ptp(world)]));
        until("it is ready", || world.network_condition().status);
        let pod = world.run_web_pod(world.pod_config("pod"));
        assert_eq!(fetched(&format!("{}:80", world.address(&pod))), "pod");
        fs::remove_dir_all(configurations(world)).unwrap();
        until("it is not ready", || !world.network_condition().status);
    });
}

#[test]
fn privileged_a_host_port_is_opened_by_the_plugin_for_it() {
    in_world(|world| {
        let portmap =
            serde_json::json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        configure(world, "10-pods.conflist", &serde_json::json!([ptp(world), portmap]));
        world.restart_with_network(&["mode = \"cni\""]);
        let mut config = world.pod_config("web");
        config.port_mappings = vec![host_port(18095, "")];
        let pod = world.run_web_pod(config);
        assert_eq!(fetched("192.0.2.2:18095"), "web");
        let mut second = world.pod_config("second");
        second.port_mappings = vec![host_port(18095, "")];
        let refused = world.try_run_pod(&second).unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
        world.remove_pod(&pod.id);
        assert!(!run("iptables-save -t nat").contains("18095"));
        world.accept_what_is_there(); // The plugin's own chains stay.
    });
}

#[test]
fn privileged_a_plugin_that_fails_says_why_and_leaves_nothing() {
    in_world(|world| {
        let switch = world.directory("switch");
        let script = format!("[ $CNI_COMMAND = ADD ] && . {}/add", switch.display());
        write(&switch.join("add"), "");
        scripted(world, &script);
        let cases = [
            ("echo '{\"code\":11,\"msg\":\"out of luck\"}'; exit 1", Code::Internal, "out of luck"),
            ("sleep 60", Code::DeadlineExceeded, "within 5 s"),
            ("echo garbage; exit 0", Code::Internal, "garbage"),
            ("/usr/lib/cni/ptp >/dev/null; kill -KILL $$", Code::Internal, "signal: 9"),
        ];
        for (add, code, said) in cases {
            write(&switch.join("add"), add);
            let refused = world.try_run_pod(&world.pod_config("unlucky")).unwrap_err();
            assert!(refused.code() == code && refused.message().contains(said), "{add}: {refused}");
            assert_eq!((held(world), notes(world)), (0, 0), "{add}");
        }
        write(&switch.join("add"), "");
        world.run_pod("lucky");
    });
}

#[test]
fn privileged_a_daemon_killed_while_a_plugin_works_leaves_nothing() {
    in_world(|world| {
        let switch = world.directory("switch");
        let script = format!("[ $CNI_COMMAND = ADD ] && . {}/add", switch.display());
        write(&switch.join("add"), "");
        scripted(world, &script);
        world.run_pod("kept");
        // It connects the pod, and then does not come back before the daemon is dead.
        let begun = switch.join("begun");
        let add = format!("/usr/lib/cni/ptp; touch {}; sleep 1; exit 0", begun.display());
        write(&switch.join("add"), &add);
        let request = cri_api::runtime::v1::RunPodSandboxRequest {
            config: Some(world.pod_config("torn")),
            ..Default::default()
        };
        let mut runtime = world.cri().runtime_service();
        world.cri().block_on(async {
            let torn = tokio::spawn(async move { runtime.run_pod_sandbox(request).await });
            while !begun.exists() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            torn.abort();
        });
        assert_eq!((held(world), notes(world)), (2, 2));
        world.kill_daemon();
        write(&switch.join("add"), "");
        world.start_daemon();
        until("the torn pod's lease is given back", || (held(world), notes(world)) == (1, 1));
    });
}

#[test]
fn privileged_a_deletion_that_fails_holds_up_nobody_and_is_done_later() {
    in_world(|world| {
        let switch = world.directory("switch");
        let script = format!("[ $CNI_COMMAND = DEL ] && . {}/del", switch.display());
        write(&switch.join("del"), "echo '{\"code\":1,\"msg\":\"not now\"}'; exit 1");
        scripted(world, &script);
        let pod = world.run_pod("pod");
        world.remove_pod(&pod.id);
        assert_eq!((held(world), notes(world)), (1, 1));
        world.kill_daemon();
        fs::remove_dir_all(configurations(world)).unwrap();
        world.start_daemon();
        assert_eq!((held(world), notes(world)), (1, 1));
        write(&switch.join("del"), "");
        until("the lease is given back", || (held(world), notes(world)) == (0, 0));
    });
}
