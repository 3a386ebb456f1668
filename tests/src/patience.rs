//! Waiting for what the kernel does in its own time.

use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for something that should take milliseconds; generous, because the
/// suite also runs in an emulated machine. `BERTH_TEST_PATIENCE` multiplies it.
pub fn patience() -> Duration {
    let factor = std::env::var("BERTH_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(10) * factor.unwrap_or(1)
}

/// Asks again and again until there is an answer; `None` when [`patience`] has run out.
pub fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds.
///
/// # Panics
///
/// Naming `what`, when it does not hold within [`patience`].
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(eventually(|| condition().then_some(())).is_some(), "waited in vain: {what}");
}

/// Lets time pass where the passing of time is what is tested.
#[expect(clippy::disallowed_methods, reason = "the one place where the suite sleeps")]
pub fn pause(time: Duration) {
    thread::sleep(time);
}
