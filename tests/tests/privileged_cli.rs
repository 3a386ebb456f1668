//! What people type: `berth`, and crictl where it is built.

use std::process::Output;

use suite::daemon::write;
use suite::patience::until;
use suite::process::{output, succeed};
use suite::{ImageBuilder, World, in_bare_world, in_world};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Runs `berth`, which must succeed, and gives what it printed.
fn berth(world: &World, arguments: &[&str]) -> String {
    succeed(&mut world.berth(arguments))
}

fn shown(output: &Output) -> String {
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

#[test]
fn privileged_run_pulls_what_is_not_there_and_says_so() {
    in_bare_world(|world| {
        let reference = world.registry().push("hello", "1", &ImageBuilder::busybox().build());
        let first = output(&mut world.berth(&["run", &reference, "echo", "hello", "world"]));
        assert!(first.status.success(), "{}", shown(&first));
        assert_eq!(text(&first.stdout), "hello world\n", "stdout is the container's alone");
        let said = text(&first.stderr);
        assert!(said.contains(&reference) && said.contains("local"), "{said}");
        let second = output(&mut world.berth(&["run", &reference, "echo", "again"]));
        assert_eq!(text(&second.stdout), "again\n");
        assert!(!text(&second.stderr).contains("local"), "{}", shown(&second));
        let left = world.census();
        let monitors = left.of("processes").iter().filter(|name| name.starts_with("berth-monitor"));
        assert_eq!(monitors.count(), 0, "it has removed its pod");
        world.remove_image(&reference);
    });
}

#[test]
fn privileged_run_passes_the_exit_code_and_both_streams_on() {
    in_world(|world| {
        let image = world.busybox.reference.clone();
        for code in [0, 1, 7, 137] {
            let script = format!("echo out; echo err >&2; exit {code}");
            let output = output(&mut world.berth(&["run", &image, "sh", "-c", &script]));
            assert_eq!(output.status.code(), Some(code), "{}", shown(&output));
            assert_eq!(text(&output.stdout), "out\n");
            assert!(text(&output.stderr).contains("err\n"), "{}", shown(&output));
        }
        let missing = output(&mut world.berth(&["run", &image, "/no/such/program"]));
        assert!(!missing.status.success());
        assert!(text(&missing.stderr).contains("/no/such/program"), "{}", shown(&missing));
    });
}

#[test]
fn privileged_run_takes_environment_volumes_and_the_hosts_network() {
    in_world(|world| {
        let image = world.busybox.reference.clone();
        let volume = world.directory("volume");
        write(&volume.join("file"), "of the node\n");
        let volume = format!("{}:/data", volume.display());
        let script = "echo $A $B; cat /data/file; echo back > /data/back";
        let arguments =
            ["run", "-e", "A=1", "-e", "B=two words", "-v", &volume, &image, "sh", "-c", script];
        assert_eq!(berth(world, &arguments), "1 two words\nof the node\n");
        let back = world.directory("volume").join("back");
        assert_eq!(std::fs::read_to_string(back).unwrap(), "back\n");
        let links = berth(world, &["run", "--net=host", &image, "ip", "link"]);
        assert!(links.contains("uplink"), "{links}");
    });
}

#[test]
fn privileged_a_detached_container_is_listed_read_entered_stopped_and_removed() {
    in_world(|world| {
        let image = world.busybox.reference.clone();
        let script = "echo started; while :; do sleep 1; done";
        let printed = berth(world, &["run", "-d", "--name", "web", &image, "sh", "-c", script]);
        let id = printed.trim_end().to_owned();
        assert!(!id.is_empty() && !id.contains('\n'), "the id alone: {printed:?}");
        let listed = berth(world, &["ps"]);
        assert!(listed.contains("web") && listed.contains("Running"), "{listed}");
        assert!(listed.contains(&id[..12]), "{listed}");
        until("its line is in the log", || berth(world, &["logs", &id]).contains("started"));
        let answer = output(&mut world.berth(&["exec", "--sync", &id, "echo", "inside"]));
        assert_eq!(text(&answer.stdout), "inside\n", "{}", shown(&answer));
        let code = output(&mut world.berth(&["exec", "--sync", &id, "sh", "-c", "exit 9"]));
        assert!(!code.status.success(), "{}", shown(&code));
        let pods = berth(world, &["pods"]);
        assert!(pods.contains("web") && pods.contains("Ready"), "{pods}");
        berth(world, &["stop", &id]);
        assert!(!berth(world, &["ps"]).contains("web"));
        assert!(berth(world, &["ps", "-a"]).contains("Exited"));
        berth(world, &["rm", &id]);
        assert!(!berth(world, &["ps", "-a"]).contains("web"));
        // Its pod is the census's concern: the test removes what is left before it counts.
    });
}

#[test]
fn privileged_version_and_info_and_images_print_what_the_daemon_says() {
    in_world(|world| {
        let version = berth(world, &["version"]);
        assert!(version.contains("RuntimeApiVersion") && version.contains("v1"), "{version}");
        let info = json(&berth(world, &["info"]));
        assert!(info["status"]["conditions"].is_array(), "{info}");
        let images = berth(world, &["images"]);
        let id = &world.busybox.id["sha256:".len()..][..13];
        assert!(images.contains("IMAGE ID") && images.contains(id), "{images}");
        let quiet = berth(world, &["images", "-q"]);
        assert!(quiet.contains(&world.busybox.id), "{quiet}");
        let inspected = json(&berth(world, &["inspecti", &world.busybox.reference]));
        assert_eq!(inspected["status"]["id"], world.busybox.id.as_str());
    });
}

#[test]
fn privileged_an_error_of_the_daemon_is_one_readable_line_and_a_failure() {
    in_world(|world| {
        let unknown = output(&mut world.berth(&["inspect", "0000000000000"]));
        assert!(!unknown.status.success());
        let said = text(&unknown.stderr);
        assert!(said.contains("0000000000000"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        let nobody = output(
            world.berth(&["ps"]).env("CONTAINER_RUNTIME_ENDPOINT", "unix:///no/such/socket"),
        );
        assert!(!nobody.status.success());
        assert!(text(&nobody.stderr).contains("/no/such/socket"), "{}", shown(&nobody));
    });
}

/// The two files that crictl and `berth` take, for a pod and a container.
fn files(world: &World, name: &str) -> (String, String) {
    let directory = world.directory(&format!("{name}-files"));
    let logs = world.directory(&format!("{name}-logs"));
    let pod = serde_json::json!({
        "metadata": { "name": name, "namespace": "default", "uid": name, "attempt": 1 },
        "log_directory": logs,
        "linux": { "cgroup_parent": world.stage.cgroups.path() },
    });
    let container = serde_json::json!({
        "metadata": { "name": name },
        "image": { "image": world.busybox.reference },
        "command": ["sh", "-c", "echo from the container; sleep 1000"],
        "log_path": format!("{name}.log"),
        "linux": {},
    });
    let path = |file: &str, json: &serde_json::Value| {
        let path = directory.join(file);
        write(&path, &json.to_string());
        path.display().to_string()
    };
    (path("pod.json", &pod), path("container.json", &container))
}

/// The whole life of a pod, typed by hand. `client` runs one command that must succeed.
fn type_a_pods_life(world: &World, name: &str, client: &dyn Fn(&[&str]) -> String) {
    let (pod_file, container_file) = files(world, name);
    client(&["pull", &world.busybox.reference]);
    let pod = client(&["runp", &pod_file]).trim_end().to_owned();
    let id = client(&["create", &pod, &container_file, &pod_file]).trim_end().to_owned();
    assert!(client(&["ps", "-a"]).contains("Created"));
    client(&["start", &id]);
    let listed = client(&["ps"]);
    assert!(listed.contains(name) && listed.contains("Running"), "{listed}");
    until("its line is in the log", || client(&["logs", &id]).contains("from the container"));
    assert_eq!(client(&["exec", "-s", &id, "echo", "inside"]).trim_end(), "inside");
    let inspected = json(&client(&["inspect", &id]));
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING", "{inspected}");
    let inspected = json(&client(&["inspectp", &pod]));
    assert_eq!(inspected["status"]["state"], "SANDBOX_READY", "{inspected}");
    client(&["stop", &id]);
    client(&["rm", &id]);
    assert_eq!(client(&["stopp", &pod]).trim_end(), format!("Stopped sandbox {pod}"));
    assert_eq!(client(&["rmp", &pod]).trim_end(), format!("Removed sandbox {pod}"));
    assert!(!client(&["pods", "-q"]).contains(&pod));
}

#[test]
fn privileged_berth_leads_a_pod_through_its_life_as_crictl_does() {
    in_world(|world| {
        type_a_pods_life(world, "by-berth", &|arguments| berth(world, arguments));
        world.assert_nothing_is_left();
    });
}

#[test]
fn privileged_crictl_leads_a_pod_through_its_life() {
    in_world(|world| {
        if world.crictl(&[]).is_none() {
            return;
        }
        let run = |arguments: &[&str]| {
            succeed(&mut world.crictl(arguments).expect("it was there just now"))
        };
        let version = run(&["version"]);
        assert!(version.contains("RuntimeApiVersion:  v1"), "{version}");
        type_a_pods_life(world, "by-crictl", &run);
        world.assert_nothing_is_left();
    });
}
