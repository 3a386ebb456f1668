//! Which namespaces a container is in.

use crate::confinement::{is_privileged, security_context};
use crate::error::SpecError;
use crate::input::{CgroupFacts, Input};
use cri_api::runtime::v1;
use cri_api::runtime::v1::NamespaceMode;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use std::path::PathBuf;

const FIELD: &str = "linux.security_context.namespace_options";

/// The namespaces of a container's spec. A kind that is absent is the host's.
///
/// Network, IPC and UTS follow the pod's pins, whatever the container's own options say: they are the pod's.
pub(crate) fn namespaces(input: &Input<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let options =
        security_context(input.container).and_then(|context| context.namespace_options.as_ref());
    refuse_user_namespace(options)?;

    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)];
    if own_pids(options)? {
        namespaces.push(namespace(LinuxNamespaceType::Pid, None));
    }
    let pins = [
        (LinuxNamespaceType::Network, &input.namespaces.net),
        (LinuxNamespaceType::Ipc, &input.namespaces.ipc),
        (LinuxNamespaceType::Uts, &input.namespaces.uts),
    ];
    for (kind, pin) in pins {
        if let Some(pin) = pin {
            namespaces.push(namespace(kind, Some(pin.clone())));
        }
    }
    // As other runtimes do: privileged containers manage the host's cgroups, and v1 has its directories bound instead.
    if input.host.cgroup == CgroupFacts::V2 && !is_privileged(input.container) {
        namespaces.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    Ok(namespaces)
}

/// Whether the container gets a PID namespace of its own.
///
/// A request without options gets one. `POD` is 0 on the wire, so in options that are there it cannot be told from
/// silence, and is taken at its word.
fn own_pids(options: Option<&v1::NamespaceOption>) -> Result<bool, SpecError> {
    let Some(options) = options else { return Ok(true) };
    let field = || format!("{FIELD}.pid");
    match NamespaceMode::try_from(options.pid) {
        Ok(NamespaceMode::Container) => Ok(true),
        Ok(NamespaceMode::Node) => Ok(false),
        Ok(NamespaceMode::Pod) => {
            Err(SpecError::unsupported(field(), "PID namespaces shared by a pod are"))
        }
        Ok(NamespaceMode::Target) => {
            Err(SpecError::unsupported(field(), "PID namespaces of other containers are"))
        }
        Err(_) => Err(SpecError::invalid(field(), options.pid.to_string(), "is no namespace mode")),
    }
}

fn refuse_user_namespace(options: Option<&v1::NamespaceOption>) -> Result<(), SpecError> {
    let Some(userns) = options.and_then(|options| options.userns_options.as_ref()) else {
        return Ok(());
    };
    let field = format!("{FIELD}.userns_options.mode");
    match NamespaceMode::try_from(userns.mode) {
        Ok(NamespaceMode::Node) => Ok(()),
        Ok(NamespaceMode::Pod) => Err(SpecError::unsupported(field, "user namespaces are")),
        Ok(NamespaceMode::Container | NamespaceMode::Target) | Err(_) => {
            let rule = "is no mode of user namespaces";
            Err(SpecError::invalid(field, userns.mode.to_string(), rule))
        }
    }
}

fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;

    fn text(request: &Request) -> String {
        match namespaces(&request.input()) {
            Ok(namespaces) => {
                let words = namespaces.iter().map(|namespace| match namespace.path() {
                    Some(path) => format!("{}={}", namespace.typ(), path.display()),
                    None => namespace.typ().to_string(),
                });
                words.collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn pids() {
        const REST: &str = "net=/run/berth/p/net ipc=/run/berth/p/ipc uts=/run/berth/p/uts cgroup";
        let mut request = Request::plain();
        assert_eq!(text(&request), format!("mnt pid {REST}"), "silent");

        let cases = [
            (NamespaceMode::Container, format!("mnt pid {REST}")),
            (NamespaceMode::Node, format!("mnt {REST}")),
            (
                NamespaceMode::Pod,
                format!("{FIELD}.pid: PID namespaces shared by a pod are not supported"),
            ),
            (
                NamespaceMode::Target,
                format!("{FIELD}.pid: PID namespaces of other containers are not supported"),
            ),
        ];
        for (mode, want) in cases {
            request.context().namespace_options =
                Some(v1::NamespaceOption { pid: mode.into(), ..v1::NamespaceOption::default() });
            assert_eq!(text(&request), want, "{mode:?}");
        }
    }

    #[test]
    fn pins_decide_and_host_namespaces_are_absent() {
        let mut request = Request::plain();
        request.namespaces = crate::NamespacePins::default();
        assert_eq!(text(&request), "mnt pid cgroup");
        request.context().privileged = true;
        assert_eq!(text(&request), "mnt pid", "privileged containers see the host's cgroups");
    }

    #[test]
    fn user_namespaces() {
        let cases = [
            (NamespaceMode::Node, "mnt pid"),
            (NamespaceMode::Pod, "user namespaces are not supported"),
            (NamespaceMode::Container, "is no mode"),
            (NamespaceMode::Target, "is no mode"),
        ];
        for (mode, want) in cases {
            let mut request = Request::plain();
            let userns = v1::UserNamespace { mode: mode.into(), ..v1::UserNamespace::default() };
            request.context().namespace_options = Some(v1::NamespaceOption {
                pid: NamespaceMode::Container.into(),
                userns_options: Some(userns),
                ..v1::NamespaceOption::default()
            });
            assert!(text(&request).contains(want), "{mode:?}: {}", text(&request));
        }
    }
}
