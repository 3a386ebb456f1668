//! What Prometheus finds: the text as it is, judged by promtool, and scraped by a real Prometheus.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use suite::daemon::{METRICS, write};
use suite::http;
use suite::in_world;
use suite::patience::{eventually, until};
use suite::world::World;

fn scraped() -> String {
    let answer = http::send(METRICS, "GET", "/metrics", "", &[]).expect("scrape the daemon");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    answer.text()
}

/// The value of a series, written as in the text.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// A pod with a running container, one that ended well and one that did not.
fn busy(world: &World) -> suite::pods::Pod {
    let pod = world.run_pod("busy");
    world.run_shell(&pod, "runs", "sleep 1000");
    for (name, script) in [("well", "true"), ("ill", "exit 3")] {
        let id = world.run_shell(&pod, name, script);
        world.wait(&id);
    }
    pod
}

#[test]
fn privileged_the_state_of_the_node_and_what_happened_on_it_can_be_scraped() {
    in_world(|world| {
        let before = scraped();
        assert_eq!(value(&before, "berth_pods{state=\"ready\"}"), Some(0.0));
        let pod = busy(world);
        let text = scraped();
        for (series, expected) in [
            ("berth_pods{state=\"ready\"}", 1.0),
            ("berth_containers{state=\"running\"}", 1.0),
            ("berth_containers{state=\"exited\"}", 2.0),
            ("berth_images", 1.0),
            ("berth_monitors", 1.0),
            ("berth_container_exits_total{reason=\"Completed\"}", 1.0),
            ("berth_container_exits_total{reason=\"Error\"}", 1.0),
            ("berth_image_pulls_total{result=\"success\"}", 1.0),
            ("berth_grpc_calls_total{code=\"OK\",operation=\"StartContainer\"}", 3.0),
            ("berth_start_stage_duration_seconds_count{stage=\"network\"}", 1.0),
            ("berth_start_stage_duration_seconds_count{stage=\"spawn\"}", 3.0),
        ] {
            assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
        }
        for (series, least) in [
            ("berth_monitors_proportional_set_bytes", 10_000.0),
            ("berth_layer_store_bytes", 1_000_000.0),
            ("berth_database_bytes", 4096.0),
            ("berth_record_write_duration_seconds_count", 4.0),
            ("process_resident_memory_bytes", 1_000_000.0),
            ("process_open_fds", 10.0),
        ] {
            let found = value(&text, series).unwrap_or_default();
            assert!(found >= least, "{series} is {found} in\n{text}");
        }
        world.stop_pod(&pod.id);
        assert_eq!(value(&scraped(), "berth_pods{state=\"notready\"}"), Some(1.0));
    });
}

#[test]
fn privileged_promtool_finds_nothing_wrong_with_names_and_units() {
    in_world(|world| {
        busy(world);
        let mut command = Command::new("promtool");
        command.args(["check", "metrics"]).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut promtool = command.spawn().expect("start promtool (hack/setup)");
        promtool.stdin.take().unwrap().write_all(scraped().as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    });
}

#[test]
fn privileged_a_real_prometheus_scrapes_the_node() {
    in_world(|world| {
        busy(world);
        let directory = world.directory("prometheus");
        let config = directory.join("prometheus.yml");
        write(
            &config,
            &format!(
                "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: berth\n  \
                 static_configs: [{{targets: [\"{METRICS}\"]}}]\n"
            ),
        );
        let address = "127.0.0.1:9090".parse().unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut prometheus = world.background(&mut command);
        let target = "/api/v1/query?query=berth_containers%7Bstate%3D%22exited%22%7D";
        let found = eventually(|| {
            let answer = http::send(address, "GET", target, "", &[]).ok()?;
            let value: Value = serde_json::from_slice(&answer.body).ok()?;
            value["data"]["result"][0]["value"][1].as_str().map(ToOwned::to_owned)
        });
        assert_eq!(found.as_deref(), Some("2"));
        prometheus.terminate();
        until("prometheus is gone", || prometheus.ended().is_some());
    });
}
