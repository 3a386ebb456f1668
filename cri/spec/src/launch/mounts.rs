//! The file system part of a plan.

use super::{Descriptors, Ids, Open};
use crate::devices::DEFAULT_NODES;
use crate::error::SpecError;
use crate::input::{CgroupFacts, HostFacts};
use crate::mounts::POD_SHM;
use crate::target;
use crate::users;
use crate::volumes::{IMAGE, SUB_PATH};
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, Mount as OciMount, Spec,
};
use plan::{Attributes, Device, DeviceKind, Link, Mount, Propagation, Source};
use std::path::{Path, PathBuf};

/// The steps that make a container's file system.
#[derive(Default)]
pub(super) struct FileSystem {
    pub(super) mounts: Vec<Mount>,
    pub(super) devices: Vec<Device>,
    pub(super) links: Vec<Link>,
    /// Mounts that are closed to writes once what lies in them is there.
    pub(super) readonly: Vec<String>,
}

/// The links that programs expect below `/dev`. `core` leads to a file that is hidden, and is there because every
/// other runtime has it.
const LINKS: [(&str, &str); 6] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/core", "/proc/kcore"),
];

pub(super) fn mounts(
    spec: &Spec,
    linux: &Linux,
    host: &HostFacts,
    descriptors: &mut Descriptors,
) -> Result<FileSystem, SpecError> {
    let mut made = FileSystem::default();
    for (at, mount) in spec.mounts().iter().flatten().enumerate() {
        let parsed = Parsed::read(at, mount)?;
        if parsed.kind == "cgroup" {
            cgroup(&parsed, linux, host, descriptors, &mut made)?;
        } else {
            let mount = parsed.mount(descriptors)?;
            made.mounts.push(mount);
        }
    }
    // Nodes are only ever made on a tmpfs of our own, never in an image or a volume (CVE-2026-48749).
    let own_dev =
        made.mounts.iter().any(|m| m.target == "/dev" && matches!(m.source, Source::Tmpfs(_)));
    let is_free = |path: &str| {
        !made.mounts.iter().any(|m| m.target != "/dev" && target::is_at_or_below(path, &m.target))
    };
    let asked = linux.devices().as_deref().unwrap_or_default();
    // Ours belong to the container's root; the host's stay whose they are there.
    let root = |mappings: &Option<Vec<LinuxIdMapping>>| {
        mappings.iter().flatten().find_map(|ids| users::from_oci(ids).to_outside(0)).unwrap_or(0)
    };
    let owner = (root(linux.uid_mappings()), root(linux.gid_mappings()));
    for device in asked {
        let device = node(device)?;
        if !own_dev || !is_free(&device.path) {
            return Err(SpecError::invalid("linux.devices", device.path, "lies in a mount"));
        }
        made.devices.push(device);
    }
    if own_dev {
        let defaults = DEFAULT_NODES.iter().filter_map(|(path, major, minor)| {
            let is_asked = asked.iter().any(|other| other.path() == Path::new(path));
            (is_free(path) && !is_asked).then(|| default_node(path, *major, *minor, owner))
        });
        made.devices = defaults.chain(made.devices.drain(..)).collect();
        made.links = LINKS
            .into_iter()
            .filter(|(path, _)| is_free(path))
            .map(|(path, target)| Link { path: path.into(), target: target.into() })
            .collect();
    }
    Ok(made)
}

/// A mount of a spec, its options sorted by what they are.
struct Parsed<'a> {
    field: String,
    target: String,
    kind: &'a str,
    source: Option<&'a PathBuf>,
    attributes: Attributes,
    propagation: Propagation,
    recursive: bool,
    ids: Option<Ids>,
    /// What the file system itself takes, as key and value.
    data: Vec<(String, String)>,
    flags: Vec<&'a str>,
}

impl<'a> Parsed<'a> {
    fn read(at: usize, mount: &'a OciMount) -> Result<Self, SpecError> {
        let field = format!("mounts[{at}]");
        let options = mount.options().as_deref().unwrap_or_default();
        let is_bind = options.iter().any(|option| option == "bind" || option == "rbind");
        let mut parsed = Self {
            target: target::clean(&field, &mount.destination().to_string_lossy())?,
            kind: if is_bind { "bind" } else { mount.typ().as_deref().unwrap_or_default() },
            source: mount.source().as_ref(),
            attributes: Attributes::default(),
            propagation: Propagation::Private,
            recursive: false,
            ids: ids(mount),
            data: Vec::new(),
            flags: Vec::new(),
            field,
        };
        for option in options {
            parsed.option(option)?;
        }
        Ok(parsed)
    }

    fn option(&mut self, option: &'a str) -> Result<(), SpecError> {
        match option {
            "ro" => self.attributes.readonly = true,
            "rro" => {
                self.attributes.readonly = true;
                self.attributes.recursive_readonly = true;
            }
            "nosuid" => self.attributes.nosuid = true,
            "nodev" => self.attributes.nodev = true,
            "noexec" => self.attributes.noexec = true,
            "noatime" => self.attributes.noatime = true,
            "relatime" => self.attributes.relatime = true,
            "rw" | "bind" => {}
            "rbind" => self.recursive = true,
            "rprivate" => self.propagation = Propagation::Private,
            "rslave" => self.propagation = Propagation::Slave,
            "rshared" => self.propagation = Propagation::Shared,
            _ => match option.split_once('=') {
                Some((key, value)) => self.data.push((key.to_owned(), value.to_owned())),
                None => self.flags.push(option),
            },
        }
        Ok(())
    }

    fn mount(self, descriptors: &mut Descriptors) -> Result<Mount, SpecError> {
        let source = self.source(descriptors)?;
        Ok(Mount {
            target: self.target,
            source,
            attributes: self.attributes,
            propagation: self.propagation,
        })
    }

    fn source(&self, descriptors: &mut Descriptors) -> Result<Source, SpecError> {
        let is_shm = self.source.is_some_and(|source| source.as_os_str() == POD_SHM);
        let (source, flags): (Source, &[&str]) = match self.kind {
            "proc" => (Source::Proc, &[]),
            "sysfs" => (Source::Sysfs, &[]),
            "mqueue" => (Source::Mqueue, &[]),
            "tmpfs" if is_shm => (Source::PodShm, &[]),
            // Access times of a tmpfs cost nothing and are no attribute of a plan: it keeps the kernel's default.
            "tmpfs" => (Source::Tmpfs(self.data.clone()), &["strictatime"]),
            // Every mount of devpts is a new instance since Linux 4.7.
            "devpts" => (Source::Devpts(self.data.clone()), &["newinstance"]),
            "bind" => (self.tree(descriptors)?, &[]),
            IMAGE => return self.image(descriptors),
            kind => {
                let rule = "is no type of mount that a container can have";
                return Err(SpecError::invalid(format!("{}.type", self.field), kind, rule));
            }
        };
        if self.ids.is_some() && !matches!(source, Source::Tree(_)) {
            return Err(SpecError::unsupported(&self.field, "mapped ids of a new file system are"));
        }
        let takes_data = matches!(source, Source::Tmpfs(_) | Source::Devpts(_));
        if let Some((key, _)) = self.data.first().filter(|_| !takes_data) {
            return Err(self.refuse_option(key));
        }
        match self.flags.iter().find(|flag| !flags.contains(flag)) {
            Some(flag) => Err(self.refuse_option(flag)),
            None => Ok(source),
        }
    }

    fn refuse_option(&self, option: &str) -> SpecError {
        let rule = "is no option that a plan has a word for";
        SpecError::invalid(format!("{}.options", self.field), option, rule)
    }

    fn tree(&self, descriptors: &mut Descriptors) -> Result<Source, SpecError> {
        let path = self.source.filter(|source| source.is_absolute()).cloned();
        let field = || format!("{}.source", self.field);
        let path = path.ok_or_else(|| SpecError::missing(field(), "an absolute path is needed"))?;
        let open = Open::Tree { path, recursive: self.recursive, ids: self.ids.clone() };
        Ok(Source::Tree(descriptors.add(open)?))
    }

    fn image(&self, descriptors: &mut Descriptors) -> Result<Source, SpecError> {
        let mut sub_path = String::new();
        for (key, value) in &self.data {
            match key.as_str() {
                _ if *key != SUB_PATH.trim_end_matches('=') => return Err(self.refuse_option(key)),
                _ => sub_path.clone_from(value),
            }
        }
        if let Some(flag) = self.flags.first() {
            return Err(self.refuse_option(flag));
        }
        let id = self.source.map(|source| source.to_string_lossy().into_owned());
        let field = || format!("{}.source", self.field);
        let id = id.ok_or_else(|| SpecError::missing(field(), "an image's id is needed"))?;
        let open = Open::Image { id, sub_path, ids: self.ids.clone() };
        Ok(Source::Tree(descriptors.add(open)?))
    }
}

fn ids(mount: &OciMount) -> Option<Ids> {
    let from_oci = |mappings: &Option<Vec<LinuxIdMapping>>| -> Vec<_> {
        mappings.iter().flatten().map(users::from_oci).collect()
    };
    let ids = Ids { uids: from_oci(mount.uid_mappings()), gids: from_oci(mount.gid_mappings()) };
    (!ids.uids.is_empty() || !ids.gids.is_empty()).then_some(ids)
}

/// `/sys/fs/cgroup`: on v2 one mount, as the container's cgroup namespace shows it; on v1 a tmpfs that holds the
/// container's own directory of each hierarchy.
fn cgroup(
    parsed: &Parsed<'_>,
    linux: &Linux,
    host: &HostFacts,
    descriptors: &mut Descriptors,
    made: &mut FileSystem,
) -> Result<(), SpecError> {
    if let Some(option) = parsed.flags.first().copied() {
        return Err(parsed.refuse_option(option));
    }
    if let Some((key, _)) = parsed.data.first() {
        return Err(parsed.refuse_option(key));
    }
    let mount = |target: String, source| Mount {
        target,
        source,
        attributes: parsed.attributes,
        propagation: parsed.propagation,
    };
    let CgroupFacts::V1 { hierarchies } = &host.cgroup else {
        made.mounts.push(mount(parsed.target.clone(), Source::Cgroup2));
        return Ok(());
    };
    let own = linux.cgroups_path().as_ref().map(|path| path.to_string_lossy().into_owned());
    let own = own.ok_or_else(|| SpecError::missing("linux.cgroupsPath", "is needed"))?;
    let own = target::clean("linux.cgroupsPath", &own)?;

    // Nothing could be made in it were it read-only from the start.
    let mut tmpfs = mount(
        parsed.target.clone(),
        Source::Tmpfs(vec![("mode".into(), "755".into()), ("size".into(), "65536k".into())]),
    );
    tmpfs.attributes.readonly = false;
    made.mounts.push(tmpfs);
    for hierarchy in hierarchies {
        let Some(name) = hierarchy.file_name().map(|name| name.to_string_lossy()) else { continue };
        let path = hierarchy.join(own.trim_start_matches('/'));
        // Programs look for `cpu,cpuacct` under all three names; the host has links for that.
        let aliases = name.split(',').filter(|alias| *alias != name);
        for name in std::iter::once(&*name).chain(aliases) {
            let open = Open::Tree { path: path.clone(), recursive: false, ids: None };
            let source = Source::Tree(descriptors.add(open)?);
            made.mounts.push(mount(format!("{}/{name}", parsed.target), source));
        }
    }
    if parsed.attributes.readonly {
        made.readonly.push(parsed.target.clone());
    }
    Ok(())
}

fn node(device: &LinuxDevice) -> Result<Device, SpecError> {
    const FIELD: &str = "linux.devices";
    let path = target::clean(FIELD, &device.path().to_string_lossy())?;
    if !path.starts_with("/dev/") {
        return Err(SpecError::unsupported(FIELD, "devices outside of /dev are"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => return Err(SpecError::invalid(FIELD, path, "is no single device")),
    };
    let number = |number: i64| {
        u32::try_from(number)
            .map_err(|_| SpecError::invalid(FIELD, number.to_string(), "is no device number"))
    };
    Ok(Device {
        kind,
        major: number(device.major())?,
        minor: number(device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o777,
        uid: device.uid().unwrap_or_default(),
        gid: device.gid().unwrap_or_default(),
        path,
    })
}

fn default_node(path: &str, major: u32, minor: u32, (uid, gid): (u32, u32)) -> Device {
    Device { path: path.to_owned(), kind: DeviceKind::Char, major, minor, mode: 0o666, uid, gid }
}
