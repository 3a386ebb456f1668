//! `berthd`, the daemon: the Kubernetes CRI v1 on a unix socket.
//!
//! ```text
//!   service ──▶ node ──▶ sandbox, container, images ──▶ runtime, netns, image ──▶ the kernel
//!      ▲                        └──▶ store (records)
//!   recover at start: the kernel first, then the records, then memory
//! ```

mod apparmor;
mod chain;
mod config;
mod container;
mod daemon;
mod events;
mod filters;
mod flight;
mod handlers;
mod host;
mod images;
mod metrics;
mod network;
mod node;
mod probe;
mod recover;
mod sandbox;
mod service;
mod stats;
mod store;
mod stream;
mod supervision;
mod systemd;
mod table;

use clap::{Parser, Subcommand};
use config::{Config, ConfigError};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use supervision::Reload;

/// A Kubernetes node runtime: serves the CRI on a unix socket.
#[derive(Debug, Parser)]
#[command(name = "berthd", version)]
struct Arguments {
    /// Configuration file (default: /etc/berth/config.toml, where it exists).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Images, layers, records.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Sockets, namespaces, monitors.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where to serve.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its default and its meaning.
    Default,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Config(ConfigCommand::Default)) => {
            match std::io::stdout().write_all(config::DEFAULT.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        None => serve(arguments),
    }
}

fn serve(arguments: Arguments) -> ExitCode {
    let config = match configuration(&arguments) {
        Ok(config) => config,
        Err(err) => return fail(&chain::chain(&err)),
    };
    let level = match config.log.filter() {
        Ok(level) => level,
        Err(err) => return fail(&chain::chain(&err)),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_filter_reloading();
    let reload = Reload::new(move || configuration(&arguments), log.reload_handle());
    log.init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(err) => return fail(&format!("start threads: {err}")),
    };
    let ended = runtime.block_on(daemon::run(config, reload));
    // What hangs in the kernel must not keep us: a death at any moment is provided for.
    runtime.shutdown_timeout(daemon::GRACE);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => fail(&chain::chain(&err)),
    }
}

fn configuration(arguments: &Arguments) -> Result<Config, ConfigError> {
    let mut config = Config::load(arguments.config.as_deref())?;
    for (flag, key) in [
        (&arguments.root, &mut config.root),
        (&arguments.state, &mut config.state),
        (&arguments.socket, &mut config.socket),
    ] {
        if let Some(value) = flag {
            key.clone_from(value);
        }
    }
    config.checked()
}

fn fail(why: &str) -> ExitCode {
    // Nowhere is left to say it where this fails.
    writeln!(std::io::stderr(), "berthd: {why}").ok();
    ExitCode::FAILURE
}
