//! Plugins on the real kernel: Debian's, and one that does what a test tells it to.

mod debian;
mod scripted;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::bridge::testing::{enter_fresh_namespace, fresh_namespace, on_a_host, run};
use crate::contract::{self, World};

/// Where Debian puts its plugins.
const PLUGINS: &str = "/usr/lib/cni";

fn config(top: &Path) -> CniConfig {
    CniConfig {
        directory: top.join("net.d"),
        plugins: vec![top.join("bin"), PLUGINS.into()],
        journal: top.join("journal"),
        limit: Duration::from_secs(20),
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    sys::durable::replace(path, text.as_bytes(), mode).unwrap();
}

/// A wish of the pod whose id is all `digit`, for the namespace at `path`.
fn wish(digit: char, path: &contract::Path) -> NetworkWish {
    NetworkWish { namespace: path.get(), ..contract::wish(digit, &[]) }
}

fn attach(network: &impl PodNetwork, wish: &NetworkWish) -> Result<Attached, NetworkError> {
    let unused = fs::File::open("/dev/null").unwrap();
    network.attach(std::os::fd::AsFd::as_fd(&unused), network.check(wish)?)
}

#[expect(clippy::disallowed_methods, reason = "another thread is waited for, and it tells nobody")]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
