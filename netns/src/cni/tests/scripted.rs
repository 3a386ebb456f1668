//! With a plugin that hangs, crashes, prints garbage or leaves half an interface, as it is told.

use std::sync::Arc;
use std::thread;

use super::*;

/// A host with a network of one plugin, or of two of it in a chain.
struct Host {
    top: tempfile::TempDir,
}

impl Host {
    fn new(version: &str) -> Self {
        let host = Self { top: tempfile::tempdir().unwrap() };
        host.configure(version, &["scripted"]);
        let log = host.path("log");
        let top = host.path("");
        // What a test puts into a file named after a command is done first.
        let script = format!(
            r#"#!/bin/sh
read -r input
echo "$CNI_COMMAND ${{0##*/}} netns=${{CNI_NETNS:-none}}" >>{log}
echo "$input" >{top}stdin.$CNI_COMMAND
[ -e {top}do.$CNI_COMMAND ] && . {top}do.$CNI_COMMAND
case $CNI_COMMAND in
VERSION) echo '{{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}}' ;;
ADD) echo '{{"cniVersion":"{version}","interfaces":[{{"name":"eth0","sandbox":"x"}}],"ips":[{{"address":"10.9.0.2/24","interface":0}}]}}' ;;
esac
"#,
            log = log.display(),
            top = top.display(),
        );
        for name in ["scripted", "second"] {
            write(&host.path("bin").join(name), &script, 0o755);
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn configure(&self, version: &str, plugins: &[&str]) {
        let plugins: Vec<Value> = plugins
            .iter()
            .map(|kind| serde_json::json!({ "type": kind, "capabilities": { "mac": true } }))
            .collect();
        let text = serde_json::json!({ "cniVersion": version, "name": "net", "plugins": plugins });
        write(&self.path("net.d/10.conflist"), &text.to_string(), 0o600);
    }

    fn open(&self) -> Cni {
        self.open_with(Duration::from_secs(20))
    }

    fn open_with(&self, limit: Duration) -> Cni {
        Cni::open(&CniConfig { limit, plugins: vec![self.path("bin")], ..config(self.top.path()) })
            .unwrap()
    }

    /// Has the plugin do this first when it is given that command.
    fn tell(&self, command: &str, script: &str) {
        write(&self.path(&format!("do.{command}")), script, 0o600);
    }

    fn untell(&self, command: &str) {
        fs::remove_file(self.path(&format!("do.{command}"))).unwrap();
    }

    /// The commands given so far, but those for versions.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().filter(|line| !line.starts_with("VERSION")).map(str::to_owned).collect()
    }

    fn commands(&self) -> Vec<String> {
        self.log().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }

    fn told(&self, command: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(&format!("stdin.{command}"))).unwrap())
            .unwrap()
    }

    fn notes(&self) -> usize {
        fs::read_dir(self.path("journal")).unwrap().count()
    }
}

fn any_wish(digit: char) -> NetworkWish {
    NetworkWish { namespace: "/proc/self/ns/net".into(), ..contract::wish(digit, &[]) }
}

#[test]
fn a_failing_add_is_followed_by_del_and_says_why() {
    let cases = [
        (
            "says so",
            r#"echo '{"code":11,"msg":"no luck","details":"none at all"}'; exit 1"#,
            "no luck: none at all (code 11)",
        ),
        ("crashes", "echo oops >&2; kill -SEGV $$", "oops"),
        ("ends badly", "exit 3", "it said nothing"),
        ("says nothing", "exit 0", "answered its ADD with nothing"),
        ("garbage", "echo garbage; exit 0", "no JSON object: garbage"),
        ("no text", r"printf '\377\376'; exit 0", "no JSON object"),
        ("no address", "echo '{}'; exit 0", "without an address"),
        ("hangs", "sleep 60", "did not end its ADD within 1 s"),
        (
            "hangs with its pipes closed",
            "exec >&- 2>&-; sleep 60",
            "did not end its ADD within 1 s",
        ),
        (
            "never ends to talk",
            "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
            "ADD",
        ),
    ];
    for (what, script, expected) in cases {
        let host = Host::new("1.0.0");
        host.tell("ADD", script);
        let cni = host.open_with(Duration::from_secs(1));
        let refused = attach(&cni, &any_wish('a')).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains(expected), "{what}: {said}");
        assert_eq!(host.commands(), ["ADD", "DEL"], "{what}");
        assert_eq!(host.notes(), 0, "{what}");
        host.untell("ADD");
        attach(&cni, &any_wish('a')).unwrap();
    }
}

#[test]
fn a_killed_plugin_takes_what_it_started_with_it() {
    let host = Host::new("1.0.0");
    let pid = host.path("pid");
    host.tell("ADD", &format!("sleep 1234 & echo $! >{}; wait", pid.display()));
    let cni = host.open_with(Duration::from_secs(1));
    attach(&cni, &any_wish('a')).unwrap_err();
    let pid = fs::read_to_string(pid).unwrap();
    let command = format!("/proc/{}/cmdline", pid.trim());
    until("the child is gone", || !fs::read(&command).is_ok_and(|line| line.starts_with(b"sleep")));
}

#[test]
fn one_that_goes_on_in_the_background_is_not_waited_for() {
    let host = Host::new("1.0.0");
    let pid = host.path("pid");
    host.tell("ADD", &format!("sleep 1234 & echo $! >{}", pid.display()));
    attach(&host.open(), &any_wish('a')).unwrap();
    let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[test]
fn a_plugin_gets_nothing_of_ours() {
    let host = Host::new("1.0.0");
    let seen = host.path("seen");
    host.tell("ADD", &format!("ls -l /proc/self/fd >{0}; env >>{0}; pwd >>{0}", seen.display()));
    let _secret = fs::File::open("/proc/self/status").unwrap();
    attach(&host.open(), &any_wish('a')).unwrap();
    let seen = fs::read_to_string(seen).unwrap();
    let descriptors: Vec<&str> = seen.lines().filter(|line| line.contains(" -> ")).collect();
    // Three pipes, the script (the shell reads it), the file of this test in the place of one pipe, and what ls opens itself.
    assert!(descriptors.len() <= 6, "{seen}");
    assert!(!seen.contains("status") && !seen.contains("CARGO"), "{seen}");
    assert!(seen.contains("CNI_CONTAINERID=aaaa") && seen.ends_with("/\n"), "{seen}");
}

#[test]
fn del_is_tried_until_it_succeeds() {
    let host = Host::new("1.0.0");
    let pod = attach(&host.open(), &any_wish('a')).unwrap();
    host.tell("DEL", r#"echo '{"code":1,"msg":"not now"}'; exit 1"#);
    let cni = host.open();
    cni.adopt(&pod);
    cni.detach(&pod).unwrap();
    assert_eq!(host.notes(), 1, "what is not deleted is not forgotten");
    host.untell("DEL");
    until("deleted at last", || host.notes() == 0);
    let calls = host.commands();
    cni.detach(&pod).unwrap();
    assert_eq!(host.commands(), calls, "and only once");
}

#[test]
fn del_outlives_the_daemon_the_configuration_and_the_namespace() {
    let host = Host::new("1.0.0");
    let mut wish = any_wish('a');
    wish.namespace = host.path("namespace");
    write(&wish.namespace, "", 0o600);
    wish.about.mac = Some("02:00:00:00:00:07".into());
    attach(&host.open(), &wish).unwrap();
    assert_eq!(host.told("ADD")["runtimeConfig"]["mac"], "02:00:00:00:00:07");
    host.tell("DEL", "exit 1");
    drop(host.open().sweep(&BTreeSet::new()).unwrap());
    assert_eq!(host.notes(), 1);
    fs::remove_dir_all(host.path("net.d")).unwrap();
    fs::remove_file(&wish.namespace).unwrap();
    host.untell("DEL");
    let swept = host.open().sweep(&BTreeSet::new()).unwrap();
    assert_eq!(swept, [format!("network attachment of {}", "a".repeat(64))]);
    assert_eq!(host.notes(), 0);
    assert_eq!(host.log().last().unwrap(), "DEL scripted netns=none");
    let told = host.told("DEL");
    assert_eq!(told["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
    assert_eq!(told["runtimeConfig"]["mac"], "02:00:00:00:00:07");
}

#[test]
fn a_note_is_there_before_the_first_plugin_runs() {
    let host = Host::new("1.0.0");
    host.tell(
        "ADD",
        &format!("ls {} >{}", host.path("journal").display(), host.path("seen").display()),
    );
    attach(&host.open(), &any_wish('a')).unwrap();
    assert!(fs::read_to_string(host.path("seen")).unwrap().contains("aaaa"));
}

#[test]
fn a_chain_is_added_in_order_and_deleted_in_reverse_also_past_a_failure() {
    let host = Host::new("1.0.0");
    host.configure("0.4.0", &["scripted", "second"]);
    let cni = host.open();
    let pod = attach(&cni, &any_wish('a')).unwrap();
    assert_eq!(host.told("ADD")["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
    host.tell("DEL", r#"[ "${0##*/}" = second ] && exit 1"#);
    cni.detach(&pod).unwrap();
    let names = |log: Vec<String>| -> Vec<String> {
        log.iter().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    assert_eq!(names(host.log()), ["ADD scripted", "ADD second", "DEL second", "DEL scripted"]);
}

#[test]
fn versions_decide_which_commands_there_are() {
    for (version, has_check, has_status_and_gc) in [
        ("0.3.1", false, false),
        ("0.4.0", true, false),
        ("1.0.0", true, false),
        ("1.1.0", true, true),
    ] {
        let host = Host::new(version);
        let cni = host.open();
        cni.status().unwrap();
        let pod = attach(&cni, &any_wish('a')).unwrap();
        cni.verify(&pod).unwrap();
        cni.sweep(&BTreeSet::from([pod.owner.clone()])).unwrap();
        cni.detach(&pod).unwrap();
        let commands = host.commands();
        let has = |command: &str| commands.iter().any(|given| given == command);
        assert_eq!(has("CHECK"), has_check, "{version}: {commands:?}");
        assert_eq!((has("STATUS"), has("GC")), (has_status_and_gc, has_status_and_gc), "{version}");
        assert_eq!(host.told("DEL").get("prevResult").is_some(), version != "0.3.1", "{version}");
        if has("GC") {
            let wanted = &host.told("GC")["cni.dev/valid-attachments"];
            assert_eq!(
                wanted,
                &serde_json::json!([{ "containerID": pod.owner, "ifname": "eth0" }])
            );
        }
    }
}

#[test]
fn status_says_what_is_missing() {
    let host = Host::new("1.1.0");
    let cni = host.open();
    cni.status().unwrap();
    host.tell("STATUS", r#"echo '{"code":50,"msg":"agent is not running"}'; exit 1"#);
    host.configure("1.1.0", &["scripted", "second"]); // asked anew at once
    until("STATUS counts", || {
        cni.status().is_err_and(|err| err.to_string().contains("agent is not running"))
    });
    host.configure("1.0.0", &["absent"]);
    until("programs count", || {
        cni.status().is_err_and(|err| err.to_string().contains("absent is in none of"))
    });
    host.tell("VERSION", r#"echo '{"supportedVersions":["0.3.1"]}'; exit 0"#);
    host.configure("1.0.0", &["scripted"]);
    let fresh = host.open();
    let said = fresh.status().unwrap_err().to_string();
    assert!(said.contains("does not know version 1.0.0") && said.contains("0.3.1"), "{said}");
    assert!(attach(&fresh, &any_wish('a')).is_err());
    fs::remove_dir_all(host.path("net.d")).unwrap();
    until("the directory counts", || {
        cni.status().is_err_and(|err| err.to_string().contains("no network configuration is in"))
    });
    assert!(cni.check(&any_wish('a')).is_err());
}

#[test]
fn plugins_run_side_by_side_for_different_pods() {
    let host = Host::new("1.0.0");
    // Each waits for the other.
    let meet = host.path("met");
    fs::create_dir(&meet).unwrap();
    host.tell(
        "ADD",
        &format!(
            "touch {0}/$CNI_CONTAINERID; until [ $(ls {0} | wc -l) = 2 ]; do sleep 0.01; done",
            meet.display()
        ),
    );
    let cni = Arc::new(host.open());
    let pods = ['a', 'b'].map(|digit| {
        let cni = Arc::clone(&cni);
        thread::spawn(move || attach(&*cni, &any_wish(digit)).unwrap())
    });
    for pod in pods {
        pod.join().unwrap();
    }
}

#[test]
fn privileged_half_an_interface_does_not_stay() {
    on_a_host(|| {
        let host = Host::new("1.0.0");
        host.tell("ADD", "ip link add half0 type veth peer name half1; exit 1");
        host.tell("DEL", "ip link delete half0 2>/dev/null");
        let namespace = fresh_namespace();
        attach(&host.open(), &wish('a', &contract::Path::to(&namespace))).unwrap_err();
        assert!(!run("ip -o link").contains("half"));
    });
}
