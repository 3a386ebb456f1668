//! What hems a container in beside its capabilities: AppArmor, SELinux, hidden and read-only kernel files.

use crate::error::SpecError;
use crate::input::{HostFacts, Input};
use crate::target;
use cri_api::runtime::v1;
use cri_api::runtime::v1::security_profile::ProfileType;

/// What a request asks of a security module.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// The request is silent.
    Nothing,
    Unconfined,
    RuntimeDefault,
    /// A profile of the host, by its name or path, never empty; `field` is where it was asked for.
    Localhost {
        name: &'a str,
        field: &'static str,
    },
}

impl<'a> Wanted<'a> {
    /// Reads a request's profile field, and where that is absent the text that came before it in CRI.
    pub(crate) fn of(
        profile: Option<&'a v1::SecurityProfile>,
        field: &'static str,
        old: &'a str,
        old_field: &'static str,
    ) -> Result<Self, SpecError> {
        let Some(profile) = profile else { return Self::of_text(old, old_field) };
        let name = profile.localhost_ref.as_str();
        match ProfileType::try_from(profile.profile_type) {
            Ok(ProfileType::Localhost) => Self::localhost(name, field),
            Ok(ProfileType::RuntimeDefault | ProfileType::Unconfined) if !name.is_empty() => {
                Err(SpecError::invalid(field, name, "goes with the profile type Localhost only"))
            }
            Ok(ProfileType::RuntimeDefault) => Ok(Wanted::RuntimeDefault),
            Ok(ProfileType::Unconfined) => Ok(Wanted::Unconfined),
            Err(_) => {
                let value = profile.profile_type.to_string();
                Err(SpecError::invalid(field, value, "is no profile type"))
            }
        }
    }

    fn of_text(text: &'a str, field: &'static str) -> Result<Self, SpecError> {
        match text {
            "" => Ok(Wanted::Nothing),
            "unconfined" => Ok(Wanted::Unconfined),
            "runtime/default" | "docker/default" => Ok(Wanted::RuntimeDefault),
            _ if text.starts_with("localhost/") => Self::localhost(text, field),
            _ => Err(SpecError::invalid(field, text, "is no profile")),
        }
    }

    fn localhost(name: &'a str, field: &'static str) -> Result<Self, SpecError> {
        match name.strip_prefix("localhost/").unwrap_or(name) {
            "" => Err(SpecError::missing(field, "a Localhost profile needs a name")),
            name => Ok(Wanted::Localhost { name, field }),
        }
    }
}

/// The AppArmor profile of the container; `None` leaves it unconfined.
pub(crate) fn apparmor(input: &Input<'_>) -> Result<Option<String>, SpecError> {
    const FIELD: &str = "linux.security_context.apparmor";
    const OLD_FIELD: &str = "linux.security_context.apparmor_profile";
    let Some(context) = security_context(input.container).filter(|context| !context.privileged)
    else {
        let privileged = security_context(input.container).is_some();
        return Ok(if privileged { None } else { default_profile(input.host) });
    };
    #[expect(deprecated, reason = "other runtimes still honour it")]
    let old = &context.apparmor_profile;
    match Wanted::of(context.apparmor.as_ref(), FIELD, old, OLD_FIELD)? {
        // A request for what cannot be had is not answered by less.
        Wanted::RuntimeDefault if input.host.apparmor && input.host.apparmor_default.is_none() => {
            Err(SpecError::unsupported(
                FIELD,
                "the default profile could not be loaded on this host: it is",
            ))
        }
        Wanted::Nothing | Wanted::RuntimeDefault => Ok(default_profile(input.host)),
        Wanted::Unconfined => Ok(None),
        Wanted::Localhost { field, .. } if !input.host.apparmor => {
            Err(SpecError::unsupported(field, "AppArmor is off on this host: profiles are"))
        }
        // The text goes to /proc/thread-self/attr/apparmor/exec as "exec <name>".
        Wanted::Localhost { name, field }
            if name.contains(|c: char| c.is_control() || c == ' ') =>
        {
            Err(SpecError::invalid(field, name, "must not have spaces or control characters"))
        }
        Wanted::Localhost { name, .. } => Ok(Some(name.to_owned())),
    }
}

fn default_profile(host: &HostFacts) -> Option<String> {
    host.apparmor_default.clone().filter(|_| host.apparmor)
}

/// The SELinux label of the container; `None` gives it the monitor's.
///
/// Where SELinux is off the options are passed over, as all runtimes do: manifests of daemon sets carry them to nodes
/// of every kind.
pub(crate) fn selinux(input: &Input<'_>) -> Result<Option<String>, SpecError> {
    let Some(context) = security_context(input.container).filter(|context| !context.privileged)
    else {
        return Ok(None);
    };
    let Some(options) = &context.selinux_options else { return Ok(None) };
    let parts = [
        ("user", &options.user, "system_u"),
        ("role", &options.role, "system_r"),
        ("type", &options.r#type, "container_t"),
        ("level", &options.level, "s0"),
    ];
    let asked = parts.iter().any(|(_, value, _)| !value.is_empty());
    if !asked || !input.host.selinux {
        return Ok(None);
    }
    let mut label = Vec::new();
    for (name, value, default) in parts {
        let value = if value.is_empty() { default } else { value.as_str() };
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.:,-".contains(c);
        // Only a level has colons: "s0:c1,c2".
        if !value.chars().all(plain) || (name != "level" && value.contains(':')) {
            let field = format!("linux.security_context.selinux_options.{name}");
            return Err(SpecError::invalid(field, value, "is no part of an SELinux label"));
        }
        label.push(value);
    }
    Ok(Some(label.join(":")))
}

/// Kernel files that tell about the host or its other tenants, hidden where the request brings no list of its own.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Kernel files that change the host when written, read-only where the request brings no list of its own.
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The hidden paths.
pub(crate) fn masked(input: &Input<'_>) -> Result<Vec<String>, SpecError> {
    let Some(lists) = lists(input.container) else { return Ok(Vec::new()) };
    if !lists.masked_paths.is_empty() {
        return clean_all("linux.security_context.masked_paths", &lists.masked_paths);
    }
    let throttle = (0..input.host.throttled_cpus)
        .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    Ok(MASKED.into_iter().map(str::to_owned).chain(throttle).collect())
}

/// The read-only paths.
pub(crate) fn readonly(input: &Input<'_>) -> Result<Vec<String>, SpecError> {
    let Some(lists) = lists(input.container) else { return Ok(Vec::new()) };
    if lists.readonly_paths.is_empty() {
        return Ok(READONLY.map(str::to_owned).to_vec());
    }
    clean_all("linux.security_context.readonly_paths", &lists.readonly_paths)
}

/// The request's context with its two lists; `None` for a privileged container, which sees everything.
fn lists(container: &v1::ContainerConfig) -> Option<v1::LinuxContainerSecurityContext> {
    match security_context(container) {
        Some(context) if context.privileged => None,
        Some(context) => Some(context.clone()),
        None => Some(v1::LinuxContainerSecurityContext::default()),
    }
}

fn clean_all(field: &str, paths: &[String]) -> Result<Vec<String>, SpecError> {
    let clean = |(at, path): (usize, &String)| target::clean(&format!("{field}[{at}]"), path);
    paths.iter().enumerate().map(clean).collect()
}

pub(crate) fn security_context(
    container: &v1::ContainerConfig,
) -> Option<&v1::LinuxContainerSecurityContext> {
    container.linux.as_ref()?.security_context.as_ref()
}

/// Whether the container may do everything.
pub(crate) fn is_privileged(container: &v1::ContainerConfig) -> bool {
    security_context(container).is_some_and(|context| context.privileged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;

    fn profile(kind: ProfileType, name: &str) -> Option<v1::SecurityProfile> {
        Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
    }

    #[test]
    fn apparmor_profiles() {
        use ProfileType::{Localhost, RuntimeDefault, Unconfined};
        let cases = [
            ("silent", None, "", false, "berth-default"),
            ("default", profile(RuntimeDefault, ""), "", false, "berth-default"),
            ("unconfined", profile(Unconfined, ""), "", false, "none"),
            ("named", profile(Localhost, "web"), "", false, "web"),
            ("named, with prefix", profile(Localhost, "localhost/web"), "", false, "web"),
            ("without a name", profile(Localhost, ""), "", false, "refused"),
            (
                "a name with a line",
                profile(Localhost, "web\nchangeprofile x"),
                "",
                false,
                "refused",
            ),
            ("a name that does not count", profile(Unconfined, "web"), "", false, "refused"),
            ("old text", None, "localhost/web", false, "web"),
            ("old default", None, "runtime/default", false, "berth-default"),
            ("old unconfined", None, "unconfined", false, "none"),
            ("old nonsense", None, "web", false, "refused"),
            ("new over old", profile(Unconfined, ""), "localhost/web", false, "none"),
            ("privileged", profile(Localhost, "web"), "", true, "none"),
        ];
        for (case, profile, old, privileged, want) in cases {
            let mut request = Request::plain();
            request.host.apparmor = true;
            request.host.apparmor_default = Some("berth-default".into());
            request.context().apparmor = profile;
            request.context().privileged = privileged;
            #[expect(deprecated, reason = "other runtimes still honour it")]
            request.context().apparmor_profile.push_str(old);
            let got = match apparmor(&request.input()) {
                Ok(profile) => profile.unwrap_or_else(|| "none".into()),
                Err(_) => "refused".into(),
            };
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn without_apparmor_only_named_profiles_are_refused() {
        let cases = [
            ("silent", None, true),
            ("default", profile(ProfileType::RuntimeDefault, ""), true),
            ("unconfined", profile(ProfileType::Unconfined, ""), true),
            ("named", profile(ProfileType::Localhost, "web"), false),
        ];
        for (case, profile, accepted) in cases {
            let mut request = Request::plain();
            request.context().apparmor = profile;
            let got = apparmor(&request.input());
            assert_eq!(got.is_ok(), accepted, "{case}");
            assert_eq!(got.ok().flatten(), None, "{case}");
        }
    }

    #[test]
    fn selinux_labels() {
        let cases = [
            ("nothing in it", ("", "", "", ""), true, "none"),
            ("off", ("", "", "spc_t", "s0"), false, "none"),
            ("parts", ("", "", "spc_t", ""), true, "system_u:system_r:spc_t:s0"),
            ("all", ("u", "r", "t", "s0:c1,c2"), true, "u:r:t:s0:c1,c2"),
            ("a label in a part", ("u:r:t", "", "", ""), true, "refused"),
            ("a line", ("", "", "t\n", ""), true, "refused"),
        ];
        for (case, (user, role, kind, level), on, want) in cases {
            let mut request = Request::plain();
            request.host.selinux = on;
            request.context().selinux_options = Some(v1::SeLinuxOption {
                user: user.into(),
                role: role.into(),
                r#type: kind.into(),
                level: level.into(),
            });
            let got = match selinux(&request.input()) {
                Ok(label) => label.unwrap_or_else(|| "none".into()),
                Err(_) => "refused".into(),
            };
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn kernel_files_are_hidden_unless_the_request_knows_better() {
        let mut request = Request::plain();
        request.host.throttled_cpus = 2;
        let got = masked(&request.input()).expect("masked");
        assert_eq!(got[..MASKED.len()], MASKED);
        assert_eq!(
            got[MASKED.len()..],
            [
                "/sys/devices/system/cpu/cpu0/thermal_throttle",
                "/sys/devices/system/cpu/cpu1/thermal_throttle"
            ]
        );
        assert_eq!(readonly(&request.input()).expect("read-only"), READONLY);

        request.context().masked_paths = vec!["/proc//kcore".into()];
        request.context().readonly_paths = vec!["/proc/sys/".into()];
        assert_eq!(masked(&request.input()).expect("masked"), ["/proc/kcore"]);
        assert_eq!(readonly(&request.input()).expect("read-only"), ["/proc/sys"]);

        request.context().masked_paths = vec!["proc/kcore".into()];
        assert!(masked(&request.input()).is_err(), "a relative path hides nothing");

        request.context().privileged = true;
        assert_eq!(masked(&request.input()), Ok(vec![]));
        assert_eq!(readonly(&request.input()), Ok(vec![]));
    }
}
