//! Answers in pieces: long lists (KEP-5825), and events as they happen.

use super::code;
use crate::events::Listener;
use cri_api::runtime::v1::ContainerEventResponse;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

/// How many rows one message has. A row can have a few kilobytes of labels, and a message up to 16 MiB.
const ROWS: usize = 128;

/// A list as messages of some rows each; none where it is empty.
pub(super) fn rows<T, M>(rows: Vec<T>, message: impl Fn(Vec<T>) -> M) -> Response<BoxStream<M>>
where
    M: Send + 'static,
{
    let mut rows = rows.into_iter();
    let mut messages = Vec::new();
    loop {
        let some: Vec<T> = rows.by_ref().take(ROWS).collect();
        if some.is_empty() {
            break;
        }
        messages.push(Ok(message(some)));
    }
    Response::new(Box::pin(tokio_stream::iter(messages)))
}

/// Events until the client leaves, or has missed some.
pub(super) fn events(mut listener: Listener) -> Response<BoxStream<ContainerEventResponse>> {
    let (to_client, stream) = mpsc::channel::<Result<_, Status>>(1);
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                () = to_client.closed() => return,
                event = listener.recv() => event,
            };
            let (message, last) = match event {
                Ok(event) => (Ok(ContainerEventResponse::clone(&event)), false),
                Err(RecvError::Lagged(missed)) => (Err(code::missed_events(missed)), true),
                Err(RecvError::Closed) => return,
            };
            if to_client.send(message).await.is_err() || last {
                return;
            }
        }
    });
    Response::new(Box::pin(ReceiverStream::new(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn each_row_comes_once_and_an_empty_list_has_no_message() {
        for count in [0, 1, ROWS, ROWS + 1, 3 * ROWS] {
            let mut stream = rows((0..count).collect(), |rows| rows).into_inner();
            let (mut got, mut messages) = (Vec::new(), 0);
            while let Some(message) = stream.next().await {
                got.extend(message.unwrap());
                messages += 1;
            }
            assert_eq!(got, (0..count).collect::<Vec<_>>());
            assert_eq!(messages, count.div_ceil(ROWS));
        }
    }
}
