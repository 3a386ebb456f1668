//! How much a remote party may make this node do.

use serde::Deserialize;

/// Bounds on image content, per image or per layer; everything comes from a registry, so everything has one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Size of a manifest, an index or a configuration, in bytes.
    pub document_bytes: u64,
    /// Layers of one image.
    pub layers: usize,
    /// Compressed size of one layer, in bytes, as its descriptor declares it.
    pub compressed_layer_bytes: u64,
    /// Compressed size of all layers of one image, in bytes.
    pub compressed_image_bytes: u64,
    /// Unpacked size of one layer, in bytes: the sum of its files.
    pub layer_bytes: u64,
    /// Entries of one layer: files, directories, links, devices.
    pub layer_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document_bytes: 4 << 20,
            layers: 256,
            compressed_layer_bytes: 64 << 30,
            compressed_image_bytes: 256 << 30,
            layer_bytes: 64 << 30,
            layer_entries: 4_000_000,
        }
    }
}
