//! Where the daemon is and how long to wait for it: from flags, environment and crictl's configuration file,
//! in this order.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::Deserialize;

use crate::duration;
use crate::error::{CliError, FileError};

const DEFAULT_FILE: &str = "/etc/crictl.yaml";
const DEFAULT_SOCKET: &str = "/run/berth/berth.sock";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// The flags that stand before the command.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Flags {
    /// Configuration file [default: /etc/crictl.yaml, if it is there]
    #[arg(short, long, value_name = "FILE", env = "CRI_CONFIG_FILE")]
    config: Option<PathBuf>,

    /// Socket of the runtime service [default: unix:///run/berth/berth.sock; also from BERTH_ENDPOINT]
    #[arg(short, long, value_name = "ENDPOINT", env = "CONTAINER_RUNTIME_ENDPOINT")]
    runtime_endpoint: Option<String>,

    /// Socket of the image service [default: that of the runtime service]
    #[arg(short, long, value_name = "ENDPOINT", env = "IMAGE_SERVICE_ENDPOINT")]
    image_endpoint: Option<String>,

    /// How long to wait for a connection, and for answers that should come at once [default: 2s]
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,

    /// Show requests and answers
    #[arg(short = 'D', long)]
    debug: bool,
}

/// The keys of crictl.yaml; unknown ones belong to other versions.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    runtime_endpoint: String,
    image_endpoint: String,
    timeout: Option<Timeout>,
    debug: bool,
    pull_image_on_create: bool,
    disable_pull_on_run: bool,
}

/// Seconds, or text as for the flag.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Timeout {
    Seconds(i64),
    Text(String),
}

/// A unix socket, and who named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) socket: PathBuf,
    /// " (named in …)" for messages; empty when the user has just typed it, or it is the default.
    pub(crate) origin: String,
}

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) runtime: Endpoint,
    pub(crate) images: Endpoint,
    pub(crate) timeout: Duration,
    pub(crate) debug: bool,
    pub(crate) pull_on_create: bool,
    pub(crate) pull_on_run: bool,
}

impl Settings {
    /// `berth_endpoint` is the environment's BERTH_ENDPOINT.
    pub(crate) fn new(flags: Flags, berth_endpoint: Option<String>) -> Result<Self, CliError> {
        let (path, must_exist) = match flags.config {
            Some(path) => (path, true),
            None => (PathBuf::from(DEFAULT_FILE), false),
        };
        let file = read(&path, must_exist)?;
        let named_in_file = format!(" (named in {})", path.display());

        let runtime = first_named([
            (flags.runtime_endpoint, String::new()),
            (berth_endpoint, " (named by BERTH_ENDPOINT)".into()),
            (Some(file.runtime_endpoint), named_in_file.clone()),
        ])?
        .unwrap_or(Endpoint { socket: DEFAULT_SOCKET.into(), origin: String::new() });
        let images = first_named([
            (flags.image_endpoint, String::new()),
            (Some(file.image_endpoint), named_in_file),
        ])?
        .unwrap_or(runtime.clone());

        let from_file = file.timeout.map(|timeout| timeout.read(&path)).transpose()?;
        let is_set = |timeout: &Duration| !timeout.is_zero();
        Ok(Self {
            runtime,
            images,
            timeout: flags
                .timeout
                .filter(is_set)
                .or(from_file.filter(is_set))
                .unwrap_or(DEFAULT_TIMEOUT),
            debug: flags.debug || file.debug,
            pull_on_create: file.pull_image_on_create,
            pull_on_run: !file.disable_pull_on_run,
        })
    }
}

impl Timeout {
    /// Below zero counts as not set, as with crictl.
    fn read(self, path: &Path) -> Result<Duration, CliError> {
        match self {
            Self::Seconds(seconds) => {
                Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
            }
            Self::Text(text) => duration::parse(&text).map_err(|source| CliError::File {
                path: path.to_owned(),
                source: FileError::Timeout(source),
            }),
        }
    }
}

fn read(path: &Path, must_exist: bool) -> Result<File, CliError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
            return Ok(File::default());
        }
        Err(source) => return Err(CliError::Read { path: path.to_owned(), source }),
    };
    if text.trim().is_empty() {
        return Ok(File::default());
    }
    serde_saphyr::from_str(&text).map_err(|error| CliError::File {
        path: path.to_owned(),
        source: FileError::Syntax(Box::new(error)),
    })
}

fn first_named<const N: usize>(
    candidates: [(Option<String>, String); N],
) -> Result<Option<Endpoint>, CliError> {
    let named = candidates
        .into_iter()
        .find_map(|(name, origin)| name.filter(|name| !name.is_empty()).map(|name| (name, origin)));
    let Some((name, origin)) = named else { return Ok(None) };
    let path = name.strip_prefix("unix://").or(name.strip_prefix("unix:")).unwrap_or(&name);
    if !path.starts_with('/') {
        return Err(CliError::Endpoint(name));
    }
    Ok(Some(Endpoint { socket: path.into(), origin }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn flags(file: &tempfile::NamedTempFile) -> Flags {
        Flags { config: Some(file.path().into()), ..Default::default() }
    }

    #[test]
    fn the_file_of_crictl_is_understood() {
        let file = file(
            "runtime-endpoint: unix:///run/a.sock\nimage-endpoint: \"\"\ntimeout: 10\ndebug: true\n\
             pull-image-on-create: true\ndisable-pull-on-run: true\n",
        );
        let settings = Settings::new(flags(&file), None).unwrap();
        assert_eq!(settings.runtime.socket, Path::new("/run/a.sock"));
        assert_eq!(settings.images.socket, Path::new("/run/a.sock"));
        assert!(settings.runtime.origin.contains(file.path().to_str().unwrap()));
        assert_eq!(settings.timeout, Duration::from_secs(10));
        assert!(settings.debug && settings.pull_on_create && !settings.pull_on_run);
    }

    #[test]
    fn flags_go_before_environment_and_file() {
        let file =
            file("runtime-endpoint: unix:///run/file.sock\nimage-endpoint: unix:/run/i.sock\n");
        let socket = |flag: Option<&str>, variable: Option<&str>| {
            let flags = Flags { runtime_endpoint: flag.map(Into::into), ..flags(&file) };
            Settings::new(flags, variable.map(Into::into)).unwrap()
        };
        let all = socket(Some("/run/flag.sock"), Some("unix:///run/variable.sock"));
        assert_eq!(all.runtime.socket, Path::new("/run/flag.sock"));
        assert_eq!(all.images.socket, Path::new("/run/i.sock"));
        assert_eq!(
            socket(None, Some("unix:///run/variable.sock")).runtime.socket,
            Path::new("/run/variable.sock")
        );
        assert_eq!(socket(Some(""), Some("")).runtime.socket, Path::new("/run/file.sock"));
    }

    #[test]
    fn an_empty_file_and_odd_timeouts_mean_the_defaults() {
        for text in ["", "timeout: 0\n", "timeout: -1\n", "timeout: 0s\n", "other: 1\n"] {
            let settings = Settings::new(flags(&file(text)), None).unwrap();
            assert_eq!(settings.timeout, DEFAULT_TIMEOUT, "{text:?}");
            assert_eq!(settings.runtime.socket, Path::new(DEFAULT_SOCKET), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for text in ["runtime-endpoint: tcp://127.0.0.1:1\n", "timeout: soon\n", "debug: [\n"] {
            assert!(Settings::new(flags(&file(text)), None).is_err(), "{text:?}");
        }
        let missing =
            Flags { config: Some("/nonexistent/crictl.yaml".into()), ..Default::default() };
        assert!(Settings::new(missing, None).is_err());
    }
}
