//! Why a registry did not give what was asked of it.

use crate::digest::Digest;
use crate::document::json::BadJson;

/// A failed exchange with a registry, or with what it pointed to. URLs are shown without their query.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry's name gives no URL.
    #[error("registry {0:?} has no address")]
    Address(String),
    /// The directory with the registry's hosts and certificates.
    #[error("configuration of registries")]
    Hosts(#[from] super::hosts::HostsError),
    /// No host of the registry may be asked for this.
    #[error("no configured host of registry {registry:?} may {ability}")]
    NoHost {
        /// As images name it.
        registry: String,
        /// What was wanted.
        ability: &'static str,
    },
    /// The HTTP client could not be made: no usable TLS on this machine.
    #[error("set up the HTTP client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No connection, or one that broke.
    #[error("request {url}")]
    Transport {
        /// What was asked for.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// Nothing, or next to nothing, arrived for a whole minute.
    #[error("request {url}: no progress for {seconds} s")]
    Stalled {
        /// What was asked for.
        url: String,
        /// The time allowed.
        seconds: u64,
    },
    /// The body ended before its end.
    #[error("request {url}: the body ended after {got} of {want} bytes")]
    Truncated {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes there should be.
        want: u64,
    },
    /// An answer other than success.
    #[error("request {url}: status {status}{}", said(message))]
    Status {
        /// What was asked for.
        url: String,
        /// HTTP's number.
        status: u16,
        /// What the registry says about it, cut short. Untrusted.
        message: Option<String>,
        /// Seconds it wants to be left alone.
        retry_after: Option<u64>,
    },
    /// Not found: no such image, or none that this caller may see.
    #[error("request {url}: not found{}", said(message))]
    NotFound {
        /// What was asked for.
        url: String,
        /// What the registry says about it, cut short. Untrusted.
        message: Option<String>,
    },
    /// The registry wants other credentials, or some at all.
    #[error("request {url}: access denied{}", said(message))]
    Denied {
        /// What was asked for.
        url: String,
        /// What the registry says about it, cut short. Untrusted.
        message: Option<String>,
    },
    /// Access is denied in a way nobody here can answer.
    #[error("request {url}: access denied, and {why}")]
    NoWayIn {
        /// What was asked for.
        url: String,
        /// What is missing.
        why: &'static str,
    },
    /// A redirect that is not followed.
    #[error("redirect of {from} refused: {why}")]
    Redirect {
        /// What was asked for.
        from: String,
        /// The rule.
        why: &'static str,
    },
    /// A token server that is not asked.
    #[error("token server {realm:?} refused: {why}")]
    Realm {
        /// As the registry named it.
        realm: String,
        /// The rule.
        why: &'static str,
    },
    /// The token server's answer is no token.
    #[error("read the answer of the token server {url}")]
    Token {
        /// Its address.
        url: String,
        /// What is wrong.
        source: BadJson,
    },
    /// A body beyond its bound.
    #[error("request {url}: the body is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// A blob of another size than its descriptor says.
    #[error("blob {digest} has another size than the {want} bytes its manifest says")]
    Size {
        /// Which.
        digest: Digest,
        /// What the descriptor says.
        want: u64,
    },
    /// Bytes that hash to something else than was asked for.
    #[error("content is {got}, asked for was {want}")]
    Digest {
        /// What was asked for.
        want: Digest,
        /// What came.
        got: Digest,
    },
    /// A partial answer to a resumed request that is not the part asked for.
    #[error("request {url}: the answer is not the range asked for")]
    Range {
        /// What was asked for.
        url: String,
    },
}

/// What a registry error means for the pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NotFound,
    Denied,
    /// May be gone the next time.
    Unavailable,
    /// Wrong bytes: the registry, or somebody on the way, lies or is broken.
    Content,
    /// A rule of ours.
    Policy,
    Limit,
    /// This machine.
    Local,
}

impl RegistryError {
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::NotFound { .. } => Fault::NotFound,
            Self::Denied { .. } | Self::NoWayIn { .. } => Fault::Denied,
            Self::Transport { .. } | Self::Stalled { .. } | Self::Truncated { .. } => {
                Fault::Unavailable
            }
            Self::Status { .. } | Self::Range { .. } => Fault::Unavailable,
            Self::Token { .. } | Self::Size { .. } | Self::Digest { .. } => Fault::Content,
            Self::Redirect { .. }
            | Self::Realm { .. }
            | Self::Address(_)
            | Self::NoHost { .. }
            | Self::Hosts(_) => Fault::Policy,
            Self::TooLarge { .. } => Fault::Limit,
            Self::Client(_) => Fault::Local,
        }
    }

    /// How many seconds the registry wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<u64> {
        if let Self::Status { retry_after, .. } = self { *retry_after } else { None }
    }

    /// Whether the same request may well succeed in a moment.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            // A certificate does not become valid by asking again.
            Self::Transport { source, .. } => !is_tls(source),
            Self::Stalled { .. } | Self::Truncated { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Address(_)
            | Self::Hosts(_)
            | Self::NoHost { .. }
            | Self::Client(_)
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::NoWayIn { .. }
            | Self::Redirect { .. }
            | Self::Realm { .. }
            | Self::Token { .. }
            | Self::TooLarge { .. }
            | Self::Size { .. }
            | Self::Digest { .. }
            | Self::Range { .. } => false,
        }
    }
}

fn is_tls(err: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(err);
    while let Some(err) = cause {
        if err.is::<rustls::Error>() {
            return true;
        }
        // hyper-rustls wraps the TLS error in an I/O error, whose `source` skips what it holds.
        if let Some(io) = err.downcast_ref::<std::io::Error>()
            && io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
        {
            return true;
        }
        cause = err.source();
    }
    false
}

fn said(message: &Option<String>) -> String {
    message.as_deref().map(|text| format!(": {text:?}")).unwrap_or_default()
}
