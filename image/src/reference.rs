//! Names of images: one grammar, normalised the way Docker does it.

use crate::digest::{BadDigest, Digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Where an image is to be found: `registry/repository[:tag][@digest]`, with every part spelled out.
///
/// `busybox` is read as `docker.io/library/busybox:latest`. The registry is lowercase, so two spellings of one host are
/// one name. [`Display`](fmt::Display) gives the canonical form, which parses to the same value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The text is not the name of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// Nothing before the tag or the digest.
    #[error("image name is empty")]
    Empty,
    /// The part before the first slash is no host name or address, or its port no port.
    #[error("image name {0:?} has no valid registry")]
    Registry(String),
    /// The path below the registry.
    #[error(
        "image name {0:?} must be lowercase letters and digits, separated by one of . _ __ - /"
    )]
    Repository(String),
    /// Longer than 255 bytes.
    #[error("image name is longer than {MAX_NAME} bytes")]
    TooLong,
    /// Docker's rule: it would be taken for an image id.
    #[error("image name {0:?} looks like an image id")]
    LooksLikeId(String),
    /// The part after the colon.
    #[error("image tag {0:?} must be letters, digits, '_', '.' and '-', at most 128 of them")]
    Tag(String),
    /// The part after the at sign.
    #[error("image digest after '@'")]
    Digest(#[from] BadDigest),
}

const DOCKER_HUB: &str = "docker.io";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

impl Reference {
    /// The registry as people write it: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path below the registry: `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Never absent together with the digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest; where there is one it decides, and the tag is a mere remark.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository@digest`: the same repository's content of that digest, as `Image::digests` has it.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// `registry/repository:tag`, as `Image::tags` has it; nothing for a reference by digest, whose tag nobody has
    /// looked at.
    #[must_use]
    pub fn tagged(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.name())),
            (None, _) | (Some(_), Some(_)) => None,
        }
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            Some(_) | None => (rest, None),
        };
        if name.is_empty() {
            return Err(BadReference::Empty);
        }
        if name.len() > 2 * MAX_NAME {
            return Err(BadReference::TooLong);
        }
        let (registry, repository) = split_registry(name)?;
        if repository.len() > MAX_NAME {
            return Err(BadReference::TooLong);
        }
        if !repository.split('/').all(is_path_component) {
            return Err(BadReference::Repository(repository));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(BadReference::Tag(tag.chars().take(MAX_TAG).collect()));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { registry, repository, tag, digest })
    }
}

/// Docker's rule: the first component is a registry when it could not be a user's name.
fn split_registry(name: &str) -> Result<(String, String), BadReference> {
    let is_registry =
        |first: &str| first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost");
    let (registry, repository) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => {
            if !is_host_and_port(first) {
                return Err(BadReference::Registry(name.to_owned()));
            }
            (first.to_ascii_lowercase(), path)
        }
        Some(_) => (DOCKER_HUB.to_owned(), name),
        None if is_id(name) => return Err(BadReference::LooksLikeId(name.to_owned())),
        None => (DOCKER_HUB.to_owned(), name),
    };
    let registry = if registry == "index.docker.io" { DOCKER_HUB.to_owned() } else { registry };
    let repository = if registry == DOCKER_HUB && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    Ok((registry, repository))
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_host_and_port(text: &str) -> bool {
    if text.len() > MAX_NAME {
        return false;
    }
    // IPv6 literals are in brackets, so that their colons are not ports.
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (None, port.strip_prefix(':').or(if port.is_empty() { None } else { Some("") }))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let is_label = |label: &str| {
        let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
        })
}

/// `[a-z0-9]+` groups separated by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_word(*first) || !is_word(*last) {
        return false;
    }
    let is_separator =
        |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-');
    bytes.split(|b| is_word(*b)).filter(|run| !run.is_empty()).all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
