//! `berth`: the command line of Berth. It speaks CRI as crictl does, with the same commands, flags and output,
//! and adds `berth run IMAGE`, which needs no files.
//!
//! ```text
//! args ──▶ settings ──▶ node (the connection) ──▶ commands/*, run ──▶ output
//! ```
//!
//! Each command group is a file below `commands`: its flags, the calls it makes, what it prints. Everything goes
//! through [`output::Out`], which knows whether a person or a program reads it.

mod args;
mod auth;
mod commands;
mod config_file;
mod docker_config;
mod duration;
mod error;
mod ids;
mod interrupt;
mod log;
mod node;
mod output;
mod pull;
mod run;
mod select;
mod session;
mod settings;
mod waiting;

use std::process::ExitCode;

use clap::Parser;

use crate::error::CliError;
use crate::output::{Out, note};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return args::explain(&error),
    };
    let failure_code = args.failure_code();
    let mut out = Out::stdout();
    let result = args.run(&mut out).await;
    let result = out.flush().and(result);
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(CliError::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => {
            error.lines().iter().for_each(|line| note(format_args!("berth: {line}")));
            ExitCode::from(failure_code)
        }
    }
}
