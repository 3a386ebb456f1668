//! Runs critest, the Kubernetes project's suite for container runtimes, against the built `berthd`, on a machine of
//! its own: private namespaces, Debian's docker-registry with the images that the suite asks for, reached under
//! the names that it uses through mirrors. A census at the end says whether anything is left.
//!
//! Called by `hack/conformance`, which gets ready what is named here:
//! `conformance --critest PROGRAM --packages DIRECTORY --helpers DIRECTORY --report DIRECTORY [-- ARGUMENT...]`

#![expect(clippy::print_stdout, reason = "a program whose output is the result")]

mod arguments;
mod fixtures;
mod mirrors;
mod packages;
mod report;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{fs, io};

use suite::census::Census;
use suite::daemon::{self, Daemon};
use suite::patience::eventually;
use suite::process::Process;
use suite::registry::Registry;
use suite::stage::Stage;

use arguments::Arguments;

/// The suite names one image by a digest that only its makers' image has. Ours stands in for it: the digest is put
/// in its place in a copy of the program, where it stands once.
const PINNED: &str = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

fn main() -> ExitCode {
    match Arguments::parse(std::env::args_os().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether every spec passed and nothing is left.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let report = at(&arguments.report, fs::create_dir_all(&arguments.report))
        .and_then(|()| at(&arguments.report, arguments.report.canonicalize()))?;
    let stage = Stage::enter();
    let registry = Registry::start();
    let pinned = fixtures::push_all(&registry, &arguments.packages, &arguments.helpers)?;
    let critest = with_digest(&arguments.critest, &pinned, stage.directory())?;

    daemon::configure(&stage, &[]);
    mirrors::configure(&stage, &registry)?;
    let daemon = Daemon::start(&stage);
    let before = Census::take(&stage, Some(daemon.pid()));

    let status = critest_in(&stage, &critest, &report, &arguments.rest)?;
    let summary = report::read(&report.join("report.json"))?;
    print!("{summary}");

    let left = difference_to(&before, &stage, &daemon);
    if !left.is_empty() {
        println!("the census differs (+ is left, - is gone):\n{left}");
    }
    daemon::write(&report.join("berthd.log"), &daemon::log_tail(&stage));
    daemon.stop();
    Ok(status && summary.is_good() && left.is_empty())
}

/// Runs the suite in the daemon's namespaces: its specs on mount propagation and host ports look from there.
fn critest_in(
    stage: &Stage,
    critest: &Path,
    report: &Path,
    rest: &[String],
) -> Result<bool, String> {
    let endpoint = format!("unix://{}", daemon::socket(stage).display());
    let log = report.join("critest.log");
    if let Err(error) = fs::remove_file(&log)
        && error.kind() != io::ErrorKind::NotFound
    {
        return at(&log, Err(error));
    }
    let output = at(&log, fs::File::create_new(&log))?;
    let errors = at(&log, output.try_clone())?;
    let mut command = Command::new(critest);
    command
        .arg("--config=/dev/null")
        .arg(format!("--runtime-endpoint={endpoint}"))
        .arg(format!("--image-endpoint={endpoint}"))
        .arg(format!("--ginkgo.json-report={}", report.join("report.json").display()))
        .args(["--ginkgo.no-color", "--ginkgo.seed=1", "--ginkgo.timeout=40m"])
        .args(rest)
        .current_dir(stage.directory())
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    let mut process = at(critest, Process::spawn(&mut command))?;
    let status = at(critest, process.child().wait())?;
    Ok(status.success())
}

/// What is there now and was not, or the other way round. The suite does not remove the images that it pulled.
fn difference_to(before: &Census, stage: &Stage, daemon: &Daemon) -> String {
    let mut difference = String::new();
    eventually(|| {
        remove_images(stage);
        difference = Census::take(stage, Some(daemon.pid())).difference(before);
        difference.is_empty().then_some(())
    });
    difference
}

fn remove_images(stage: &Stage) {
    let mut command = Command::new(daemon::binary("berth"));
    command
        .env("CONTAINER_RUNTIME_ENDPOINT", format!("unix://{}", daemon::socket(stage).display()));
    command.args(["rmi", "--all"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Shown by the census when it does not work.
    Process::spawn(&mut command).and_then(|mut process| process.child().wait()).ok();
}

/// A copy of critest that asks for `digest`.
fn with_digest(critest: &Path, digest: &str, directory: &Path) -> Result<PathBuf, String> {
    let mut program = at(critest, fs::read(critest))?;
    let digest = digest.trim_start_matches("sha256:").as_bytes();
    let at_place = |place: &usize| program[*place..].starts_with(PINNED.as_bytes());
    let places: Vec<usize> = (0..program.len()).filter(at_place).collect();
    let [place] = places[..] else {
        return Err(format!(
            "{} names the pinned digest {} times",
            critest.display(),
            places.len()
        ));
    };
    program[place..place + digest.len()].copy_from_slice(digest);
    let copy = directory.join("critest");
    let mut file = at(&copy, fs::File::create_new(&copy))?;
    at(&copy, file.write_all(&program))?;
    at(&copy, file.set_permissions(fs::Permissions::from_mode(0o755)))?;
    Ok(copy)
}

/// An error with the path that it is about.
fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{}: {error}", path.display()))
}
