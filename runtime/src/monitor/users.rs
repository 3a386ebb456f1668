//! User namespaces: made for a pod, with the namespaces that it owns, or for a mount whose owners are shown in another way.

use crate::init::{self, Word};
use crate::monitor::Monitor;
use crate::refuse::{Explain, refusal};
use plan::{IdRange, NamespaceKind};
use runtime::protocol::Refusal;
use rustix::process::Pid;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::time::Duration;
use sys::clone::Spawn;

const STEP: &str = "make user namespace";
/// A network namespace takes some milliseconds, on a busy machine more. The pod's containers wait for that, and most
/// often there are none yet.
const PATIENCE: Duration = Duration::from_secs(10);

impl Monitor {
    /// Makes them in a process that ends then; whoever gets the descriptors keeps them.
    pub(crate) fn make_namespaces(
        &self,
        uids: &[IdRange],
        gids: &[IdRange],
        kinds: &[NamespaceKind],
    ) -> Result<Vec<OwnedFd>, Refusal> {
        let (channel, theirs) = init::channel().step("make", "channel")?;
        let how = Spawn { user_namespace: true, ..Spawn::default() };
        let maker = init::spawn(&self.world, &how, || init::maker(&self.world, kinds, &theirs))?;
        drop(theirs);
        // It is reaped like any orphan; one that cannot go on ends when the channel does.
        self.map(maker.pid, uids, gids)?;
        init::go(&channel).step(STEP, "")?;
        let mut made = Vec::new();
        loop {
            match init::wait_for_word(&channel, PATIENCE).step(STEP, "")? {
                Some((Word::Namespace, Some(namespace))) => made.push(namespace),
                Some((Word::Failed(refusal), _)) => return Err(refusal),
                Some(_) => return Err(refusal(STEP, "a word that does not belong here", 0)),
                None if made.len() == 1 + kinds.len() => return Ok(made),
                None => return Err(refusal(STEP, "its maker has ended", 0)),
            }
        }
    }

    fn map(&self, maker: Pid, uids: &[IdRange], gids: &[IdRange]) -> Result<(), Refusal> {
        let step = "map ids into user namespace";
        self.world.write_of(maker, "uid_map", &lines(uids)).step(step, lines(uids))?;
        self.world.write_of(maker, "gid_map", &lines(gids)).step(step, lines(gids))
    }
}

/// As `uid_map` takes them (`user_namespaces(7)`).
fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, IdRange { inside, outside, length }| {
        // A string takes every write.
        writeln!(text, "{inside} {outside} {length}").ok();
        text
    })
}
