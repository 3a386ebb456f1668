//! `berth attach`.

use cri_api::runtime::v1::AttachRequest;

use crate::error::CliError;
use crate::node::Node;
use crate::session::{self, Transport, Wanted};

#[derive(Debug, clap::Args)]
pub(crate) struct Attach {
    /// Pass on standard input
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The container has a terminal
    #[arg(short, long)]
    tty: bool,
    /// What carries the streams
    #[arg(short = 'r', long, value_enum, default_value = "spdy")]
    transport: Transport,
    #[arg(value_name = "CONTAINER-ID")]
    container: String,
}

impl Attach {
    pub(crate) async fn run(self, node: &Node) -> Result<u8, CliError> {
        let Self { stdin, tty, transport, container } = self;
        let step = format!("attach to container {container}");
        let request =
            AttachRequest { container_id: container, stdin, tty, stdout: true, stderr: !tty };
        let answer = node.attach(request).await.map_err(CliError::call(step))?;
        Ok(session::run(&answer.url, transport, Wanted { stdin, tty }).await?)
    }
}
