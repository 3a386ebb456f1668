//! What devices of the Container Device Interface (CDI) change in a container, put into its spec.

use crate::confinement::is_privileged;
use crate::devices;
use crate::error::SpecError;
use crate::input::{HostDevice, Input};
use oci_spec::runtime::{Mount, Spec};
use std::path::PathBuf;

/// The edits of all CDI devices of a container, in the order in which they hold. Names are resolved and the host's devices
/// looked at already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CdiEdits {
    /// Environment, as `KEY=VALUE`. It wins over what the image and the request say.
    pub env: Vec<String>,
    /// Device nodes; the path of each is the one inside.
    pub devices: Vec<CdiDevice>,
    /// Files and directories of the host.
    pub mounts: Vec<CdiMount>,
    /// Further groups of the first process.
    pub groups: Vec<u32>,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiDevice {
    /// What it is, at its path in the container.
    pub node: HostDevice,
    /// What may be done with it, of r, w and m.
    pub access: String,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiMount {
    /// A path of the host.
    pub source: PathBuf,
    /// Where it goes.
    pub target: String,
    /// Mount options, such as `ro`.
    pub options: Vec<String>,
}

/// Puts the edits into a spec that is complete but for them.
pub(crate) fn apply(input: &Input<'_>, spec: &mut Spec) -> Result<(), SpecError> {
    let edits = input.cdi;
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        for entry in &edits.env {
            let name = entry.split('=').next().unwrap_or_default();
            env.retain(|other| other.split('=').next() != Some(name));
            env.push(entry.clone());
        }
        process.set_env(Some(env));
        if !edits.groups.is_empty() {
            let user = process.user_mut();
            let mut groups = user.additional_gids().clone().unwrap_or_default();
            groups.extend(edits.groups.iter().filter(|group| **group != 0));
            groups.dedup();
            user.set_additional_gids(Some(groups));
        }
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.extend(edits.mounts.iter().map(bind));
    spec.set_mounts(Some(mounts));
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let mut nodes = linux.devices().clone().unwrap_or_default();
    let mut rules = Vec::new();
    for device in &edits.devices {
        let (node, rule) = devices::injected(&device.node, &device.access)?;
        nodes.retain(|other| other.path() != node.path());
        nodes.push(node);
        rules.push(rule);
    }
    linux.set_devices(Some(nodes));
    // A privileged container may use every device anyway.
    if let Some(resources) =
        linux.resources_mut().as_mut().filter(|_| !is_privileged(input.container))
    {
        let mut all = resources.devices().clone().unwrap_or_default();
        all.extend(rules);
        resources.set_devices(Some(all));
    }
    Ok(())
}

fn bind(asked: &CdiMount) -> Mount {
    let mut options = asked.options.clone();
    for (word, given) in [("rbind", ["bind", "rbind"]), ("rprivate", ["private", "rprivate"])] {
        if !options.iter().any(|option| given.contains(&option.as_str())) {
            options.push(word.to_owned());
        }
    }
    options.iter_mut().filter(|option| *option == "private").for_each(|o| "rprivate".clone_into(o));
    let mut mount = Mount::default();
    mount
        .set_destination(asked.target.clone().into())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(asked.source.clone()))
        .set_options(Some(options));
    mount
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Request, device};
    use crate::{container, launch};
    use serde_json::json;

    fn edits() -> CdiEdits {
        CdiEdits {
            env: vec!["GPU=1".into(), "PATH=/cdi".into()],
            devices: vec![CdiDevice { node: device("/dev/gpu0"), access: "rw".into() }],
            mounts: vec![CdiMount {
                source: "/usr/lib/gpu.so".into(),
                target: "/usr/lib/gpu.so".into(),
                options: vec!["ro".into(), "nosuid".into()],
            }],
            groups: vec![0, 44],
        }
    }

    #[test]
    fn edits_are_in_the_spec_and_the_plan() {
        let mut request = Request::plain();
        request.cdi = edits();
        let spec = container(&request.input()).expect("spec");
        let json = serde_json::to_value(&spec).expect("JSON");
        let env = json["process"]["env"].as_array().expect("env");
        assert!(env.contains(&json!("GPU=1")) && env.contains(&json!("PATH=/cdi")), "{env:?}");
        assert_eq!(env.iter().filter(|e| e.to_string().contains("PATH=")).count(), 1, "{env:?}");
        // The first is the primary group; a device's own 0 adds nothing.
        assert_eq!(json["process"]["user"]["additionalGids"], json!([0, 44]));
        let last = json["mounts"].as_array().and_then(|all| all.last()).expect("a mount");
        assert_eq!(last["options"], json!(["ro", "nosuid", "rbind", "rprivate"]));
        let rules = json["linux"]["resources"]["devices"].as_array().expect("rules");
        assert_eq!(rules.last().expect("a rule")["access"], "rw");
        let plan = launch(&spec, &request.host).expect("plan").plan;
        assert!(plan.devices.iter().any(|node| node.path == "/dev/gpu0"));
    }

    #[test]
    fn devices_that_no_container_can_have_are_refused() {
        for (path, access) in [("/etc/passwd", "rw"), ("/dev/pts/0", "rw"), ("/dev/gpu0", "rwx")] {
            let mut request = Request::plain();
            request.cdi.devices = vec![CdiDevice { node: device(path), access: access.into() }];
            assert!(container(&request.input()).is_err(), "{path} {access}");
        }
    }
}
