//! RemoveContainer.

use super::{Container, ContainerError, Containers};
use crate::host::blocking;
use cri_api::runtime::v1::ContainerEventType;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

impl Containers {
    /// Removes a container, killing it first where it runs. One that is not there is removed.
    pub(crate) async fn remove(self: &Arc<Self>, id: &str) -> Result<(), ContainerError> {
        let container = match self.resolve(id) {
            Ok(container) => container,
            Err(ContainerError::NotFound(_)) => return Ok(()),
            Err(err) => return Err(err),
        };
        self.break_off_start(&container).await;
        let lock =
            self.sandboxes.table.get(container.pod().as_str()).map(|pod| Arc::clone(&pod.lock));
        let guard = match lock {
            Some(lock) => Some(lock.lock_owned().await),
            None => None,
        };
        let removed = self.remove_locked(container).await;
        drop(guard);
        removed
    }

    /// As [`Self::remove`], for a caller that holds the pod's lock.
    pub(crate) async fn remove_locked(
        self: &Arc<Self>,
        container: Arc<Container>,
    ) -> Result<(), ContainerError> {
        self.stop(Arc::clone(&container), Duration::ZERO).await?;
        let this = Arc::clone(self);
        blocking(move || this.remove_now(&container)).await
    }

    fn remove_now(&self, container: &Container) -> Result<(), ContainerError> {
        let id = &container.id;
        let paths = &self.host.paths;
        let path = self.cgroup_path(container)?;
        self.host
            .cgroups
            .remove(&path)
            .map_err(|source| ContainerError::Cgroup { container: id.clone(), source })?;
        if let Some(monitor) = self.monitor_of(container) {
            let failed = |source| ContainerError::Monitor { container: id.clone(), source };
            monitor.forget(id).map_err(failed)?;
        }
        let failed = |step, path: &Path, source| ContainerError::Files {
            step,
            path: path.to_owned(),
            source,
        };
        let layer = paths.container(id);
        remove_tree(&layer).map_err(|source| failed("remove writable layer", &layer, source))?;
        let record = paths.exit_record(container.pod(), id);
        remove_file(&record).map_err(|source| failed("remove exit record", &record, source))?;
        self.remove_bundle(container)?;
        {
            let mut removed = container.removed.lock().unwrap_or_else(PoisonError::into_inner);
            self.host
                .records
                .delete_container(id.as_str())
                .map_err(|source| ContainerError::Record { container: id.clone(), source })?;
            *removed = true;
        }
        self.table.remove(id.as_str());
        self.tell(ContainerEventType::ContainerDeletedEvent, container);
        self.forget_flight(container);
        // The image may have been removed while this container was its last user.
        if !container.images().all(|image| self.images.is_listed(&image.id)) {
            self.collect();
        }
        Ok(())
    }

    /// Frees the content that neither an image nor a container needs. What fails is found again by the next one.
    pub(crate) fn collect(&self) {
        let all = || self.table.list();
        let used =
            || all().iter().flat_map(|one| one.images().cloned().collect::<Vec<_>>()).collect();
        if let Err(err) = self.images.collect(used) {
            tracing::warn!(err = crate::chain::chain(&err), "collect unused layers");
        }
    }
}

/// Removes a directory that a container has written below; links in it are never followed.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(err) => return Err(err.into()),
    };
    match sys::tree::remove(&parent, name, &mut || {}) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        Ok(()) | Err(_) => Ok(()),
    }
}
