//! What can go wrong, in the words the user reads: one line, the step first, then its causes.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};

/// Why a command could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("connect to {}{}", socket.display(), origin)]
    Connect { socket: PathBuf, origin: String, source: io::Error },

    #[error("endpoint {0:?} is no unix socket; write unix:///run/berth/berth.sock")]
    Endpoint(String),

    #[error("{step}")]
    Call { step: String, source: Refusal },

    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error("read {}", path.display())]
    File { path: PathBuf, source: FileError },

    #[error("create {}", path.display())]
    Create { path: PathBuf, source: io::Error },

    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },

    #[error("credentials in {}", path.display())]
    Login { path: PathBuf, source: crate::docker_config::LoginError },

    #[error(
        "an archive is not for a terminal, and a directory has no stream; name a place with -o"
    )]
    ArchiveToTerminal,

    #[error("watch {}", path.display())]
    Watch { path: PathBuf, source: io::Error },

    #[error("write output")]
    Output(#[source] io::Error),

    #[error("listen for signals")]
    Signals(#[source] io::Error),

    #[error("get random bytes")]
    Random(#[source] rustix::io::Errno),

    #[error("read the password")]
    Password(#[source] io::Error),

    #[error("{option} {value:?}")]
    Option { option: &'static str, value: String, source: OptionError },

    #[error("name at least one {0}, or give --all")]
    NothingNamed(&'static str),

    #[error("give either --all or ids, not both")]
    AllAndIds,

    #[error("nothing matches the filter")]
    NothingMatches,

    #[error("no such image: {0:?}; `berth pull` gets it")]
    NoSuchImage(String),

    #[error("{kind} {id} is running; stop it first, or give --force")]
    StillRunning { kind: &'static str, id: String },

    #[error("container {0} has no log file")]
    NoLog(String),

    #[error("container {0} has no earlier attempt")]
    NoEarlierAttempt(String),

    #[error("stream")]
    Session(#[source] crate::session::SessionError),

    #[error("exec needs a container and a command")]
    ExecNeedsCommand,

    #[error("give either --{0} or --{1}, not both")]
    Conflict(&'static str, &'static str),

    #[error("-p makes no sense with --net host: the container has the host's ports already")]
    PortsOnHostNetwork,

    #[error("a pod named {name} is there already; `berth rmp -f {id}` removes it")]
    NameTaken { name: String, id: String },

    #[error("-d leaves the container running, so nobody is there to do --rm")]
    DetachedRemoval,

    #[error("interrupted")]
    Interrupted,

    #[error("the stream of the pull of {0} ended before the pull did")]
    PullCutOff(String),

    #[error("{} of them did not work", .0.len())]
    Several(Vec<CliError>),
}

/// The daemon's answer when it is no answer.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Status);

impl Error for Refusal {}

impl Refusal {
    /// A status that was made here has its cause with it; one of the daemon is words only.
    fn is_lost_connection(&self) -> bool {
        self.0.source().is_some()
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (code, message) = (self.0.code(), self.0.message());
        if self.is_lost_connection() {
            write!(f, "the daemon went away: {message}")
        } else if !message.is_empty() {
            f.write_str(message)
        } else if code == Code::Unimplemented {
            f.write_str("the daemon lacks this call")
        } else {
            f.write_str(code.description())
        }
    }
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("open it")]
    Open(#[source] io::Error),
    #[error("it is neither JSON nor YAML")]
    Syntax(#[source] Box<serde_saphyr::Error>),
    #[error("it is not a {what}")]
    Shape { what: &'static str, source: serde_json::Error },
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("the environment is a list of {{\"key\": …, \"value\": …}}")]
    Environment,
    #[error("timeout")]
    Timeout(#[source] OptionError),
}

/// Why the value of an option cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("write it as {0}")]
    Form(&'static str),
    #[error("{0:?} is not a number from 1 to 65535")]
    Port(String),
    #[error("{0:?} is not an address")]
    Address(String),
    #[error("{0:?} is not tcp, udp or sctp")]
    Protocol(String),
    #[error("the path in the container must be absolute, and not /")]
    ContainerPath,
    #[error("the host's path must be absolute or start with ./ (there are no named volumes)")]
    HostPath,
    #[error("{0:?} is not ro, rw, rro, private, rslave or rshared")]
    MountOption(String),
    #[error("a group is given by number")]
    GroupName,
    #[error("it must be above 0")]
    NotPositive,
    #[error("it is one of {0}")]
    OneOf(&'static str),
    #[error("it is lower-case letters, digits and '-', at most 63 of them")]
    Name,
    #[error("{0}")]
    Pattern(String),
}

impl CliError {
    /// For mapping what a call gave back; `step` names what was done to which object.
    pub(crate) fn call(step: impl Into<String>) -> impl FnOnce(Status) -> Self {
        move |status| Self::Call { step: step.into(), source: Refusal(status) }
    }

    pub(crate) fn option(
        option: &'static str,
        value: &str,
    ) -> impl FnOnce(OptionError) -> Self + use<> {
        let value = value.to_owned();
        move |source| Self::Option { option, value, source }
    }

    /// Whether the one who reads our output has gone, which is no failure of ours.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(cause) if cause.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What the user could do about it.
    fn advice(&self) -> Option<&'static str> {
        let Self::Connect { source, .. } = self else { return None };
        let is = |kind| source.kind() == kind;
        if is(io::ErrorKind::NotFound) || is(io::ErrorKind::ConnectionRefused) {
            Some("is berthd running?")
        } else if is(io::ErrorKind::PermissionDenied) {
            Some("try it with sudo")
        } else {
            None
        }
    }

    /// The lines to print: one, or one for each of several.
    pub(crate) fn lines(&self) -> Vec<String> {
        if let Self::Several(errors) = self {
            return errors.iter().flat_map(Self::lines).collect();
        }
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let is_system = error.is::<io::Error>() || error.is::<rustix::io::Errno>();
            let text = error.to_string();
            let text = if is_system { lower_first(&text) } else { text };
            // Some libraries repeat their cause in their own text.
            if !line.ends_with(&text) {
                line = format!("{line}: {text}");
            }
            cause = error.source();
        }
        if let Some(advice) = self.advice() {
            line = format!("{line}; {advice}");
        }
        vec![line]
    }
}

/// Our words are lower case; the system's become so.
fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        // An acronym stays one.
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// Reports all failures of a list of things, or the only one by itself.
pub(crate) fn all(results: impl IntoIterator<Item = Result<(), CliError>>) -> Result<(), CliError> {
    let mut failures: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => Err(CliError::Several(failures)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(kind: rustix::io::Errno) -> CliError {
        let socket = "/run/berth/berth.sock".into();
        CliError::Connect { socket, origin: String::new(), source: kind.into() }
    }

    #[test]
    fn errors_are_one_line_that_says_what_to_do() {
        let status = || Status::not_found("no container 123");
        let cases = [
            (
                "no daemon",
                connect(rustix::io::Errno::NOENT),
                "connect to /run/berth/berth.sock: no such file or directory (os error 2); is berthd running?",
            ),
            (
                "not root",
                connect(rustix::io::Errno::ACCESS),
                "connect to /run/berth/berth.sock: permission denied (os error 13); try it with sudo",
            ),
            (
                "refused by the daemon",
                CliError::call("stop container 123")(status()),
                "stop container 123: no container 123",
            ),
            (
                "a call that is not there",
                CliError::call("get stats")(Status::unimplemented("")),
                "get stats: the daemon lacks this call",
            ),
            (
                "unavailable, says the daemon",
                CliError::call("pull a")(Status::unavailable("RegistryUnavailable: a")),
                "pull a: RegistryUnavailable: a",
            ),
            (
                "the connection broke",
                CliError::call("pull a")(Status::from_error(io::Error::other("reset").into())),
                "pull a: the daemon went away: reset",
            ),
            (
                "a bad option",
                CliError::option("-p", "80")(OptionError::Form("HOST:CONTAINER")),
                "-p \"80\": write it as HOST:CONTAINER",
            ),
        ];
        for (name, error, want) in cases {
            assert_eq!(error.lines(), [want], "{name}");
        }
    }

    #[test]
    fn every_failure_of_a_list_gets_its_line() {
        let failure = |id: &str| Err(CliError::NoLog(id.into()));
        let lines = all([failure("a"), Ok(()), failure("b")]).unwrap_err().lines();
        assert_eq!(lines, ["container a has no log file", "container b has no log file"]);
        assert_eq!(
            all([Ok(()), failure("c")]).unwrap_err().lines(),
            ["container c has no log file"]
        );
    }
}
