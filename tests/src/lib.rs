//! The harness of the black-box suites.
//!
//! ```text
//!   World ── a test's own machine: mount and network namespace, directories, cgroup parent
//!     ├── Daemon ── the built `berthd`, started, killed, started again
//!     ├── Cri ───── a blocking client of the two CRI services on its socket
//!     ├── Registry ── Debian's docker-registry on loopback, filled by ImageBuilder
//!     └── Census ── everything a leak could show in, before and after
//! ```
//!
//! Nothing here knows a crate of the workspace but `cri-api`: what the suites see is what a
//! kubelet sees, and what the kernel shows. [`in_world`] runs a test body and then takes the
//! census: a test that leaves a mount, a link, a cgroup, a process, a file or a descriptor behind
//! fails, whatever else it asserts.

#![expect(
    missing_docs,
    reason = "only the suites use this; a line is written where a name does not tell"
)]

pub mod canary;
pub mod census;
pub mod cgroup;
pub mod cri;
pub mod crictl;
pub mod daemon;
pub mod handler;
pub mod hostile;
pub mod http;
pub mod image;
pub mod log;
pub mod network;
pub mod patience;
pub mod peer;
pub mod pods;
pub mod process;
pub mod proxy;
pub mod race;
pub mod registry;
pub mod scripted;
pub mod stage;
pub mod streams;
pub mod systemd;
pub mod world;

pub use canary::Canary;
pub use image::ImageBuilder;
pub use pods::Pod;
pub use registry::Registry;
pub use world::{World, in_bare_world, in_world};
