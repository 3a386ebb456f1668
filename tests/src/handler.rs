//! Which runtime the containers of the tests run on.
//!
//! `BERTH_TEST_HANDLER=runc` has every pod run by that program of the host, in place of Berth's own runtime: the same
//! tests, so that a handler is held to the same behaviour. What a handler cannot do is asked for with [`lacks`].

use std::path::{Path, PathBuf};

use crate::cgroup;
use nix::mount::{MsFlags, mount};

const VARIABLE: &str = "BERTH_TEST_HANDLER";

/// The handler that is wanted in place of Berth's own.
pub fn wanted() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|name| !name.is_empty() && name != "berth")
}

/// A runtime's program of this host.
pub fn program(name: &str) -> Option<PathBuf> {
    let directories = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
    directories.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists())
}

/// Whether that one is wanted.
pub fn is(handler: &str) -> bool {
    wanted().is_some_and(|wanted| wanted == handler)
}

/// Says that a test has not run because the wanted handler lacks what it is about; `why` is the reason.
pub fn lacks(handler: &str, why: &str) -> bool {
    let is = is(handler);
    if is {
        eprintln!("NOT RUN: {handler}: {why}");
    }
    is
}

/// As [`lacks`], for what only Berth's own runtime promises.
pub fn is_other(why: &str) -> bool {
    let other = wanted();
    if let Some(handler) = &other {
        eprintln!("NOT RUN: {handler}: {why}");
    }
    other.is_some()
}

/// The tables of the configuration for the runtimes that this host has.
#[must_use]
pub fn tables() -> String {
    let table = |name: &str| {
        let program = program(name)?;
        Some(format!("\n[handlers.{name}]\nbinary = {program:?}\n"))
    };
    let mut names = vec!["runc".to_owned(), "crun".to_owned()];
    names.extend(wanted().filter(|wanted| !names.contains(wanted)));
    names.iter().filter_map(|name| table(name)).collect()
}

/// The key of the configuration that makes the wanted handler the default.
///
/// # Panics
///
/// When this host has no such program.
pub(crate) fn default_key() -> String {
    let Some(name) = wanted() else { return String::new() };
    assert!(program(&name).is_some(), "{VARIABLE}={name}: there is no such program");
    format!("default_handler = \"{name}\"\n\n")
}

/// Hides the second version of cgroups on a host that has both, in the calling thread's mount namespace. crun refuses
/// such a host; runc uses the second for nothing, and leaves directories there when it is not let delete. It is hidden by
/// a tmpfs, because crun makes directories there all the same.
pub(crate) fn show_one_cgroup_version() {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if !cgroup::is_v2() && unified.exists() {
        let none: Option<&str> = None;
        mount(Some("hidden"), unified, Some("tmpfs"), MsFlags::empty(), none)
            .expect("hide cgroup v2");
    }
}
