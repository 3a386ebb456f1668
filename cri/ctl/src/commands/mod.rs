//! One file for each group of commands: flags, calls, output.

pub(crate) mod attach;
pub(crate) mod containers;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod inspection;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod pods;
pub(crate) mod port_forward;
pub(crate) mod stats;
