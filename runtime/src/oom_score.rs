//! `oom_score_adj` (`proc_pid_oom_score_adj(5)`), as low as the kernel grants it.

use rustix::io::Errno;
use std::io;

/// Sets a score with `set`, or where that is refused for want of CAP_SYS_RESOURCE the lowest one above it that is granted.
/// `now` gives the present score, which is always granted.
///
/// # Errors
///
/// What `set` says but for EACCES, and what `now` says.
pub fn set_as_low_as_granted(
    wished: i32,
    set: impl Fn(i32) -> io::Result<()>,
    now: impl FnOnce() -> io::Result<i32>,
) -> io::Result<()> {
    match set(wished) {
        Err(err) if err.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {}
        result => return result,
    }
    // The floor is not told, but the current value is above it: halve the rest until it is found.
    let (mut refused, mut granted) = (wished, now()?);
    while granted - refused > 1 {
        let middle = refused + (granted - refused) / 2;
        if set(middle).is_ok() { granted = middle } else { refused = middle }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn the_lowest_score_that_is_granted_is_found() {
        let cases = [
            ("granted", -500, -900, -500),
            ("above the floor", 100, 0, 100),
            ("below the floor", -500, 0, 0),
            ("just below the floor", -401, -400, -400),
        ];
        for (name, wished, floor, want) in cases {
            let score = Cell::new(300);
            let set = |wished| {
                if wished < floor {
                    return Err(Errno::ACCESS.into());
                }
                score.set(wished);
                Ok(())
            };
            set_as_low_as_granted(wished, set, || Ok(score.get())).unwrap();
            assert_eq!(score.get(), want, "{name}");
        }
    }

    #[test]
    fn other_refusals_are_told() {
        let gone = || io::Error::from(Errno::SRCH);
        assert!(set_as_low_as_granted(0, |_| Err(gone()), || Ok(0)).is_err());
    }
}
