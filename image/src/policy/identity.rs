//! Whose signature counts: the name in it, held against the name that is pulled.

use crate::reference::Reference;
use serde::Deserialize;

/// `signedIdentity` of a requirement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Identity {
    /// The same name and tag.
    MatchExact,
    /// The same name and tag; of an image pulled by digest, the same repository.
    #[default]
    MatchRepoDigestOrExact,
    /// The same repository.
    MatchRepository,
    /// This name, whatever is pulled.
    #[serde(rename_all = "camelCase")]
    ExactReference { docker_reference: String },
    /// This repository, whatever is pulled.
    #[serde(rename_all = "camelCase")]
    ExactRepository { docker_repository: String },
    /// As [`Identity::MatchRepoDigestOrExact`], for a name that begins with another prefix where it is signed.
    #[serde(rename = "remapIdentity", rename_all = "camelCase")]
    Remapped { prefix: String, signed_prefix: String },
}

impl Identity {
    /// Whether a signature for `signed`, as it says itself, is one for `pulled`.
    pub(super) fn accepts(&self, pulled: &Reference, signed: &str) -> bool {
        let Some(signed) = Named::parse(signed) else { return false };
        match self {
            Self::MatchExact => signed.is_exactly(&Named::of(pulled)),
            Self::MatchRepoDigestOrExact => signed.is_for(&Named::of(pulled)),
            Self::MatchRepository => signed.name == pulled.name(),
            Self::ExactReference { docker_reference } => {
                Named::parse(docker_reference).is_some_and(|want| signed.is_exactly(&want))
            }
            Self::ExactRepository { docker_repository } => {
                Named::parse(docker_repository).is_some_and(|want| signed.name == want.name)
            }
            Self::Remapped { prefix, signed_prefix } => {
                let mut pulled = Named::of(pulled);
                if let Some(rest) = below(&pulled.name, prefix) {
                    pulled.name = format!("{signed_prefix}{rest}");
                }
                signed.is_for(&pulled)
            }
        }
    }
}

/// A name whose tag or digest may be missing, as opposed to being `latest`.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Named {
    fn parse(text: &str) -> Option<Self> {
        let reference: Reference = text.parse().ok()?;
        let mut named = Self::of(&reference);
        let last = text.rsplit('/').next().unwrap_or_default();
        if !last.contains([':', '@']) {
            named.tag = None;
        }
        Some(named)
    }

    fn of(reference: &Reference) -> Self {
        Self {
            name: reference.name(),
            tag: reference.tag().map(str::to_owned),
            digest: reference.digest().map(ToString::to_string),
        }
    }

    fn is_exactly(&self, other: &Self) -> bool {
        self == other && (self.tag.is_some() || self.digest.is_some())
    }

    fn is_for(&self, pulled: &Self) -> bool {
        match &pulled.digest {
            Some(_) => self.name == pulled.name,
            None => self.is_exactly(pulled),
        }
    }
}

/// What follows `prefix` in `name`, where that is the whole name or ends before a slash.
fn below<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_what_its_name_says() {
        let remap = || Identity::Remapped {
            prefix: "mirror.example/hub".into(),
            signed_prefix: "docker.io".into(),
        };
        let exact = |name: &str| Identity::ExactReference { docker_reference: name.into() };
        let repository = |name: &str| Identity::ExactRepository { docker_repository: name.into() };
        let digest = format!("quay.io/a@sha256:{}", "0".repeat(64));
        let cases = [
            (Identity::MatchExact, "quay.io/a:1", "quay.io/a:1", true),
            (Identity::MatchExact, "quay.io/a:1", "quay.io/a:2", false),
            (Identity::MatchExact, "quay.io/a", "quay.io/a", false),
            (Identity::MatchRepoDigestOrExact, "quay.io/a:1", "quay.io/a", false),
            (Identity::MatchRepoDigestOrExact, digest.as_str(), "quay.io/a", true),
            (Identity::MatchRepoDigestOrExact, digest.as_str(), "quay.io/b", false),
            (Identity::MatchRepository, "quay.io/a:1", "quay.io/a", true),
            (Identity::MatchRepository, "quay.io/a:1", "quay.io/b", false),
            (Identity::MatchRepository, "a:1", "docker.io/library/a", true),
            (Identity::MatchRepository, "quay.io/a:1", "not a name", false),
            (exact("quay.io/z:9"), "quay.io/a:1", "quay.io/z:9", true),
            (exact("quay.io/z:9"), "quay.io/a:1", "quay.io/a:1", false),
            (repository("quay.io/z"), "quay.io/a:1", "quay.io/z:7", true),
            (remap(), "mirror.example/hub/x/a:1", "docker.io/x/a:1", true),
            (remap(), "mirror.example/hubs/x/a:1", "docker.io/x/a:1", false),
        ];
        for (identity, pulled, signed, want) in cases {
            let got = identity.accepts(&pulled.parse().unwrap(), signed);
            assert_eq!(got, want, "{identity:?} {pulled} {signed}");
        }
    }
}
