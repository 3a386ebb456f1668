//! The registries that the suite names, answered by the one here, as a node's mirrors are set up.

use std::fs;

use suite::daemon;
use suite::registry::Registry;
use suite::stage::Stage;

use crate::at;

const NAMES: [&str; 5] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws", "docker.io"];

/// Writes a `hosts.toml` for each name, and where they are to the daemon's configuration.
pub(crate) fn configure(stage: &Stage, registry: &Registry) -> Result<(), String> {
    let hosts = stage.directory().join("certs.d");
    for name in NAMES {
        let file = hosts.join(name).join("hosts.toml");
        let text = format!(
            "server = \"https://{name}\"\n\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            registry.name()
        );
        at(&file, fs::create_dir_all(hosts.join(name)))?;
        daemon::write(&file, &text);
    }
    let config = daemon::config_path(stage);
    let text = at(&config, fs::read_to_string(&config))?;
    let none = "registry_config = \"\"";
    if !text.contains(none) {
        return Err(format!("{} has no line {none}", config.display()));
    }
    let there = format!("registry_config = \"{}\"", hosts.display());
    daemon::write(&config, &text.replace(none, &there));
    Ok(())
}
