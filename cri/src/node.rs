//! The node: pods and their containers together, and what happens to both.

use crate::chain::chain;
use crate::container::{ContainerError, Containers};
use crate::host::{Host, blocking};
use crate::images::{ImageError, Images};
use crate::sandbox::{Sandbox, SandboxError, Sandboxes};
use crate::stream::Streaming;
use image::{Digest, Image, ProgressSender, PullRequest, Reference};
use runtime::id::PodId;
use runtime::monitor::Monitor;
use runtime::watch::Event;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

/// Everything that the services offer.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) host: Arc<Host>,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) containers: Arc<Containers>,
    pub(crate) images: Arc<Images>,
    pub(crate) streaming: Streaming,
}

/// A pull that has not ended well, or not yet: dropped, it has what is left of it freed later.
struct Unfinished(Option<Arc<Node>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(node) = &self.0 {
            node.collect_later();
        }
    }
}

impl Node {
    /// Stops a pod: its containers at once, then what the kernel holds for it. One that is not there is stopped.
    pub(crate) async fn stop_pod(&self, id: &str) -> Result<(), ContainerError> {
        let Some(sandbox) = self.known(id)? else { return Ok(()) };
        // What runs is ended before the lock is waited for: a start that hangs must not keep the rest alive.
        self.stop_containers(&sandbox).await;
        let guard = Arc::clone(&sandbox.lock).lock_owned().await;
        let stopped = self.stop_locked(&sandbox).await;
        drop(guard);
        stopped
    }

    /// Stops a pod, removes its containers and forgets it. One that is not there is removed.
    pub(crate) async fn remove_pod(&self, id: &str) -> Result<(), ContainerError> {
        let Some(sandbox) = self.known(id)? else { return Ok(()) };
        // As for a stop: a start that hangs must not keep the rest alive, nor us waiting.
        self.stop_containers(&sandbox).await;
        let guard = Arc::clone(&sandbox.lock).lock_owned().await;
        let removed = self.remove_locked(&sandbox).await;
        drop(guard);
        removed
    }

    async fn remove_locked(&self, sandbox: &Arc<Sandbox>) -> Result<(), ContainerError> {
        self.stop_locked(sandbox).await?;
        for container in self.containers.of_pod(&sandbox.id) {
            self.containers.remove_locked(container).await?;
        }
        let (sandboxes, sandbox) = (Arc::clone(&self.sandboxes), Arc::clone(sandbox));
        Ok(blocking(move || sandboxes.remove(&sandbox)).await?)
    }

    /// Ends every container of a pod, as far as that can be done.
    async fn stop_containers(&self, sandbox: &Sandbox) {
        let containers = self.containers.of_pod(&sandbox.id);
        // All at once: the pod takes as long as its slowest container, not as all of them.
        let mut stops = tokio::task::JoinSet::new();
        for container in containers {
            let all = Arc::clone(&self.containers);
            stops.spawn(async move {
                all.break_off_start(&container).await;
                all.stop(container, Duration::ZERO).await
            });
        }
        while let Some(stopped) = stops.join_next().await {
            if let Ok(Err(err)) = stopped {
                // Not the end: the monitor is ended below, and the cgroup with all that is in it.
                tracing::warn!(pod = ?sandbox.id, err = chain(&err), "stop container");
            }
        }
    }

    async fn stop_locked(&self, sandbox: &Arc<Sandbox>) -> Result<(), ContainerError> {
        self.stop_containers(sandbox).await;
        let (sandboxes, containers) = (Arc::clone(&self.sandboxes), Arc::clone(&self.containers));
        let sandbox = Arc::clone(sandbox);
        blocking(move || {
            // Their ends have been seen; their cgroups lie below the pod's, which goes next.
            for container in containers.of_pod(&sandbox.id) {
                if container.state().is_exited() {
                    containers.settle(&container);
                }
            }
            let stopped = sandboxes.stop(&sandbox);
            if sandbox.monitor().is_none() {
                for container in containers.of_pod(&sandbox.id) {
                    containers.orphaned(&container, "its monitor was ended with the pod");
                }
            }
            Ok(stopped?)
        })
        .await
    }

    fn known(&self, id: &str) -> Result<Option<Arc<Sandbox>>, ContainerError> {
        match self.sandboxes.resolve(id) {
            Ok(sandbox) => Ok(Some(sandbox)),
            Err(SandboxError::NotFound(_)) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// Pulls an image and lists it. What a pull leaves that can never succeed is freed at once; what one leaves that broke
    /// off, or was given up, is a head start for the next try, and freed after a while.
    pub(crate) async fn pull_image(
        self: &Arc<Self>,
        request: PullRequest,
        progress: ProgressSender,
    ) -> Result<Digest, ImageError> {
        let mut unfinished = Unfinished(Some(Arc::clone(self)));
        let pulled = self.images.pull(request, progress).await;
        match &pulled {
            Ok(_) => unfinished.0 = None,
            Err(err) if err.is_final() => {
                unfinished.0 = None;
                let this = Arc::clone(self);
                blocking(move || this.containers.collect()).await;
            }
            Err(_) => {}
        }
        pulled
    }

    /// Takes images over from an archive and lists them. What a bad archive has left is freed at once.
    pub(crate) async fn load_images(
        self: &Arc<Self>,
        spool: File,
        base: Option<Reference>,
        progress: ProgressSender,
    ) -> Result<Vec<Image>, ImageError> {
        let loaded = self.images.load(spool, base, progress).await;
        if loaded.is_err() {
            let this = Arc::clone(self);
            blocking(move || this.containers.collect()).await;
        }
        loaded
    }

    /// Frees what pulls that were cut off have left, when its time is over.
    pub(crate) fn collect_later(self: &Arc<Self>) {
        let this = Arc::downgrade(self);
        let time = Duration::from_secs(self.host.config.image.keep_unfinished_s);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(this) = this.upgrade() {
                blocking(move || this.containers.collect()).await;
            }
        });
    }

    /// Takes an image off the list and frees what only it needed.
    pub(crate) async fn remove_image(self: &Arc<Self>, name: String) -> Result<(), ImageError> {
        let this = Arc::clone(self);
        blocking(move || {
            if this.images.remove(&name)? {
                this.containers.collect();
            }
            Ok(())
        })
        .await
    }

    /// What a monitor told. Called on the thread that watches them all, so whatever takes time goes elsewhere.
    pub(crate) fn heard(self: &Arc<Self>, event: Event, runtime: &tokio::runtime::Handle) {
        match event {
            Event::Exited { container, exit, .. } => {
                let Some(container) = self.containers.table.get(container.as_str()) else { return };
                self.containers.ended(&container, &exit);
                let containers = Arc::clone(&self.containers);
                runtime.spawn_blocking(move || containers.settle(&container));
            }
            Event::LogFails { pod, container, errno } => {
                let err = std::io::Error::from_raw_os_error(errno);
                tracing::warn!(?pod, ?container, %err, "log of a container cannot be written; its output is being lost");
            }
            Event::MonitorGone { pod } => {
                let this = Arc::clone(self);
                runtime.spawn(async move { this.monitor_gone(&pod).await });
            }
        }
    }

    /// A monitor that ended without being told to: its pod can hold nothing any more.
    async fn monitor_gone(self: Arc<Self>, pod: &PodId) {
        let Some(sandbox) = self.sandboxes.table.get(pod.as_str()) else { return };
        let _guard = Arc::clone(&sandbox.lock).lock_owned().await;
        let Some(monitor) = sandbox.monitor() else { return }; // stopped meanwhile
        blocking(move || {
            // One that lives only lost its connection to us, because it could not be written to, say.
            if !monitor.has_ended() && self.watch(&monitor) {
                return;
            }
            tracing::error!(pod = ?sandbox.id, "monitor is gone; the pod is not ready any more");
            self.abandon(&sandbox, "the pod's monitor is gone");
        })
        .await;
    }

    /// Watches a monitor, as insistently as that makes sense: an unwatched one's news never arrive.
    pub(crate) fn watch(&self, monitor: &Monitor) -> bool {
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            match self.host.watch.add(monitor) {
                Ok(()) => return true,
                Err(err) => tracing::error!(err = chain(&err), "watch monitor"),
            }
        }
        false
    }

    /// Gives a pod up: ends its monitor if it should still live, ends what it was the parent of, and then marks the pod as
    /// not ready, so that a death of ours in between leaves nothing out.
    pub(crate) fn abandon(&self, sandbox: &Sandbox, why: &str) {
        if let Some(monitor) = sandbox.monitor()
            && let Err(err) = monitor.shutdown()
        {
            tracing::error!(pod = ?sandbox.id, err = chain(&err), "end monitor");
        }
        sandbox.set_monitor(None);
        for container in self.containers.of_pod(&sandbox.id) {
            self.containers.orphaned(&container, why);
        }
        if let Err(err) = self.sandboxes.mark_not_ready(sandbox) {
            tracing::error!(pod = ?sandbox.id, err = chain(&err), "record pod");
        }
    }
}
