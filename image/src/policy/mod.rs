//! Which images may be here at all: signatures and rejections, by name.
//!
//! ```text
//! policy.json ──► the most specific scope of a name ──► accept, reject, or keys (identity.rs: whose signature counts)
//!                                                                         │
//!                                  sha256-<digest>.sig of the repository ─┴─► verify.rs
//! ```
//!
//! The file is the one of containers-policy.json(5), because nodes have it already and people know to read it. Of its
//! kinds of signatures sigstore's with keys are known here; an image in the scope of another kind is refused, never let
//! through. The file is read for each pull, and the check comes before the first layer.

mod identity;
mod key;
mod verify;

pub(crate) use verify::signatures;

use crate::document::json::{self, BadJson};
use crate::reference::Reference;
use identity::Identity;
use key::{BadKey, Key};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A policy, read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    default: Vec<Raw>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Raw>>>,
}

/// Why an image is not let in.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// There is a policy, and it cannot be read.
    #[error("read policy {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not what a policy must be.
    #[error("parse policy {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BadJson,
    },
    /// A key that the policy names.
    #[error("read a key of the policy")]
    Key(#[from] BadKey),
    /// The policy says so.
    #[error("{0} is rejected by the policy")]
    Rejected(String),
    /// The policy wants something that is not known here.
    #[error("the policy wants {what} for {name}, which is not supported")]
    Unsupported {
        /// The image.
        name: String,
        /// The requirement.
        what: String,
    },
    /// No signature, or none that counts.
    #[error("{name} has no valid signature: {why}")]
    Unsigned {
        /// The image.
        name: String,
        /// What became of the best one.
        why: &'static str,
    },
}

/// What is asked of one image.
#[derive(Debug)]
pub(crate) enum Requirement {
    Signed(Signed),
}

/// One signature by one of some keys.
#[derive(Debug)]
pub(crate) struct Signed {
    keys: Vec<Key>,
    identity: Identity,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    signed_identity: Option<Identity>,
    // Of requirements that are not known here.
    key_type: Option<String>,
    fulcio: Option<serde_json::Value>,
    pki: Option<serde_json::Value>,
    rekor_public_key_path: Option<PathBuf>,
    rekor_public_key_paths: Option<Vec<PathBuf>>,
    rekor_public_key_data: Option<String>,
    rekor_public_key_datas: Option<Vec<String>>,
}

impl Policy {
    /// Reads the policy at `path`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Read`] and [`PolicyError::Parse`]: without its policy a node takes nothing.
    pub(crate) fn read(path: &Path) -> Result<Self, PolicyError> {
        let failed = |source| PolicyError::Read { path: path.to_owned(), source };
        let text = std::fs::read(path).map_err(failed)?;
        json::parse(&text).map_err(|source| PolicyError::Parse { path: path.to_owned(), source })
    }

    /// What is asked of an image from a registry; all of it must hold.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Rejected`] and [`PolicyError::Unsupported`].
    pub(crate) fn of(&self, reference: &Reference) -> Result<Vec<Requirement>, PolicyError> {
        let docker = self.transports.get("docker");
        let scopes = scopes(reference);
        let own = docker.and_then(|known| scopes.iter().find_map(|scope| known.get(scope)));
        requirements(own.unwrap_or(&self.default), &reference.to_string())
    }

    /// What is asked of an image from an archive.
    ///
    /// # Errors
    ///
    /// Whenever it is anything: an archive has no signatures.
    pub(crate) fn of_archive(&self) -> Result<(), PolicyError> {
        let transports = ["oci-archive", "docker-archive"].into_iter();
        let mut own = transports.filter_map(|name| self.transports.get(name)?.get(""));
        let asked = requirements(own.next().unwrap_or(&self.default), "an archive")?;
        match asked.is_empty() {
            true => Ok(()),
            false => Err(PolicyError::Unsigned {
                name: "an archive".into(),
                why: "archives have no signatures",
            }),
        }
    }
}

/// From the most specific to all: `host/a/b:tag`, `host/a/b`, `host/a`, `host`, `*.of.host`, everything.
fn scopes(reference: &Reference) -> Vec<String> {
    let name = reference.name();
    let mut scopes = vec![match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{name}@{digest}"),
        (None, tag) => format!("{name}:{}", tag.unwrap_or("latest")),
    }];
    let mut rest = name.as_str();
    scopes.push(rest.to_owned());
    while let Some((above, _)) = rest.rsplit_once('/') {
        scopes.push(above.to_owned());
        rest = above;
    }
    while let Some((_, parent)) = rest.split_once('.') {
        scopes.push(format!("*.{parent}"));
        rest = parent;
    }
    scopes.push(String::new());
    scopes
}

fn requirements(all: &[Raw], name: &str) -> Result<Vec<Requirement>, PolicyError> {
    if all.is_empty() {
        return Err(PolicyError::Rejected(name.to_owned()));
    }
    let mut asked = Vec::new();
    for raw in all {
        match raw.kind.as_str() {
            "insecureAcceptAnything" => {}
            "reject" => return Err(PolicyError::Rejected(name.to_owned())),
            "sigstoreSigned" => asked.push(Requirement::Signed(raw.signed(name)?)),
            other => {
                let what = crate::document::excerpt(other);
                return Err(PolicyError::Unsupported { name: name.to_owned(), what });
            }
        }
    }
    Ok(asked)
}

impl Raw {
    fn signed(&self, name: &str) -> Result<Signed, PolicyError> {
        let unsupported =
            |what: &str| PolicyError::Unsupported { name: name.to_owned(), what: what.to_owned() };
        let has_rekor = self.rekor_public_key_path.is_some()
            || self.rekor_public_key_paths.is_some()
            || self.rekor_public_key_data.is_some()
            || self.rekor_public_key_datas.is_some();
        if self.fulcio.is_some() || self.pki.is_some() || has_rekor {
            return Err(unsupported("a certificate or an entry of a transparency log"));
        }
        if self.key_type.is_some() {
            return Err(unsupported("a key type"));
        }
        let mut keys = Vec::new();
        for path in self.key_path.iter().chain(self.key_paths.iter().flatten()) {
            keys.push(Key::read(path)?);
        }
        for data in self.key_data.iter().chain(self.key_datas.iter().flatten()) {
            keys.push(Key::from_base64(data)?);
        }
        if keys.is_empty() {
            return Err(unsupported("a signature without a key"));
        }
        Ok(Signed { keys, identity: self.signed_identity.clone().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(policy: &serde_json::Value, name: &str) -> String {
        let policy: Policy = serde_json::from_value(policy.clone()).unwrap();
        match policy.of(&name.parse().unwrap()) {
            Ok(asked) if asked.is_empty() => "accept".into(),
            Ok(_) => "signed".into(),
            Err(PolicyError::Rejected(_)) => "reject".into(),
            Err(PolicyError::Unsupported { .. }) => "unsupported".into(),
            Err(err) => err.to_string(),
        }
    }

    #[test]
    fn the_most_specific_scope_decides() {
        let (accept, reject) =
            (json!([{ "type": "insecureAcceptAnything" }]), json!([{ "type": "reject" }]));
        let policy = json!({
            "default": reject,
            "transports": { "docker": {
                "docker.io": accept,
                "docker.io/evil": reject,
                "docker.io/evil/good": accept,
                "docker.io/evil/good:bad": reject,
                "*.example.com": accept,
                "a.b.example.com": reject,
                "gpg.example.org": [{ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/x" }],
                "both.example.org": [{ "type": "insecureAcceptAnything" }, { "type": "reject" }],
            } },
        });
        let cases = [
            ("busybox", "accept"),
            ("evil/app", "reject"),
            ("evil/good", "accept"),
            ("evil/good:bad", "reject"),
            ("evil/goods", "reject"),
            ("reg.example.com/app", "accept"),
            ("b.example.com/app", "accept"),
            ("a.b.example.com/app", "reject"),
            ("example.com/app", "reject"),
            ("gpg.example.org/app", "unsupported"),
            ("both.example.org/app", "reject"),
            ("quay.io/app", "reject"),
        ];
        for (name, want) in cases {
            assert_eq!(verdict(&policy, name), want, "{name}");
        }
        let docker_default =
            json!({ "default": reject, "transports": { "docker": { "": accept } } });
        assert_eq!(verdict(&docker_default, "quay.io/app"), "accept");
    }

    #[test]
    fn a_policy_that_is_not_understood_lets_nothing_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        assert!(matches!(Policy::read(&path), Err(PolicyError::Read { .. })));
        for text in [
            "",
            "{}",
            r#"{"default":[{"type":"reject"}],"more":1}"#,
            r#"{"default":[],"default":[]}"#,
        ] {
            sys::durable::replace(&path, text.as_bytes(), 0o600).unwrap();
            assert!(matches!(Policy::read(&path), Err(PolicyError::Parse { .. })), "{text}");
        }
        assert_eq!(verdict(&json!({ "default": [] }), "app"), "reject", "nothing is no permission");
        let fulcio = json!({ "default": [{ "type": "sigstoreSigned", "fulcio": {} }] });
        assert_eq!(verdict(&fulcio, "app"), "unsupported");
    }
}
