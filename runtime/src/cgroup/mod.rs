//! Control groups of pods and containers, v1 and v2 (`cgroups(7)`).
//!
//! ```text
//!   daemon                                          monitor
//!   Cgroups ──create, open, remove──▶ Cgroup
//!     one descriptor per hierarchy      │ descriptors()
//!                                       └──SCM_RIGHTS──▶ Held ──▶ enter or clone into, exec children, kill, OomWatch
//! ```
//!
//! A cgroup has one name ([`CgroupPath`]) in all hierarchies: v2 is one hierarchy, v1 one for each controller or few. What
//! is written where and in which order is computed by `v1` and `v2` without touching anything; everything is done through
//! descriptors of directories, so the monitor can do its part after it has left the host's root.
//!
//! The happy path: [`Cgroups::create`] with [`Limits`], send [`Cgroup::descriptors`], let the first process enter, and
//! [`Cgroups::remove`] at the end. The failure path: `create` takes its own half back, `apply` writes the old limits back,
//! and `remove` kills, waits for the ends that it caused, goes on with the other hierarchies after a failure, and reports
//! what is left; each may be repeated. What a crash left is found with [`Cgroups::children`].

mod cgroups;
mod descriptors;
mod device;
mod directory;
mod end;
mod error;
mod group;
mod held;
mod hierarchy;
mod limits;
mod meter;
mod oom;
mod oom_score;
mod path;
mod room;
mod usage;
mod v1;
mod v2;

pub use cgroups::Cgroups;
pub use descriptors::Descriptors;
pub use device::{BadDeviceRule, DeviceAccess, DeviceKind, DeviceRule};
pub use error::{BadLimits, CgroupError};
pub use group::{Before, Cgroup};
pub use held::Held;
pub use hierarchy::Version;
pub use limits::Limits;
pub use meter::Meter;
pub use oom::OomWatch;
pub use path::{BadCgroupPath, CgroupPath};
pub use usage::{CpuTime, Memory, Pressure, Stall, Swap, Usage};
