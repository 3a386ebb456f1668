//! Exits as events: one thread, one epoll, and no polling, however many pods there are.

use crate::client::{Monitor, MonitorError};
use crate::exit::Exit;
use crate::id::{ContainerId, PodId};
use crate::protocol::{self, Request, Response, WireError};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What happened to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A container has ended, or its start has failed. Its exit record is written. Told once more after each
    /// [`Watch::add`] until the container is forgotten.
    Exited {
        /// The pod.
        pod: PodId,
        /// The container.
        container: ContainerId,
        /// How.
        exit: Exit,
    },
    /// A container's log cannot be written. The container runs on, and what it says is lost until the log can be written
    /// again; then the log says how much.
    LogFails {
        /// The pod.
        pod: PodId,
        /// The container.
        container: ContainerId,
        /// What the kernel says.
        errno: i32,
    },
    /// The monitor has ended, or does not speak our language any more. After a shutdown this is no news.
    MonitorGone {
        /// The pod.
        pod: PodId,
    },
}

/// Watches over any number of monitors. Dropping it stops that.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    stop: OwnedFd,
    watched: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: HashMap<u64, Arc<Watched>>,
}

#[derive(Debug)]
struct Watched {
    monitor: Monitor,
    socket: OwnedFd,
}

/// The token of the descriptor that ends the thread; monitors count from 1.
const STOP: u64 = 0;
const PATIENCE: Duration = Duration::from_secs(10);

impl Watch {
    /// Starts the thread. It calls `on_event`, which must not block for long: all pods wait for it.
    ///
    /// # Errors
    ///
    /// No descriptors or no memory.
    pub fn new(on_event: impl Fn(Event) + Send + 'static) -> io::Result<Watch> {
        let shared = Arc::new(Shared {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            watched: Mutex::default(),
        });
        epoll::add(&shared.epoll, &shared.stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let thread = thread::Builder::new().name("watch".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(&on_event)
        })?;
        Ok(Watch { shared, thread: Some(thread) })
    }

    /// Watches `monitor` from now on: exits that it has not been told to forget come first, then those to come.
    ///
    /// # Errors
    ///
    /// Any failure to speak to the monitor.
    pub fn add(&self, monitor: &Monitor) -> Result<(), MonitorError> {
        let connection = monitor.open(PATIENCE)?;
        connection.ask(&Request::Watch, &[])?;
        connection.done()?;
        let local =
            |err: Errno| MonitorError::Wire { pod: monitor.pod().clone(), source: err.into() };
        rustix::io::ioctl_fionbio(&connection.socket, true).map_err(local)?;
        let watched = Arc::new(Watched { monitor: monitor.clone(), socket: connection.socket });
        let token = self.shared.insert(Arc::clone(&watched));
        let token = EventData::new_u64(token);
        epoll::add(&self.shared.epoll, &watched.socket, token, EventFlags::IN)
            .inspect_err(|_| self.shared.remove(token.u64()))
            .map_err(local)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The counter would have to be at 2^64 - 2 for this to fail.
        rustix::io::write(&self.shared.stop, &1_u64.to_ne_bytes()).ok();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("thread that watches monitors has panicked");
        }
    }
}

impl Shared {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // The table is whole at every moment, so a panic elsewhere does not spoil it.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, watched: Arc<Watched>) -> u64 {
        let mut table = self.table();
        table.next += 1;
        let token = table.next;
        table.entries.insert(token, watched);
        token
    }

    fn remove(&self, token: u64) {
        self.table().entries.remove(&token);
    }

    fn run(&self, on_event: &dyn Fn(Event)) {
        let mut events = Vec::with_capacity(64);
        let mut buffer = vec![0; protocol::MAX_MESSAGE];
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(err) => {
                    tracing::error!(%err, "wait for monitors");
                    return;
                }
            }
            for event in &events {
                let token = event.data.u64();
                if token == STOP {
                    return;
                }
                let watched = self.table().entries.get(&token).cloned();
                if let Some(watched) = watched
                    && !watched.read(&mut buffer, on_event)
                {
                    self.forget(token, &watched);
                    on_event(Event::MonitorGone { pod: watched.monitor.pod().clone() });
                }
            }
        }
    }

    fn forget(&self, token: u64, watched: &Watched) {
        // Closing the socket takes it out as well.
        epoll::delete(&self.epoll, &watched.socket).ok();
        self.remove(token);
    }
}

impl Watched {
    /// Reads what there is, and says whether more can come.
    fn read(&self, buffer: &mut [u8], on_event: &dyn Fn(Event)) -> bool {
        loop {
            let pod = || self.monitor.pod().clone();
            match protocol::receive(&self.socket, buffer).map(|received| received.message) {
                Ok(Response::Exited { container, exit }) => {
                    on_event(Event::Exited { pod: pod(), container, exit });
                }
                Ok(Response::LogFails { container, errno }) => {
                    on_event(Event::LogFails { pod: pod(), container, errno });
                }
                Err(WireError::Socket(Errno::AGAIN)) => return true,
                Err(WireError::Closed | WireError::Socket(Errno::CONNRESET)) => {
                    self.monitor.reap();
                    return false;
                }
                Ok(other) => {
                    tracing::error!(pod = %self.monitor.pod(), ?other, "monitor told no event");
                    return false;
                }
                Err(err) => {
                    tracing::error!(pod = %self.monitor.pod(), %err, "monitor cannot be watched");
                    return false;
                }
            }
        }
    }
}
