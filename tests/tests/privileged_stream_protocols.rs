//! The streaming server's protocols, by a client that also does what no honest one would.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::time::Duration;

use cri_api::runtime::v1::{ContainerConfig, NamespaceMode, PortForwardRequest};
use remote::Stream;
use remote::message::Size;
use remote::spdy::Spdy;
use remote::websocket;
use suite::patience::until;
use suite::pods::pod_security;
use suite::streams::{
    BOTH, OUTPUT, SPDY, Speak, TERMINAL, V5, all, exit_code, form, forwarded, request, session,
    switch,
};
use suite::{World, in_world};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

const EVERY: [Speak; 12] = [
    Speak::Spdy("v4.channel.k8s.io"),
    Speak::Spdy("v3.channel.k8s.io"),
    Speak::Spdy("v2.channel.k8s.io"),
    Speak::Spdy("channel.k8s.io"),
    Speak::WebSocket("v5.channel.k8s.io"),
    Speak::WebSocket("v4.channel.k8s.io"),
    Speak::WebSocket("v3.channel.k8s.io"),
    Speak::WebSocket("v2.channel.k8s.io"),
    Speak::WebSocket("channel.k8s.io"),
    Speak::WebSocket("v4.base64.channel.k8s.io"),
    Speak::WebSocket("base64.channel.k8s.io"),
    Speak::WebSocket(""),
];

fn has_status(how: Speak) -> bool {
    let (Speak::Spdy(protocol) | Speak::WebSocket(protocol)) = how;
    protocol.starts_with("v4") || protocol.starts_with("v5")
}

fn sleeper(world: &World, name: &str) -> String {
    let pod = world.run_pod(name);
    world.run_shell(&pod, "sleeper", "while :; do sleep 0.1; done")
}

/// Drops a connection without a farewell. Its tasks need a moment to be gone.
async fn hang_up<T>(session: T) {
    drop(session);
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn interactive(mut config: ContainerConfig, tty: bool) -> ContainerConfig {
    (config.stdin, config.tty) = (true, tty);
    config
}

#[test]
fn privileged_every_version_carries_output_errors_and_the_exit() {
    in_world(|world| {
        let id = sleeper(world, "versions");
        for how in EVERY {
            let cases = [("echo out; echo err >&2; exit 7", 7), ("echo out; echo err >&2", 0)];
            for (script, code) in cases {
                let url = world.exec_url(&id, &["sh", "-c", script], OUTPUT);
                let (out, err, error) =
                    world.cri().block_on(async { session(&url, how, OUTPUT).await.rest().await });
                assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"), "{how:?}");
                if has_status(how) {
                    assert_eq!(exit_code(&error), Some(code), "{how:?}: {error}");
                } else {
                    let want = ["", "command terminated with non-zero exit code: 7"];
                    assert_eq!(error, want[usize::from(code != 0)], "{how:?}");
                }
            }
        }
    });
}

#[test]
fn privileged_input_ends_where_the_protocol_has_a_word_for_it() {
    in_world(|world| {
        let id = sleeper(world, "half-close");
        for how in [SPDY, V5] {
            let url = world.exec_url(&id, &["sh", "-c", "cat; echo end"], BOTH);
            let (out, _, error) = world.cri().block_on(async {
                let mut session = session(&url, how, BOTH).await;
                session.say("all\n").await;
                session.end_input().await;
                session.rest().await
            });
            assert_eq!((out.as_str(), exit_code(&error)), ("all\nend\n", Some(0)), "{how:?}");
        }
    });
}

#[test]
fn privileged_a_terminal_is_typed_on_and_resized() {
    in_world(|world| {
        let id = sleeper(world, "terminal");
        for how in [SPDY, V5, Speak::WebSocket("v4.base64.channel.k8s.io")] {
            let script = "while read x; do stty size; done";
            let url = world.exec_url(&id, &["sh", "-c", script], TERMINAL);
            world.cri().block_on(async {
                let mut session = session(&url, how, TERMINAL).await;
                let resize = session.resize.take().unwrap();
                for (width, height) in [(99, 33), (132, 50)] {
                    let size = serde_json::to_vec(&Size { width, height }).unwrap();
                    resize.send(size).await.unwrap();
                    // The size and the keys are different channels.
                    session.type_until(&format!("{height} {width}")).await;
                }
                session.say("\u{4}").await;
                let (_, _, error) = session.rest().await;
                assert_eq!(exit_code(&error), Some(0), "{how:?}: {error}");
            });
        }
    });
}

#[test]
fn privileged_an_address_works_once_and_only_for_its_purpose() {
    in_world(|world| {
        let id = sleeper(world, "tokens");
        let url = world.exec_url(&id, &["true"], OUTPUT);
        let refused = |url: &str, how| world.cri().block_on(switch(url, how)).unwrap_err();
        world.cri().block_on(async { session(&url, SPDY, OUTPUT).await.rest().await });
        assert_eq!(refused(&url, SPDY).code, 404, "used");
        let url = world.exec_url(&id, &["true"], OUTPUT);
        assert_eq!(refused(&url.replace("/exec/", "/attach/"), SPDY).code, 404, "another purpose");
        assert_eq!(refused(&url, SPDY).code, 404, "and that used it up");
        let url = world.exec_url(&id, &["true"], OUTPUT);
        assert_eq!(refused(&url, Speak::WebSocket("v9.channel.k8s.io")).code, 403);
        let url = world.exec_url(&id, &["true"], OUTPUT);
        let plain = world.cri().block_on(request(&url, &[])).unwrap_err();
        assert_eq!(plain.code, 400, "{plain:?}");
        let base = url.split("/exec/").next().unwrap();
        for path in
            ["/", "/exec", "/exec/", "/exec/x/y", "/other/x", "/exec/AAAAAAAAAAAAAAAAAAAAAA"]
        {
            let guess = world.cri().block_on(request(&format!("{base}{path}"), &[])).unwrap_err();
            assert_eq!(guess.code, 404, "{path}");
        }
    });
}

#[test]
fn privileged_what_cannot_be_streamed_is_refused_at_once() {
    in_world(|world| {
        let pod = world.run_pod("refused");
        let id = world.run_shell(&pod, "sleeper", "sleep 1000");
        let code = |id: &str, command: &[&str]| {
            world.try_exec_url(id, command, OUTPUT).unwrap_err().code()
        };
        assert_eq!(code(&id, &[]), Code::InvalidArgument);
        assert_eq!(code(&"0".repeat(64), &["true"]), Code::NotFound);
        let ports = |port: Vec<i32>| {
            let request = PortForwardRequest { pod_sandbox_id: pod.id.clone(), port };
            world.cri().port_forward(request).unwrap_err().code()
        };
        assert_eq!(ports(vec![0]), Code::InvalidArgument);
        assert_eq!(ports(vec![80, 65_536]), Code::InvalidArgument);
        world.stop(&id, 0);
        assert_eq!(code(&id, &["true"]), Code::FailedPrecondition);
        world.stop_pod(&pod.id);
        assert_eq!(ports(vec![80]), Code::FailedPrecondition);
    });
}

#[test]
fn privileged_a_command_that_cannot_run_says_so_on_the_error_stream() {
    in_world(|world| {
        let id = sleeper(world, "missing");
        for (how, wanted) in [(SPDY, OUTPUT), (V5, OUTPUT), (V5, TERMINAL)] {
            let url = world.exec_url(&id, &["/no/such/program"], wanted);
            let (out, err, error) =
                world.cri().block_on(async { session(&url, how, wanted).await.rest().await });
            assert_eq!((out.as_str(), err.as_str()), ("", ""));
            assert!(error.contains("/no/such/program"), "{error}");
            assert_eq!(exit_code(&error), None, "{error}");
        }
    });
}

/// S2, and the leaks of CVE-2022-23471 and CVE-2025-64329.
#[test]
fn privileged_a_client_that_is_killed_leaves_nothing() {
    in_world(|world| {
        let id = sleeper(world, "killed");
        world.exec(&id, &["true"]);
        let before = world.settled();
        for how in [SPDY, V5] {
            for wanted in [BOTH, TERMINAL] {
                let script = "echo up; sleep 4001 & sleep 4002";
                let url = world.exec_url(&id, &["sh", "-c", script], wanted);
                world.cri().block_on(async {
                    let mut session = session(&url, how, wanted).await;
                    session.hear("up").await;
                    hang_up(session).await;
                });
                world.assert_census_is(&before);
            }
        }
        // Before it opened its streams, before it asked, and in the middle of a request.
        let url = world.exec_url(&id, &["sleep", "4003"], BOTH);
        world.cri().block_on(async { hang_up(switch(&url, SPDY).await.unwrap()).await });
        let url = world.exec_url(&id, &["sleep", "4003"], BOTH);
        world.cri().block_on(async {
            let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
            let mut io = tokio::net::TcpStream::connect(host).await.unwrap();
            io.write_all(b"GET /exec/").await.unwrap();
            hang_up(io).await;
        });
        world.assert_census_is(&before);
        assert_eq!(world.exec(&id, &["echo", "alive"]), "alive\n");
    });
}

/// S1, G15: a client that reads nothing holds up its own exec and nobody else.
#[test]
fn privileged_a_client_that_does_not_read_holds_up_nobody_else() {
    in_world(|world| {
        let id = sleeper(world, "stuck");
        world.exec(&id, &["true"]);
        let before = world.settled();
        let url = world.exec_url(&id, &["sh", "-c", "yes"], OUTPUT);
        let stuck = world.cri().block_on(async {
            let mut session = session(&url, SPDY, OUTPUT).await;
            session.hear("y").await;
            session
        });
        let memory = daemon_memory_kb(world);
        for _ in 0..10 {
            assert_eq!(world.exec(&id, &["echo", "still"]), "still\n");
        }
        let more = daemon_memory_kb(world).saturating_sub(memory);
        assert!(more < 32 << 10, "the daemon grew by {more} KiB");
        world.cri().block_on(hang_up(stuck));
        world.assert_census_is(&before);
    });
}

fn daemon_memory_kb(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.daemon_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn privileged_several_hundred_sessions_live_side_by_side() {
    const MANY: usize = 300;
    in_world(|world| {
        let id = sleeper(world, "many");
        world.exec(&id, &["true"]);
        let before = world.settled();
        let urls: Vec<_> = (0..MANY).map(|_| world.exec_url(&id, &["cat"], BOTH)).collect();
        world.cri().block_on(async {
            let mut sessions = Vec::new();
            for (number, url) in urls.iter().enumerate() {
                let how = if number % 2 == 0 { SPDY } else { V5 };
                sessions.push(session(url, how, BOTH).await);
            }
            for (number, session) in sessions.iter_mut().enumerate() {
                session.say(&format!("I am {number}.\n")).await;
            }
            for (number, session) in sessions.iter_mut().enumerate() {
                assert_eq!(session.hear(".\n").await, format!("I am {number}.\n"));
            }
            for mut session in sessions {
                session.end_input().await;
                assert_eq!(exit_code(&session.rest().await.2), Some(0));
            }
        });
        world.assert_census_is(&before);
    });
}

#[test]
fn privileged_a_child_that_keeps_the_output_does_not_keep_the_session() {
    in_world(|world| {
        let id = sleeper(world, "drain");
        for how in [SPDY, V5] {
            let url = world.exec_url(&id, &["sh", "-c", "echo said; sleep 20 & exit 5"], OUTPUT);
            let (out, _, error) =
                world.cri().block_on(async { session(&url, how, OUTPUT).await.rest().await });
            assert_eq!((out.as_str(), exit_code(&error)), ("said\n", Some(5)), "{how:?}");
        }
    });
}

#[test]
fn privileged_attached_clients_hear_and_type_and_their_going_ends_nothing() {
    in_world(|world| {
        let pod = world.run_pod("attach");
        let script = "while read x; do echo heard $x; done";
        let id = world
            .run(&pod, interactive(world.container_config("reader", &["sh", "-c", script]), false));
        let urls: Vec<_> = (0..3).map(|_| world.attach_url(&id, BOTH)).collect();
        world.cri().block_on(async {
            let mut first = session(&urls[0], SPDY, BOTH).await;
            first.say("one\n").await;
            assert_eq!(first.hear("\n").await, "heard one\n");
            let mut second = session(&urls[1], V5, BOTH).await;
            second.say("two\n").await;
            assert_eq!(second.hear("\n").await, "heard two\n");
            assert_eq!(first.hear("\n").await, "heard two\n", "everybody hears");
            second.end_input().await;
            drop(first);
            let mut third = session(&urls[2], SPDY, BOTH).await;
            third.say("three\n").await;
            assert_eq!(third.hear("\n").await, "heard three\n", "its input is open still");
        });
        let log: Vec<_> = world.log_of(&id).iter().map(|line| line.text.clone()).collect();
        assert_eq!(log, ["heard one", "heard two", "heard three"]);
        let url = world.attach_url(&id, OUTPUT);
        let ending = world.cri().block_on(async {
            let session = session(&url, V5, OUTPUT).await;
            let mut service = world.cri().runtime_service();
            let stop =
                cri_api::runtime::v1::StopContainerRequest { container_id: id.clone(), timeout: 0 };
            service.stop_container(stop).await.unwrap();
            session.rest().await.2
        });
        assert_eq!(exit_code(&ending), Some(0), "the end of the container: {ending}");
    });
}

#[test]
fn privileged_a_containers_terminal_is_resized_and_logs_one_stream() {
    in_world(|world| {
        let pod = world.run_pod("attach-tty");
        let script = "echo err >&2; while read x; do stty size; done";
        let id = world
            .run(&pod, interactive(world.container_config("tty", &["sh", "-c", script]), true));
        let url = world.attach_url(&id, TERMINAL);
        world.cri().block_on(async {
            let mut session = session(&url, V5, TERMINAL).await;
            let resize = session.resize.take().unwrap();
            resize
                .send(serde_json::to_vec(&Size { width: 99, height: 33 }).unwrap())
                .await
                .unwrap();
            session.type_until("33 99").await;
        });
        let log = world.log_of(&id);
        assert!(log.iter().all(|line| line.stream == "stdout"), "{log:?}");
        assert_eq!(log[0].text, "err");
    });
}

#[test]
fn privileged_input_that_comes_once_ends_with_its_client_but_a_terminal_is_left_standing() {
    in_world(|world| {
        let pod = world.run_pod("once");
        for (name, tty) in [("pipe", false), ("tty", true)] {
            let mut config = interactive(world.container_config(name, &["sh"]), tty);
            config.stdin_once = true;
            let id = world.run(&pod, config);
            let wanted = if tty { TERMINAL } else { BOTH };
            let say = |line: &str, answer: &str| {
                let url = world.attach_url(&id, wanted);
                world.cri().block_on(async {
                    let mut session = session(&url, V5, wanted).await;
                    session.say(line).await;
                    session.hear(answer).await;
                });
            };
            say("echo in $((1 + 1))\n", "in 2");
            if tty {
                // Whoever comes back goes on in the same shell.
                say("echo again $((1 + 2))\n", "again 3");
                say("echo bye $((2 + 2)); exit\n", "bye 4");
            }
            assert_eq!(world.wait(&id).exit_code, 0, "{name}");
        }
    });
}

#[test]
fn privileged_a_slow_attached_client_is_cut_off_and_told_why() {
    in_world(|world| {
        let pod = world.run_pod("slow");
        let script =
            "read x; yes $(head -c 999 /dev/zero | tr '\\0' x) | head -c 40000000; echo done";
        let id = world
            .run(&pod, interactive(world.container_config("talker", &["sh", "-c", script]), false));
        let url = world.attach_url(&id, BOTH);
        let ending = world.cri().block_on(async {
            let session = session(&url, SPDY, BOTH).await;
            session.say("go\n").await;
            session
        });
        assert_eq!(world.wait(&id).exit_code, 0, "the container does not wait for it");
        let (out, _, error) = world.cri().block_on(ending.rest());
        assert!(out.len() < 40_000_000 && error.contains("cut off"), "{}: {error}", out.len());
        let log = world.log_of(&id);
        assert_eq!((log.len(), log.last().unwrap().text.as_str()), (40_001, "done"));
    });
}

/// The second listens on IPv6 alone.
const SERVERS: &str = "nc -ll -p 7001 -e cat & \
                       mkdir -p /tmp/www && echo six > /tmp/www/index.html && \
                       httpd -f -p [::1]:7002 -h /tmp/www & wait";

#[test]
fn privileged_ports_are_forwarded_in_every_way_v4_and_v6() {
    in_world(|world| {
        let pod = world.run_pod("forward");
        let id = world.run_shell(&pod, "server", SERVERS);
        until("both listen", || {
            world.exec(&id, &["busybox", "netstat", "-ltn"]).matches(":700").count() == 2
        });
        check_forwards(world, &pod.id);
    });
}

#[test]
fn privileged_ports_of_a_pod_on_the_nodes_network_are_forwarded() {
    in_world(|world| {
        let mut config = world.pod_config("forward-host");
        let options = pod_security(&mut config).namespace_options.as_mut().unwrap();
        options.network = NamespaceMode::Node as i32;
        let pod = world.run_pod_from(config);
        let mut container = world.container_config("server", &["sh", "-c", SERVERS]);
        let context = container.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().network = NamespaceMode::Node as i32;
        let id = world.run(&pod, container);
        until("both listen", || {
            world.exec(&id, &["busybox", "netstat", "-ltn"]).matches(":700").count() >= 2
        });
        check_forwards(world, &pod.id);
    });
}

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

fn check_forwards(world: &World, pod: &str) {
    for tunnel in [false, true] {
        let url = world.forward_url(pod, &[]);
        world.cri().block_on(async {
            let mut spdy = if tunnel {
                let io = switch(&url, Speak::WebSocket("SPDY/3.1+portforward.k8s.io")).await;
                Spdy::client(websocket::tunnel(io.unwrap(), websocket::Side::Client))
            } else {
                Spdy::client(switch(&url, Speak::Spdy("portforward.k8s.io")).await.unwrap())
            };
            let (data, error) = forwarded(&mut spdy, 7001, 1).await;
            let (other, _) = forwarded(&mut spdy, 7002, 2).await;
            let Stream { incoming, outgoing } = data;
            let sending = async {
                outgoing.send(vec![b'x'; 300_000]).await.unwrap();
                outgoing.finish().await.unwrap();
            };
            let (got, ()) = tokio::join!(all(Some(incoming)), sending);
            assert_eq!(got.len(), 300_000, "all of it comes back, after the end of our half");
            assert_eq!(all(Some(error.incoming)).await, "");
            other.outgoing.send(GET).await.unwrap();
            let page = all(Some(other.incoming)).await;
            assert!(page.ends_with("six\n"), "{page}");
            let (data, error) = forwarded(&mut spdy, 7003, 9).await;
            let why = all(Some(error.incoming)).await;
            assert!(why.contains("7003") && why.contains("refused"), "{why}");
            assert_eq!(all(Some(data.incoming)).await, "");
        });
    }
    for protocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", "v5.channel.k8s.io"] {
        let url = world.forward_url(pod, &[7001, 7002]);
        world.cri().block_on(async {
            let io = switch(&url, Speak::WebSocket(protocol)).await.unwrap();
            let client = websocket::Side::Client;
            let mut channels = websocket::channels(io, client, form(protocol), 4);
            for (first, port, say, want) in
                [(0, 7001_u16, &b"echo\n"[..], "echo\n"), (2, 7002, GET, "six\n")]
            {
                let (mut data, mut error) =
                    (channels.take(first).unwrap(), channels.take(first + 1).unwrap());
                assert_eq!(error.incoming.next().await.unwrap(), port.to_le_bytes().to_vec());
                assert_eq!(data.incoming.next().await.unwrap(), port.to_le_bytes().to_vec());
                data.outgoing.send(say).await.unwrap();
                let mut got = String::new();
                while !got.ends_with(want) {
                    let piece = data.incoming.next().await.expect(protocol);
                    got.push_str(&String::from_utf8_lossy(&piece));
                }
            }
        });
    }
}

/// S5: nobody who breaks the protocol gets further, or costs anything.
#[test]
fn privileged_who_breaks_the_protocol_is_hung_up_on() {
    in_world(|world| {
        let id = sleeper(world, "broken");
        world.exec(&id, &["true"]);
        let before = world.settled();
        let cases: [(&str, Speak, Vec<u8>); 4] = [
            ("16 MiB of headers", SPDY, vec![0x80, 3, 0, 1, 0, 255, 255, 255]),
            ("another version", SPDY, vec![0x80, 9, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0]),
            ("not masked", V5, vec![0x82, 1, 0]),
            ("a reserved bit", V5, vec![0xf2, 0x80, 0, 0, 0, 0]),
        ];
        for (name, how, bytes) in cases {
            let url = world.exec_url(&id, &["sleep", "4004"], BOTH);
            world.cri().block_on(async {
                let mut io = switch(&url, how).await.unwrap();
                io.write_all(&bytes).await.unwrap();
                let mut rest = Vec::new();
                let ended =
                    tokio::time::timeout(Duration::from_secs(20), io.read_to_end(&mut rest));
                // A reset is an end as well.
                ended.await.expect(name).ok();
            });
        }
        world.assert_census_is(&before);
    });
}

#[test]
fn privileged_a_session_without_a_word_ends_at_the_idle_limit() {
    in_world(|world| {
        let path = world.config_path();
        let config = std::fs::read_to_string(&path).unwrap();
        suite::daemon::write(&path, &format!("{config}\n[stream]\nidle_timeout_s = 1\n"));
        world.restart_daemon();
        let id = sleeper(world, "idle");
        let url = world.exec_url(&id, &["sleep", "4005"], BOTH);
        let (_, _, error) =
            world.cri().block_on(async { session(&url, V5, BOTH).await.rest().await });
        assert!(error.contains("nothing was said for 1s"), "{error}");
        let url = world.exec_url(
            &id,
            &["sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done"],
            OUTPUT,
        );
        let (out, _, error) =
            world.cri().block_on(async { session(&url, V5, OUTPUT).await.rest().await });
        assert_eq!((out.as_str(), exit_code(&error)), ("1\n2\n3\n4\n5\n6\n", Some(0)));
    });
}
