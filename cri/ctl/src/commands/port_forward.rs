//! `berth port-forward`.

use cri_api::runtime::v1::PortForwardRequest;
use remote::spdy::Spdy;
use remote::{Stream, websocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{CliError, OptionError};
use crate::node::Node;
use crate::output::{Out, note};
use crate::session::{SessionError, Transport, switch};

#[derive(Debug, clap::Args)]
pub(crate) struct PortForward {
    /// What carries the connections
    #[arg(short = 'r', long, value_enum, default_value = "spdy")]
    transport: Transport,
    #[arg(value_name = "POD-ID")]
    pod: String,
    /// The port here, unless it is the same, and the port in the pod
    #[arg(value_name = "[LOCAL:]REMOTE", required = true)]
    ports: Vec<String>,
}

impl PortForward {
    pub(crate) async fn run(self, node: &Node, out: &mut Out) -> Result<(), CliError> {
        let pairs = self.ports.iter().map(|text| pair(text)).collect::<Result<Vec<_>, _>>()?;
        let request = PortForwardRequest {
            pod_sandbox_id: self.pod.clone(),
            port: pairs.iter().map(|(_, there)| i32::from(*there)).collect(),
        };
        let step = format!("forward ports of pod {}", self.pod);
        let url = node.port_forward(request).await.map_err(CliError::call(step))?.url;
        let mut spdy = match self.transport {
            Transport::Spdy => {
                Spdy::client(switch(&url, Transport::Spdy, "portforward.k8s.io").await?)
            }
            Transport::Websocket => {
                let io = switch(&url, Transport::Websocket, "SPDY/3.1+portforward.k8s.io").await?;
                Spdy::client(websocket::tunnel(io, websocket::Side::Client))
            }
        };
        let (sender, mut accepted) = tokio::sync::mpsc::channel(16);
        for (here, there) in pairs {
            let failed = |source| SessionError::Listen(here, source);
            let listener = TcpListener::bind(("127.0.0.1", here)).await.map_err(failed)?;
            let at = listener.local_addr().map_err(failed)?;
            out.line(format_args!("Forwarding from {at} -> {there}"))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Ok((connection, _)) = listener.accept().await {
                    if sender.send((connection, there)).await.is_err() {
                        return;
                    }
                }
            });
        }
        out.flush()?;
        let mut number = 0_u64;
        loop {
            let (connection, there) = tokio::select! {
                Some(next) = accepted.recv() => next,
                () = spdy.link.closed() => return Err(SessionError::Lost.into()),
            };
            let (port, id) = (there.to_string(), number.to_string());
            number += 1;
            let headers =
                |kind| [("streamType", kind), ("port", port.as_str()), ("requestID", id.as_str())];
            let lost = |_| SessionError::Lost;
            let error = spdy.open(&headers("error")).await.map_err(lost)?;
            let data = spdy.open(&headers("data")).await.map_err(lost)?;
            tokio::spawn(carry(connection, data, error));
        }
    }
}

/// Copies one connection both ways, and shows what the server says of it.
async fn carry(connection: TcpStream, data: Stream, mut error: Stream) {
    let (mut from, mut to) = connection.into_split();
    let Stream { mut incoming, outgoing } = data;
    let there = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if outgoing.send(buffer[..count].to_vec()).await.is_err() {
                return;
            }
        }
        outgoing.finish().await.ok();
    };
    let back = async {
        while let Some(piece) = incoming.next().await {
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        to.shutdown().await.ok();
        while let Some(words) = error.incoming.next().await {
            note(String::from_utf8_lossy(&words));
        }
    };
    // The pod's half is the one that ends a connection, as with crictl.
    tokio::select! {
        () = async { tokio::join!(there, std::future::pending::<()>()); } => {}
        () = back => {}
    }
}

fn pair(text: &str) -> Result<(u16, u16), CliError> {
    let (here, there) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().map_err(|_| OptionError::Port(text.to_owned()));
    let bad = CliError::option("PORT", text);
    match (port(if here.is_empty() { "0" } else { here }), port(there)) {
        (Ok(here), Ok(there)) if there != 0 => Ok((here, there)),
        (Err(err), _) | (_, Err(err)) => Err(bad(err)),
        (Ok(_), Ok(_)) => Err(bad(OptionError::Port(there.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_crictl_reads_them() {
        let cases = [
            ("80", Some((80, 80))),
            ("8080:80", Some((8080, 80))),
            (":80", Some((0, 80))),
            ("80:0", None),
            ("x:80", None),
            ("80:65536", None),
        ];
        for (text, want) in cases {
            assert_eq!(pair(text).ok(), want, "{text}");
        }
    }
}
