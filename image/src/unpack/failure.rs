//! Why a layer is not unpacked, from the step that found out to the report.

use crate::attributes::AttributeError;
use crate::name::{NameError, Shown};
use crate::source::SourceError;
use crate::tar::TarError;
use image::layer::wire::{Bound, Refusal};
use rustix::io::Errno;
use std::error::Error;
use std::io;
use sys::confine::ConfineError;

/// Why an entry, or the whole layer, is not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("too many {}", .0.as_str())]
    Limit(Bound, u64),
    #[error("it is more directories deep than a layer may be")]
    TooDeep,
    #[error("a directory above it is something else in this layer")]
    NotADirectory,
    #[error("a symbolic link leads it to where this layer has no directory")]
    DanglingParent,
    #[error("it is behind more symbolic links than anybody follows")]
    LinkLoop,
    #[error("the root of a layer must be a directory")]
    Root,
    #[error("an opaque directory must not be named through a symbolic link")]
    OpaqueThroughLink,
    #[error("the target of the hard link is not in the layer before it")]
    MissingTarget,
    #[error("the target of the hard link is a directory or the link itself")]
    BadTarget,
    #[error("the target of the link has an impossible length")]
    TargetLength,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("hard link target")]
    Target(#[source] NameError),
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("{step}")]
    Disk { step: &'static str, source: io::Error },
    #[error(transparent)]
    Confine(#[from] ConfineError),
}

impl UnpackError {
    /// For `map_err` on a call to the kernel.
    pub(crate) fn disk(step: &'static str) -> impl Fn(Errno) -> Self {
        move |source| Self::Disk { step, source: source.into() }
    }

    /// The report's form, naming the entry.
    pub(crate) fn refusal(&self, at: &Place<'_>) -> Refusal {
        match self {
            Self::Limit(bound, limit) => Refusal::Limit(*bound, *limit),
            Self::Disk { step, source } => Refusal::Disk(format!("{step} {at}"), number(source)),
            Self::Confine(ConfineError { step, source }) => {
                Refusal::Worker((*step).to_owned(), number(source))
            }
            Self::Tar(TarError::Input(err)) => input(err, at),
            Self::TooDeep
            | Self::NotADirectory
            | Self::DanglingParent
            | Self::LinkLoop
            | Self::Root
            | Self::OpaqueThroughLink
            | Self::MissingTarget
            | Self::BadTarget
            | Self::TargetLength
            | Self::Name(_)
            | Self::Target(_)
            | Self::Attributes(_)
            | Self::Tar(_) => Refusal::Content(format!("{at}: {}", chain(self))),
        }
    }
}

/// Where in the layer something was found wrong.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// Entries before it.
    pub(crate) entries: u64,
    /// The name of the last entry whose header was read, and whether it is the one that is wrong.
    pub(crate) name: &'a [u8],
    pub(crate) is_current: bool,
}

impl Place<'_> {
    /// Before the first byte.
    pub(crate) const NOWHERE: Place<'static> = Place { entries: 0, name: b"", is_current: false };
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.is_current, self.entries) {
            (true, _) => write!(f, "entry {}", Shown(self.name)),
            (false, 0) => f.write_str("the first entry"),
            (false, _) => write!(f, "the entry after {}", Shown(self.name)),
        }
    }
}

/// What the stream itself did wrong: the bytes, their number, or the pipe.
fn input(err: &io::Error, at: &Place<'_>) -> Refusal {
    match err.get_ref().and_then(|inner| inner.downcast_ref::<SourceError>()) {
        Some(SourceError::TooLarge(limit)) => Refusal::Limit(Bound::Bytes, *limit),
        Some(SourceError::Corrupt(_)) => Refusal::Content(format!("{at}: {}", chain(err))),
        Some(SourceError::Read(source)) => {
            Refusal::Worker("read the layer".to_owned(), number(source))
        }
        Some(SourceError::Died) | None => Refusal::Worker(chain(err), 0),
    }
}

fn number(err: &io::Error) -> i32 {
    err.raw_os_error().unwrap_or(0)
}

/// An error and its causes in one line.
fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut next = err.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
