//! One connection: one request and its answers.

use super::{Inner, MonitorError, wire};
use crate::id::PodId;
use crate::protocol::{self, Received, Request, Response, SOCKET};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use sys::seqpacket;

/// A connection to a monitor.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    pub(crate) pod: PodId,
}

impl Connection {
    pub(super) fn open(
        pod: &PodId,
        dir: impl AsFd,
        patience: Duration,
    ) -> Result<Self, MonitorError> {
        let socket = seqpacket::connect(dir.as_fd(), SOCKET, patience)
            .map_err(|err| wire(pod, err.into()))?;
        Ok(Self { socket, pod: pod.clone() })
    }

    /// Sends `request`, its descriptors ahead of it where they do not fit one message.
    pub(crate) fn ask(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), MonitorError> {
        let spare = descriptors.len().saturating_sub(seqpacket::MAX_DESCRIPTORS);
        // Whole chunks go ahead; the last one travels with the request.
        let ahead = spare.div_ceil(seqpacket::MAX_DESCRIPTORS) * seqpacket::MAX_DESCRIPTORS;
        let (ahead, last) = descriptors.split_at(ahead);
        for chunk in ahead.chunks(seqpacket::MAX_DESCRIPTORS) {
            self.send(&Request::Descriptors, chunk)?;
        }
        self.send(request, last)
    }

    fn send(&self, request: &Request, with: &[BorrowedFd<'_>]) -> Result<(), MonitorError> {
        protocol::send(&self.socket, request, with).map_err(|err| wire(&self.pod, err))
    }

    /// Waits for the next answer.
    pub(crate) fn answer(&self) -> Result<(Response, Vec<OwnedFd>), MonitorError> {
        self.receive().map(|received| (received.message, received.descriptors))
    }

    fn receive(&self) -> Result<Received<Response>, MonitorError> {
        let mut buffer = vec![0; protocol::MAX_MESSAGE];
        protocol::receive(&self.socket, &mut buffer).map_err(|err| wire(&self.pod, err))
    }

    /// What to make of an answer that is not the expected one.
    pub(crate) fn other(&self, answer: Response) -> MonitorError {
        let pod = self.pod.clone();
        let Response::Failed(failure) = answer else { return MonitorError::Confused { pod } };
        MonitorError::Refused { pod, failure }
    }

    /// Waits for the answer of a request that gives nothing back.
    pub(crate) fn done(&self) -> Result<(), MonitorError> {
        match self.answer()?.0 {
            Response::Done => Ok(()),
            answer @ (Response::Hello { .. }
            | Response::Started { .. }
            | Response::ExecStarted { .. }
            | Response::ExecEnded { .. }
            | Response::Reports { .. }
            | Response::Exited { .. }
            | Response::Attached
            | Response::Detached { .. }
            | Response::LogFails { .. }
            | Response::Namespaces
            | Response::Failed(_)) => Err(self.other(answer)),
        }
    }
}

impl Inner {
    /// Finds out who listens in `dir`.
    pub(super) fn meet(
        pod: &PodId,
        dir: OwnedFd,
        patience: Duration,
    ) -> Result<Self, MonitorError> {
        let connection = Connection::open(pod, &dir, patience)?;
        connection.ask(&Request::Hello, &[])?;
        let Received { version, message, mut descriptors } = connection.receive()?;
        let Response::Hello { pid } = message else { return Err(connection.other(message)) };
        let Some(pidfd) = descriptors.pop() else {
            return Err(MonitorError::Confused { pod: pod.clone() });
        };
        Ok(Self { pod: pod.clone(), dir, version, pid, pidfd })
    }
}
