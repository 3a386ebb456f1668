//! What the kernel can do here, found out by doing it once.

use crate::chain::chain;
use crate::host::Paths;
use plan::IdRange;
use runtime::id::PodId;
use runtime::monitor::{Monitor, MonitorBinary, MonitorError, Setup};
use std::io;
use std::os::fd::OwnedFd;

/// Why pods cannot have user namespaces.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error("make a directory")]
    Directory(#[source] io::Error),
    #[error("make a user namespace")]
    Make(#[from] MonitorError),
    #[error("show the files in {0} to its users")]
    Map(String, #[source] io::Error),
}

/// The least of ids that shows whether there can be any: no file of ours belongs to them.
const RANGE: IdRange = IdRange { inside: 0, outside: 65_536, length: 65_536 };

/// Whether pods can have user namespaces: whether the kernel makes them at all, shows the files of our directories to their
/// users (`MOUNT_ATTR_IDMAP`), and takes layers that are shown so for an overlay (Linux 5.19).
///
/// It is tried with a monitor, as for a pod; were we to end now, the next start would find it and end it.
pub(crate) fn user_namespaces(binary: &MonitorBinary, paths: &Paths) -> bool {
    match try_user_namespace(binary, paths) {
        Ok(()) => true,
        Err(err) => {
            tracing::warn!(err = chain(&err), "pods cannot have user namespaces here");
            false
        }
    }
}

fn try_user_namespace(binary: &MonitorBinary, paths: &Paths) -> Result<(), Missing> {
    let pod = PodId::generate();
    let run = paths.pod_run(&pod);
    std::fs::create_dir(&run).map_err(Missing::Directory)?;
    let setup = Setup { shm_bytes: 1 << 16, shm_owner: (0, 0) };
    let tried =
        Monitor::spawn(binary, &pod, &run, &setup).map_err(Missing::Make).and_then(|monitor| {
            let made = monitor.namespaces(&[RANGE], &[RANGE], &[]).map_err(Missing::Make);
            let shown = made.and_then(|made| match made.as_slice() {
                [user, ..] => show(paths, user),
                [] => Err(Missing::Make(MonitorError::Confused { pod: pod.clone() })),
            });
            monitor.shutdown()?;
            shown
        });
    std::fs::remove_dir_all(&run).map_err(Missing::Directory)?;
    tried
}

fn show(paths: &Paths, user: &OwnedFd) -> Result<(), Missing> {
    let root = &paths.root;
    let failed = |source| Missing::Map(root.display().to_string(), source);
    let directory = sys::seqpacket::directory(root).map_err(|err| failed(err.into()))?;
    crate::container::merged(&[directory], Some(user)).map(drop).map_err(failed)
}
