//! The real crictl, where it was built.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::World;

impl World {
    #[expect(clippy::print_stdout, reason = "a test says there what it did not do")]
    /// crictl with these arguments, pointed at this daemon. Where there is none, says so.
    pub fn crictl(&self, arguments: &[&str]) -> Option<Command> {
        let Some(program) = program() else {
            println!("NOT RUN: crictl is not built (hack/cri-tools builds it)");
            return None;
        };
        let endpoint = format!("unix://{}", self.socket().display());
        let mut command = Command::new(program);
        command.args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint]);
        command.args(["--timeout", "30s"]).args(arguments);
        Some(command)
    }
}

/// `BERTH_CRICTL`, else where hack/cri-tools puts it, else in PATH.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("BERTH_CRICTL").map(PathBuf::from);
    let own = std::env::current_exe().ok()?;
    let built = own.ancestors().nth(3).map(|target| target.join("tools/crictl"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join("crictl"));
    named.into_iter().chain(built).chain(found).find(|path: &PathBuf| Path::exists(path))
}
