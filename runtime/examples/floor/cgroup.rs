//! The life of a process in cgroups of its own: made, entered, left, removed. With version 2 the process is made there;
//! with version 1 it is moved, hierarchy by hierarchy, and the first move waits for all processors.

use crate::pod;
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use sys::clone::{SingleThreaded, Spawn};

/// Where the hierarchies are by custom.
const TOP: &str = "/sys/fs/cgroup";

pub(crate) fn live(name: &str, proof: &SingleThreaded) -> io::Result<()> {
    let is_v2 = Path::new(TOP).join("cgroup.controllers").exists();
    let made = make(name, is_v2)?;
    let first = made.first().ok_or(Errno::NOENT)?;
    let directory = pod::directory(first)?;
    let how = Spawn { cgroup: is_v2.then(|| directory.as_fd()), ..Spawn::default() };
    let (waits, lets) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let process = how.run(proof, || {
        // The copy of the other end would keep this one waiting for itself.
        let waited = rustix::io::read(&waits, &mut [0_u8]);
        i32::from(waited != Ok(1))
    })?;
    if !is_v2 {
        for cgroup in &made {
            put(&cgroup.join("cgroup.procs"), &process.pid.as_raw_pid().to_string())?;
        }
    }
    rustix::io::write(&lets, &[0])?;
    pod::wait(&process.pidfd)?;
    made.iter().try_for_each(fs::remove_dir)
}

fn make(name: &str, is_v2: bool) -> io::Result<Vec<PathBuf>> {
    if is_v2 {
        let path = Path::new(TOP).join(name);
        fs::create_dir(&path)?;
        return Ok(vec![path]);
    }
    let mut made = Vec::new();
    for hierarchy in fs::read_dir(TOP)? {
        let hierarchy = hierarchy?;
        // Links lead to hierarchies that are there under another name; version 2 takes no moves beside version 1.
        if !hierarchy.file_type()?.is_dir() || hierarchy.file_name() == "unified" {
            continue;
        }
        let path = hierarchy.path().join(name);
        fs::create_dir(&path)?;
        // Nobody can enter a cpuset that has no processors and no memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if path.join(file).exists() {
                put(&path.join(file), &fs::read_to_string(hierarchy.path().join(file))?)?;
            }
        }
        made.push(path);
    }
    Ok(made)
}

/// Writes to a file of the kernel's.
fn put(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}
