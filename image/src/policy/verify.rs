//! Cosign's signatures: an image beside the image, at the tag that its digest makes. Each layer of it is a small document
//! that names a digest, and an annotation has the signature over that document.

use super::{PolicyError, Requirement, Signed};
use crate::digest::Digest;
use crate::document::json;
use crate::pull::PullCause;
use crate::reference::Reference;
use crate::registry::{BlobStream, RegistryError, Repository};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const KIND: &str = "cosign container image signature";

/// Bytes of the list of signatures, and of one signed document.
const MAX_MANIFEST: u64 = 1 << 20;
const MAX_PAYLOAD: u64 = 64 << 10;

/// Signatures of one image that are looked at.
const MAX_SIGNATURES: usize = 64;

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: SignedImage,
    identity: SignedName,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

#[derive(Deserialize)]
struct SignedName {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// A signed document, with what is said to be its signature.
struct Candidate {
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Checks that an image has the signatures that are asked for. `digests`: of what its name led to, the index and the
/// manifest chosen from it; a signature of either is one of the image.
///
/// # Errors
///
/// [`PullCause::Policy`] when it has not, and what the registry says otherwise.
pub(crate) async fn signatures(
    repository: &Repository,
    reference: &Reference,
    asked: &[Requirement],
    digests: &[&Digest],
) -> Result<(), PullCause> {
    if asked.is_empty() {
        return Ok(());
    }
    let mut found = Vec::new();
    for digest in digests {
        for candidate in candidates(repository, reference, digest).await? {
            found.push((*digest, candidate));
        }
    }
    for Requirement::Signed(signed) in asked {
        let mut why = "there is no signature";
        let is_good = found.iter().any(|(digest, candidate)| {
            match signed.judge(reference, digest, candidate) {
                Ok(()) => true,
                Err(fault) => {
                    why = fault;
                    false
                }
            }
        });
        if !is_good {
            return Err(PolicyError::Unsigned { name: reference.to_string(), why }.into());
        }
    }
    Ok(())
}

impl Signed {
    fn judge(
        &self,
        reference: &Reference,
        digest: &Digest,
        candidate: &Candidate,
    ) -> Result<(), &'static str> {
        let Candidate { payload, signature } = candidate;
        if !self.keys.iter().any(|key| key.verifies(payload, signature)) {
            return Err("none is of a key that the policy names");
        }
        // Only now: what nobody vouches for is not even read.
        let payload: Payload =
            json::parse(payload).map_err(|_| "what is signed is no statement about an image")?;
        let Critical { kind, image, identity } = payload.critical;
        if kind != KIND {
            return Err("what is signed is a statement of another kind");
        }
        if image.digest != *digest {
            return Err("what is signed is another image");
        }
        match self.identity.accepts(reference, &identity.reference) {
            true => Ok(()),
            false => Err("what is signed is an image of another name"),
        }
    }
}

/// The signatures at the tag that `digest` makes; none where there is no such tag.
async fn candidates(
    repository: &Repository,
    reference: &Reference,
    digest: &Digest,
) -> Result<Vec<Candidate>, PullCause> {
    let tag = format!("{}-{}.sig", digest.algorithm().as_str(), digest.hex());
    let Ok(at) = format!("{}:{tag}", reference.name()).parse::<Reference>() else {
        return Ok(Vec::new());
    };
    let fetched = match repository.resolve(&at, MAX_MANIFEST).await {
        Ok(fetched) => fetched,
        Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
        Err(err) => return Err(err.into()),
    };
    let Ok(manifest) = json::parse::<Manifest>(&fetched.bytes) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for layer in manifest.layers.into_iter().take(MAX_SIGNATURES) {
        let signature = layer.annotations.get(SIGNATURE);
        let signature = signature.and_then(|text| STANDARD.decode(text).ok());
        let (Some(signature), true) =
            (signature, layer.media_type == PAYLOAD && layer.size <= MAX_PAYLOAD)
        else {
            continue;
        };
        let stream = BlobStream::new(repository.clone(), layer.digest, layer.size);
        found.push(Candidate { payload: stream.read_all().await?, signature });
    }
    Ok(found)
}
