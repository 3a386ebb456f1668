//! An OCI image layout: `index.json` names the images, `blobs/` has everything under its digest.

use super::{Archive, ArchiveError, Listed, annotations, read as read_part};
use crate::archive::index::Index;
use crate::digest::Digest;
use crate::document::json;
use crate::limits::Limits;
use crate::reference::Reference;
use serde_json::Value;

/// Where an image's name is: containerd writes it whole, others write a name or only a tag.
const WHOLE_NAME: &str = "io.containerd.image.name";
const NAME_OR_TAG: &str = "org.opencontainers.image.ref.name";

pub(super) fn read(
    archive: &mut Archive,
    index: &Index,
    base: Option<&Reference>,
    limits: &Limits,
) -> Result<(), ArchiveError> {
    for algorithm in ["sha256", "sha512"] {
        let start = format!("blobs/{algorithm}/");
        for (hex, span) in index.below(&start) {
            if let Ok(digest) = format!("{algorithm}:{hex}").parse() {
                archive.blobs.insert(digest, span);
            }
        }
    }
    let bytes =
        read_part(&archive.file, index.find("index.json")?, limits.document_bytes, "index.json")?;
    let bad = |source| ArchiveError::Json { what: "index.json".into(), source };
    let top: Value = json::parse(&bytes).map_err(bad)?;
    let entries = top.get("manifests").and_then(Value::as_array).cloned().unwrap_or_default();
    for entry in entries {
        let digest = entry.get("digest").and_then(Value::as_str).unwrap_or_default();
        let digest: Digest =
            digest.parse().map_err(|_| ArchiveError::Missing(crate::document::excerpt(digest)))?;
        let names = name(&entry, base).into_iter().collect::<Vec<_>>();
        // One entry for each name is how an image with several is written.
        match archive.images.iter_mut().find(|image| image.top == digest) {
            Some(known) => known.names.extend(names),
            None => archive.images.push(Listed { top: digest, names }),
        }
    }
    Ok(())
}

/// The name an entry of the index has, if it is one.
fn name(entry: &Value, base: Option<&Reference>) -> Option<Reference> {
    let annotations = annotations(entry);
    if let Some(whole) = annotations.get(WHOLE_NAME) {
        return whole.parse().ok();
    }
    let text = annotations.get(NAME_OR_TAG);
    match (text, base) {
        (Some(text), _) if text.contains('/') || text.contains(':') => text.parse().ok(),
        (Some(tag), Some(base)) => format!("{}:{tag}", base.name()).parse().ok(),
        (None, Some(base)) => Some(base.clone()),
        (Some(_), None) | (None, None) => None,
    }
}
