//! Races: names that change what they mean as fast as the kernel can do it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The least number of exchanges that a race has to see.
pub const SWAPS: u64 = 100_000;

/// Two threads, each on a processor of its own, that exchange two names.
#[derive(Debug)]
pub struct Racers {
    done: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Racers {
    /// Begins to exchange `one` and `other`, which both have to be there.
    pub fn exchange(one: &Path, other: &Path) -> Self {
        Self::run(one, other, |result| result.expect("exchange two names"))
    }

    /// As [`Racers::exchange`], for names that somebody else removes in the end.
    pub fn until_gone(one: &Path, other: &Path) -> Self {
        Self::run(one, other, |result| {
            // Between two removals only one of them is there.
            result.ok();
        })
    }

    fn run(one: &Path, other: &Path, judge: fn(nix::Result<()>)) -> Self {
        let (done, swaps): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let threads = processors()
            .into_iter()
            .map(|processor| {
                let (done, swaps) = (Arc::clone(&done), Arc::clone(&swaps));
                let (one, other) = (one.to_owned(), other.to_owned());
                std::thread::spawn(move || {
                    pin(processor);
                    while !done.load(Ordering::Relaxed) {
                        let swapped = renameat2(
                            AT_FDCWD,
                            &one,
                            AT_FDCWD,
                            &other,
                            RenameFlags::RENAME_EXCHANGE,
                        );
                        swaps.fetch_add(u64::from(swapped.is_ok()), Ordering::Relaxed);
                        judge(swapped);
                    }
                })
            })
            .collect();
        Self { done, swaps, threads }
    }

    pub fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }

    /// Does `attempt` again and again until it was done `least` times and names were exchanged [`SWAPS`] times.
    pub fn against(self, least: u32, mut attempt: impl FnMut(u32)) {
        let mut count = 0;
        while count < least || self.swaps() < SWAPS {
            attempt(count);
            count += 1;
        }
        eprintln!("{count} attempts under {} exchanges", self.swaps());
    }
}

impl Drop for Racers {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || std::thread::panicking(), "a racer panicked");
        }
    }
}

/// Two of those that this process may run on, or one twice.
fn processors() -> [usize; 2] {
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).expect("own processors");
    let mut numbers =
        (0..CpuSet::count()).filter(|&number| allowed.is_set(number).unwrap_or(false));
    let first = numbers.next().expect("a processor");
    [first, numbers.next().unwrap_or(first)]
}

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a number of a processor");
    sched_setaffinity(Pid::from_raw(0), &set).expect("stay on one processor");
}
