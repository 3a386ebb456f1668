//! Bytes between a client's channels and a program's descriptors.

use super::descriptor::Descriptor;
use remote::message::{Size, Sizes};
use remote::{Incoming, Outgoing};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// What is read at a time.
const CHUNK: usize = 16 << 10;
/// What can be left in a pipe of a program that has ended: as much as the largest pipe holds.
const MOST_REST: usize = 1 << 20;

/// Copies what a program says, also to nobody, until it says no more.
///
/// Once `ended` says that the program has, somebody else may hold its output open for as long as they like: then what is
/// there is copied, and more is waited for no longer than `drain`. A slow client is given its time all the same.
pub(super) async fn output(
    from: &Descriptor,
    to: Option<Outgoing>,
    mut ended: watch::Receiver<bool>,
    drain: Duration,
) {
    let mut buffer = vec![0; CHUNK];
    let mut rest: Option<(Instant, usize)> = None;
    loop {
        let read = match &mut rest {
            None => tokio::select! {
                biased;
                read = from.read(&mut buffer) => read,
                _ = ended.wait_for(|ended| *ended) => {
                    rest = Some((Instant::now() + drain, 0));
                    continue;
                }
            },
            // What is there is read also when the time is up.
            Some((until, copied)) if *copied < MOST_REST => {
                match timeout_at(*until, from.read(&mut buffer)).await {
                    Ok(read) => read,
                    Err(_) => break,
                }
            }
            Some(_) => break,
        };
        let Ok(count @ 1..) = read else { break };
        if let Some((_, copied)) = &mut rest {
            *copied += count;
        }
        if let Some(to) = &to
            && to.send(buffer[..count].to_vec()).await.is_err()
        {
            break;
        }
    }
    if let Some(to) = to {
        // The client may have gone.
        to.finish().await.ok();
    }
}

/// Copies what a client says until it says no more, or nobody listens.
pub(super) async fn input(mut from: Incoming, to: &Descriptor) {
    while let Some(piece) = from.next().await {
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}

/// Follows the size of a client's terminal.
#[derive(Debug)]
pub(super) struct Resizes {
    from: Option<Incoming>,
    sizes: Sizes,
}

impl Resizes {
    pub(super) fn new(from: Option<Incoming>) -> Self {
        Self { from, sizes: Sizes::default() }
    }

    /// The next size; `None` where no more come.
    pub(super) async fn next(&mut self) -> Option<Size> {
        let from = self.from.as_mut()?;
        while let Some(piece) = from.next().await {
            match self.sizes.take(&piece) {
                Ok(Some(size)) => return Some(size),
                Ok(None) => {}
                Err(err) => {
                    // It is not worth the session: the terminal keeps its size.
                    tracing::debug!(%err, "resize");
                    return None;
                }
            }
        }
        None
    }
}
