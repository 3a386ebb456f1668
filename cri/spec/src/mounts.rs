//! The file system of a container beside its root.
//!
//! Our own mounts come first, in a fixed order; then the pod's files and the request's mounts, sorted by depth, so
//! that a mount never hides one that was asked for below it. What the request mounts itself takes the place of ours.

use crate::confinement::{is_privileged, security_context};
use crate::error::SpecError;
use crate::input::{CgroupFacts, Input};
use crate::target;
use crate::users::{ids, ids_of_pod, map_ids};
use crate::volumes::{image, volume};
use cri_api::runtime::v1;
use cri_api::runtime::v1::MountPropagation;
use oci_spec::runtime::Mount;
use plan::COVERABLE;
use std::path::Path;

/// The source of the pod's own `/dev/shm`, which the monitor keeps and only it can mount. Another OCI runtime sees a
/// tmpfs of this name.
pub(crate) const POD_SHM: &str = "pod-shm";

/// The mounts of a container's spec.
#[derive(Debug)]
pub(crate) struct Mounts {
    pub(crate) all: Vec<Mount>,
    /// The targets that the request mounts on.
    pub(crate) requested: Vec<String>,
    /// `linux.rootfsPropagation`; absent is private.
    pub(crate) root_propagation: Option<&'static str>,
}

/// Translates the mounts of a request.
pub(crate) fn mounts(input: &Input<'_>) -> Result<Mounts, SpecError> {
    refuse_image_volumes_over_proc(input)?;
    let mut binds = Vec::new();
    let mut requested = Vec::new();
    let mut propagations = Vec::new();
    for (at, request) in input.container.mounts.iter().enumerate() {
        let (mount, propagation) = if image(request).is_some() {
            (volume(at, request, input)?, MountPropagation::PropagationPrivate)
        } else {
            bind(at, request, input)?
        };
        propagations.push(propagation);
        requested.push(mount.destination().to_string_lossy().into_owned());
        binds.push(mount);
    }
    let is_free = |path: &str| !requested.iter().any(|other| other == path);
    binds
        .extend(sandbox_files(input).into_iter().filter(|(path, _)| is_free(path)).map(|(_, m)| m));
    binds.sort_by_key(|mount| target::depth(&mount.destination().to_string_lossy()));

    let own_dev = is_free("/dev");
    let mut all: Vec<Mount> = defaults(input)
        .into_iter()
        .filter(|(path, _)| is_free(path) && (own_dev || !path.starts_with("/dev/")))
        .map(|(_, mount)| mount)
        .collect();
    all.extend(binds);
    Ok(Mounts { all, requested, root_propagation: of_root(&propagations) })
}

/// The mounts that every container has.
fn defaults(input: &Input<'_>) -> Vec<(&'static str, Mount)> {
    let privileged = is_privileged(input.container);
    let access = if privileged { "rw" } else { "ro" };
    let user = input.namespaces.user.is_some();
    let shm = match input.namespaces.ipc {
        Some(_) => mount("/dev/shm", "tmpfs", POD_SHM, &["nosuid", "noexec", "nodev"]),
        // POSIX shared memory of a pod in the host's IPC namespace is the host's.
        None => mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate", "rw"]),
    };
    let cgroup = match input.host.cgroup {
        // A privileged container is in the host's cgroup namespace, as with other runtimes. Mounting cgroup2 there
        // would reset the mount options of the one superblock that the host uses, so it gets the host's mount.
        CgroupFacts::V2 if privileged && !user => {
            mount("/sys/fs/cgroup", "bind", "/sys/fs/cgroup", &["rbind", "rprivate", "rw"])
        }
        CgroupFacts::V2 | CgroupFacts::V1 { .. } => mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    };
    vec![
        ("/proc", mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])),
        (
            "/dev",
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ),
        (
            "/dev/pts",
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
        ),
        ("/dev/shm", shm),
        ("/dev/mqueue", mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])),
        ("/sys", mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])),
        ("/sys/fs/cgroup", cgroup),
    ]
}

/// The pod's files; read-only where the root is.
fn sandbox_files(input: &Input<'_>) -> Vec<(&'static str, Mount)> {
    let readonly = security_context(input.container).is_some_and(|context| context.readonly_rootfs);
    let access = if readonly { "ro" } else { "rw" };
    // Root of the container is who they belong to, as everywhere.
    let of_pod = ids_of_pod(input);
    let of_pod = of_pod.as_ref();
    let files = [
        ("/etc/hostname", &input.files.hostname),
        ("/etc/hosts", &input.files.hosts),
        ("/etc/resolv.conf", &input.files.resolv_conf),
    ];
    let bind = |(path, source): (&'static str, &Option<std::path::PathBuf>)| {
        let options = ["rbind", "rprivate", "nosuid", "nodev", "noexec", access];
        source.as_ref().map(|source| {
            let mut mount = mount(path, "bind", source, &options);
            map_ids(&mut mount, of_pod);
            (path, mount)
        })
    };
    files.into_iter().filter_map(bind).collect()
}

pub(crate) fn mount(target: &str, kind: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.as_ref().to_owned()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// One mount of the request. Links in its host path are followed when the daemon opens it.
fn bind(
    at: usize,
    request: &v1::Mount,
    input: &Input<'_>,
) -> Result<(Mount, MountPropagation), SpecError> {
    let field = |name: &str| format!("mounts[{at}].{name}");
    let ids = ids(at, request)?;
    if !request.image_sub_path.is_empty() {
        let rule = "is of no image";
        return Err(SpecError::invalid(field("image_sub_path"), &request.image_sub_path, rule));
    }
    if request.selinux_relabel && input.host.selinux {
        return Err(SpecError::unsupported(
            field("selinux_relabel"),
            "SELinux labels of volumes are",
        ));
    }
    let inside = inside(at, request)?;
    let host = target::clean(&field("host_path"), &request.host_path)?;
    let propagation = MountPropagation::try_from(request.propagation).map_err(|_| {
        let value = request.propagation.to_string();
        SpecError::invalid(field("propagation"), value, "is no propagation")
    })?;
    let access = match (request.readonly, request.recursive_read_only, propagation) {
        (false, false, _) => "rw",
        (true, false, _) => "ro",
        (true, true, MountPropagation::PropagationPrivate) => "rro",
        (true, true, _) => {
            let rule = "needs private propagation";
            return Err(SpecError::invalid(field("recursive_read_only"), "true", rule));
        }
        (false, true, _) => {
            let rule = "needs readonly";
            return Err(SpecError::invalid(field("recursive_read_only"), "true", rule));
        }
    };
    if propagation == MountPropagation::PropagationBidirectional && input.namespaces.user.is_some()
    {
        let rule = "would let a user namespace mount on the host";
        return Err(SpecError::invalid(field("propagation"), "BIDIRECTIONAL", rule));
    }
    let mut mount = mount(&inside, "bind", host, &["rbind", option(propagation), access]);
    map_ids(&mut mount, ids.as_ref());
    Ok((mount, propagation))
}

/// Where a mount of the request goes.
pub(crate) fn inside(at: usize, request: &v1::Mount) -> Result<String, SpecError> {
    let field = format!("mounts[{at}].container_path");
    let inside = target::clean(&field, &request.container_path)?;
    if inside == "/" {
        return Err(SpecError::invalid(field, "/", "is the container's root"));
    }
    if target::is_at_or_below(&inside, "/proc") && !COVERABLE.contains(&inside.as_str()) {
        // CVE-2019-16884: a fake /proc takes labels and profiles away.
        return Err(SpecError::invalid(field, inside, "must not be in /proc"));
    }
    Ok(inside)
}

fn option(propagation: MountPropagation) -> &'static str {
    match propagation {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    }
}

/// A mount can pass on only what its parent passes on: the root is as open as the most open of its mounts.
fn of_root(mounts: &[MountPropagation]) -> Option<&'static str> {
    let strongest =
        [MountPropagation::PropagationBidirectional, MountPropagation::PropagationHostToContainer];
    strongest.into_iter().find(|candidate| mounts.contains(candidate)).map(option)
}

/// Volumes that an image declares are directories of the container's own root here. One over `/proc` is an attack
/// (CVE-2019-16884), and refused where a runtime that mounts them would have to.
fn refuse_image_volumes_over_proc(input: &Input<'_>) -> Result<(), SpecError> {
    for (at, volume) in input.image.volumes.iter().enumerate() {
        let field = format!("image.volumes[{at}]");
        if target::is_at_or_below(&target::clean(&field, volume)?, "/proc") {
            return Err(SpecError::invalid(field, volume, "must not be in /proc"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Request;

    fn asked(container_path: &str) -> v1::Mount {
        v1::Mount {
            container_path: container_path.into(),
            host_path: "/srv/data".into(),
            ..v1::Mount::default()
        }
    }

    fn targets(request: &Request) -> Vec<String> {
        let mounts = mounts(&request.input()).expect("mounts").all;
        mounts.iter().map(|mount| mount.destination().display().to_string()).collect()
    }

    const OWN: [&str; 7] =
        ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
    const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

    #[test]
    fn ours_come_first_and_then_the_shallow_ones() {
        let mut request = Request::plain();
        assert_eq!(targets(&request), [&OWN[..], &FILES].concat());

        request.container.mounts =
            ["/a/b/c", "/etc", "/a", "/a/b", "/z", "/dev/net"].map(asked).to_vec();
        let later = [&["/etc", "/a", "/z", "/a/b", "/dev/net"], &FILES[..], &["/a/b/c"]].concat();
        assert_eq!(targets(&request), [&OWN[..], &later].concat(), "equally deep: as asked");
    }

    #[test]
    fn the_request_takes_the_place_of_ours() {
        let without = |missing: &[&str]| -> Vec<String> {
            let kept = OWN.iter().chain(&FILES).filter(|path| !missing.contains(path));
            kept.map(|path| (*path).to_owned()).collect()
        };
        let cases: [(&str, &[&str]); 6] = [
            ("/dev/shm", &["/dev/shm"]),
            ("/etc//hosts/", &["/etc/hosts"]),
            ("/sys", &["/sys"]),
            ("/sys/fs/cgroup", &["/sys/fs/cgroup"]),
            ("/dev", &["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"]),
            ("/device", &[]),
        ];
        for (path, gone) in cases {
            let mut request = Request::plain();
            request.container.mounts = vec![asked(path)];
            let mut got = targets(&request);
            let clean = target::clean("", path).expect("clean");
            assert_eq!(got.iter().filter(|other| **other == clean).count(), 1, "{path}");
            got.retain(|other| *other != clean);
            assert_eq!(got, without(gone), "{path}");
        }
    }

    fn mapped(uids: u32, gids: u32) -> v1::Mount {
        let map = |length: u32| {
            let ids = v1::IdMapping { host_id: 1, container_id: 0, length };
            (length > 0).then_some(ids).into_iter().collect()
        };
        v1::Mount { uid_mappings: map(uids), gid_mappings: map(gids), ..asked("/data") }
    }

    #[test]
    #[rustfmt::skip]
    fn what_a_mount_may_ask_for() {
        let host = |host_path: &str| v1::Mount { host_path: host_path.into(), ..asked("/data") };
        let cases = [
            ("writable", asked("/data"), "rbind rprivate rw"),
            ("read-only", v1::Mount { readonly: true, ..asked("/data") }, "rbind rprivate ro"),
            ("the root", asked("/a/.."), r#"mounts[0].container_path: "/" is the container's root"#),
            ("relative", asked("data"), r#"mounts[0].container_path: "data" must be an absolute path"#),
            ("/proc", asked("/proc"), r#"mounts[0].container_path: "/proc" must not be in /proc"#),
            ("below /proc", asked("/a/../proc/self/attr"), r#"mounts[0].container_path: "/proc/self/attr" must not be in /proc"#),
            ("what lxcfs shows", asked("/proc/meminfo"), "rbind rprivate rw"),
            ("no source", host(""), r#"mounts[0].host_path: "" must be an absolute path"#),
            ("a part of no image", v1::Mount { image_sub_path: "a".into(), ..asked("/data") }, r#"mounts[0].image_sub_path: "a" is of no image"#),
            ("ids", mapped(5, 5), "rbind rprivate rw"),
            ("users alone", mapped(5, 0), "mounts[0].gidMappings: is needed beside uidMappings"),
            ("groups alone", mapped(0, 5), "mounts[0].uidMappings: is needed beside gidMappings"),
            ("no ids", mapped(u32::MAX, 5), r#"mounts[0].uidMappings: "0 1 4294967295" are no ids in a row"#),
        ];
        for (case, mount, want) in cases {
            assert_eq!(options(&mount, false), want, "{case}");
        }
        let labelled = v1::Mount { selinux_relabel: true, ..asked("/data") };
        assert_eq!(options(&labelled, false), "rbind rprivate rw", "labels, without SELinux");
        assert_eq!(
            options(&labelled, true),
            "mounts[0].selinux_relabel: SELinux labels of volumes are not supported"
        );
    }

    #[test]
    #[rustfmt::skip]
    fn propagation_and_what_it_allows() {
        use MountPropagation::{PropagationBidirectional as Shared, PropagationHostToContainer as Slave, PropagationPrivate as Private};
        let cases = [
            ("private", Private, true, true, "rbind rprivate rro"),
            ("recursively read-only and writable", Private, false, true, r#"mounts[0].recursive_read_only: "true" needs readonly"#),
            ("slave", Slave, true, false, "rbind rslave ro"),
            ("slave and recursive", Slave, true, true, r#"mounts[0].recursive_read_only: "true" needs private propagation"#),
            ("shared", Shared, false, false, "rbind rshared rw"),
            ("shared and recursive", Shared, true, true, r#"mounts[0].recursive_read_only: "true" needs private propagation"#),
        ];
        for (case, propagation, readonly, recursive_read_only, want) in cases {
            let mount = v1::Mount { propagation: propagation.into(), readonly, recursive_read_only, ..asked("/data") };
            assert_eq!(options(&mount, false), want, "{case}");
        }
        let unknown = v1::Mount { propagation: 9, ..asked("/data") };
        assert_eq!(options(&unknown, false), r#"mounts[0].propagation: "9" is no propagation"#);
    }

    /// The mount's options, or why it is refused.
    fn options(mount: &v1::Mount, selinux: bool) -> String {
        let mut request = Request::plain();
        request.host.selinux = selinux;
        match bind(0, mount, &request.input()) {
            Ok((mount, _)) => mount.options().clone().unwrap_or_default().join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn nobody_mounts_on_the_host_from_a_user_namespace() {
        let shared = MountPropagation::PropagationBidirectional.into();
        let mount = v1::Mount { propagation: shared, ..asked("/data") };
        let mut request = Request::plain();
        request.with_user_namespace();
        let error = bind(0, &mount, &request.input()).expect_err("refused").to_string();
        assert!(error.starts_with("mounts[0].propagation"), "{error}");
    }

    #[test]
    fn the_root_is_as_open_as_its_most_open_mount() {
        use MountPropagation::{
            PropagationBidirectional as Shared, PropagationHostToContainer as Slave,
            PropagationPrivate as Private,
        };
        let cases: [(&[MountPropagation], Option<&str>); 5] = [
            (&[], None),
            (&[Private], None),
            (&[Private, Slave], Some("rslave")),
            (&[Shared, Slave], Some("rshared")),
            (&[Slave, Shared], Some("rshared")),
        ];
        for (mounts, want) in cases {
            assert_eq!(of_root(mounts), want, "{mounts:?}");
        }
    }

    #[test]
    fn a_volume_of_the_image_over_proc_is_refused() {
        let cases = [("/data", true), ("/proc", false), ("/proc/sys", false), ("data", false)];
        for (volume, accepted) in cases {
            let mut request = Request::plain();
            request.image.volumes = vec![volume.into()];
            assert_eq!(mounts(&request.input()).is_ok(), accepted, "{volume}");
        }
    }
}
