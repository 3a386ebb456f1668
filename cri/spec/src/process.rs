//! What runs in a container: arguments, environment, working directory, user.

use crate::capabilities;
use crate::confinement::{self, security_context};
use crate::error::SpecError;
use crate::input::{Identity, ImageDefaults, Input};
use crate::resources;
use cri_api::runtime::v1;
use oci_spec::runtime::{Process, User};

/// Where programs are looked up if neither the image nor the request says.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The process of a container's spec.
pub(crate) fn process(input: &Input<'_>) -> Result<Process, SpecError> {
    let mut process = Process::default();
    process
        .set_terminal(Some(input.container.tty))
        .set_user(user(input.identity)?)
        .set_args(Some(args(input.container, input.image)?))
        .set_env(Some(env(input)?))
        .set_cwd(cwd(input.container, input.image)?.into())
        .set_capabilities(Some(capabilities::sets(input)?))
        .set_rlimits(None)
        .set_no_new_privileges(Some(
            security_context(input.container).is_some_and(|context| context.no_new_privs),
        ))
        .set_apparmor_profile(confinement::apparmor(input)?)
        .set_selinux_label(confinement::selinux(input)?)
        .set_oom_score_adj(Some(resources::oom_score_adj(input.container)?));
    Ok(process)
}

/// Program and arguments: `command` replaces the image's entry point and `args` its arguments. The image's arguments
/// belong to its entry point, so `command` alone drops them.
fn args(container: &v1::ContainerConfig, image: &ImageDefaults) -> Result<Vec<String>, SpecError> {
    // Docker writes an entry point of one empty string for "reset".
    let entrypoint: &[String] =
        if image.entrypoint == [""] { &[] } else { image.entrypoint.as_slice() };
    let (program, rest): (&[String], &[String]) =
        match (container.command.as_slice(), container.args.as_slice()) {
            ([], []) => (entrypoint, &image.cmd),
            ([], args) => (entrypoint, args),
            (command, args) => (command, args),
        };
    let all = [program, rest].concat();
    match all.first().map(String::as_str) {
        None => {
            Err(SpecError::missing("command", "neither the request nor the image says what to run"))
        }
        Some("") => Err(SpecError::missing("command", "the program's name is empty")),
        Some(_) => match all.iter().find(|arg| arg.contains('\0')) {
            Some(arg) => Err(SpecError::invalid("args", arg, "must not have a NUL in it")),
            None => Ok(all),
        },
    }
}

/// The environment, in this order, where a later value of a name takes the place of an earlier one: defaults, image,
/// request. Nothing of the daemon's own environment is ever in it.
fn env(input: &Input<'_>) -> Result<Vec<String>, SpecError> {
    let mut env = Environment::default();
    env.set(PATH.to_owned());
    if input.container.tty {
        env.set("TERM=xterm".to_owned());
    }
    env.set(format!("HOSTNAME={}", hostname(input)));
    for entry in &input.image.env {
        // An entry without a value would ask for the host's (CVE-2026-57231).
        match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() && !entry.contains('\0') => env.set(entry.clone()),
            Some(_) | None => {}
        }
    }
    for (at, entry) in input.container.envs.iter().enumerate() {
        let key = &entry.key;
        if key.is_empty() || key.contains(['=', '\0']) {
            let field = format!("envs[{at}].key");
            return Err(SpecError::invalid(field, key, "is no name of a variable"));
        }
        // The value may be a secret, so it is not in the message.
        let value = std::str::from_utf8(&entry.value).ok().filter(|value| !value.contains('\0'));
        let Some(value) = value else {
            let field = format!("envs[{at}].value");
            return Err(SpecError::missing(field, "must be UTF-8 without a NUL in it"));
        };
        env.set(format!("{key}={value}"));
    }
    if !env.has("HOME") && !input.identity.home.is_empty() {
        env.set(format!("HOME={}", home(input.identity)?));
    }
    Ok(env.entries)
}

/// The name that the container's UTS namespace shows.
pub(crate) fn hostname<'a>(input: &Input<'a>) -> &'a str {
    match input.pod.hostname.as_str() {
        "" => &input.host.hostname,
        _ if input.namespaces.uts.is_none() => &input.host.hostname,
        name => name,
    }
}

fn home(identity: &Identity) -> Result<&str, SpecError> {
    match identity.home.as_str() {
        home if home.contains(|c: char| c.is_control()) => {
            Err(SpecError::invalid("identity.home", home, "must not have control characters"))
        }
        home => Ok(home),
    }
}

#[derive(Default)]
struct Environment {
    entries: Vec<String>,
}

impl Environment {
    fn set(&mut self, entry: String) {
        let name = name(&entry);
        match self.entries.iter().position(|other| self::name(other) == name) {
            Some(at) => self.entries[at] = entry,
            None => self.entries.push(entry),
        }
    }

    fn has(&self, wanted: &str) -> bool {
        self.entries.iter().any(|entry| name(entry) == wanted)
    }
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn cwd(container: &v1::ContainerConfig, image: &ImageDefaults) -> Result<String, SpecError> {
    let (field, path) = match (container.working_dir.as_str(), image.working_dir.as_str()) {
        ("", "") => return Ok("/".to_owned()),
        ("", path) => ("image.working_dir", path),
        (path, _) => ("working_dir", path),
    };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(SpecError::invalid(field, path, "must be an absolute path"));
    }
    // Not made canonical: what `..` means is decided by the links inside the container.
    Ok(path.to_owned())
}

/// The primary group is always among the groups, and the first of them (CVE-2022-2989 and its kin).
fn user(identity: &Identity) -> Result<User, SpecError> {
    let groups = std::iter::once(identity.gid)
        .chain(identity.groups.iter().copied().filter(|group| *group != identity.gid));
    let groups: Vec<u32> = groups.collect();
    for (field, id) in std::iter::once(("identity.uid", identity.uid))
        .chain(groups.iter().map(|group| ("identity.groups", *group)))
    {
        if id == u32::MAX {
            let value = id.to_string();
            return Err(SpecError::invalid(field, value, "is no id: it means \"leave it\""));
        }
    }
    let mut user = User::default();
    user.set_uid(identity.uid).set_gid(identity.gid).set_additional_gids(Some(groups));
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;

    #[test]
    fn command_and_args_of_request_and_image() {
        type Words = &'static [&'static str];
        let cases: [(&str, Words, Words, Words, Words, &str); 10] = [
            ("image alone", &[], &[], &["e1", "e2"], &["c"], "e1 e2 c"),
            ("image without entry point", &[], &[], &[], &["c"], "c"),
            ("command drops both", &["a"], &[], &["e"], &["c"], "a"),
            ("args replace cmd", &[], &["b"], &["e"], &["c"], "e b"),
            ("both", &["a"], &["b"], &["e"], &["c"], "a b"),
            ("args alone are the program", &[], &["b"], &[], &["c"], "b"),
            ("an entry point that was reset", &[], &[], &[""], &["c"], "c"),
            ("nothing", &[], &[], &[], &[], "refused"),
            ("empty program", &[""], &["x"], &[], &[], "refused"),
            ("NUL", &["a", "\0"], &[], &[], &[], "refused"),
        ];
        for (case, command, args, entrypoint, cmd, want) in cases {
            let mut request = Request::plain();
            request.container.command = words(command);
            request.container.args = words(args);
            request.image.entrypoint = words(entrypoint);
            request.image.cmd = words(cmd);
            let got = match super::args(&request.container, &request.image) {
                Ok(args) => args.join(" "),
                Err(_) => "refused".to_owned(),
            };
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn environment_is_default_then_image_then_request() {
        type Pairs = &'static [(&'static str, &'static [u8])];
        let cases: [(&str, &[&str], Pairs, bool, &str); 8] = [
            ("nothing given", &[], &[], false, "PATH=… HOSTNAME=web HOME=/home/u"),
            ("with a terminal", &[], &[], true, "PATH=… TERM=xterm HOSTNAME=web HOME=/home/u"),
            (
                "the image over defaults",
                &["TERM=vt100", "HOSTNAME=x"],
                &[],
                true,
                "PATH=… TERM=vt100 HOSTNAME=x HOME=/home/u",
            ),
            (
                "the request over the image",
                &["A=image", "B=image"],
                &[("A", b"request")],
                false,
                "PATH=… HOSTNAME=web A=request B=image HOME=/home/u",
            ),
            (
                "entries without a value",
                &["PATH", "*", "=", "A", "=B", "C="],
                &[],
                false,
                "PATH=… HOSTNAME=web C= HOME=/home/u",
            ),
            ("own HOME", &["HOME=/"], &[], false, "PATH=… HOSTNAME=web HOME=/"),
            (
                "a value with =",
                &[],
                &[("A", b"b=c")],
                false,
                "PATH=… HOSTNAME=web A=b=c HOME=/home/u",
            ),
            (
                "twice in the request",
                &[],
                &[("A", b"1"), ("A", b"2")],
                false,
                "PATH=… HOSTNAME=web A=2 HOME=/home/u",
            ),
        ];
        for (case, image, envs, tty, want) in cases {
            let mut request = Request::plain();
            request.image.env = words(image);
            request.container.envs = envs
                .iter()
                .map(|(key, value)| v1::KeyValue { key: (*key).into(), value: value.to_vec() })
                .collect();
            request.container.tty = tty;
            request.identity.home = "/home/u".into();
            let got = env(&request.input()).expect(case).join(" ");
            assert_eq!(got.replace(PATH, "PATH=…"), want, "{case}");
        }
    }

    #[test]
    fn broken_variables_are_refused_without_their_value() {
        let cases: [(&str, &str, &[u8]); 4] = [
            ("no name", "", b"secret"),
            ("name with =", "A=B", b"secret"),
            ("NUL in value", "A", b"secret\0"),
            ("not UTF-8", "A", b"secret\xff"),
        ];
        for (case, key, value) in cases {
            let mut request = Request::plain();
            request.container.envs = vec![v1::KeyValue { key: key.into(), value: value.to_vec() }];
            let error = env(&request.input()).expect_err(case).to_string();
            assert!(error.starts_with("envs[0]."), "{case}: {error}");
            assert!(!error.contains("secret"), "{case}: {error}");
        }
    }

    #[test]
    fn a_home_cannot_smuggle_lines() {
        let mut request = Request::plain();
        request.identity.home = "/x\nroot2:x:0:0::/:/bin/sh".into();
        assert!(env(&request.input()).is_err());
    }

    #[test]
    fn working_directory_of_request_then_image_then_root() {
        let cases = [
            ("neither", "", "", "/"),
            ("image", "", "/srv", "/srv"),
            ("request", "/tmp", "/srv", "/tmp"),
            ("relative in the request", "tmp", "/srv", "refused"),
            ("relative in the image", "", "srv", "refused"),
            ("NUL", "/a\0", "", "refused"),
        ];
        for (case, asked, image, want) in cases {
            let mut request = Request::plain();
            request.container.working_dir = asked.into();
            request.image.working_dir = image.into();
            let got = cwd(&request.container, &request.image).unwrap_or_else(|_| "refused".into());
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn primary_group_is_the_first_group() {
        let cases = [
            ("alone", 5, vec![], vec![5]),
            ("with others", 5, vec![7, 6], vec![5, 7, 6]),
            ("repeated", 5, vec![7, 5, 6], vec![5, 7, 6]),
        ];
        for (case, gid, groups, want) in cases {
            let identity = Identity { uid: 1, gid, groups, home: String::new() };
            let user = user(&identity).expect(case);
            assert_eq!(user.additional_gids().as_deref(), Some(&want[..]), "{case}");
        }
        for identity in [
            Identity { uid: u32::MAX, ..Identity::default() },
            Identity { gid: u32::MAX, ..Identity::default() },
            Identity { groups: vec![u32::MAX], ..Identity::default() },
        ] {
            assert!(user(&identity).is_err(), "{identity:?}");
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}
