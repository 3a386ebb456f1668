//! Times of pods, execs, lists and pulls, and the memory they take: Berth's beside what the system calls alone take, and
//! beside containerd's where it is installed, with the same client. `hack/bench` runs it.
//!
//! ```text
//!   Contest ── rounds, one party after the other
//!     ├── Actor<Node>   berthd ──────┐
//!     ├── Actor<Node>   containerd ──┤ each on its own thread, in its own namespaces
//!     └── Actor<Floor>  system calls ┘
//!   Results ── samples by row, party and round ──► Report ── table, JSON
//! ```
//!
//! Whatever happens, also SIGINT and SIGTERM, each party takes down its own stage when it is dropped.

mod actor;
mod arguments;
mod contest;
mod figure;
mod floor;
mod machine;
mod medium;
mod node;
mod payload;
mod report;
mod rows;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arguments::Arguments;
use contest::Contest;
use report::Report;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    let report = stop_on_signals().map_err(|err| err.to_string()).and_then(|stop| {
        let (machine, about) = machine::describe(&contest::versions(&arguments));
        let mut contest = Contest::start(&arguments, stop)?;
        contest.run(&arguments)?;
        let (results, mut notes) = contest.end();
        notes.insert(0, about);
        Ok(Report { results, machine, notes, quick: arguments.quick })
    });
    match report.and_then(|report| publish(&report, &arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Set as soon as somebody wants this to end.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let flag = Arc::clone(&stop);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        flag.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

fn publish(report: &Report, arguments: &Arguments) -> Result<(), String> {
    let json = format!("{:#}\n", report.json());
    let shown = if arguments.json { &json } else { &report.table() };
    io::stdout().write_all(shown.as_bytes()).map_err(|err| err.to_string())?;
    match &arguments.file {
        Some(path) => write(path, &json).map_err(|err| format!("write {}: {err}", path.display())),
        None => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())
}
