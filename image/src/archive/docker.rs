//! What `docker save` wrote before it wrote OCI layouts, and others still do: `manifest.json` names configurations and
//! layers by file. There is no manifest of the kind registries have, so one is made up.

use super::{Archive, ArchiveError, Listed, check, digest_of, read as read_part};
use crate::archive::index::Index;
use crate::digest::Digest;
use crate::document::{json, media};
use crate::layer::Compression;
use crate::limits::Limits;
use serde::Deserialize;
use serde_json::json;
use std::os::unix::fs::FileExt;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

pub(super) fn read(
    archive: &mut Archive,
    index: &Index,
    limits: &Limits,
) -> Result<(), ArchiveError> {
    let span = index.find("manifest.json")?;
    let bytes = read_part(&archive.file, span, limits.document_bytes, "manifest.json")?;
    let bad = |source| ArchiveError::Json { what: "manifest.json".into(), source };
    let all: Vec<Saved> = json::parse(&bytes).map_err(bad)?;
    for saved in all {
        let top = make_up(archive, index, &saved, limits)?;
        let names = saved.repo_tags.unwrap_or_default();
        let names = names.iter().filter_map(|name| name.parse().ok()).collect();
        archive.images.push(Listed { top, names });
    }
    Ok(())
}

/// Adds a manifest for one image to the archive's documents, and gives its digest.
fn make_up(
    archive: &mut Archive,
    index: &Index,
    saved: &Saved,
    limits: &Limits,
) -> Result<Digest, ArchiveError> {
    let span = index.find(&saved.config)?;
    let bytes = read_part(&archive.file, span, limits.document_bytes, &saved.config)?;
    let bad = |source| ArchiveError::Json { what: "an image configuration".into(), source };
    let config: Config = json::parse(&bytes).map_err(bad)?;
    let config_digest = Digest::of(&bytes);
    archive.blobs.insert(config_digest.clone(), span);
    if saved.layers.len() > limits.layers {
        return Err(ArchiveError::TooMany { what: "layers", limit: limits.layers as u64 });
    }
    let mut layers = Vec::new();
    for (index_of_layer, name) in saved.layers.iter().enumerate() {
        let span = index.find(name)?;
        let mut start = [0; media::MAGIC_BYTES];
        let many = usize::try_from(span.size).unwrap_or(usize::MAX).min(start.len());
        archive.file.read_exact_at(&mut start[..many], span.offset).map_err(ArchiveError::Read)?;
        let compression = media::sniff(&start[..many]);
        let digest = match (compression, config.rootfs.diff_ids.get(index_of_layer)) {
            // Plain bytes are what the diff id names; whether they are is checked when they are unpacked.
            (Compression::Plain, Some(diff_id)) => diff_id.clone(),
            (Compression::Plain | Compression::Gzip | Compression::Zstd, _) => {
                digest_of(&archive.file, span)?
            }
        };
        layers.push(json!({
            "mediaType": media::oci_layer(compression),
            "digest": digest,
            "size": span.size,
        }));
        archive.blobs.insert(digest, span);
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": { "mediaType": media::OCI_CONFIG, "digest": config_digest, "size": span.size },
        "layers": layers,
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::of(&manifest);
    check(&digest, &manifest)?;
    archive.documents.insert(digest.clone(), (manifest, media::OCI_MANIFEST.to_owned()));
    Ok(digest)
}
