//! Signs of life on the report pipe.

use image::layer::wire::BEAT;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

/// Time between two signs.
const EVERY: Duration = Duration::from_secs(1);

/// Tells the reader of the reports that work goes on, at most once a second and only when there is work.
#[derive(Debug)]
pub(crate) struct Pulse {
    to: File,
    last: Instant,
}

impl Pulse {
    pub(crate) fn new(to: File) -> Self {
        Self { to, last: Instant::now() }
    }

    /// Something was done.
    pub(crate) fn beat(&mut self) {
        if self.last.elapsed() >= EVERY {
            self.last = Instant::now();
            // Without a reader the report will fail, and that is told by the exit status.
            self.to.write_all(&[BEAT]).ok();
        }
    }

    /// The pipe, for the report.
    pub(crate) fn into_inner(self) -> File {
        self.to
    }
}
