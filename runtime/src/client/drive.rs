//! Containers that a monitor has another runtime's program make.

use super::calls::{START_PATIENCE, Started, or_gone};
use super::{Monitor, MonitorError, StartError};
use crate::cgroup;
use crate::id::ContainerId;
use crate::protocol::{Failure, Request, Response};
use plan::Drive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::sealed;

/// Everything that such a start takes. The descriptors are closed here once they are sent.
#[derive(Debug)]
pub struct DriveLaunch<'a> {
    /// What to do.
    pub drive: &'a Drive,
    /// The directory of the drive's bundle.
    pub bundle: OwnedFd,
    /// The mount namespace in which the drive's paths are.
    pub host: OwnedFd,
    /// What the `Fd`s of the drive's plan stand for.
    pub descriptors: Vec<OwnedFd>,
    /// The container's cgroup.
    pub cgroup: Option<cgroup::Descriptors>,
    /// The CRI log file, opened to append; without one the output is thrown away.
    pub log: Option<OwnedFd>,
    /// From [`crate::exit::create`].
    pub exit_record: OwnedFd,
}

impl Monitor {
    /// Has the program start a container, and returns when the container's own program runs. Such a container is
    /// killed, forgotten, reported and watched as any other.
    ///
    /// # Errors
    ///
    /// [`StartError::Refused`] where the program could not do it, with what it said.
    pub fn drive(
        &self,
        container: &ContainerId,
        launch: DriveLaunch<'_>,
    ) -> Result<Started, StartError> {
        let DriveLaunch { drive, bundle, host, descriptors, cgroup, log, exit_record } = launch;
        let drive = self.seal("drive", drive)?;
        let (labels, directories) = match cgroup {
            Some(cgroup) => {
                let (labels, directories) = cgroup.into_parts();
                (Some(labels), directories)
            }
            None => (None, Vec::new()),
        };
        let request =
            Request::Drive { container: container.clone(), log: log.is_some(), cgroup: labels };
        let all: Vec<BorrowedFd<'_>> = [&drive, &exit_record]
            .into_iter()
            .chain(&log)
            .chain(&directories)
            .chain([&bundle, &host])
            .chain(&descriptors)
            .map(AsFd::as_fd)
            .collect();
        let connection = self.open(START_PATIENCE)?;
        connection.ask(&request, &all)?;
        let answer = connection.answer()?.0;
        let Response::Started { pid, at } = answer else {
            return Err(connection.other(answer).into());
        };
        Ok(Started { pid, at })
    }

    /// Has the program change the limits of a driven container; `resources` is OCI's object as JSON. One that has ended
    /// is no error.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Refused`] where the program could not, with what it said.
    pub fn update_driven(
        &self,
        container: &ContainerId,
        resources: &[u8],
    ) -> Result<(), MonitorError> {
        let resources = sealed::create("resources", resources, sealed::Use::Data)
            .map_err(|source| MonitorError::Encode { pod: self.pod().clone(), source })?;
        let request = Request::UpdateDriven { container: container.clone() };
        or_gone(self.call(&request, &[resources.as_fd()]), &Failure::NotRunning)
    }
}
