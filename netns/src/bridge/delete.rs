//! Deleting a link without waiting for the kernel to clean up behind it.

use std::io;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};

use crate::netlink::{Error, Socket};
use crate::route;

type Deletion = JoinHandle<Result<(), Error>>;

/// Deletes a link, and with one end of a pair the other; returns when neither exists any more. One that is not there is
/// no error.
///
/// The kernel takes the links down in half a millisecond, and then holds the caller another 15 to 30 until an RCU grace
/// period lets it free their memory (netdev_run_todo: rcu_barrier). A thread of its own sits that out.
pub(super) fn delete_link(name: &str) -> Result<(), Error> {
    let mut events = Socket::link_events()?;
    let mut kernel = Socket::route()?;
    let (ended, end) = io::pipe().map_err(failed_to("make a pipe"))?;
    let request = route::delete_link(name);
    let deletion: Deletion = thread::Builder::new()
        .name("link-deletion".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            let result = kernel.change(&[request]);
            drop(end);
            result
        })
        .map_err(failed_to("start a thread"))?;
    loop {
        let mut ready = [
            PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
        ];
        retry_on_intr(|| poll(&mut ready, None)).map_err(|err| failed_to("wait")(err.into()))?;
        let [heard, over] = ready.map(|fd| !fd.revents().is_empty());
        if over {
            return outcome(deletion);
        }
        if heard {
            match events.heard(|event| route::is_farewell(event, name)) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // More events than the socket can hold, and ours may be among the lost: the end will come, only later.
                Err(_) => return outcome(deletion),
            }
        }
    }
}

fn outcome(deletion: Deletion) -> Result<(), Error> {
    match deletion.join() {
        Ok(Err(err)) if err.is(Errno::NODEV) => Ok(()),
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    }
}

fn failed_to(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Socket { step, source }
}
