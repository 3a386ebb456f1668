//! The composition root: opens the machine, recovers, serves, ends.

use crate::config::{self, Config, Driver};
use crate::container::Containers;
use crate::events::Hub;
use crate::filters::Filters;
use crate::handlers::Handlers;
use crate::host::{self, Host, Paths};
use crate::images::Images;
use crate::metrics::{self, CountCalls, Instruments, Metrics};
use crate::network;
use crate::node::Node;
use crate::recover::Leavings;
use crate::sandbox::{Sandboxes, slice_path};
use crate::service::Service;
use crate::store::{Records, StoreError};
use crate::stream::{self, Streaming};
use crate::supervision::{self, Reload};
use crate::systemd::{Systemd, SystemdError};
use cri_api::berth::v1::berth_server::BerthServer;
use cri_api::runtime::v1::image_service_server::ImageServiceServer;
use cri_api::runtime::v1::runtime_service_server::RuntimeServiceServer;
use image::{Store, StoreConfig};
use runtime::cgroup::{CgroupPath, Cgroups};
use runtime::monitor::MonitorBinary;
use runtime::watch::Watch;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;

/// The most of one message either way, as kubelet's own limit.
const MOST_MESSAGE_BYTES: usize = 16 << 20;

/// How long calls that are at work may take after the daemon was told to end.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("create directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("another berthd uses {}: stop it, or give this one a root and a state of its own", .0.display())]
    Running(PathBuf),
    #[error(
        "another berthd uses cgroup {0}; give this one a cgroup.parent, a network.bridge, a network.subnet and a \
         network.table of its own"
    )]
    ParentTaken(String),
    #[error("cgroups")]
    Cgroups(#[from] runtime::cgroup::CgroupError),
    #[error("configuration: cgroup.parent")]
    CgroupParent(#[from] runtime::cgroup::BadCgroupPath),
    #[error("configuration: cgroup.driver \"systemd\"")]
    Systemd(#[from] SystemdError),
    #[error("network")]
    Network(#[from] network::OpenError),
    #[error("monitor")]
    Monitor(#[from] runtime::monitor::MonitorError),
    #[error("watch monitors")]
    Watch(#[source] io::Error),
    #[error("images")]
    Images(#[from] image::StoreError),
    #[error("records")]
    Records(#[from] StoreError),
    #[error("look at the machine")]
    Facts(#[source] io::Error),
    #[error("listen on {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("metrics")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    ListenMetrics(#[from] metrics::ListenError),
    #[error("streaming server")]
    Streams(#[from] stream::ListenError),
    #[error("wait for signals")]
    Signals(#[source] io::Error),
    #[error("serve")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs the daemon until it is told to end. Pods run on.
pub(crate) async fn run(config: Config, reload: Reload) -> Result<(), DaemonError> {
    // Before anything is made: what is ours is nobody else's to read.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let paths = Paths { root: config.root.clone(), state: config.state.clone() };
    for dir in
        [config.root.clone(), config.state.clone(), paths.runs(), paths.pods(), paths.containers()]
    {
        private_directory(&dir)?;
    }
    open_the_way(&config)?;
    // Held until the process ends.
    let _locks = [lock(&config.root)?, lock(&config.state)?];
    let socket = config.socket.clone();
    let gid = config.socket_gid;
    // What can be refused comes before what is made.
    let scrapes = match config.metrics.address {
        Some(address) => Some(metrics::listen(address).await?),
        None => None,
    };
    let streams = stream::Listener::new(&config.stream).await?;
    let streaming = Streaming::new(streams.base.clone());
    let instruments = Instruments::new()?;
    let counting = CountCalls(instruments.clone());
    let (node, leavings) = {
        let instruments = instruments.clone();
        host::blocking(move || open(config, paths, instruments, streaming)).await?
    };
    if let Some(scrapes) = scrapes {
        let metrics = Metrics::new(&instruments, Arc::downgrade(&node))?;
        tokio::spawn(metrics::serve(scrapes, Arc::new(metrics)));
    }
    let listener = listen(&socket, gid)?;
    tracing::info!(socket = %socket.display(), "serving");
    // What was left behind is known by now, so that nothing new is taken for it; removing it may take its time.
    let sweeping = Arc::clone(&node);
    node.collect_later();
    tokio::task::spawn_blocking(move || {
        sweeping.sweep(&leavings);
        sweeping.verify_networks();
    });

    tokio::spawn(stream::serve(streams, Arc::clone(&node)));
    let told = ended()?;
    supervision::reload_on_hangup(reload, &node).map_err(DaemonError::Signals)?;
    supervision::ready(&node);
    let service = Service::new(node);
    let limit = MOST_MESSAGE_BYTES;
    let serving = tonic::transport::Server::builder()
        .layer(counting)
        .add_service(
            RuntimeServiceServer::new(service.clone())
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .add_service(
            ImageServiceServer::new(service.clone())
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .add_service(BerthServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), until(told.clone()));
    tokio::select! {
        served = serving => served?,
        // A client that waits for a container must not keep a daemon that was told to end.
        () = async { until(told).await; tokio::time::sleep(GRACE).await } => {}
    }
    // Ours: the locks above are still held, so no other daemon has put its own there.
    std::fs::remove_file(&socket).ok();
    Ok(())
}

/// Becomes true when the daemon is told to end.
fn ended() -> Result<watch::Receiver<bool>, DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending; pods run on");
        // Before anything ends: the process may be gone before another task gets to say it.
        supervision::stopping();
        tell.send_replace(true);
    });
    Ok(told)
}

async fn until(mut told: watch::Receiver<bool>) {
    // An error is the end of the task that tells, which comes after its telling.
    told.wait_for(|told| *told).await.ok();
}

/// Opens everything and takes over what an earlier daemon left.
fn open(
    config: Config,
    paths: Paths,
    instruments: Instruments,
    streaming: Streaming,
) -> Result<(Arc<Node>, Leavings), DaemonError> {
    let cgroups = Cgroups::detect()?;
    let cgroup_parent = parent(&config.cgroup)?;
    let systemd = match config.cgroup.driver {
        Driver::Cgroupfs => None,
        Driver::Systemd => Some(Systemd::open(&config.monitor, config.cgroup.slice())?),
    };
    let claim = claim(&cgroups, &cgroup_parent)?;
    // What can be refused comes before what is made.
    let monitor = MonitorBinary::load(&config.monitor)?;
    let records = Arc::new(Records::open(&paths.database(), instruments.clone())?);
    let network = network::open(&config.network, &paths)?;
    let store = Store::open(StoreConfig {
        root: config.root.clone(),
        unpack: config.unpack.clone(),
        layers: config.image.layers,
        insecure_registries: config.image.insecure_registries.clone(),
        registry_config: some_path(&config.image.registry_config),
        policy: some_path(&config.image.policy),
        keep_packed: config.image.keep_packed,
        keep_unfinished: Duration::from_secs(config.image.keep_unfinished_s),
        max_downloads: config.image.max_downloads,
        limits: config.image.limits.clone(),
    })?;
    let later: Arc<OnceLock<Weak<Node>>> = Arc::default();
    let watch = monitors(Arc::clone(&later))?;
    let facts = host::facts(&cgroups).map_err(DaemonError::Facts)?;
    let user_namespaces = crate::probe::user_namespaces(&monitor, &paths);
    let host = Arc::new(Host {
        user_namespaces,
        paths,
        records: Arc::clone(&records),
        cgroups,
        cgroup_parent,
        network,
        systemd,
        monitor,
        _claim: claim,
        watch,
        facts,
        filters: Filters::default(),
        events: Hub::default(),
        handlers: Handlers::open(&config, user_namespaces),
        oom_score_adj: host::own_oom_score_adj().map_err(DaemonError::Facts)?,
        instruments: instruments.clone(),
        open_files: host::raise_open_files().map_err(DaemonError::Facts)?,
        boot: host::boot_id().map_err(DaemonError::Facts)?,
        config,
    });
    let images = Arc::new(Images::new(store, records, instruments));
    let sandboxes = Arc::new(Sandboxes::new(Arc::clone(&host)));
    let containers =
        Arc::new(Containers::new(Arc::clone(&host), Arc::clone(&sandboxes), Arc::clone(&images)));
    let node = Arc::new(Node { host, sandboxes, containers, images, streaming });
    // What happens from here on is heard; what happened before, recovery asks for.
    later.set(Arc::downgrade(&node)).ok();
    let leavings = node.recover()?;
    Ok((node, leavings))
}

/// An empty path in the configuration is none.
fn some_path(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// The watch is a part of the node that it reports to; so it gets to know the node once there is one.
fn monitors(node: Arc<OnceLock<Weak<Node>>>) -> Result<Watch, DaemonError> {
    let runtime = tokio::runtime::Handle::current();
    Watch::new(move |event| {
        if let Some(node) = node.get().and_then(Weak::upgrade) {
            node.heard(event, &runtime);
        }
    })
    .map_err(DaemonError::Watch)
}

fn private_directory(path: &Path) -> Result<(), DaemonError> {
    let failed = |source| DaemonError::Directory { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    // One that was there already may be open to others.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Lets the socket's group through the state directory where the socket lies in it; what else is there stays 0700.
fn open_the_way(config: &Config) -> Result<(), DaemonError> {
    if config.socket_gid == 0 || config.socket.parent() != Some(&config.state) {
        return Ok(());
    }
    let failed = |source| DaemonError::Directory { path: config.state.clone(), source };
    let gid = Some(rustix::fs::Gid::from_raw(config.socket_gid));
    rustix::fs::chownat(CWD, &config.state, None, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|err| failed(err.into()))?;
    let through = std::fs::Permissions::from_mode(0o710);
    std::fs::set_permissions(&config.state, through).map_err(failed)
}

/// Two daemons on one directory would take each other's pods for leavings.
fn lock(dir: &Path) -> Result<OwnedFd, DaemonError> {
    let path = dir.join("lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o600))
        .map_err(|err| DaemonError::Lock { path: path.clone(), source: err.into() })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DaemonError::Running(dir.to_owned())),
        Err(err) => Err(DaemonError::Lock { path, source: err.into() }),
    }
}

/// The cgroup that pods go into which name no parent of their own.
fn parent(config: &config::Cgroup) -> Result<CgroupPath, DaemonError> {
    let parent = match (config.parent.as_str(), config.driver) {
        ("", Driver::Cgroupfs) => "/berth".parse(),
        (path, Driver::Cgroupfs) => path.parse(),
        (_, Driver::Systemd) => slice_path(config.slice()),
    };
    Ok(parent?)
}

/// Takes the cgroup parent, which is made here, for this daemon alone. Two daemons with one parent, and so most likely
/// with one bridge as well, would sweep each other's pods.
fn claim(cgroups: &Cgroups, parent: &CgroupPath) -> Result<OwnedFd, DaemonError> {
    // systemd removes an empty cgroup that it does not know, at times of its own: between our two steps as well.
    const TRIES: usize = 10;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut tries = 0;
    let (path, directory) = loop {
        tries += 1;
        let cgroup = cgroups.create(parent, &Default::default())?;
        let path = cgroup.directories().into_iter().next().unwrap_or_default();
        match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(directory) => break (path, directory),
            Err(rustix::io::Errno::NOENT) if tries < TRIES => {}
            Err(err) => return Err(DaemonError::Lock { path, source: err.into() }),
        }
    };
    let failed = |source| DaemonError::Lock { path: path.clone(), source };
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DaemonError::ParentTaken(parent.to_string())),
        Err(err) => Err(failed(err.into())),
    }
}

fn listen(path: &Path, gid: u32) -> Result<UnixListener, DaemonError> {
    let failed = |source| DaemonError::Listen { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(failed(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is no socket is there",
            )));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, "another program serves")));
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(failed(err)),
    }
    // The umask leaves it to root alone until the line that opens it to the group.
    let listener = UnixListener::bind(path).map_err(failed)?;
    let gid = Some(rustix::fs::Gid::from_raw(gid));
    rustix::fs::chownat(CWD, path, None, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|err| failed(err.into()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}
