//! Which namespaces a container is in.

use crate::confinement::{is_privileged, security_context};
use crate::error::SpecError;
use crate::input::{CgroupFacts, Input};
use cri_api::runtime::v1;
use cri_api::runtime::v1::NamespaceMode;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use plan::PidNamespace;
use std::path::PathBuf;

const FIELD: &str = "linux.security_context.namespace_options";

/// The namespaces of a container's spec. A kind that is absent is the host's.
///
/// Network, IPC and UTS follow the pod's pins, whatever the container's own options say: they are the pod's.
pub(crate) fn namespaces(input: &Input<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    refuse_user_namespace(options(input))?;
    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)];
    if pids(input)? != PidNamespace::Host {
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

/// Which PID namespace the container lives in.
///
/// `POD` is 0 on the wire, so it cannot be told from silence; a request without any options means it too, as with
/// containerd. The pod's namespace is the host's where the pod itself asks for that.
pub(crate) fn pids(input: &Input<'_>) -> Result<PidNamespace, SpecError> {
    let asked = options(input).map_or(NamespaceMode::Pod.into(), |options| options.pid);
    let field = || format!("{FIELD}.pid");
    match NamespaceMode::try_from(asked) {
        Ok(NamespaceMode::Container) => Ok(PidNamespace::Own),
        Ok(NamespaceMode::Node) => Ok(PidNamespace::Host),
        Ok(NamespaceMode::Pod) if pod_is_on_host(input) => Ok(PidNamespace::Host),
        Ok(NamespaceMode::Pod) => Ok(PidNamespace::Pod),
        Ok(NamespaceMode::Target) => {
            Err(SpecError::unsupported(field(), "PID namespaces of other containers are"))
        }
        Err(_) => Err(SpecError::invalid(field(), asked.to_string(), "is no namespace mode")),
    }
}

fn options<'a>(input: &Input<'a>) -> Option<&'a v1::NamespaceOption> {
    security_context(input.container)?.namespace_options.as_ref()
}

fn pod_is_on_host(input: &Input<'_>) -> bool {
    let context = input.pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = context.and_then(|context| context.namespace_options.as_ref());
    options.is_some_and(|options| options.pid() == NamespaceMode::Node)
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
    fn pids_are_the_pods_unless_asked_otherwise() {
        const REST: &str = "net=/run/berth/p/net ipc=/run/berth/p/ipc uts=/run/berth/p/uts cgroup";
        const NO: &str = "PID namespaces of other containers are not supported";
        use NamespaceMode::{Container, Node, Pod, Target};
        use PidNamespace::{Host, Own};
        let options =
            |mode: i32| v1::NamespaceOption { pid: mode, ..v1::NamespaceOption::default() };
        // What the pod asks for, what the container asks for, and what that is.
        let cases = [
            (None, None, Ok(PidNamespace::Pod)),
            (None, Some(Pod), Ok(PidNamespace::Pod)),
            (None, Some(Container), Ok(Own)),
            (None, Some(Node), Ok(Host)),
            (None, Some(Target), Err(NO)),
            (Some(Pod), None, Ok(PidNamespace::Pod)),
            (Some(Container), None, Ok(PidNamespace::Pod)),
            (Some(Container), Some(Pod), Ok(PidNamespace::Pod)),
            (Some(Node), None, Ok(Host)),
            (Some(Node), Some(Pod), Ok(Host)),
            (Some(Node), Some(Container), Ok(Own)),
            (Some(Node), Some(Node), Ok(Host)),
        ];
        for (pod, container, want) in cases {
            let mut request = Request::plain();
            let linux = request.pod.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().namespace_options =
                pod.map(|mode| options(mode.into()));
            if let Some(mode) = container {
                request.context().namespace_options = Some(options(mode.into()));
            }
            let want = want.map_err(|why| format!("{FIELD}.pid: {why}"));
            let got = pids(&request.input()).map_err(|error| error.to_string());
            assert_eq!(got, want, "{pod:?}, {container:?}");
            let want = match want {
                Ok(Own | PidNamespace::Pod | PidNamespace::Of(_)) => format!("mnt pid {REST}"),
                Ok(Host) => format!("mnt {REST}"),
                Err(why) => why,
            };
            assert_eq!(text(&request), want, "{pod:?}, {container:?}");
        }
        let mut request = Request::plain();
        request.context().namespace_options = Some(options(7));
        assert_eq!(text(&request), format!("{FIELD}.pid: \"7\" is no namespace mode"));
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
