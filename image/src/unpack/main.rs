//! `berth-unpack`: unpacks one layer into one empty directory or one empty file, shut in so that a layer can do no harm.
//!
//! ```text
//!   arguments ──▶ shut in ──▶ thread ──▶ system calls ──▶ stdin ──▶ decompress ──▶ entries ──▶ files,
//!                (root, capabilities,    limited                    and hash       checked     or one image
//!                 limits, namespaces)                               (thread)
//! ```
//!
//! Started by the layer store, never by hand: `berth-unpack FORM DIRECTORY COMPRESSION BYTES ENTRIES`, the compressed layer
//! on standard input, signs of life and one report on standard output (`image::layer::wire`). With the form `directories`
//! the layer goes into the directory; with `erofs` that stays empty, and standard error is the file for the image: the
//! worker has no right then to make, open or change any other. Exits 0 when the report says how it went, whatever it says.

mod area;
mod attributes;
mod confine;
mod directories;
mod erofs;
mod extract;
mod failure;
mod index;
mod medium;
mod name;
mod pulse;
mod source;
mod tar;

use image::layer::Compression;
use image::layer::wire::{Form, REPORT, Refusal, Report, Unpacked};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

/// What the worker is told.
struct Job {
    form: Form,
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
    let (form, area, compression) = (given.next()?, given.next()?, given.next()?);
    let mut number = || given.next().as_deref().and_then(OsStr::to_str)?.parse().ok();
    let (bytes, entries) = (number()?, number()?);
    let form = Form::from_argument(form.to_str()?)?;
    let compression = Compression::from_argument(compression.to_str()?)?;
    let job = Job { form, area, compression, bounds: extract::Bounds { bytes, entries } };
    given.next().is_none().then_some(job)
}

/// Unpacks and reports. An error means that the report could not be given.
fn run(job: &Job) -> io::Result<()> {
    let shut_in = confine::shut_in(job.form, Path::new(&job.area), job.bounds.bytes);
    let mut pulse = pulse::Pulse::new(owned(rustix::stdio::stdout())?);
    let result = shut_in
        .map_err(|err| failure::UnpackError::from(err).refusal(&failure::Place::NOWHERE))
        .and_then(|root| unpack(job, root, &mut pulse));
    report(pulse.into_inner(), result)
}

fn unpack(job: &Job, root: OwnedFd, pulse: &mut pulse::Pulse) -> Result<Unpacked, Refusal> {
    let start = |step: &str| {
        let step = step.to_owned();
        move |err: io::Error| Refusal::Worker(step, err.raw_os_error().unwrap_or(0))
    };
    let waiting = owned(rustix::stdio::stdin())
        .and_then(|input| source::start(input, job.compression, job.bounds.bytes))
        .map_err(start("start to decompress"))?;
    let image = owned(rustix::stdio::stderr()).map_err(start("take the image's file"))?;
    confine::forbid_calls(job.form)
        .map_err(|err| failure::UnpackError::from(err).refusal(&failure::Place::NOWHERE))?;
    let (input, digest) = (waiting.go(), source::Source::digest);
    match job.form {
        Form::Directories => {
            let medium = directories::Directories::new(root);
            extract::unpack(medium, input, job.bounds, pulse, digest)
        }
        Form::Erofs => {
            let medium = erofs::Image::new(image.into())
                .map_err(|err| err.refusal(&failure::Place::NOWHERE))?;
            extract::unpack(medium, input, job.bounds, pulse, digest)
        }
    }
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
