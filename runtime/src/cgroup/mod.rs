//! Control groups of pods and containers.

mod descriptors;
mod directory;
mod end;
mod held;
mod oom;

pub use descriptors::Descriptors;
pub use held::Held;
pub use oom::OomWatch;
