//! Manifests and indexes.

use super::media::{self, Kind, LayerMedia};
use super::{DocumentError, excerpt, json};
use crate::archive::write;
use crate::digest::Digest;
use crate::layer::Compression;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// Entries of an index, over all its levels.
pub(crate) const MAX_INDEX_ENTRIES: usize = 1024;

/// Levels of indexes above a manifest.
pub(crate) const MAX_INDEX_DEPTH: usize = 2;

/// What a name or a descriptor may lead to.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Box<Manifest>),
    Index(Index),
}

/// One image for one platform.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Lowest first.
    pub(crate) layers: Vec<LayerDescriptor>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// What it is, where it is no container image: then each layer is one file.
    pub(crate) artifact: Option<String>,
}

/// One image for several platforms.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) entries: Vec<Descriptor>,
}

/// Names a blob or a document.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(rename = "mediaType")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// In bytes; negative ones do not parse.
    pub(crate) size: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) urls: Vec<String>,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A layer that this node can unpack.
#[derive(Clone, Debug)]
pub(crate) struct LayerDescriptor {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) compression: Compression,
    /// What makes a layer of a blob that is none.
    pub(crate) frame: Option<Frame>,
}

/// The bytes around a file's content that make it an archive of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) head: Vec<u8>,
    pub(crate) tail: Vec<u8>,
}

/// For which machine an entry of an index is.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

/// Every key that decides what a document is; values only where they are needed.
#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "schemaVersion")]
    schema_version: i64,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
}

/// Go writes `null` for an empty list or map.
pub(super) fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Document {
    /// Reads a document that was announced, by the registry or a descriptor, as `announced`.
    ///
    /// # Errors
    ///
    /// See [`DocumentError`].
    pub(crate) fn parse(
        bytes: &[u8],
        announced: &str,
        max_layers: usize,
    ) -> Result<Self, DocumentError> {
        if media::is_schema_one(announced) {
            return Err(DocumentError::SchemaOne);
        }
        let kind = media::kind(announced)
            .ok_or_else(|| DocumentError::UnknownMediaType(excerpt(announced)))?;
        let what = match kind {
            Kind::Manifest => "manifest",
            Kind::Index => "index",
        };
        let raw: Raw = json::parse(bytes).map_err(|source| DocumentError::Json { what, source })?;
        if let Some(own) = raw.media_type.as_deref().filter(|own| *own != announced) {
            let (announced, own) = (announced.to_owned(), excerpt(own));
            return Err(DocumentError::MediaTypeMismatch { announced, own });
        }
        raw.check_kind(kind, what)?;
        match kind {
            Kind::Manifest => raw.manifest(max_layers).map(Box::new).map(Self::Manifest),
            Kind::Index => raw.index().map(Self::Index),
        }
    }
}

impl Raw {
    fn check_kind(&self, kind: Kind, what: &'static str) -> Result<(), DocumentError> {
        let stray = match kind {
            Kind::Manifest => {
                [("manifests", self.manifests.is_some()), ("fsLayers", self.fs_layers.is_some())]
            }
            Kind::Index => [("layers", self.layers.is_some()), ("config", self.config.is_some())],
        };
        if let Some((key, _)) = stray.into_iter().find(|(_, there)| *there) {
            return Err(DocumentError::Confused { what, key });
        }
        if self.schema_version != 2 {
            return Err(DocumentError::SchemaVersion { what, version: self.schema_version });
        }
        Ok(())
    }

    fn manifest(self, max_layers: usize) -> Result<Manifest, DocumentError> {
        let missing = |key| DocumentError::Json { what: "manifest", source: missing_key(key) };
        let config = self.config.ok_or_else(|| missing("config"))?;
        let is_image = media::is_config(&config.media_type);
        if !media::is_media_type(&config.media_type) {
            return Err(DocumentError::UnknownMediaType(excerpt(&config.media_type)));
        }
        let kind = self.artifact_type.unwrap_or_else(|| config.media_type.clone());
        let artifact = (!is_image).then(|| excerpt(&kind));
        let layers = self.layers.ok_or_else(|| missing("layers"))?;
        if layers.len() > max_layers {
            let (count, limit) = (layers.len(), max_layers);
            return Err(DocumentError::TooMany { what: "layers", count, limit });
        }
        let read = if is_image { Descriptor::into_layer } else { Descriptor::into_file };
        let layers = layers.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Manifest { config, layers, annotations: self.annotations, artifact })
    }

    fn index(self) -> Result<Index, DocumentError> {
        let entries = self.manifests.ok_or_else(|| DocumentError::Json {
            what: "index",
            source: missing_key("manifests"),
        })?;
        if entries.len() > MAX_INDEX_ENTRIES {
            let (count, limit) = (entries.len(), MAX_INDEX_ENTRIES);
            return Err(DocumentError::TooMany { what: "index entries", count, limit });
        }
        Ok(Index { entries })
    }
}

fn missing_key(key: &'static str) -> json::BadJson {
    <serde_json::Error as serde::de::Error>::missing_field(key).into()
}

impl Descriptor {
    fn into_layer(self) -> Result<LayerDescriptor, DocumentError> {
        match media::layer(&self.media_type) {
            // `urls` are never followed, whatever the type says.
            Some(LayerMedia::Foreign) => Err(DocumentError::ForeignLayer(self.digest)),
            Some(LayerMedia::Tar(_)) if !self.urls.is_empty() => {
                Err(DocumentError::ForeignLayer(self.digest))
            }
            Some(LayerMedia::Tar(compression)) => {
                let (digest, size) = (self.digest, self.size);
                Ok(LayerDescriptor { digest, size, compression, frame: None })
            }
            None => {
                let media_type = excerpt(&self.media_type);
                Err(DocumentError::UnknownLayer { digest: self.digest, media_type })
            }
        }
    }

    /// A blob of an artifact: a file that has the name its author gave it, or else its digest.
    fn into_file(self) -> Result<LayerDescriptor, DocumentError> {
        const TITLE: &str = "org.opencontainers.image.title";
        if !self.urls.is_empty() {
            return Err(DocumentError::ForeignLayer(self.digest));
        }
        let is_plain = |name: &&String| {
            let is_part =
                |part: &str| !matches!(part, "" | "." | "..") && !part.starts_with(".wh.");
            name.len() <= 100 && name.split('/').all(is_part) && !name.contains('\0')
        };
        let title = self.annotations.get(TITLE).filter(is_plain);
        let name = title.map_or_else(|| self.digest.hex().to_owned(), Clone::clone);
        let head = write::header(&name, self.size);
        let tail = [write::padding(self.size), vec![0; 1024]].concat();
        Ok(LayerDescriptor {
            digest: self.digest,
            size: self.size,
            compression: Compression::Plain,
            frame: Some(Frame { head, tail }),
        })
    }

    /// `os/architecture[/variant]`, for an error message.
    pub(crate) fn platform_name(&self) -> Option<String> {
        let platform = self.platform.as_ref()?;
        let mut name = format!("{}/{}", platform.os, platform.architecture);
        if let Some(variant) = &platform.variant {
            name.push('/');
            name.push_str(variant);
        }
        Some(excerpt(&name))
    }
}

#[cfg(test)]
mod tests;
