//! Requests for the tests of this crate.

use crate::{
    Architecture, CgroupFacts, HostDevice, HostFacts, Identity, ImageDefaults, Input,
    NamespacePins, SandboxFiles,
};
use cri_api::runtime::v1;
use plan::DeviceKind;
use std::collections::BTreeMap;

/// Everything that an [`Input`] borrows.
pub(crate) struct Request {
    pub(crate) pod: v1::PodSandboxConfig,
    pub(crate) container: v1::ContainerConfig,
    pub(crate) image: ImageDefaults,
    pub(crate) identity: Identity,
    pub(crate) files: SandboxFiles,
    pub(crate) namespaces: NamespacePins,
    pub(crate) target: Option<String>,
    pub(crate) images: BTreeMap<String, String>,
    pub(crate) devices: Vec<HostDevice>,
    pub(crate) cdi: crate::CdiEdits,
    pub(crate) localhost_seccomp: Option<Vec<u8>>,
    pub(crate) host: HostFacts,
}

impl Request {
    /// A container that asks for nothing, in a pod with its own namespaces, on a host with everything.
    pub(crate) fn plain() -> Self {
        let pod = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".into(),
                uid: "0d1f".into(),
                namespace: "shop".into(),
                attempt: 0,
            }),
            hostname: "web".into(),
            ..v1::PodSandboxConfig::default()
        };
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "nginx".into(), attempt: 0 }),
            ..v1::ContainerConfig::default()
        };
        let image = ImageDefaults { cmd: vec!["/bin/nginx".into()], ..ImageDefaults::default() };
        let pin = |name| Some(format!("/run/berth/p/{name}").into());
        Self {
            pod,
            container,
            image,
            identity: Identity { home: "/root".into(), ..Identity::default() },
            files: SandboxFiles {
                hosts: pin("hosts"),
                hostname: pin("hostname"),
                resolv_conf: pin("resolv.conf"),
            },
            namespaces: NamespacePins {
                net: pin("net"),
                ipc: pin("ipc"),
                uts: pin("uts"),
                user: None,
            },
            target: None,
            images: BTreeMap::new(),
            devices: Vec::new(),
            cdi: crate::CdiEdits::default(),
            localhost_seccomp: None,
            host: HostFacts {
                capabilities: (1 << 41) - 1,
                hostname: "node-1".into(),
                cgroup: CgroupFacts::V2,
                apparmor: false,
                apparmor_default: None,
                selinux: false,
                devices: Vec::new(),
                throttled_cpus: 0,
                architecture: Architecture::X86_64,
            },
        }
    }

    /// The container's security context.
    pub(crate) fn context(&mut self) -> &mut v1::LinuxContainerSecurityContext {
        self.container.linux.get_or_insert_default().security_context.get_or_insert_default()
    }

    /// Makes pod and container privileged.
    pub(crate) fn privileged(&mut self) {
        self.context().privileged = true;
        self.pod
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
            .privileged = true;
    }

    /// Gives the pod a user namespace of 65,536 ids.
    pub(crate) fn with_user_namespace(&mut self) {
        let ids = v1::IdMapping { host_id: 131_072, container_id: 0, length: 65_536 };
        let userns = v1::UserNamespace { uids: vec![ids], gids: vec![ids], mode: 0 };
        let linux = self.pod.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.namespace_options.get_or_insert_default().userns_options = Some(userns);
        self.namespaces.user = Some("/run/berth/p/user".into());
    }

    pub(crate) fn input(&self) -> Input<'_> {
        Input {
            pod: &self.pod,
            container: &self.container,
            image: &self.image,
            identity: &self.identity,
            files: &self.files,
            namespaces: &self.namespaces,
            target: self.target.as_deref(),
            images: &self.images,
            cgroup: "/kubepods/pod0d1f/c1",
            devices: &self.devices,
            cdi: &self.cdi,
            localhost_seccomp: self.localhost_seccomp.as_deref(),
            host: &self.host,
        }
    }
}

/// A character device of the host.
pub(crate) fn device(path: &str) -> HostDevice {
    HostDevice {
        path: path.to_owned(),
        kind: DeviceKind::Char,
        major: 10,
        minor: 229,
        mode: 0o660,
        uid: 0,
        gid: 44,
    }
}
