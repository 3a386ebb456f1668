//! From a CRI request to what a monitor executes, as pure functions: no file is read, no clock, no environment.
//!
//! ```text
//!   Input { pod, container, image, identity, files, namespaces, cgroup, devices, host }
//!       │ container()
//!       ▼
//!   OCI runtime spec ── launch() ──▶ Launch { plan, open }     the monitor's plan, and what the daemon opens for it
//!       │                └─ exec() ─▶ plan::Process            one more process in the same container
//!       └─ stored by the daemon; the verbose status shows it
//! ```
//!
//! The happy path: the daemon resolves what needs I/O (user names, devices, the pod's files), calls [`container`] and
//! stores the spec, calls [`launch`], opens what [`Launch::open`] lists in that order, and hands both to the monitor.
//! The failure path: [`SpecError`] names the field of the request and what it has to be, before anything exists.
//!
//! Two rules hold everywhere. What a request asks for and Berth cannot do is refused, never left out. And what an
//! image says only ever configures the workload: it decides no path of the host and no right.

mod capabilities;
mod cdi;
mod confinement;
mod container;
mod devices;
mod driven;
mod error;
mod input;
mod launch;
mod mounts;
mod namespaces;
mod process;
mod resources;
pub mod seccomp;
mod sysctls;
mod target;
mod update;
mod users;
mod volumes;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod testing;

pub use cdi::{CdiDevice, CdiEdits, CdiMount};
pub use container::container;
pub use driven::{Bundle, driven, driven_exec};
pub use error::SpecError;
pub use input::{
    Architecture, CgroupFacts, HostDevice, HostFacts, Identity, ImageDefaults, Input,
    NamespacePins, SandboxFiles,
};
pub use launch::{Compile, Ids, Launch, Open, exec, exec_with, launch, launch_with};
pub use resources::limits;
pub use seccomp::localhost_profile;
pub use sysctls::sysctls;
pub use update::{Update, update};
pub use users::{UserNamespace, user_namespace};
