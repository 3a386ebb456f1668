//! AppArmor: the profile of containers that ask for no other, and whether a profile is there.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// What `RuntimeDefault` stands for.
const NAME: &str = "berth-default";

/// Compiles profiles and hands them to the kernel, which takes no text.
const PARSERS: [&str; 3] =
    ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];

/// Profiles that are loaded, as lines "name (mode)".
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Why our profile is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApparmorError {
    #[error("apparmor_parser is missing: install the package apparmor")]
    NoParser,
    #[error("run apparmor_parser")]
    Run(#[source] io::Error),
    #[error("apparmor_parser refused profile {NAME}: {0}")]
    Refused(String),
}

/// Whether the kernel has AppArmor and it is in force.
pub(crate) fn is_on() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.trim() == "Y")
}

/// Loads our profile, in place of the one of an earlier daemon. Gives its name.
pub(crate) fn load() -> Result<String, ApparmorError> {
    let parser = PARSERS.iter().find(|path| Path::new(path).exists());
    let parser = parser.ok_or(ApparmorError::NoParser)?;
    // Nothing is kept on disk: this is the only reader of the profile.
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache", "--quiet"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ApparmorError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why.
        stdin.write_all(profile().as_bytes()).ok();
    }
    let ended = child.wait_with_output().map_err(ApparmorError::Run)?;
    if ended.status.success() {
        Ok(NAME.to_owned())
    } else {
        let words: String = String::from_utf8_lossy(&ended.stderr).chars().take(512).collect();
        Err(ApparmorError::Refused(words.trim().to_owned()))
    }
}

/// Whether a profile of this name is loaded, so that a container can run in it.
pub(crate) fn is_loaded(name: &str) -> io::Result<bool> {
    Ok(lists(&std::fs::read_to_string(LOADED)?, name))
}

fn lists(loaded: &str, name: &str) -> bool {
    loaded.lines().any(|line| line.rsplit_once(" (").is_some_and(|(listed, _)| listed == name))
}

/// The profile: everything that the capabilities and mounts of a container let it do, but for what leads to the kernel or
/// the node even where those do not hold. It needs no other file of the host.
fn profile() -> String {
    let mut text = format!("profile {NAME} flags=(attach_disconnected,mediate_deleted) {{\n");
    for (rule, _) in ALLOWED {
        text.push_str(&format!("  {rule},\n"));
    }
    for (rule, _) in DENIED {
        text.push_str(&format!("  deny {rule},\n"));
    }
    text.push_str("}\n");
    text.replace("SELF", NAME)
}

/// Each rule with its reason.
const ALLOWED: [(&str, &str); 7] = [
    ("capability", "the bounding set has the say"),
    ("network", "the network namespace and the filter have the say"),
    ("file", "mounts and owners have the say, and the rules below"),
    ("umount", "what is mounted in a container can only be taken away from itself"),
    ("signal (receive) peer=unconfined", "the node stops its containers"),
    ("signal (send, receive) peer=SELF", "processes of one PID namespace"),
    ("ptrace (read, trace, readby, tracedby) peer=SELF", "debuggers of one PID namespace"),
];

const DENIED: [(&str, &str); 10] = [
    ("mount", "a mount can bring any of the files below to another place"),
    ("pivot_root", "likewise"),
    ("/proc/[a-z]* wkl", "files of the kernel; processes have numbers"),
    ("/proc/[a-z]*/** wkl", "settings, interrupts, buses: of the whole node"),
    ("/proc/{kcore,sysrq-trigger} rwklx", "the kernel's memory; restarts of the node"),
    (
        "/sys/{block,bus,class,dev,devices,hypervisor,kernel,module,power}/** wkl",
        "devices of the node",
    ),
    (
        "/sys/fs/{bpf,btrfs,ecryptfs,erofs,ext4,f2fs,fuse,nfs,pstore,resctrl,selinux,smackfs,xfs}/** wkl",
        "likewise",
    ),
    ("/sys/firmware/** rwklx", "firmware and its secrets"),
    (
        "/sys/kernel/{security,debug,tracing}/** rwklx",
        "what confines others, and what watches them",
    ),
    (
        "/sys/devices/virtual/powercap/** rwklx",
        "power tells what others compute (GHSA-7ww5-4wqc-m92c)",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_names_itself_and_every_rule_has_a_reason() {
        let text = profile();
        assert!(text.starts_with("profile berth-default flags="));
        assert!(text.contains("  signal (send, receive) peer=berth-default,\n"));
        assert!(text.contains("  deny mount,\n") && text.ends_with("}\n"));
        assert!(ALLOWED.iter().chain(&DENIED).all(|(_, reason)| !reason.is_empty()));
    }

    #[test]
    fn the_hosts_parser_takes_the_profile() {
        let Some(parser) = PARSERS.iter().find(|path| Path::new(path).exists()) else {
            println!("NOT RUN: apparmor_parser is not installed");
            return;
        };
        let mut child = Command::new(parser)
            .args(["--skip-kernel-load", "--skip-cache", "--quiet"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(profile().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn loaded_profiles_are_found_by_their_whole_name() {
        let loaded =
            "berth-default (enforce)\n/usr/bin/man (complain)\nweb//sub (enforce)\na b (enforce)\n";
        for (name, want) in [
            ("berth-default", true),
            ("berth", false),
            ("/usr/bin/man", true),
            ("web", false),
            ("web//sub", true),
            ("a b", true),
            ("", false),
        ] {
            assert_eq!(lists(loaded, name), want, "{name:?}");
        }
    }
}
