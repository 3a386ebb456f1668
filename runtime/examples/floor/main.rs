//! The floor of a pod's start, of an exec and of a pod's end: the system calls that none of them can do without, in one
//! single-threaded process, and nothing else. `hack/bench` prints it beside the measured times.
//!
//! Usage: `floor DIRECTORY LAYER BRIDGE PODS EXECS CGROUP`
//!
//! `LAYER` is an unpacked image with a static busybox at /bin/busybox, `BRIDGE` an existing link, `CGROUP` the name of
//! cgroups to make below the top of every hierarchy. Mounts must be private. Prints a line "pod", "exec", "stop" or
//! "cgroups" and the seconds it took, for each.
//!
//! A pod here has pinned network, IPC and UTS namespaces, a pair of links, an address and a default route, a PID and a
//! mount namespace, a writable overlay as its root, proc, sysfs and a tmpfs. What it has not: a supervisor, records,
//! logs, cgroups, device nodes, masked paths, capabilities, a system call filter. What cgroups take, in the version and
//! number of hierarchies that this machine has, is measured by itself.

mod cgroup;
mod link;
mod pod;

use pod::{Ground, Pod, directory};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What was asked for.
struct Arguments {
    directory: PathBuf,
    layer: PathBuf,
    bridge: String,
    pods: usize,
    execs: usize,
    cgroup: String,
}

impl Arguments {
    fn parse(arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let all: Vec<OsString> = arguments.collect();
        let [directory, layer, bridge, pods, execs, cgroup] = all.as_slice() else { return None };
        Some(Self {
            directory: directory.into(),
            layer: layer.into(),
            bridge: bridge.to_str()?.to_owned(),
            pods: pods.to_str()?.parse().ok()?,
            execs: execs.to_str()?.parse().ok()?,
            cgroup: cgroup.to_str()?.to_owned(),
        })
    }
}

fn main() -> io::Result<()> {
    let Some(arguments) = Arguments::parse(std::env::args_os().skip(1)) else {
        return Err(io::Error::other("usage: floor DIRECTORY LAYER BRIDGE PODS EXECS CGROUP"));
    };
    let place = arguments.directory.join("place");
    fs::create_dir_all(&place)?;
    let host = link::socket()?;
    let ground = Ground {
        layer: directory(&arguments.layer)?,
        place,
        proc: directory(Path::new("/proc"))?,
        bridge: rustix::net::netdevice::name_to_index(&host, &arguments.bridge)?,
        host,
        directory: arguments.directory,
    };
    let mut pods = Vec::new();
    for number in 0..arguments.pods {
        let (pod, took) = timed(|| Pod::start(&ground, number))?;
        say("pod", took)?;
        pods.push(pod);
    }
    for _ in 0..arguments.execs {
        let pod = pods.first().ok_or(io::ErrorKind::NotFound)?;
        say("exec", timed(|| pod.exec(&ground))?.1)?;
    }
    for pod in pods {
        say("stop", timed(|| pod.stop())?.1)?;
        let proof = pod::prove(&ground)?;
        say("cgroups", timed(|| cgroup::live(&arguments.cgroup, &proof))?.1)?;
    }
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<(T, f64)> {
    let begun = Instant::now();
    let result = work()?;
    Ok((result, begun.elapsed().as_secs_f64()))
}

fn say(what: &str, seconds: f64) -> io::Result<()> {
    writeln!(io::stdout(), "{what} {seconds:.6}")
}
