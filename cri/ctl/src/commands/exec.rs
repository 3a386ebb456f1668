//! `berth exec`: with its streams connected to ours, or to its end first (`--sync`).

use cri_api::runtime::v1::{ExecRequest, ExecSyncRequest};

use super::containers::Filter;
use crate::error::CliError;
use crate::node::Node;
use crate::output::{Out, note};
use crate::session::{self, Transport, Wanted};

#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    /// Run the command to its end, then show what it wrote
    // `-s` is crictl's, so the filter for states has no short form here.
    #[arg(short, long)]
    sync: bool,

    /// Pass on standard input
    #[arg(short = 'i', long, conflicts_with = "sync")]
    stdin: bool,

    /// Give it a terminal
    #[arg(short, long, conflicts_with = "sync")]
    tty: bool,

    /// What carries the streams
    #[arg(short = 'r', long, value_enum, default_value = "spdy")]
    transport: Transport,

    /// Seconds after which the command is killed; 0 is never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u32,

    /// In all containers of this name; no CONTAINER-ID then, as with the other filters
    #[arg(long, value_name = "REGEX")]
    name: Option<String>,
    /// In all containers of this pod
    #[arg(short, long, value_name = "POD-ID")]
    pod: Option<String>,
    /// In all containers of this image
    #[arg(long)]
    image: Option<String>,
    /// In all containers in this state
    #[arg(long)]
    state: Option<String>,
    /// In all containers with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// In the newest container
    #[arg(short, long)]
    latest: bool,
    /// In the newest N containers
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,

    /// With several containers, do not print whose output follows
    #[arg(short, long)]
    quiet: bool,

    /// Go on, and succeed, when the command fails
    #[arg(short = 'e', long)]
    ignore_errors: bool,

    /// The container, and the command with its arguments
    #[arg(value_names = ["CONTAINER-ID", "COMMAND"], required = true, trailing_var_arg = true)]
    words: Vec<String>,
}

impl Exec {
    /// Gives the exit code of the command: that of the first one that failed.
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<u8, CliError> {
        let (ids, command) = match self.filter() {
            Some(filter) => {
                let found = filter.find(node, None, false).await?;
                if found.is_empty() {
                    return Err(CliError::NothingMatches);
                }
                (found.into_iter().map(|container| container.id).collect(), self.words.as_slice())
            }
            None => match self.words.split_first() {
                Some((id, command)) if !command.is_empty() => (vec![id.clone()], command),
                Some(_) | None => return Err(CliError::ExecNeedsCommand),
            },
        };
        let names_each = ids.len() > 1 && !self.quiet;
        let mut code = 0;
        for id in ids {
            if names_each {
                out.line(format_args!("{id}:"))?;
            }
            out.flush()?;
            let result = if self.sync {
                exec(node, out, &id, command, i64::from(self.timeout)).await
            } else {
                self.stream(node, &id, command).await
            };
            match result {
                Ok(ended) if code == 0 => code = ended,
                Ok(_) => {}
                Err(error) if self.ignore_errors => error.lines().iter().for_each(note),
                Err(error) => return Err(error),
            }
        }
        Ok(if self.ignore_errors { 0 } else { code })
    }

    async fn stream(&self, node: &Node, id: &str, command: &[String]) -> Result<u8, CliError> {
        let (stdin, tty) = (self.stdin, self.tty);
        let request = ExecRequest {
            container_id: id.into(),
            cmd: command.to_vec(),
            tty,
            stdin,
            stdout: true,
            stderr: !tty,
        };
        let step = format!("run {:?} in container {id}", command.join(" "));
        let answer = node.exec(request).await.map_err(CliError::call(step))?;
        Ok(session::run(&answer.url, self.transport, Wanted { stdin, tty }).await?)
    }

    fn filter(&self) -> Option<Filter> {
        let is_set = self.name.is_some()
            || self.pod.is_some()
            || self.image.is_some()
            || self.state.is_some()
            || !self.label.is_empty()
            || self.latest
            || self.last.is_some();
        is_set.then(|| Filter {
            pod: self.pod.clone(),
            image: self.image.clone(),
            state: self.state.clone(),
            selection: crate::select::Selection {
                name: self.name.clone(),
                namespace: None,
                label: self.label.clone(),
                latest: self.latest,
                last: self.last,
            },
        })
    }
}

async fn exec(
    node: &Node,
    out: &mut Out,
    id: &str,
    command: &[String],
    timeout: i64,
) -> Result<u8, CliError> {
    let request = ExecSyncRequest { container_id: id.into(), cmd: command.to_vec(), timeout };
    let answer = node
        .exec_sync(request)
        .await
        .map_err(CliError::call(format!("run {:?} in container {id}", command.join(" "))))?;
    out.bytes(&answer.stdout)?;
    out.flush()?;
    let mut stderr = Out::stderr();
    stderr.bytes(&answer.stderr)?;
    stderr.flush()?;
    Ok(exit_code(answer.exit_code))
}

/// What a process can pass on of a container's exit code: a byte. What does not fit stays a failure.
pub(crate) fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}
