//! What a new process and the monitor say to each other before `execve`, which closes the channel.

use crate::refuse::Explain;
use runtime::protocol::Refusal;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use sys::seqpacket;

/// What a new process tells the monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// This process will run the program. Comes with its pidfd.
    Forked { pid: i32 },
    /// Here is the monitor's side of the terminal. Comes with it.
    Terminal,
    /// Nothing but the system call filter stands before `execve` now.
    Executing,
    /// A step failed; the process ends.
    Failed(Refusal),
    /// Process 1 of the pod's PID namespace is ready, and about to close this channel. Comes with a procfs of that.
    Reaps,
    /// A procfs of the PID namespace that the sender is in. Comes with it.
    Procfs,
    /// A namespace that was made. Comes with it.
    Namespace,
}

/// The process's end of the channel.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// The longest word: the object of a refusal is at most 512 bytes.
const MAX_WORD: usize = 1024;

/// Makes a channel: the monitor's end, and the process's.
pub(crate) fn pair() -> Result<(OwnedFd, Channel), Errno> {
    seqpacket::pair().map(|(ours, theirs)| (ours, Channel(theirs)))
}

/// Lets a process that waits go on.
pub(crate) fn go(ours: &OwnedFd) -> Result<(), Errno> {
    seqpacket::send(ours, b"g", &[])
}

/// Reads the next word: `EAGAIN` where there is none yet, `None` at the end.
pub(crate) fn hear(ours: &OwnedFd) -> Result<Option<(Word, Option<OwnedFd>)>, Errno> {
    let mut buffer = [0; MAX_WORD];
    let Some(mut message) = seqpacket::receive(ours, &mut buffer)? else { return Ok(None) };
    let word = postcard::from_bytes(&buffer[..message.bytes]).map_err(|_| Errno::BADMSG)?;
    Ok(Some((word, message.descriptors.pop())))
}

/// As [`hear`], and waits for a word for `patience`: `ETIMEDOUT` where none comes.
pub(crate) fn wait_for_word(
    ours: &OwnedFd,
    patience: Duration,
) -> Result<Option<(Word, Option<OwnedFd>)>, Errno> {
    match hear(ours) {
        Err(Errno::AGAIN) => {}
        result => return result,
    }
    if seqpacket::wait(&[ours.as_fd()], patience)? == [true] {
        hear(ours)
    } else {
        Err(Errno::TIMEDOUT)
    }
}

impl Channel {
    /// Waits until the monitor has put this process into its cgroup.
    pub(crate) fn wait_for_go(&self) -> Result<(), Refusal> {
        let go = seqpacket::receive(&self.0, &mut [0; 1]).step("wait for the monitor", "")?;
        go.map(drop).ok_or(Errno::PIPE).step("wait for the monitor", "")
    }

    /// By write(2), which even narrow system call filters allow.
    pub(crate) fn say(&self, word: &Word) -> Result<(), Refusal> {
        let bytes = postcard::to_allocvec(word).map_err(|_| Errno::INVAL).step("encode", "")?;
        rustix::io::write(&self.0, &bytes).map(drop).step("speak to the monitor", "")
    }

    pub(crate) fn say_with(&self, word: &Word, with: BorrowedFd<'_>) -> Result<(), Refusal> {
        let bytes = postcard::to_allocvec(word).map_err(|_| Errno::INVAL).step("encode", "")?;
        seqpacket::send(&self.0, &bytes, &[with]).step("speak to the monitor", "")
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_in_order_and_then_the_end() {
        let (ours, theirs) = pair().unwrap();
        assert_eq!(hear(&ours).unwrap_err(), Errno::AGAIN);
        let failed = crate::refuse::refusal("mount", &"x".repeat(4000), 2);
        theirs.say(&Word::Executing).unwrap();
        theirs.say(&Word::Failed(failed.clone())).unwrap();
        drop(theirs);
        assert_eq!(hear(&ours).unwrap().unwrap().0, Word::Executing);
        assert_eq!(hear(&ours).unwrap().unwrap().0, Word::Failed(failed));
        assert!(hear(&ours).unwrap().is_none());
    }
}
