//! The configuration: one file, one struct per section, every key with a default.
//!
//! `default.toml` beside this file is what `berthd config default` prints, and a test holds it equal to the defaults
//! below, so the documentation of a key is the documented file itself.

mod network;

pub(crate) use network::Network;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;

/// The commented default configuration.
pub(crate) const DEFAULT: &str = include_str!("default.toml");

/// Where the configuration is looked for when no `--config` says otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/berth/config.toml";

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) socket_gid: u32,
    pub(crate) monitor: PathBuf,
    pub(crate) unpack: PathBuf,
    pub(crate) default_handler: String,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
    pub(crate) cgroup: Cgroup,
    pub(crate) network: Network,
    pub(crate) image: Image,
    pub(crate) container: Container,
    pub(crate) handlers: BTreeMap<String, Handler>,
    pub(crate) stream: Stream,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    #[serde(deserialize_with = "address")]
    pub(crate) address: Option<SocketAddr>,
}

/// An address with a port; nothing where it is empty.
fn address<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(value)?;
    let wrong =
        |err| serde::de::Error::custom(format!("{text:?} is no address with a port: {err}"));
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(wrong) }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cgroup {
    pub(crate) driver: Driver,
    pub(crate) parent: String,
}

/// Who makes the cgroups of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
    /// We do, in the file systems of the hierarchies.
    #[default]
    Cgroupfs,
    /// systemd does, which delegates them to us.
    Systemd,
}

impl Cgroup {
    /// The slice of pods that name no cgroup parent, where systemd makes the cgroups.
    pub(crate) fn slice(&self) -> &str {
        if self.parent.is_empty() { "berth.slice" } else { &self.parent }
    }
}

impl Driver {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Driver::Cgroupfs => "cgroupfs",
            Driver::Systemd => "systemd",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Image {
    pub(crate) layers: image::Choice,
    pub(crate) max_downloads: usize,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) registry_config: PathBuf,
    pub(crate) policy: PathBuf,
    pub(crate) keep_packed: bool,
    pub(crate) keep_unfinished_s: u64,
    pub(crate) limits: image::Limits,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Container {
    pub(crate) shm_size_mib: u64,
    pub(crate) exec_drain_ms: u64,
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
}

/// Another OCI runtime.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Handler {
    pub(crate) binary: PathBuf,
    #[serde(default)]
    pub(crate) options: Vec<String>,
    #[serde(default)]
    pub(crate) root: PathBuf,
    #[serde(default = "handler_timeout_ms")]
    pub(crate) timeout_ms: u64,
    #[serde(default)]
    pub(crate) privileged_without_host_devices: bool,
}

fn handler_timeout_ms() -> u64 {
    30_000
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Stream {
    pub(crate) address: String,
    pub(crate) idle_timeout_s: u64,
    pub(crate) tls_cert: PathBuf,
    pub(crate) tls_key: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/berth".into(),
            state: "/run/berth".into(),
            socket: "/run/berth/berth.sock".into(),
            socket_gid: 0,
            monitor: PathBuf::new(),
            unpack: PathBuf::new(),
            default_handler: crate::handlers::OWN.into(),
            log: Log::default(),
            metrics: Metrics::default(),
            cgroup: Cgroup::default(),
            network: Network::default(),
            image: Image::default(),
            container: Container::default(),
            handlers: BTreeMap::new(),
            stream: Stream::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into() }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self { driver: Driver::Cgroupfs, parent: String::new() }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self {
            layers: image::Choice::Auto,
            max_downloads: 4,
            insecure_registries: Vec::new(),
            registry_config: "/etc/containerd/certs.d".into(),
            policy: PathBuf::new(),
            keep_packed: false,
            keep_unfinished_s: 600,
            limits: image::Limits::default(),
        }
    }
}

impl Default for Container {
    fn default() -> Self {
        Self {
            shm_size_mib: 64,
            exec_drain_ms: 1000,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".into(),
            idle_timeout_s: 4 * 60 * 60,
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
        }
    }
}

impl Log {
    /// The filter that `level` names.
    pub(crate) fn filter(&self) -> Result<EnvFilter, ConfigError> {
        let level = self.level.as_str();
        let refused = || ConfigError::Level(level.to_owned());
        // A single word that is no level would be taken for the name of a module, and silence everything.
        let single = !level.contains(['=', ',', '[']);
        if level.is_empty()
            || single && level.parse::<tracing::level_filters::LevelFilter>().is_err()
        {
            return Err(refused());
        }
        EnvFilter::try_new(level).map_err(|_| refused())
    }
}

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read configuration {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The text below names line and key.
    #[error("configuration {}", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("configuration: {key} must be an absolute path, got {}", value.display())]
    Relative { key: &'static str, value: PathBuf },
    #[error(
        "configuration: log.level must be error, warn, info, debug, trace or a filter of modules, got {0:?}"
    )]
    Level(String),
    #[error("configuration: network.subnet")]
    Subnet(#[source] netns::BadSubnet),
    #[error("configuration: handlers.{name}: {rule}")]
    Handler { name: String, rule: &'static str },
    #[error("configuration: default_handler: no handler {0:?}")]
    DefaultHandler(String),
    #[error("find berthd's own program, to look for {name} beside it")]
    Beside { name: &'static str, source: io::Error },
}

impl Config {
    /// Reads the file at `path`, or [`DEFAULT_PATH`] where it is not given and exists.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, required) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_PATH), false),
        };
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|source| ConfigError::Parse {
                path: path.to_owned(),
                source: Box::new(source),
            }),
            Err(err) if err.kind() == io::ErrorKind::NotFound && !required => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// The keys and sections in which `other` says something else, without what a running daemon takes over.
    pub(crate) fn unlike(&self, other: &Self) -> Vec<&'static str> {
        // Without `..`, so that a key that is new has to be named here.
        let Self {
            root,
            state,
            socket,
            socket_gid,
            monitor,
            unpack,
            default_handler,
            log: Log { level: _ },
            metrics,
            cgroup,
            network,
            image,
            container,
            handlers,
            stream,
        } = self;
        let keys = [
            ("root", *root == other.root),
            ("state", *state == other.state),
            ("socket", *socket == other.socket),
            ("socket_gid", *socket_gid == other.socket_gid),
            ("monitor", *monitor == other.monitor),
            ("unpack", *unpack == other.unpack),
            ("default_handler", *default_handler == other.default_handler),
            ("metrics", *metrics == other.metrics),
            ("cgroup", *cgroup == other.cgroup),
            ("network", *network == other.network),
            ("image", *image == other.image),
            ("container", *container == other.container),
            ("handlers", *handlers == other.handlers),
            ("stream", *stream == other.stream),
        ];
        keys.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }

    /// Refuses what no later step could make sense of, and fills in the programs beside our own.
    pub(crate) fn checked(mut self) -> Result<Self, ConfigError> {
        let mut paths =
            vec![("root", &self.root), ("state", &self.state), ("socket", &self.socket)];
        paths.push(("network.cni_config", &self.network.cni_config));
        paths.extend(self.network.cni_plugins.iter().map(|path| ("network.cni_plugins", path)));
        for (key, value) in paths {
            if !value.is_absolute() {
                return Err(ConfigError::Relative { key, value: value.clone() });
            }
        }
        for (name, handler) in &self.handlers {
            handler
                .check(name)
                .map_err(|rule| ConfigError::Handler { name: name.clone(), rule })?;
        }
        let default = &self.default_handler;
        if default != crate::handlers::OWN && !self.handlers.contains_key(default) {
            return Err(ConfigError::DefaultHandler(default.clone()));
        }
        for (name, program) in
            [("berth-monitor", &mut self.monitor), ("berth-unpack", &mut self.unpack)]
        {
            if program.as_os_str().is_empty() {
                let own = std::env::current_exe()
                    .map_err(|source| ConfigError::Beside { name, source })?;
                *program = own.with_file_name(name);
            }
        }
        Ok(self)
    }
}

impl Handler {
    /// The longest run of a program: a start takes two, and its client waits for two minutes.
    const MOST_TIMEOUT_MS: u64 = 50_000;

    fn check(&self, name: &str) -> Result<(), &'static str> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name == crate::handlers::OWN {
            return Err("is the name of Berth's own runtime");
        }
        if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
            return Err(
                "a name has letters a to z, digits and dashes, as a RuntimeClass's handler",
            );
        }
        if !self.binary.is_absolute() {
            return Err("binary must be an absolute path");
        }
        if !self.root.as_os_str().is_empty() && !self.root.is_absolute() {
            return Err("root must be an absolute path, or empty");
        }
        if !(1..=Self::MOST_TIMEOUT_MS).contains(&self.timeout_ms) {
            return Err("timeout_ms must be from 1 to 50000");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let documented: Config = toml::from_str(DEFAULT).unwrap();
        assert_eq!(documented, Config::default());
    }

    #[test]
    fn every_key_but_those_of_the_log_takes_a_restart() {
        let running = Config::default();
        for (text, want) in [
            ("[log]\nlevel = \"debug\"", None),
            ("root = \"/r\"", Some("root")),
            ("state = \"/s\"", Some("state")),
            ("socket = \"/b.sock\"", Some("socket")),
            ("socket_gid = 7", Some("socket_gid")),
            ("monitor = \"/m\"", Some("monitor")),
            ("unpack = \"/u\"", Some("unpack")),
            ("default_handler = \"h\"", Some("default_handler")),
            ("[metrics]\naddress = \"127.0.0.1:1\"", Some("metrics")),
            ("[cgroup]\nparent = \"/p\"", Some("cgroup")),
            ("[network]\nbridge = \"b\"", Some("network")),
            ("[image]\nkeep_packed = true", Some("image")),
            ("[container]\nshm_size_mib = 1", Some("container")),
            ("[handlers.h]\nbinary = \"/h\"", Some("handlers")),
            ("[stream]\nidle_timeout_s = 1", Some("stream")),
        ] {
            let read: Config = toml::from_str(text).unwrap();
            assert_eq!(running.unlike(&read), Vec::from_iter(want), "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        sys::durable::replace(&path, b"[network]\nbridge = \"b\"\nsubnett = \"x\"\n", 0o600)
            .unwrap();
        let err = Config::load(Some(&path)).unwrap_err();
        let text = std::error::Error::source(&err).unwrap().to_string();
        assert!(text.contains("line 3") && text.contains("subnett"), "{text}");
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        for (level, fine) in [
            ("info", true),
            ("warn,image=debug", true),
            ("verbose", false),
            ("", false),
            ("nonsense=loud", false),
        ] {
            let log = Log { level: level.into() };
            assert_eq!(log.filter().is_ok(), fine, "{level:?}");
        }
    }

    #[test]
    fn a_named_file_must_exist() {
        let err = Config::load(Some(Path::new("/nonexistent/config.toml"))).unwrap_err();
        assert!(matches!(err, ConfigError::Read { .. }));
    }
}
