//! AppArmor, where the machine has it: hack/vm has.

use std::io::Write;
use std::process::{Command, Stdio};

use cri_api::runtime::v1::security_profile::ProfileType;
use cri_api::runtime::v1::{Capability, SecurityProfile};
use suite::in_world;
use suite::pods::{pod_security, security};

fn is_on() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.trim() == "Y")
}

fn profile(kind: ProfileType, name: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
}

/// Loads a profile as an administrator does, or takes it away.
fn parse(option: &str, text: &str) {
    let mut child = Command::new("apparmor_parser")
        .args([option, "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("start apparmor_parser");
    child
        .stdin
        .take()
        .expect("as the test has made it")
        .write_all(text.as_bytes())
        .expect("as the test has made it");
    assert!(child.wait().expect("as the test has made it").success(), "{text}");
}

#[test]
fn privileged_apparmor_profiles_are_the_default_a_named_one_or_none() {
    if !is_on() {
        println!("NOT RUN: the kernel has no AppArmor");
        return;
    }
    const WEB: &str = "profile berth-test-web flags=(attach_disconnected) { file, capability, network, signal, \
                       deny /denied w, }\n";
    parse("--replace", WEB);
    in_world(|world| {
        let pod = world.run_pod("profiles");
        let cases = [
            ("silent", None, "berth-default (enforce)"),
            ("default", profile(ProfileType::RuntimeDefault, ""), "berth-default (enforce)"),
            ("unconfined", profile(ProfileType::Unconfined, ""), "unconfined"),
            (
                "named",
                profile(ProfileType::Localhost, "berth-test-web"),
                "berth-test-web (enforce)",
            ),
        ];
        for (name, apparmor, want) in cases {
            let mut config =
                world.container_config(name, &["sh", "-c", "cat /proc/1/attr/current; sleep 1000"]);
            security(&mut config).apparmor = apparmor;
            let id = world.run(&pod, config);
            assert_eq!(world.exec(&id, &["cat", "/proc/1/attr/current"]).trim(), want, "{name}");
            assert_eq!(
                world.exec(&id, &["cat", "/proc/self/attr/current"]).trim(),
                want,
                "{name}: an exec"
            );
            if name == "named" {
                let denied = world.try_exec(&id, &["touch", "/denied"], 60).unwrap();
                assert_ne!(denied.exit_code, 0, "the profile has the say");
                world.exec(&id, &["touch", "/allowed"]);
            }
            world.stop(&id, 0);
        }
        let mut config = world.container_config("missing", &["true"]);
        security(&mut config).apparmor = profile(ProfileType::Localhost, "berth-test-missing");
        let status = world.try_create(&pod, config).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("berth-test-missing"), "{status:?}");
    });
    parse("--remove", WEB);
}

#[test]
fn privileged_the_default_apparmor_profile_denies_what_capabilities_would_allow() {
    if !is_on() {
        println!("NOT RUN: the kernel has no AppArmor");
        return;
    }
    in_world(|world| {
        let pod = world.run_pod("denies");
        let script = "mount -t tmpfs t /tmp 2>/dev/null && echo mounted; \
                      (echo 1 > /proc/sys/vm/overcommit_memory) 2>/dev/null && echo wrote; \
                      ls /sys/firmware/* 2>/dev/null; echo x > /tmp/own && cat /tmp/own";
        let mut config = world.container_config("admin", &[]);
        let context = security(&mut config);
        context.capabilities = Some(Capability {
            add_capabilities: vec!["SYS_ADMIN".into()],
            ..Capability::default()
        });
        context.apparmor = profile(ProfileType::RuntimeDefault, "");
        assert_eq!(world.printed(&pod, config, script), "x\n");
        let mut privileged = world.pod_config("privileged");
        pod_security(&mut privileged).privileged = true;
        let pod = world.run_pod_from(privileged);
        let mut config = world.container_config("privileged", &[]);
        security(&mut config).privileged = true;
        let printed = world.printed(
            &pod,
            config,
            "cat /proc/self/attr/current; mount -t tmpfs t /tmp && echo mounted",
        );
        assert_eq!(printed, "unconfined\nmounted\n");
    });
}

#[test]
fn privileged_without_apparmor_a_named_profile_is_refused_and_the_default_is_not() {
    if is_on() {
        println!("NOT RUN: the kernel has AppArmor");
        return;
    }
    in_world(|world| {
        let pod = world.run_pod("without");
        let mut config = world.container_config("named", &["true"]);
        security(&mut config).apparmor = profile(ProfileType::Localhost, "web");
        let status = world.try_create(&pod, config).unwrap_err();
        assert!(status.message().contains("AppArmor"), "{status:?}");
        for kind in [ProfileType::RuntimeDefault, ProfileType::Unconfined] {
            let mut config = world.container_config(kind.as_str_name(), &["true"]);
            security(&mut config).apparmor = profile(kind, "");
            assert_eq!(world.run_to_end(&pod, config).0.exit_code, 0);
        }
    });
}
