//! `berth rm`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use cri_api::runtime::v1::{ContainerState, ListContainersRequest, RemoveContainerRequest};

use super::lifecycle::stop;
use super::status;
use crate::error::{self, CliError};
use crate::node::Node;
use crate::output::{Out, note};

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    #[arg(value_name = "CONTAINER-ID")]
    containers: Vec<String>,

    /// Remove all containers
    #[arg(short, long)]
    all: bool,

    /// Stop those that still run
    #[arg(short, long)]
    force: bool,

    /// Leave the log files
    #[arg(short, long)]
    keep_logs: bool,
}

impl Remove {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let mut ids = match (self.all, self.containers.is_empty()) {
            (true, false) => return Err(CliError::AllAndIds),
            (false, true) => return Err(CliError::NothingNamed("container")),
            (true | false, _) => self.containers.clone(),
        };
        if self.all {
            let answer = node
                .list_containers(ListContainersRequest::default())
                .await
                .map_err(CliError::call("list containers"))?;
            ids = answer.containers.into_iter().map(|container| container.id).collect();
        }
        if ids.is_empty() {
            note("no containers to remove");
        }
        let mut results = Vec::new();
        for id in ids {
            results.push(self.remove(node, out, &id).await);
        }
        error::all(results)
    }

    async fn remove(&self, node: &Node, out: &mut Out, id: &str) -> Result<(), CliError> {
        let (container, _) = status(node, id, false).await?;
        if container.state() == ContainerState::ContainerRunning {
            if !self.force {
                return Err(CliError::StillRunning { kind: "container", id: id.into() });
            }
            stop(node, id, 0).await?;
        }
        node.remove_container(RemoveContainerRequest { container_id: id.into() })
            .await
            .map_err(CliError::call(format!("remove container {id}")))?;
        if !self.keep_logs && !container.log_path.is_empty() {
            remove_logs(Path::new(&container.log_path));
        }
        out.line(id)
    }
}

/// Removes a log file and what rotation has made of it. The container has gone already, so a log that stays is
/// worth a word, not a failure.
fn remove_logs(log: &Path) {
    for path in rotated(log).into_iter().chain([log.to_owned()]) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                note(format_args!("log file {} stays: {error}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Files beside the log whose names go on after a dot.
fn rotated(log: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else { return Vec::new() };
    let prefix = [name.as_encoded_bytes(), b"."].concat();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_goes_with_its_rotations_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["0.log", "0.log.20260101-1", "0.log.gz", "0.logs", "1.log"] {
            fs::OpenOptions::new().create_new(true).write(true).open(path(name)).unwrap();
        }
        remove_logs(&path("0.log"));
        let mut left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["0.logs", "1.log"]);
        remove_logs(&path("0.log"));
    }
}
