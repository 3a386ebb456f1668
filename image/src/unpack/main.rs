//! `berth-unpack`: unpacks one layer into one empty directory, shut in so that a layer can do no harm.
//!
//! ```text
//!   arguments ──▶ shut in ──▶ thread ──▶ system calls ──▶ stdin ──▶ decompress ──▶ entries ──▶ files
//!                (root, capabilities,    limited                    and hash       checked
//!                 limits, namespaces)                               (thread)
//! ```
//!
//! Started by the layer store, never by hand: `berth-unpack DIRECTORY COMPRESSION BYTES ENTRIES`, the compressed layer on
//! standard input, signs of life and one report on standard output (`image::layer::wire`). Exits 0 when the report says how
//! it went, whatever it says.

mod area;
mod attributes;
mod confine;
mod extract;
mod failure;
mod index;
mod name;
mod pulse;
mod source;
mod tar;

use image::layer::Compression;
use image::layer::wire::{REPORT, Refusal, Report, Unpacked};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::ExitCode;

/// What the worker is told.
struct Job {
    area: OsString,
    compression: Compression,
    bounds: extract::Bounds,
}

fn main() -> ExitCode {
    let Some(job) = arguments(std::env::args_os()) else {
        return ExitCode::from(2);
    };
    match run(&job) {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell but by the status.
        Err(_) => ExitCode::FAILURE,
    }
}

fn arguments(mut given: impl Iterator<Item = OsString>) -> Option<Job> {
    given.next()?;
    let (area, compression) = (given.next()?, given.next()?);
    let mut number = || given.next().as_deref().and_then(OsStr::to_str)?.parse().ok();
    let (bytes, entries) = (number()?, number()?);
    let compression = Compression::from_argument(compression.to_str()?)?;
    let job = Job { area, compression, bounds: extract::Bounds { bytes, entries } };
    given.next().is_none().then_some(job)
}

/// Unpacks and reports. An error means that the report could not be given.
fn run(job: &Job) -> io::Result<()> {
    let shut_in = confine::shut_in(Path::new(&job.area), job.bounds.bytes);
    let mut pulse = pulse::Pulse::new(owned(rustix::stdio::stdout())?);
    let result = shut_in
        .map_err(|err| failure::UnpackError::from(err).refusal(&failure::Place::NOWHERE))
        .and_then(|root| {
            let waiting = owned(rustix::stdio::stdin())
                .and_then(|input| source::start(input, job.compression, job.bounds.bytes))
                .map_err(|err| {
                    Refusal::Worker("start to decompress".into(), err.raw_os_error().unwrap_or(0))
                })?;
            confine::forbid_calls()
                .map_err(|err| failure::UnpackError::from(err).refusal(&failure::Place::NOWHERE))?;
            extract::unpack(root, waiting.go(), job.bounds, &mut pulse, source::Source::digest)
        });
    report(pulse.into_inner(), result)
}

fn report(mut to: File, result: Result<Unpacked, Refusal>) -> io::Result<()> {
    let report = match result {
        Ok(unpacked) => Report::Unpacked(unpacked),
        Err(refusal) => Report::Refused(refusal),
    };
    let text = postcard::to_allocvec(&report).map_err(io::Error::other)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    to.write_all(&[&[REPORT][..], &length.to_le_bytes(), &text].concat())
}

fn owned(fd: BorrowedFd<'_>) -> io::Result<File> {
    Ok(File::from(fd.try_clone_to_owned()?))
}
