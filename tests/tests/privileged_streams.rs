//! Exec, attach and port-forward, as crictl does them over both of its transports.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use cri_api::runtime::v1::ContainerConfig;
use suite::patience::{eventually, until};
use suite::process::{Process, output};
use suite::{World, in_world};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// crictl with a transport; `None` where it is not built.
fn crictl(world: &World, verb: &str, transport: &str, more: &[&str]) -> Option<Command> {
    world.crictl(&[&[verb, "--transport", transport], more].concat())
}

fn with_input(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(command).expect("start crictl");
    let mut stdin = process.child().stdin.take().expect("it is piped");
    stdin.write_all(input).expect("write to crictl");
    drop(stdin);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    process.child().stdout.take().expect("it is piped").read_to_end(&mut stdout).expect("read");
    process.child().stderr.take().expect("it is piped").read_to_end(&mut stderr).expect("read");
    let status = eventually(|| process.ended()).expect("crictl ends");
    Output { status, stdout, stderr }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn interactive(mut config: ContainerConfig, tty: bool) -> ContainerConfig {
    (config.stdin, config.tty) = (true, tty);
    config
}

#[test]
fn privileged_crictl_execs_with_output_errors_and_exit_code() {
    in_world(|world| {
        let pod = world.run_pod("crictl-exec");
        let id = world.run_shell(&pod, "sleeper", "sleep 1000");
        for transport in TRANSPORTS {
            let script = "echo out; echo err >&2; exit 7";
            let Some(mut exec) = crictl(world, "exec", transport, &[&id, "sh", "-c", script])
            else {
                return;
            };
            let got = output(&mut exec);
            assert_eq!(text(&got.stdout), "out\n", "{transport}");
            let errors = text(&got.stderr);
            assert!(
                errors.lines().any(|line| line == "err") && errors.contains("exit code 7"),
                "{errors}"
            );
            assert!(!got.status.success(), "{transport}");
            let mut exec = crictl(world, "exec", transport, &["-i", &id, "cat"]).expect("crictl");
            let input = "all of it\n".repeat(20_000);
            let got = with_input(&mut exec, input.as_bytes());
            assert!(got.status.success(), "{transport}: {}", text(&got.stderr));
            assert_eq!(text(&got.stdout).len(), input.len(), "{transport}: half-close");
        }
    });
}

#[test]
fn privileged_crictl_execs_on_a_terminal() {
    in_world(|world| {
        let pod = world.run_pod("crictl-tty");
        let id = world.run_shell(&pod, "sleeper", "sleep 1000");
        for transport in TRANSPORTS {
            let inside = "tty; until stty size | grep \"33 99\"; do sleep 0.1; done; read x; echo got $x; exit 3";
            let Some(exec) = crictl(world, "exec", transport, &["-i", "-t", &id, "sh", "-c"])
            else {
                return;
            };
            // script(1) gives it a terminal of its own, of this size.
            let words: Vec<String> = std::iter::once(exec.get_program())
                .chain(exec.get_args())
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            let line = format!("stty rows 33 cols 99; {} '{inside}'", words.join(" "));
            let mut terminal = Command::new("script");
            terminal.args(["-qec", &line, "/dev/null"]);
            let got = with_input(&mut terminal, b"word\n");
            let heard = text(&got.stdout);
            assert!(heard.contains("/dev/pts/0"), "{transport}: {heard}");
            assert!(heard.contains("33 99"), "{transport}: {heard}");
            assert!(heard.contains("got word"), "{transport}: {heard}");
            assert!(!got.status.success(), "{transport}: {heard}");
        }
    });
}

#[test]
fn privileged_crictl_attaches() {
    in_world(|world| {
        let pod = world.run_pod("crictl-attach");
        for transport in TRANSPORTS {
            let script = "while read x; do echo heard $x; done";
            let config = world.container_config(transport, &["sh", "-c", script]);
            let mut config = interactive(config, false);
            config.stdin_once = true;
            let id = world.run(&pod, config);
            let Some(mut attach) = crictl(world, "attach", transport, &["-i", &id]) else { return };
            let got = with_input(&mut attach, b"one\ntwo\n");
            assert!(got.status.success(), "{transport}: {}", text(&got.stderr));
            assert_eq!(text(&got.stdout), "heard one\nheard two\n", "{transport}");
            assert_eq!(world.wait(&id).exit_code, 0, "its input was all there is");
        }
    });
}

#[test]
fn privileged_crictl_forwards_ports() {
    in_world(|world| {
        let pod = world.run_pod("crictl-forward");
        let script = "mkdir /tmp/www; echo hello from the pod > /tmp/www/index.html; \
                      httpd -f -p 127.0.0.1:8080 -h /tmp/www";
        let id = world.run_shell(&pod, "server", script);
        until("the server serves", || {
            world
                .try_exec(&id, &["busybox", "wget", "-qO-", "http://127.0.0.1:8080/"], 5)
                .is_ok_and(|answer| answer.exit_code == 0)
        });
        for (transport, port) in TRANSPORTS.into_iter().zip([18_080_u16, 18_081]) {
            let ports = format!("{port}:8080");
            let Some(mut forward) = crictl(world, "port-forward", transport, &[&pod.id, &ports])
            else {
                return;
            };
            forward.stdout(Stdio::null()).stderr(Stdio::null());
            let _forward = world.background(&mut forward);
            for _ in 0..3 {
                let page = eventually(|| get(port));
                let page = page.unwrap_or_else(|| panic!("no page over {transport}"));
                assert!(page.ends_with("hello from the pod\n"), "{transport}: {page}");
            }
        }
    });
}

#[test]
fn privileged_berth_streams_as_crictl_does() {
    in_world(|world| {
        let pod = world.run_pod("berth-streams");
        let id = world.run_shell(&pod, "sleeper", "sleep 1000");
        let berth = |verb: &str, transport: &str, more: &[&str]| {
            world.berth(&[&[verb, "--transport", transport], more].concat())
        };
        for transport in TRANSPORTS {
            let script = "echo out; echo err >&2; exit 7";
            let got = output(&mut berth("exec", transport, &[&id, "sh", "-c", script]));
            assert_eq!((text(&got.stdout), text(&got.stderr)), ("out\n".into(), "err\n".into()));
            assert_eq!(got.status.code(), Some(7), "{transport}");
            let input = "all of it\n".repeat(20_000);
            let got =
                with_input(&mut berth("exec", transport, &["-i", &id, "cat"]), input.as_bytes());
            assert!(got.status.success(), "{transport}: {}", text(&got.stderr));
            assert_eq!(text(&got.stdout).len(), input.len(), "{transport}: half-close");
            let got = output(&mut berth("exec", transport, &[&id, "/no/such/program"]));
            assert!(text(&got.stderr).contains("/no/such/program"), "{}", text(&got.stderr));

            let script = "while read x; do echo heard $x; done";
            let name = format!("reader-{transport}");
            let mut config =
                interactive(world.container_config(&name, &["sh", "-c", script]), false);
            config.stdin_once = true;
            let reader = world.run(&pod, config);
            let got = with_input(&mut berth("attach", transport, &["-i", &reader]), b"one\ntwo\n");
            assert_eq!(text(&got.stdout), "heard one\nheard two\n", "{transport}");

            let inside = "tty; until stty size | grep \"33 99\"; do sleep 0.1; done; exit 3";
            let exec = berth("exec", transport, &["-i", "-t", &id, "sh", "-c"]);
            let mut words = vec![exec.get_program().to_string_lossy().into_owned()];
            words.extend(exec.get_args().map(|word| word.to_string_lossy().into_owned()));
            let line =
                format!("stty rows 33 cols 99; {} '{inside}'; echo code $?", words.join(" "));
            let mut terminal = Command::new("script");
            terminal.args(["-qec", &line, "/dev/null"]);
            for (name, value) in exec.get_envs() {
                terminal.env(name, value.expect("it is set"));
            }
            let heard = text(&with_input(&mut terminal, b"").stdout);
            assert!(heard.contains("33 99") && heard.contains("code 3"), "{transport}: {heard}");
        }
        let script = "mkdir /tmp/www; echo hello > /tmp/www/index.html; \
                      httpd -f -p 127.0.0.1:8080 -h /tmp/www";
        world.run_shell(&pod, "server", script);
        for (transport, port) in TRANSPORTS.into_iter().zip([18_090_u16, 18_091]) {
            let mut forward = berth("port-forward", transport, &[&pod.id, &format!("{port}:8080")]);
            forward.stdout(Stdio::null()).stderr(Stdio::null());
            let _forward = world.background(&mut forward);
            let page = eventually(|| get(port)).expect("a page");
            assert!(page.ends_with("hello\n"), "{transport}: {page}");
        }
    });
}

fn get(port: u16) -> Option<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    connection.read_to_string(&mut page).ok()?;
    (!page.is_empty()).then_some(page)
}
