//! User namespaces: which ids of the host a pod's own stand for.

use crate::error::SpecError;
use crate::input::Input;
use crate::launch::Ids;
use cri_api::runtime::v1;
use cri_api::runtime::v1::NamespaceMode;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};
use plan::IdRange;

/// The ids of a pod's user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserNamespace {
    /// Its users, user 0 among them.
    pub uids: IdRange,
    /// Its groups, likewise.
    pub gids: IdRange,
}

const POD: &str = "linux.security_context.namespace_options";

/// The user namespace that a pod asks for; `None` is the host's.
///
/// As with other runtimes it is one range of users and one of groups (KEP-127), each from id 0 on. The pod's other
/// namespaces belong to it, so none of them can be the host's.
///
/// # Errors
///
/// [`SpecError::Invalid`] for any other shape.
pub fn user_namespace(pod: &v1::PodSandboxConfig) -> Result<Option<UserNamespace>, SpecError> {
    let linux = pod.linux.as_ref();
    let context = linux.and_then(|linux| linux.security_context.as_ref());
    let Some(options) = context.and_then(|context| context.namespace_options.as_ref()) else {
        return Ok(None);
    };
    let Some(asked) = &options.userns_options else { return Ok(None) };
    let field = |name: &str| format!("{POD}.userns_options.{name}");
    match NamespaceMode::try_from(asked.mode) {
        Ok(NamespaceMode::Node) if asked.uids.is_empty() && asked.gids.is_empty() => Ok(None),
        Ok(NamespaceMode::Node) => {
            let rule = "has no ids of its own, because it is the host's";
            Err(SpecError::invalid(field("mode"), "NODE", rule))
        }
        Ok(NamespaceMode::Pod) => {
            let modes = [("network", options.network), ("pid", options.pid), ("ipc", options.ipc)];
            for (name, mode) in modes {
                if mode == i32::from(NamespaceMode::Node) {
                    let rule = "must not be the host's in a pod with a user namespace";
                    return Err(SpecError::invalid(format!("{POD}.{name}"), "NODE", rule));
                }
            }
            let uids = one(&field("uids"), &asked.uids)?;
            let gids = one(&field("gids"), &asked.gids)?;
            Ok(Some(UserNamespace { uids, gids }))
        }
        Ok(NamespaceMode::Container | NamespaceMode::Target) | Err(_) => {
            let rule = "is no mode of user namespaces";
            Err(SpecError::invalid(field("mode"), asked.mode.to_string(), rule))
        }
    }
}

/// The user namespace of a container: the pod's, which the container may repeat but not change.
pub(crate) fn of_container(input: &Input<'_>) -> Result<Option<UserNamespace>, SpecError> {
    let of_pod = user_namespace(input.pod)?;
    let context = crate::confinement::security_context(input.container);
    let asked = context
        .and_then(|context| context.namespace_options.as_ref())
        .filter(|options| options.userns_options.is_some());
    let Some(asked) = asked else { return Ok(of_pod) };
    let as_pod = v1::PodSandboxConfig {
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(v1::NamespaceOption {
                    userns_options: asked.userns_options.clone(),
                    ..v1::NamespaceOption::default()
                }),
                ..v1::LinuxSandboxSecurityContext::default()
            }),
            ..v1::LinuxPodSandboxConfig::default()
        }),
        ..v1::PodSandboxConfig::default()
    };
    if user_namespace(&as_pod)? == of_pod {
        return Ok(of_pod);
    }
    let mode = asked.userns_options.as_ref().map_or(0, |userns| userns.mode);
    let rule = "must be what the pod has";
    Err(SpecError::invalid(format!("{POD}.userns_options"), mode.to_string(), rule))
}

/// Refuses users and groups that the user namespace has no ids for.
pub(crate) fn refuse_unmapped(input: &Input<'_>, user: UserNamespace) -> Result<(), SpecError> {
    let who = input.identity;
    let groups = who.groups.iter().chain([&who.gid]).map(|gid| ("group", *gid, user.gids));
    for (what, id, range) in std::iter::once(("user", who.uid, user.uids)).chain(groups) {
        if range.to_outside(id).is_none() {
            let field = format!("linux.security_context: {what} of the container");
            let rule = "is not mapped into the pod's user namespace";
            return Err(SpecError::invalid(field, id.to_string(), rule));
        }
    }
    Ok(())
}

fn one(field: &str, mappings: &[v1::IdMapping]) -> Result<IdRange, SpecError> {
    let [mapping] = mappings else {
        let rule = "mappings are given, and one is needed";
        return Err(SpecError::invalid(field, mappings.len().to_string(), rule));
    };
    let range = range(field, mapping)?;
    if range.inside == 0 {
        return Ok(range);
    }
    Err(SpecError::invalid(
        field,
        range.inside.to_string(),
        "is where it begins, and id 0 is needed",
    ))
}

/// Any ids in a row. The largest number is no id (`setuid(2)` takes it for "leave it").
pub(crate) fn range(field: &str, mapping: &v1::IdMapping) -> Result<IdRange, SpecError> {
    let v1::IdMapping { host_id, container_id, length } = *mapping;
    let fits = |first: u32| first.checked_add(length).is_some();
    if length > 0 && fits(host_id) && fits(container_id) {
        return Ok(IdRange { inside: container_id, outside: host_id, length });
    }
    let text = format!("{container_id} {host_id} {length}");
    Err(SpecError::invalid(field, text, "are no ids in a row"))
}

/// The ids that the request wants a mount's owners shown with.
pub(crate) fn ids(at: usize, request: &v1::Mount) -> Result<Option<Ids>, SpecError> {
    let ranges = |name: &str, mappings: &[v1::IdMapping]| {
        let field = format!("mounts[{at}].{name}");
        if mappings.len() > MOST_RANGES {
            let rule = "mappings are more than the kernel takes";
            return Err(SpecError::invalid(field, mappings.len().to_string(), rule));
        }
        mappings.iter().map(|mapping| range(&field, mapping)).collect::<Result<Vec<_>, _>>()
    };
    let uids = ranges("uidMappings", &request.uid_mappings)?;
    let gids = ranges("gidMappings", &request.gid_mappings)?;
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(Ids { uids, gids })),
        (true, false) => Err(SpecError::missing(
            format!("mounts[{at}].uidMappings"),
            "is needed beside gidMappings",
        )),
        (false, true) => Err(SpecError::missing(
            format!("mounts[{at}].gidMappings"),
            "is needed beside uidMappings",
        )),
    }
}

/// `UID_GID_MAP_MAX_EXTENTS` of the kernel.
const MOST_RANGES: usize = 340;

/// Those of the pod, whose root is the container's.
pub(crate) fn ids_of_pod(input: &Input<'_>) -> Option<Ids> {
    // A pod that asks for what cannot be was refused before.
    let user = of_container(input).ok().flatten()?;
    Some(Ids { uids: vec![user.uids], gids: vec![user.gids] })
}

/// Has the owners in a mount shown with these ids.
pub(crate) fn map_ids(mount: &mut Mount, ids: Option<&Ids>) {
    let to_oci = |ranges: &[IdRange]| ranges.iter().copied().map(to_oci).collect();
    if let Some(ids) = ids {
        mount.set_uid_mappings(Some(to_oci(&ids.uids))).set_gid_mappings(Some(to_oci(&ids.gids)));
    }
}

/// To OCI's words.
pub(crate) fn to_oci(range: IdRange) -> LinuxIdMapping {
    let IdRange { inside, outside, length } = range;
    let mapping = LinuxIdMappingBuilder::default().container_id(inside).host_id(outside);
    // Every field has a default, so that nothing can be missing.
    mapping.size(length).build().unwrap_or_default()
}

/// From OCI's words.
pub(crate) fn from_oci(mapping: &LinuxIdMapping) -> IdRange {
    IdRange { inside: mapping.container_id(), outside: mapping.host_id(), length: mapping.size() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;

    fn ids(container_id: u32, host_id: u32, length: u32) -> v1::IdMapping {
        v1::IdMapping { host_id, container_id, length }
    }

    fn asked(
        mode: NamespaceMode,
        uids: &[v1::IdMapping],
        gids: &[v1::IdMapping],
    ) -> v1::UserNamespace {
        v1::UserNamespace { mode: mode.into(), uids: uids.into(), gids: gids.into() }
    }

    fn pod(
        userns: v1::UserNamespace,
        change: impl Fn(&mut v1::NamespaceOption),
    ) -> v1::PodSandboxConfig {
        let mut request = Request::plain();
        let linux = request.pod.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        let options = context.namespace_options.get_or_insert_default();
        options.userns_options = Some(userns);
        change(options);
        request.pod
    }

    #[test]
    #[rustfmt::skip]
    fn a_pods_ids_are_one_range_with_root_in_it() {
        use NamespaceMode::{Container, Node, Pod, Target};
        let range = ids(0, 65_536, 65_536);
        let cases = [
            ("one range each", asked(Pod, &[range], &[range]), "65536+65536 65536+65536"),
            ("different ranges", asked(Pod, &[range], &[ids(0, 5, 9)]), "65536+65536 5+9"),
            ("the host's", asked(Node, &[], &[]), "none"),
            ("the host's, with ids", asked(Node, &[range], &[range]), "NODE"),
            ("no range", asked(Pod, &[], &[]), "uids: \"0\" mappings"),
            ("no groups", asked(Pod, &[range], &[]), "gids: \"0\" mappings"),
            ("two ranges", asked(Pod, &[range, ids(70_000, 1, 1)], &[range]), "uids: \"2\" mappings"),
            ("without root", asked(Pod, &[ids(1, 65_536, 10)], &[range]), "id 0 is needed"),
            ("of no length", asked(Pod, &[ids(0, 1, 0)], &[range]), "no ids in a row"),
            ("beyond the last id", asked(Pod, &[ids(0, u32::MAX, 1)], &[range]), "no ids in a row"),
            ("up to the last id", asked(Pod, &[ids(0, u32::MAX - 1, 1)], &[range]), "4294967294+1 65536+65536"),
            ("of a container", asked(Container, &[range], &[range]), "is no mode"),
            ("of another", asked(Target, &[range], &[range]), "is no mode"),
        ];
        for (name, userns, want) in cases {
            let got = match user_namespace(&pod(userns, |_| {})) {
                Ok(None) => "none".to_owned(),
                Ok(Some(UserNamespace { uids, gids })) => {
                    format!("{}+{} {}+{}", uids.outside, uids.length, gids.outside, gids.length)
                }
                Err(error) => error.to_string(),
            };
            assert!(got.contains(want), "{name}: {got}");
        }
    }

    #[test]
    fn nothing_of_the_pod_can_be_the_hosts_then() {
        type Change = fn(&mut v1::NamespaceOption);
        let cases: [(&str, Change); 3] = [
            ("network", |options| options.network = NamespaceMode::Node.into()),
            ("pid", |options| options.pid = NamespaceMode::Node.into()),
            ("ipc", |options| options.ipc = NamespaceMode::Node.into()),
        ];
        let range = [ids(0, 65_536, 65_536)];
        for (name, change) in cases {
            let pod = pod(asked(NamespaceMode::Pod, &range, &range), change);
            let error = user_namespace(&pod).expect_err(name).to_string();
            assert!(error.contains(&format!(".{name}: \"NODE\" must not be")), "{error}");
        }
    }

    #[test]
    fn a_container_has_its_pods_and_no_other() {
        let range = [ids(0, 65_536, 65_536)];
        let own = asked(NamespaceMode::Pod, &range, &range);
        let other = asked(NamespaceMode::Pod, &[ids(0, 5, 65_536)], &range);
        let host = asked(NamespaceMode::Node, &[], &[]);
        let cases = [
            ("silent", None, true),
            ("the same", Some(own.clone()), true),
            ("others", Some(other), false),
            ("the host's", Some(host), false),
        ];
        for (name, userns, accepted) in cases {
            let mut request = Request::plain();
            request.pod = pod(own.clone(), |_| {});
            request.context().namespace_options = Some(v1::NamespaceOption {
                userns_options: userns,
                ..v1::NamespaceOption::default()
            });
            assert_eq!(of_container(&request.input()).is_ok(), accepted, "{name}");
        }
        let mut request = Request::plain();
        request.context().namespace_options =
            Some(v1::NamespaceOption { userns_options: Some(own), ..Default::default() });
        assert!(of_container(&request.input()).is_err(), "one of its own");
    }

    #[test]
    fn who_is_not_mapped_cannot_run() {
        let ids = IdRange { inside: 0, outside: 65_536, length: 1000 };
        let user = UserNamespace { uids: ids, gids: ids };
        let cases = [
            ("all mapped", 999, 0, 999, true),
            ("user", 1000, 0, 0, false),
            ("group", 0, 1000, 0, false),
            ("further group", 0, 0, 1000, false),
        ];
        for (name, uid, gid, group, accepted) in cases {
            let mut request = Request::plain();
            request.identity =
                crate::Identity { uid, gid, groups: vec![group], home: String::new() };
            assert_eq!(refuse_unmapped(&request.input(), user).is_ok(), accepted, "{name}");
        }
    }
}
