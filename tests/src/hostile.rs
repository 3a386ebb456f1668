//! Images and programs that mean harm.

use std::path::{Path, PathBuf};
use std::process::Command;

use cri_api::runtime::v1::{ContainerConfig, Mount};
use tonic::Status;

use crate::image::{Compression, Image, ImageBuilder, Tree};
use crate::pods::Pod;
use crate::process::succeed;
use crate::world::{PulledImage, World};

impl World {
    /// Gives `test` an image, and takes it away again with all pods.
    pub fn with_image(&self, image: &Image, test: impl FnOnce(&PulledImage)) {
        let pulled = self.pull(&self.registry().push("hostile", "1", image));
        test(&pulled);
        self.remove_all_pods();
        self.remove_image(&pulled.id);
    }

    /// As [`World::with_image`]: busybox with one more layer on top.
    pub fn with_tree(&self, tree: Tree, test: impl FnOnce(&PulledImage)) {
        self.with_image(&ImageBuilder::busybox().layer(Compression::Gzip, tree).build(), test);
    }

    /// As [`World::container_config`], of another image.
    pub fn config_of(&self, image: &PulledImage, name: &str, script: &str) -> ContainerConfig {
        let mut config = self.container_config(name, &["sh", "-c", script]);
        config.image.get_or_insert_default().image.clone_from(&image.id);
        config
    }

    /// Creates and starts, and says at which of the two it was refused.
    ///
    /// # Errors
    ///
    /// The daemon's.
    pub fn try_run(&self, pod: &Pod, config: ContainerConfig) -> Result<String, Status> {
        let id = self.try_create(pod, config)?;
        match self.try_start(&id) {
            Ok(()) => Ok(id),
            Err(status) => {
                self.remove(&id);
                Err(status)
            }
        }
    }

    /// A program from `tests/attacks`, linked statically so that it runs in any container; the directory that it is in.
    pub fn attack(&self, name: &str) -> PathBuf {
        let directory = self.directory("attacks");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks").join(name);
        let mut compiler = Command::new("gcc");
        compiler.args(["-static", "-O1", "-Wall", "-Werror", "-o"]);
        compiler.arg(directory.join(name)).arg(source.with_extension("c"));
        succeed(&mut compiler);
        directory
    }
}

/// A volume.
pub fn volume(from: &Path, to: &str) -> Mount {
    Mount {
        container_path: to.to_owned(),
        host_path: from.display().to_string(),
        ..Mount::default()
    }
}
