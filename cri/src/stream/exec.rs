//! Exec: a command in a container, with its client at the other end of its streams.

use super::copy::{self, Resizes};
use super::descriptor::Descriptor;
use super::session::Streams;
use crate::chain::chain;
use crate::container::{Container, ContainerError, Pipes, Running};
use crate::node::Node;
use remote::message::{Size, Status};
use rustix::termios::Winsize;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Runs the command to its end. Dropping this kills it with everything that it started.
pub(super) async fn run(
    node: &Arc<Node>,
    container: &Arc<Container>,
    command: &[String],
    tty: bool,
    streams: Streams,
) -> Status {
    let begun = node.containers.begin_exec(container, command, streams.stdin.is_some(), tty);
    let result = match begun.await {
        Ok(running) => {
            let drain = Duration::from_millis(node.host.config.container.exec_drain_ms);
            let failed = |source| ContainerError::ExecIo {
                container: container.id.clone(),
                step: "follow it",
                source,
            };
            follow(running, streams, drain).await.map_err(failed)
        }
        Err(err) => Err(err),
    };
    match result {
        Ok(code) => Status::exited(code),
        Err(err) => {
            let text = chain(&err);
            tracing::debug!(text, "exec failed");
            Status::failed(text)
        }
    }
}

async fn follow(running: Running, streams: Streams, drain: Duration) -> io::Result<i32> {
    match running {
        Running::Pipes(Pipes { exec, stdin, stdout, stderr }) => {
            let (out, err) = (Descriptor::new(stdout)?, Descriptor::new(stderr)?);
            let (ended, told) = watch::channel(false);
            let outputs = async {
                tokio::join!(
                    copy::output(&out, streams.stdout, told.clone(), drain),
                    copy::output(&err, streams.stderr, told.clone(), drain),
                );
            };
            let input = async {
                if let (Some(from), Some(to)) = (streams.stdin, stdin) {
                    // Closed at the end of the client's half: the program reads the end of its input.
                    copy::input(from, &Descriptor::new(to)?).await;
                }
                Ok(())
            };
            wait(&exec, &ended, outputs, input).await
        }
        Running::Terminal { exec, terminal } => {
            let terminal = Descriptor::new(terminal)?;
            let (ended, told) = watch::channel(false);
            let outputs = copy::output(&terminal, streams.stdout, told, drain);
            let input = async {
                let typing = async {
                    let Some(from) = streams.stdin else { return Ok(()) };
                    copy::input(from, &terminal).await;
                    end_input(&terminal).await
                };
                let sizes = async {
                    let mut sizes = Resizes::new(streams.resize);
                    while let Some(size) = sizes.next().await {
                        resize(&terminal, size);
                    }
                };
                tokio::join!(typing, sizes).0
            };
            wait(&exec, &ended, outputs, input).await
        }
    }
}

/// Waits for the end of the program and of its output. That its input cannot be written ends nothing.
async fn wait(
    exec: &runtime::monitor::Exec,
    ended: &watch::Sender<bool>,
    outputs: impl Future<Output = ()>,
    input: impl Future<Output = io::Result<()>>,
) -> io::Result<i32> {
    let program = async {
        let code = crate::container::exec_ended(exec).await;
        ended.send_replace(true);
        code
    };
    let both = async { tokio::join!(program, outputs).0 };
    let input = async {
        if let Err(err) = input.await {
            tracing::debug!(%err, "input of exec");
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        code = both => code,
        never = input => match never {},
    }
}

/// A terminal has no end; its user types one.
async fn end_input(terminal: &Descriptor) -> io::Result<()> {
    let modes = rustix::termios::tcgetattr(terminal.get())?;
    let end = modes.special_codes[rustix::termios::SpecialCodeIndex::VEOF];
    terminal.write_all(&[end]).await
}

fn resize(terminal: &Descriptor, size: Size) {
    let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    // It keeps its size where this fails.
    rustix::termios::tcsetwinsize(terminal.get(), size).ok();
}
