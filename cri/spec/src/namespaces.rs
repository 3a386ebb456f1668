//! Which namespaces a container is in.

use crate::confinement::{is_privileged, security_context};
use crate::error::SpecError;
use crate::input::{CgroupFacts, Input};
use crate::users::of_container;
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
    let user = of_container(input)?.is_some();
    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)];
    if user {
        let pin = input.namespaces.user.clone();
        let pin = pin.ok_or_else(|| {
            SpecError::missing(format!("{FIELD}.userns_options"), "is of a pod that has none")
        })?;
        namespaces.push(namespace(LinuxNamespaceType::User, Some(pin)));
    }
    let pids = pids(input)?;
    if user && pids == PidNamespace::Host {
        let rule = "must not be the host's in a pod with a user namespace";
        return Err(SpecError::invalid(format!("{FIELD}.pid"), "NODE", rule));
    }
    if pids != PidNamespace::Host {
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
    // As other runtimes do: privileged containers manage the host's cgroups, but from inside a user namespace nobody can. On
    // v1 the container's directories are bound instead, and /proc/self/cgroup goes on naming them as they are found there.
    if input.host.cgroup == CgroupFacts::V2 && (user || !is_privileged(input.container)) {
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
        Ok(NamespaceMode::Target) => match input.target {
            Some(target) => Ok(PidNamespace::Of(target.to_owned())),
            None => {
                Err(SpecError::missing(field(), "the target is no running container of the pod"))
            }
        },
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
        const NO: &str = "the target is no running container of the pod";
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
    fn a_target_is_joined() {
        let mut request = Request::plain();
        request.context().namespace_options = Some(v1::NamespaceOption {
            pid: NamespaceMode::Target.into(),
            ..v1::NamespaceOption::default()
        });
        request.target = Some("c0ffee".into());
        assert_eq!(pids(&request.input()), Ok(PidNamespace::Of("c0ffee".into())));
    }

    #[test]
    fn a_user_namespace_owns_all_the_others() {
        let mut request = Request::plain();
        request.with_user_namespace();
        let own = "mnt user=/run/berth/p/user pid net=/run/berth/p/net ipc=/run/berth/p/ipc uts=/run/berth/p/uts cgroup";
        assert_eq!(text(&request), own);
        request.privileged();
        assert_eq!(text(&request), own, "the host's cgroups are out of reach anyway");
        request.context().namespace_options = Some(v1::NamespaceOption {
            pid: NamespaceMode::Node.into(),
            ..v1::NamespaceOption::default()
        });
        assert!(text(&request).contains("must not be the host's"));
    }
}
