//! What a cgroup uses, read again and again through descriptors that are opened once.

use super::directory::{Directory, is_gone};
use super::group::{Cgroup, Place};
use super::usage::{Texts, Usage, v1, v2};
use rustix::fs::OFlags;
use std::io;
use std::os::fd::OwnedFd;

/// The most of a file that is read; the longest, `memory.stat`, has some two thousand bytes.
const LONGEST: usize = 16 * 1024;

/// The files of v2 that are read.
const V2: [&str; 13] = [
    "cpu.stat",
    "memory.current",
    "memory.stat",
    "memory.max",
    "memory.peak",
    "memory.events",
    "memory.swap.current",
    "memory.swap.max",
    "pids.current",
    "pids.max",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
];

/// The files of v1 that are read, with their controllers.
const V1: [(&str, &str); 12] = [
    ("cpuacct", "cpuacct.usage"),
    ("cpuacct", "cpuacct.stat"),
    ("cpu", "cpu.stat"),
    ("memory", "memory.usage_in_bytes"),
    ("memory", "memory.stat"),
    ("memory", "memory.limit_in_bytes"),
    ("memory", "memory.max_usage_in_bytes"),
    ("memory", "memory.failcnt"),
    ("memory", "memory.oom_control"),
    ("memory", "memory.memsw.usage_in_bytes"),
    ("pids", "pids.current"),
    ("pids", "pids.max"),
];

/// The statistics of one cgroup.
#[derive(Debug)]
pub struct Meter {
    is_v2: bool,
    files: Vec<(&'static str, OwnedFd)>,
}

impl Cgroup {
    /// Opens the files that its statistics are in; those that this kernel lacks are left out.
    ///
    /// # Errors
    ///
    /// Too many open files.
    pub fn meter(&self) -> io::Result<Meter> {
        let is_v2 = self.is_v2();
        let mut files = Vec::new();
        if is_v2 {
            for file in V2 {
                open(self.place_of("memory"), file, &mut files)?;
            }
        } else {
            for (controller, file) in V1 {
                open(self.place_of(controller), file, &mut files)?;
            }
        }
        Ok(Meter { is_v2, files })
    }
}

fn open(
    place: Option<&Place>,
    file: &'static str,
    files: &mut Vec<(&'static str, OwnedFd)>,
) -> io::Result<()> {
    let opened = place.map(|place| Directory::open_file(&place.directory, file, OFlags::RDONLY));
    match opened {
        None => {}
        Some(Err(err)) if is_gone(&err) => {}
        Some(opened) => files.push((file, opened?)),
    }
    Ok(())
}

impl Meter {
    /// What the cgroup uses now; none once it is removed.
    ///
    /// # Errors
    ///
    /// What the kernel says to reading a file.
    pub fn read(&self) -> io::Result<Option<Usage>> {
        let mut buffer = vec![0; LONGEST];
        let mut texts = Texts::default();
        for (name, file) in &self.files {
            match read(file, &mut buffer) {
                Ok(text) => texts.add(name, text),
                // The kernel has pressure files that it does not fill where PSI is off (psi=0).
                Err(err) if err == rustix::io::Errno::OPNOTSUPP => {}
                Err(err) if is_gone(&err.into()) => return Ok(None),
                Err(err) => return Err(err.into()),
            }
        }
        Ok(Some(if self.is_v2 { v2(&texts) } else { v1(&texts) }))
    }
}

fn read(file: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<String> {
    let mut length = 0;
    // A control file may give a line at a time.
    loop {
        let offset = length as u64;
        match rustix::io::pread(file, &mut buffer[length..], offset)? {
            0 => break,
            count => length += count,
        }
    }
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
