//! Cgroups against the kernel, v1 and v2: the same program runs on both.
//!
//! Every test works below a cgroup of its own, which its `Room` removes and looks for afterwards in all hierarchies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod devices;
mod ending;
mod entering;
mod limits;
mod oom;
mod room;
