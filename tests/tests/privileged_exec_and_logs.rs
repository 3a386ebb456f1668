//! Running something in a container, and what a container has said.

use std::time::{Duration, Instant};

use cri_api::runtime::v1::{ExecSyncRequest, Int64Value, ReopenContainerLogRequest};
use suite::patience::until;
use suite::pods::security;
use suite::{World, in_world, log};
use tonic::Code;

fn sleeper(world: &World, name: &str) -> String {
    let pod = world.run_pod(name);
    world.run(&pod, world.container_config("sleeper", &["sleep", "1000"]))
}

#[test]
fn privileged_exec_gives_output_errors_and_exit_code_apart() {
    in_world(|world| {
        let id = sleeper(world, "exec");
        let cases: [(&[&str], &str, &str, i32); 5] = [
            (&["true"], "", "", 0),
            (&["false"], "", "", 1),
            (&["sh", "-c", "echo out; echo err >&2; exit 7"], "out\n", "err\n", 7),
            (&["sh", "-c", "kill -9 $$"], "", "", 137),
            (&["sh", "-c", "echo $FROM_IMAGE"], "yes\n", "", 0),
        ];
        for (command, stdout, stderr, code) in cases {
            let answer = world.try_exec(&id, command, 30).unwrap();
            assert_eq!(String::from_utf8_lossy(&answer.stdout), stdout, "{command:?}");
            assert_eq!(String::from_utf8_lossy(&answer.stderr), stderr, "{command:?}");
            assert_eq!(answer.exit_code, code, "{command:?}");
        }
    });
}

#[test]
fn privileged_exec_of_what_is_not_there_is_an_error_that_names_it() {
    in_world(|world| {
        let id = sleeper(world, "missing");
        match world.try_exec(&id, &["/no/such/program"], 10) {
            Err(error) => assert!(error.message().contains("/no/such/program"), "{error}"),
            Ok(answer) => assert!(matches!(answer.exit_code, 126..=128), "{answer:?}"),
        }
        let none: &[&str] = &[];
        let error = world.try_exec(&id, none, 10).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        world.stop(&id, 0);
        let error = world.try_exec(&id, &["true"], 10).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "not running: {error}");
        let error = world.try_exec(&"0".repeat(64), &["true"], 10).unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{error}");
    });
}

#[test]
fn privileged_exec_runs_as_the_containers_user_in_its_confines() {
    in_world(|world| {
        let pod = world.run_pod("confines");
        let mut config = world.container_config("confines", &["sleep", "1000"]);
        config.working_dir = "/usr".into();
        let context = security(&mut config);
        context.run_as_user = Some(Int64Value { value: 1000 });
        context.no_new_privs = true;
        context.seccomp = Some(cri_api::runtime::v1::SecurityProfile::default());
        let id = world.run(&pod, config);
        assert_eq!(world.exec(&id, &["sh", "-c", "id -u; id -g; pwd"]), "1000\n1000\n/usr\n");
        let of_exec = world.exec(&id, &["cat", "/proc/self/status"]);
        let of_first = world.exec(&id, &["cat", "/proc/1/status"]);
        let lines = |status: &str| -> Vec<String> {
            let keys = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:"];
            let ours = status.lines().filter(|line| keys.iter().any(|key| line.starts_with(key)));
            ours.map(str::to_owned).collect()
        };
        assert_eq!(lines(&of_exec), lines(&of_first));
        let links = world.exec(&id, &["ls", "/proc/self/fd"]);
        assert_eq!(links, "0\n1\n2\n3\n", "and no descriptor of anybody else");
    });
}

#[test]
fn privileged_exec_that_takes_too_long_is_killed_with_its_children() {
    in_world(|world| {
        // The first process inherits the children, and a shell that waits reaps them.
        let pod = world.run_pod("slow");
        let id = world.run_shell(&pod, "reaper", "while :; do sleep 0.1; done");
        let before = world.settled();
        let begun = Instant::now();
        let script = "sleep 2001 & (trap '' TERM HUP; sleep 2002) & sleep 2003";
        let error = world.try_exec(&id, &["sh", "-c", script], 1).unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        world.assert_census_is(&before);
        assert_eq!(world.exec(&id, &["echo", "alive"]), "alive\n");
    });
}

#[test]
fn privileged_exec_ends_when_its_client_hangs_up() {
    in_world(|world| {
        let id = sleeper(world, "hang-up");
        let before = world.settled();
        world.cri().block_on(async {
            let mut service = world.cri().runtime_service();
            let cmd = ["sleep", "3001"].map(str::to_owned).into();
            let request = ExecSyncRequest { container_id: id.clone(), cmd, timeout: 0 };
            let exec = tokio::spawn(async move { service.exec_sync(request).await });
            tokio::time::sleep(Duration::from_millis(200)).await;
            exec.abort();
            // The connection needs a moment to say so.
            tokio::time::sleep(Duration::from_millis(100)).await;
        });
        world.assert_census_is(&before);
    });
}

#[test]
fn privileged_exec_does_not_wait_for_ever_for_a_child_that_keeps_its_output() {
    in_world(|world| {
        let id = sleeper(world, "drain");
        let begun = Instant::now();
        let answer = world.try_exec(&id, &["sh", "-c", "echo said; sleep 1000 &"], 0);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        if let Ok(answer) = answer {
            assert_eq!(answer.stdout, b"said\n");
        }
    });
}

#[test]
fn privileged_exec_output_beyond_the_limit_is_cut_without_an_error() {
    in_world(|world| {
        let id = sleeper(world, "much");
        let answer =
            world.try_exec(&id, &["sh", "-c", "yes | head -c 1000000; exit 3"], 60).unwrap();
        assert_eq!((answer.stdout.len(), answer.exit_code), (1_000_000, 3));
        let script = "yes | head -c 20000000; echo end >&2; exit 4";
        let answer = world.try_exec(&id, &["sh", "-c", script], 60).unwrap();
        assert!(answer.stdout.len() >= 15 << 20 && answer.stdout.len() <= 16 << 20);
        assert_eq!((answer.stderr.as_slice(), answer.exit_code), (b"end\n".as_slice(), 4));
    });
}

#[test]
fn privileged_many_execs_run_side_by_side_and_leave_nothing() {
    in_world(|world| {
        let id = sleeper(world, "many");
        world.exec(&id, &["true"]);
        let before = world.settled();
        world.cri().block_on(async {
            let mut execs = tokio::task::JoinSet::new();
            for number in 0..40 {
                let mut service = world.cri().runtime_service();
                let script = format!("echo {number}; exit {number}");
                let cmd = ["sh".to_owned(), "-c".into(), script].into();
                let request = ExecSyncRequest { container_id: id.clone(), cmd, timeout: 30 };
                execs.spawn(async move { (number, service.exec_sync(request).await) });
            }
            for (number, answer) in execs.join_all().await {
                let answer = answer.unwrap().into_inner();
                assert_eq!(answer.exit_code, number);
                assert_eq!(answer.stdout, format!("{number}\n").into_bytes());
            }
        });
        world.assert_census_is(&before);
    });
}

#[test]
fn privileged_a_log_has_both_streams_whole_and_long_lines_in_parts() {
    in_world(|world| {
        let pod = world.run_pod("log");
        let script = "echo one; echo two >&2; printf 'no end'; \
                      head -c 50000 /dev/zero | tr '\\0' x >&2; echo >&2; echo; echo ''";
        let id = world.run_shell(&pod, "log", script);
        world.wait(&id);
        let lines = world.log_of(&id);
        assert_eq!(log::written(&lines, "stdout"), "one\nno end\n\n");
        assert_eq!(log::written(&lines, "stderr"), format!("two\n{}\n", "x".repeat(50000)));
        let partial: Vec<_> = lines.iter().filter(|line| line.is_partial).collect();
        assert!(partial.len() >= 3, "a line of 50000 bytes comes in parts of at most 16 KiB");
        assert!(lines.iter().all(|line| line.text.len() <= 16 << 10));
        assert!(lines.windows(2).all(|pair| pair[0].time <= pair[1].time), "in order of time");
    });
}

#[test]
fn privileged_a_last_line_without_an_end_is_in_the_log() {
    in_world(|world| {
        let pod = world.run_pod("last");
        let id = world.run_shell(&pod, "last", "echo first; printf last");
        world.wait(&id);
        let lines = world.log_of(&id);
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["first", "last"]);
    });
}

#[test]
fn privileged_everything_is_in_the_log_when_a_container_is_seen_to_have_ended() {
    in_world(|world| {
        let pod = world.run_pod("complete");
        for round in 0..5 {
            let id = world.run_shell(&pod, &format!("c{round}"), "seq 1 20000");
            world.wait(&id);
            let expected: String = (1..=20000).map(|number| format!("{number}\n")).collect();
            assert_eq!(log::written(&world.log_of(&id), "stdout"), expected, "round {round}");
        }
    });
}

#[test]
fn privileged_a_log_file_is_readable_by_root_only_and_none_is_written_without_a_path() {
    in_world(|world| {
        let pod = world.run_pod("mode");
        let id = world.run_shell(&pod, "mode", "echo secret");
        world.wait(&id);
        let mode = std::fs::metadata(world.log_path(&id)).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
        assert_eq!(mode & 0o037, 0, "{mode:o}");
        let mut config = world.container_config("quiet", &["echo", "x"]);
        config.log_path = String::new();
        let (status, _) = world.run_to_end(&pod, config);
        assert_eq!(status.exit_code, 0);
        let logs = std::fs::read_dir(&pod.config.log_directory).unwrap().count();
        assert_eq!(logs, 1);
    });
}

#[test]
fn privileged_a_rotated_log_goes_on_in_a_new_file_without_a_gap() {
    in_world(|world| {
        let pod = world.run_pod("rotate");
        let script = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); usleep 2000; done";
        let id = world.run_shell(&pod, "rotate", script);
        let path = world.log_path(&id);
        let mut files = vec![path.clone()];
        for number in 0..3 {
            until("a line in the new file", || !log::read(&path).is_empty());
            let rotated = path.with_extension(format!("log.{number}"));
            std::fs::rename(&path, &rotated).unwrap();
            files.insert(files.len() - 1, rotated);
            let request = ReopenContainerLogRequest { container_id: id.clone() };
            world.cri().reopen_container_log(request).unwrap();
            assert!(path.exists());
        }
        world.wait(&id);
        let lines: Vec<_> = files.iter().flat_map(|path| log::read(path)).collect();
        let expected: String = (0..400).map(|number| format!("{number}\n")).collect();
        assert_eq!(log::written(&lines, "stdout"), expected);
    });
}

#[test]
fn privileged_the_log_of_an_ended_container_is_not_opened_again() {
    in_world(|world| {
        let pod = world.run_pod("ended");
        let id = world.run_shell(&pod, "ended", "echo x");
        world.wait(&id);
        let path = world.log_path(&id);
        std::fs::remove_file(&path).unwrap();
        let request = ReopenContainerLogRequest { container_id: id };
        let error = world.cri().reopen_container_log(request).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(!path.exists(), "no file is made");
    });
}

#[test]
fn privileged_a_log_is_opened_again_while_the_container_is_being_stopped() {
    in_world(|world| {
        let pod = world.run_pod("stopping");
        let id = world.run_shell(&pod, "deaf", "trap '' TERM; while :; do echo x; sleep 0.1; done");
        until("it has said something", || !world.log_of(&id).is_empty());
        let path = world.log_path(&id);
        world.cri().block_on(async {
            let mut service = world.cri().runtime_service();
            let request =
                cri_api::runtime::v1::StopContainerRequest { container_id: id.clone(), timeout: 2 };
            let stop = tokio::spawn(async move { service.stop_container(request).await });
            tokio::time::sleep(Duration::from_millis(100)).await;
            std::fs::rename(&path, path.with_extension("old")).unwrap();
            let begun = Instant::now();
            let mut service = world.cri().runtime_service();
            let request = ReopenContainerLogRequest { container_id: id.clone() };
            service.reopen_container_log(request).await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(1), "it did not wait for the stop");
            stop.await.unwrap().unwrap();
        });
        assert!(!log::read(&path).is_empty());
    });
}
