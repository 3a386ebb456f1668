//! Devices of the Container Device Interface: names to edits, from the specification files of the host
//! (CDI specification 1.0).
//!
//! Names come from the request's `CDI_devices` and its annotations `cdi.k8s.io/…`; from nowhere else, least of all from an
//! image. The files are read for each container that asks, so what an operator changes holds for the next one. Where two
//! directories describe one device, the later one wins; within one directory that is a conflict.

use crate::host::device;
use cri_api::runtime::v1::ContainerConfig;
use cri_spec::{CdiDevice, CdiEdits, CdiMount, HostDevice};
use plan::DeviceKind;
use serde::Deserialize;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The annotations that name devices begin so; their values are lists with commas.
const ANNOTATION: &str = "cdi.k8s.io/";
/// The longest file that is read: those of large hosts have some hundred kilobytes.
const LONGEST: u64 = 4 << 20;
/// The most devices of one container.
const MOST: usize = 256;

/// Why a container's CDI devices could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CdiError {
    #[error("{0:?} is no name of a device; it is vendor/class=device")]
    Name(String),
    #[error("{0} devices, at most {MOST}")]
    TooMany(usize),
    #[error("no file describes {name}{}", unreadable(.skipped))]
    Unknown { name: String, skipped: Vec<String> },
    #[error("{name} is described by both {} and {}", one.display(), other.display())]
    Conflict { name: String, one: PathBuf, other: PathBuf },
    #[error("{name}: {feature} not supported")]
    Unsupported { name: String, feature: &'static str },
    #[error("{name}: device {}", path.display())]
    NoDevice { name: String, path: PathBuf },
}

fn unreadable(skipped: &[String]) -> String {
    match skipped {
        [] => String::new(),
        some => format!("; could not be read: {}", some.join(", ")),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecFile {
    kind: String,
    #[serde(default)]
    devices: Vec<Described>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    name: String,
    container_edits: Edits,
}

/// An edit that is not known here must not be passed over: the device would not work, or not as safely as it was meant to.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<serde::de::IgnoredAny>,
    additional_gids: Vec<u32>,
    intel_rdt: Option<serde::de::IgnoredAny>,
    net_devices: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    path: String,
    host_path: Option<String>,
    r#type: Option<String>,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bind {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    r#type: Option<String>,
}

/// The edits that a request asks for; none where it names no device.
///
/// # Errors
///
/// [`CdiError`] where a device is unknown, or asks for what cannot be done. Nothing has been made then.
pub(super) fn edits(dirs: &[PathBuf], config: &ContainerConfig) -> Result<CdiEdits, CdiError> {
    let names = names(config)?;
    let mut all = CdiEdits::default();
    if names.is_empty() {
        return Ok(all);
    }
    let host = Files::read(dirs);
    let mut used: Vec<&Path> = Vec::new();
    for name in &names {
        let (file, described) = host.find(name)?;
        if !used.contains(&file.path.as_path()) {
            used.push(&file.path);
            add(&mut all, name, &file.content.container_edits)?;
        }
        add(&mut all, name, &described.container_edits)?;
    }
    Ok(all)
}

/// Each device once, the request's own field first.
fn names(config: &ContainerConfig) -> Result<Vec<String>, CdiError> {
    let field = config.cdi_devices.iter().map(|device| device.name.as_str());
    let noted = config.annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION));
    let noted = noted.flat_map(|(_, value)| value.split(',')).map(str::trim);
    let mut names: Vec<String> = Vec::new();
    for name in field.chain(noted) {
        let parts = name.split_once('=').and_then(|(kind, device)| {
            let (vendor, class) = kind.split_once('/')?;
            (!vendor.is_empty() && !class.is_empty() && !device.is_empty()).then_some(())
        });
        parts.ok_or_else(|| CdiError::Name(name.to_owned()))?;
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if names.len() > MOST { Err(CdiError::TooMany(names.len())) } else { Ok(names) }
}

struct File {
    path: PathBuf,
    content: SpecFile,
}

/// The files of the host, a list for each directory in the order of their weight.
struct Files {
    dirs: Vec<Vec<File>>,
    skipped: Vec<String>,
}

impl Files {
    fn read(dirs: &[PathBuf]) -> Self {
        let mut all = Self { dirs: Vec::new(), skipped: Vec::new() };
        for dir in dirs {
            let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(err) => {
                    all.skipped.push(format!("{}: {err}", dir.display()));
                    Vec::new()
                }
            };
            paths.sort();
            let mut files = Vec::new();
            for path in paths {
                match read_file(&path) {
                    Ok(Some(content)) => files.push(File { path, content }),
                    Ok(None) => {}
                    Err(why) => all.skipped.push(format!("{}: {why}", path.display())),
                }
            }
            all.dirs.push(files);
        }
        all
    }

    fn find(&self, name: &str) -> Result<(&File, &Described), CdiError> {
        for files in self.dirs.iter().rev() {
            let mut found = files.iter().flat_map(|file| {
                let is_it =
                    move |one: &&Described| format!("{}={}", file.content.kind, one.name) == name;
                file.content.devices.iter().filter(is_it).map(move |one| (file, one))
            });
            if let Some(first) = found.next() {
                return match found.next() {
                    None => Ok(first),
                    Some((other, _)) => Err(CdiError::Conflict {
                        name: name.to_owned(),
                        one: first.0.path.clone(),
                        other: other.path.clone(),
                    }),
                };
            }
        }
        Err(CdiError::Unknown { name: name.to_owned(), skipped: self.skipped.clone() })
    }
}

/// None for a file that is no specification by its name.
fn read_file(path: &Path) -> Result<Option<SpecFile>, String> {
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    if !matches!(kind, "json" | "yaml") {
        return Ok(None);
    }
    let is_file = std::fs::metadata(path).map_err(|err| err.to_string())?.is_file();
    if !is_file {
        return Err("is no file".into());
    }
    let file = std::fs::File::open(path).map_err(|err| err.to_string())?;
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(|err| err.to_string())?;
    if text.len() as u64 > LONGEST {
        return Err("is too long".into());
    }
    let content = if kind == "json" {
        serde_json::from_str(&text).map_err(|err| err.to_string())
    } else {
        serde_saphyr::from_str(&text).map_err(|err| err.to_string())
    };
    content.map(Some)
}

fn add(all: &mut CdiEdits, name: &str, edits: &Edits) -> Result<(), CdiError> {
    let unsupported = [
        (!edits.hooks.is_empty(), "hooks are"),
        (edits.intel_rdt.is_some(), "cache partitions are"),
        (!edits.net_devices.is_empty(), "moved network devices are"),
        (edits.mounts.iter().any(|mount| !is_bind(mount)), "mounts but for binds are"),
    ];
    if let Some((_, feature)) = unsupported.into_iter().find(|(is_there, _)| *is_there) {
        return Err(CdiError::Unsupported { name: name.to_owned(), feature });
    }
    all.env.extend(edits.env.iter().cloned());
    all.groups.extend(&edits.additional_gids);
    for node in &edits.device_nodes {
        all.devices.push(resolve(name, node)?);
    }
    all.mounts.extend(edits.mounts.iter().map(|mount| CdiMount {
        source: mount.host_path.clone(),
        target: mount.container_path.clone(),
        options: mount.options.clone(),
    }));
    Ok(())
}

fn is_bind(mount: &Bind) -> bool {
    matches!(mount.r#type.as_deref(), None | Some("" | "bind" | "none"))
}

/// What a node leaves out is what the host's device has.
fn resolve(name: &str, node: &Node) -> Result<CdiDevice, CdiError> {
    let path = PathBuf::from(node.host_path.as_ref().unwrap_or(&node.path));
    let missing = || CdiError::NoDevice { name: name.to_owned(), path: path.clone() };
    let kind = match node.r#type.as_deref() {
        None | Some("") => None,
        Some("c" | "u") => Some(DeviceKind::Char),
        Some("b") => Some(DeviceKind::Block),
        Some("p") => Some(DeviceKind::Fifo),
        Some(_) => return Err(missing()),
    };
    let found = device(&path, &node.path);
    let (kind, major, minor) = match (kind, node.major, node.minor) {
        (Some(kind), Some(major), minor) => (kind, major, minor.unwrap_or(0)),
        _ => found.as_ref().map(|it| (it.kind, it.major, it.minor)).ok_or_else(missing)?,
    };
    let of_host = |field: fn(&HostDevice) -> u32| found.as_ref().map(field);
    Ok(CdiDevice {
        node: HostDevice {
            path: node.path.clone(),
            kind,
            major,
            minor,
            mode: node.file_mode.or(of_host(|it| it.mode)).unwrap_or(0o666) & 0o777,
            uid: node.uid.or(of_host(|it| it.uid)).unwrap_or(0),
            gid: node.gid.or(of_host(|it| it.gid)).unwrap_or(0),
        },
        access: node.permissions.clone().unwrap_or_else(|| "rwm".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::runtime::v1::CdiDevice as Named;
    use std::collections::BTreeMap;

    fn request(field: &[&str], notes: &[(&str, &str)]) -> ContainerConfig {
        let named = |name: &&str| Named { name: (*name).to_owned() };
        let note = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        ContainerConfig {
            cdi_devices: field.iter().map(named).collect(),
            annotations: notes.iter().map(note).collect::<BTreeMap<_, _>>(),
            ..ContainerConfig::default()
        }
    }

    fn write(dir: &Path, name: &str, text: &str) {
        sys::durable::replace(&dir.join(name), text.as_bytes(), 0o600).unwrap();
    }

    const GPU: &str = "cdiVersion: 0.6.0\nkind: acme.com/gpu\ncontainerEdits:\n  env: [ALL=1]\n\
        devices:\n- name: zero\n  containerEdits:\n    env: [GPU=0]\n    additionalGids: [44]\n\
        \x20   deviceNodes:\n    - path: /dev/gpu0\n      hostPath: /dev/null\n      permissions: rw\n\
        \x20   mounts:\n    - hostPath: /usr/lib\n      containerPath: /gpu\n      options: [ro]\n\
        - name: one\n  containerEdits: {env: [GPU=1]}\n\
        - name: hooked\n  containerEdits: {hooks: [{hookName: createContainer, path: /bin/x}]}\n";

    #[test]
    fn names_become_the_edits_of_file_and_device() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "gpu.yaml", GPU);
        let dirs = [dir.path().to_owned(), dir.path().join("none")];
        let notes = [("cdi.k8s.io/x", "acme.com/gpu=one,acme.com/gpu=zero"), ("other", "a/b=c")];
        let all = edits(&dirs, &request(&["acme.com/gpu=zero"], &notes)).unwrap();
        assert_eq!(all.env, ["ALL=1", "GPU=0", "GPU=1"], "what the file says once");
        let node = &all.devices[0].node;
        assert_eq!((node.path.as_str(), node.major, node.minor), ("/dev/gpu0", 1, 3));
        assert_eq!((all.devices[0].access.as_str(), all.groups.as_slice()), ("rw", &[44][..]));
        assert_eq!(all.mounts[0].target, "/gpu");
        assert_eq!(edits(&dirs, &request(&[], &[])).unwrap(), CdiEdits::default());
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "gpu.yaml", GPU);
        write(dir.path(), "broken.json", "{");
        let dirs = [dir.path().to_owned()];
        let cases = [
            ("no device", "gpu", "no name of a device"),
            ("no class", "acme.com=zero", "no name of a device"),
            ("an unknown device", "acme.com/gpu=two", "broken.json"),
            ("hooks", "acme.com/gpu=hooked", "hooks are not supported"),
        ];
        for (case, name, want) in cases {
            let err = edits(&dirs, &request(&[name], &[])).unwrap_err();
            assert!(err.to_string().contains(want), "{case}: {err}");
        }
    }

    #[test]
    fn a_later_directory_wins_and_a_repetition_within_one_is_a_conflict() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let described = |value: &str| {
            format!(
                r#"{{"kind": "a/b", "devices": [{{"name": "c", "containerEdits": {{"env": ["{value}"]}}}}]}}"#
            )
        };
        write(first.path(), "x.json", &described("V=1"));
        write(second.path(), "x.json", &described("V=2"));
        let dirs = [first.path().to_owned(), second.path().to_owned()];
        let asked = request(&["a/b=c"], &[]);
        assert_eq!(edits(&dirs, &asked).unwrap().env, ["V=2"]);
        write(second.path(), "y.json", &described("V=3"));
        assert!(matches!(edits(&dirs, &asked), Err(CdiError::Conflict { .. })));
    }
}
