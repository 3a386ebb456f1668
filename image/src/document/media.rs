//! Media types: OCI image specification 1.1 and Docker image manifest version 2, schema 2.

use crate::layer::Compression;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a manifest request says it can read.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The two kinds of document a name may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest,
    Index,
}

/// What a layer descriptor's media type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerMedia {
    Tar(Compression),
    /// Not for distribution: the bytes are elsewhere.
    Foreign,
}

/// The kind a media type names.
pub(crate) fn kind(media_type: &str) -> Option<Kind> {
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => Some(Kind::Manifest),
        OCI_INDEX | DOCKER_LIST => Some(Kind::Index),
        _ => None,
    }
}

/// Docker's first manifest format, plain and signed.
pub(crate) fn is_schema_one(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Whether the blob of this type configures a container image.
pub(crate) fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Whether the text is a media type at all: RFC 6838 section 4.2.
pub(crate) fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() <= 127
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
}

/// How a layer of this type is packed; nothing for a type that is no layer known here.
pub(crate) fn layer(media_type: &str) -> Option<LayerMedia> {
    let tar = LayerMedia::Tar;
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Some(tar(Compression::Plain)),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(tar(Compression::Gzip)),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(tar(Compression::Zstd)),
        _ if media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
            || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar") =>
        {
            Some(LayerMedia::Foreign)
        }
        _ => None,
    }
}

/// The media type of a layer that is packed like this.
pub(crate) fn oci_layer(compression: Compression) -> &'static str {
    match compression {
        Compression::Plain => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// Bytes that are enough for [`sniff`].
pub(crate) const MAGIC_BYTES: usize = 4;

/// What the first bytes of a layer say about its packing: RFC 1952 section 2.3.1, RFC 8878 sections 3.1.1 and 3.1.2.
pub(crate) fn sniff(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or a skippable frame before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_known_by_type_and_by_magic() {
        let cases = [
            ("application/vnd.oci.image.layer.v1.tar", Some(LayerMedia::Tar(Compression::Plain))),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Some(LayerMedia::Tar(Compression::Gzip)),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Some(LayerMedia::Tar(Compression::Zstd)),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Some(LayerMedia::Tar(Compression::Gzip)),
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                Some(LayerMedia::Foreign),
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                Some(LayerMedia::Foreign),
            ),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            ("application/vnd.erofs.layer.v1", None),
            ("", None),
        ];
        for (media_type, want) in cases {
            assert_eq!(layer(media_type), want, "{media_type:?}");
        }
        assert_eq!(sniff(&[0x1f, 0x8b, 8, 0]), Compression::Gzip);
        assert_eq!(sniff(&[0x28, 0xb5, 0x2f, 0xfd]), Compression::Zstd);
        assert_eq!(sniff(&[0x5e, 0x2a, 0x4d, 0x18]), Compression::Zstd);
        assert_eq!(sniff(b"etc/"), Compression::Plain);
        assert_eq!(sniff(b""), Compression::Plain);
    }
}
