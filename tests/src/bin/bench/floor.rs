//! What the kernel, gzip and tar take for the same work: no runtime can be quicker by better code around them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use suite::image::Image;
use suite::process::{Process, succeed};
use suite::stage::Stage;

use crate::figure::Sample;
use crate::medium::Medium;
use crate::node::{Failure, timed};

const BRIDGE: &str = "floor-bridge";

/// A stage with a bridge and an unpacked image.
pub(crate) struct Floor {
    stage: Stage,
    program: PathBuf,
}

impl Floor {
    /// `program` is the built example `floor`.
    ///
    /// # Panics
    ///
    /// When the stage cannot be made.
    pub(crate) fn start(program: PathBuf, medium: Medium) -> Self {
        let stage = Stage::enter();
        medium.mount(&stage.root());
        for line in
            [["link", "add", BRIDGE, "type", "bridge"].as_slice(), &["link", "set", BRIDGE, "up"]]
        {
            succeed(Command::new("ip").args(line));
        }
        let floor = Self { stage, program };
        let archive = floor.path("busybox.tar");
        write_new(&archive, &suite::image::busybox().bytes());
        fs::create_dir(floor.path("layer")).expect("make a directory for a layer");
        succeed(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(floor.path("layer")));
        floor
    }

    /// On the measured medium.
    fn path(&self, name: &str) -> PathBuf {
        self.stage.root().join(name)
    }

    /// Pods and execs by system calls alone, in the rows that they are the floor of.
    pub(crate) fn pods(&mut self, pods: usize, execs: usize) -> Result<Vec<Sample>, Failure> {
        let mut command = Command::new(&self.program);
        command.arg(self.path("pods")).arg(self.path("layer")).arg(BRIDGE);
        command.arg(pods.to_string()).arg(execs.to_string()).arg(self.stage.cgroups.name());
        let output = succeed(&mut command);
        let parse = |line: &str| {
            let (what, seconds) = line.split_once(' ')?;
            let row = match what {
                "pod" => "pod-start",
                "exec" => "exec",
                "stop" => "pod-stop",
                "cgroups" => "cgroups",
                _ => return None,
            };
            Some((row, seconds.parse().ok()?))
        };
        let samples = output.lines().map(parse).collect::<Option<Vec<Sample>>>();
        samples.ok_or_else(|| format!("floor prints something else: {output}").into())
    }

    /// Keeps the layers of an image as files.
    pub(crate) fn offer(&mut self, name: &str, image: &Image) -> Vec<PathBuf> {
        let layers = image.blobs.iter().filter(|blob| blob.media_type.ends_with("gzip"));
        let store = |(number, blob): (usize, &suite::image::Blob)| {
            let path = self.stage.directory().join(format!("{name}-{number}.tar.gz"));
            write_new(&path, &blob.bytes);
            path
        };
        layers.enumerate().map(store).collect()
    }

    /// Inflates the layers to nowhere; and unpacks them as plainly as possible, and removes that.
    pub(crate) fn unpack(
        &mut self,
        layers: &[PathBuf],
        rows: [&'static str; 3],
    ) -> Result<Vec<Sample>, Failure> {
        nix::unistd::sync();
        let [inflate, untar, remove] = rows;
        let mut gzip = Command::new("gzip");
        gzip.arg("-dc").args(layers).stdout(Stdio::null());
        let (inflated, inflating) = timed(|| run(&mut gzip));
        inflated?;
        let tree = self.path("tree");
        let (unpacked, unpacking) = timed(|| -> Result<(), Failure> {
            for (number, layer) in layers.iter().enumerate() {
                let into = tree.join(number.to_string());
                fs::create_dir_all(&into)?;
                run(Command::new("tar").arg("-xzf").arg(layer).arg("-C").arg(into))?;
            }
            Ok(())
        });
        unpacked?;
        nix::unistd::sync();
        let (removed, removing) = timed(|| fs::remove_dir_all(&tree));
        removed?;
        Ok(vec![(inflate, inflating), (untar, unpacking), (remove, removing)])
    }
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let status = Process::spawn(command)?.child().wait()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

/// # Panics
///
/// When the disk does not take it.
fn write_new(path: &Path, content: &[u8]) {
    let written = File::create_new(path).and_then(|mut file| file.write_all(content));
    written.unwrap_or_else(|err| panic!("write {}: {err}", path.display()));
}
