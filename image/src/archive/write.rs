//! An archive of images, made while it is sent: an OCI layout, with Docker's `manifest.json` where that is wanted.

use crate::digest::Digest;
use crate::document::media;
use crate::record::Image;
use serde_json::json;
use std::collections::HashSet;

/// What an archive is to be readable as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout in a tar archive.
    Oci,
    /// The same, and what `docker load` of any version reads.
    Docker,
}

/// An image and the names it is to have in the archive.
#[derive(Clone, Debug)]
pub struct Export {
    /// Which.
    pub image: std::sync::Arc<Image>,
    /// Canonical names with a tag; may be none.
    pub names: Vec<String>,
}

/// One piece of an archive, in order.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// The content of a document or configuration.
    Document(Digest),
    /// The content of an image's layer.
    Layer { image: usize, layer: usize },
}

/// All of an archive but for the content itself. `sizes` gives the size of a manifest or configuration.
pub(crate) fn plan(
    exports: &[Export],
    format: ArchiveFormat,
    sizes: impl Fn(&Digest) -> u64,
    manifest_type: impl Fn(&Image) -> String,
) -> Vec<Piece> {
    let mut pieces = vec![];
    let file = |name: &str, content: &[u8]| {
        let mut bytes = header(name, content.len() as u64);
        bytes.extend_from_slice(content);
        bytes.extend(padding(content.len() as u64));
        Piece::Bytes(bytes)
    };
    pieces.push(file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#));
    let index = index(exports, &sizes, &manifest_type).to_string();
    pieces.push(file("index.json", index.as_bytes()));
    if format == ArchiveFormat::Docker {
        let manifest = docker_manifest(exports).to_string();
        pieces.push(file("manifest.json", manifest.as_bytes()));
    }
    let mut written = HashSet::new();
    for (number, export) in exports.iter().enumerate() {
        let mut blob = |digest: &Digest, size: u64, content: Piece| {
            if written.insert(digest.clone()) {
                pieces.push(Piece::Bytes(header(&path(digest), size)));
                pieces.push(content);
                pieces.push(Piece::Bytes(padding(size)));
            }
        };
        let image = &export.image;
        for (index, layer) in image.layers.iter().enumerate() {
            let content = Piece::Layer { image: number, layer: index };
            blob(&layer.digest, layer.bytes, content);
        }
        for digest in [image.config_digest(), &image.manifest] {
            blob(digest, sizes(digest), Piece::Document(digest.clone()));
        }
    }
    pieces.push(Piece::Bytes(vec![0; 1024]));
    pieces
}

fn index(
    exports: &[Export],
    sizes: &impl Fn(&Digest) -> u64,
    manifest_type: &impl Fn(&Image) -> String,
) -> serde_json::Value {
    let entry = |image: &Image, name: Option<&str>| {
        let mut entry = json!({
            "mediaType": manifest_type(image),
            "digest": image.manifest,
            "size": sizes(&image.manifest),
        });
        if let Some(name) = name {
            let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
            entry["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
            });
        }
        entry
    };
    let entries = exports.iter().flat_map(|Export { image, names }| {
        let named = names.iter().map(|name| entry(image, Some(name)));
        let nameless = names.is_empty().then(|| entry(image, None));
        named.chain(nameless).collect::<Vec<_>>()
    });
    json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_INDEX,
        "manifests": entries.collect::<Vec<_>>(),
    })
}

fn docker_manifest(exports: &[Export]) -> serde_json::Value {
    let entry = |Export { image, names }: &Export| {
        let short = |name: &String| {
            let name = name.strip_prefix("docker.io/").unwrap_or(name);
            name.strip_prefix("library/").unwrap_or(name).to_owned()
        };
        json!({
            "Config": path(image.config_digest()),
            "RepoTags": names.iter().map(short).collect::<Vec<_>>(),
            "Layers": image.layers.iter().map(|layer| path(&layer.digest)).collect::<Vec<_>>(),
        })
    };
    exports.iter().map(entry).collect::<Vec<_>>().into()
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// The header of a file. Names here are short.
pub(crate) fn header(name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    // A name that does not fit stays empty, and every name here is one of ours.
    header.set_path(name).ok();
    header.set_size(size);
    header.set_mode(0o444);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// What fills the last block of a file.
pub(crate) fn padding(size: u64) -> Vec<u8> {
    let rest = usize::try_from(size % 512).unwrap_or(0);
    vec![0; (512 - rest) % 512]
}
