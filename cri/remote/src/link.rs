//! A connection as a whole: its two tasks, whether the peer is there, and its end.

use crate::channel::Frame;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The frames that wait for the connection, of all channels together.
const QUEUE: usize = 8;
/// How long a peer may take to read what is left when the connection ends.
const FAREWELL: Duration = Duration::from_secs(10);
/// A peer that says nothing is asked for a sign of life this often: one that was killed while we do not read (because
/// somebody is slow) is found out by that, and proxies on the way keep the connection.
pub(crate) const PING: Duration = Duration::from_secs(30);

/// A connection whose channels are in use. Dropping it cuts the connection off.
#[derive(Debug)]
pub struct Link {
    frames: mpsc::Sender<Frame>,
    closed: watch::Receiver<bool>,
    activity: Activity,
    reader: Task,
    writer: Task,
}

/// When bytes last went through some channel.
#[derive(Clone, Debug)]
pub(crate) struct Activity {
    since: Instant,
    last_ms: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

/// Says that the connection is closed when the task that holds it ends, however it does.
#[derive(Debug)]
struct Ends(Arc<watch::Sender<bool>>);

impl Link {
    /// Starts both tasks. The writer ends well after [`Frame::Close`], or with an error.
    pub(crate) fn start<R, W>(
        frames: mpsc::Sender<Frame>,
        activity: Activity,
        reader: R,
        writer: W,
    ) -> Self
    where
        R: Future<Output = ()> + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let (closed, following) = watch::channel(false);
        let closed = Arc::new(closed);
        let task = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let ends = Ends(Arc::clone(&closed));
            Task(tokio::spawn(async move {
                let _ends = ends;
                work.await;
            }))
        };
        let (reader, writer) = (task(Box::pin(reader)), task(Box::pin(writer)));
        Self { frames, closed: following, activity, reader, writer }
    }

    pub(crate) fn queue() -> (mpsc::Sender<Frame>, mpsc::Receiver<Frame>) {
        mpsc::channel(QUEUE)
    }

    /// Waits until the peer is gone, or has broken the protocol.
    pub async fn closed(&self) {
        // An error is the end of both tasks.
        self.closed.clone().wait_for(|closed| *closed).await.ok();
    }

    /// Waits until no byte has gone through any channel for so long.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let until = self.activity.last() + limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Ends the connection once everything that was sent is written, or the peer does not read it in time.
    pub async fn close(mut self) {
        let farewell = async {
            self.frames.send(Frame::Close).await.ok();
            (&mut self.writer.0).await.ok();
        };
        tokio::time::timeout(FAREWELL, farewell).await.ok();
        self.reader.0.abort();
    }
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), last_ms: Arc::default() }
    }

    pub(crate) fn note(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.since + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}
