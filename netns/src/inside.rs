//! Work inside another network namespace.

use std::io;
use std::os::fd::BorrowedFd;
use std::panic::resume_unwind;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` inside `netns` and returns its result.
///
/// A short-lived thread enters the namespace and dies there, so that no other thread can be left in the wrong namespace,
/// even if `work` panics.
pub(crate) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    on_a_thread(|| enter(netns).map(|()| work()))?
}

/// Runs `work` on a thread that may go into namespaces, because it dies with the work.
pub(crate) fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    const STACK_BYTES: usize = 128 * 1024;
    thread::scope(|scope| {
        let visitor = thread::Builder::new()
            .name("netns-visitor".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)?;
        Ok(visitor.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?)
}
