use super::*;
use crate::archive::write::header;
use std::io::Write;

/// A file's name and content.
type Entry<'a> = (&'a str, &'a [u8]);

fn tar(files: &[Entry<'_>]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    for (name, content) in files {
        file.write_all(&header(name, content.len() as u64)).unwrap();
        file.write_all(content).unwrap();
        file.write_all(&write::padding(content.len() as u64)).unwrap();
    }
    file.write_all(&[0; 1024]).unwrap();
    file
}

fn open(files: &[Entry<'_>]) -> Result<Archive, ArchiveError> {
    let base = "example.com/base".parse().unwrap();
    Archive::open(tar(files), Some(&base), &Limits::default())
}

fn names(archive: &Archive) -> Vec<String> {
    archive.images().iter().flat_map(|image| &image.names).map(ToString::to_string).collect()
}

#[test]
fn an_oci_layout_gives_its_images_and_their_names() {
    let manifest = br#"{"schemaVersion":2}"#;
    let digest = Digest::of(manifest);
    let entry = |key: &str, name: &str| serde_json::json!({ "digest": digest, "size": manifest.len(), "annotations": { key: name } });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
        entry("io.containerd.image.name", "quay.io/a/b:1"),
        entry("org.opencontainers.image.ref.name", "2"),
    ]});
    let blob = format!("blobs/sha256/{}", digest.hex());
    let archive =
        open(&[("./index.json", index.to_string().as_bytes()), (&blob, manifest)]).unwrap();
    assert_eq!(names(&archive), ["quay.io/a/b:1", "example.com/base:2"]);
    assert_eq!(archive.images().len(), 1, "one image with two names");
    assert_eq!(archive.manifest(&digest, 100).unwrap().bytes, manifest);
    let other = Digest::of(b"other");
    assert!(matches!(archive.manifest(&other, 100), Err(ArchiveError::Missing(_))));
}

#[tokio::test]
async fn what_docker_saved_gets_a_manifest() {
    let (plain, packed) = (b"plain layer".as_slice(), [0x1f, 0x8b, 8, 0, 1].as_slice());
    let diff_ids = [Digest::of(plain), Digest::of(b"unpacked")];
    let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = config.to_string();
    let listed = serde_json::json!([{
        "Config": "config.json", "RepoTags": ["app:1"], "Layers": ["a/layer.tar", "b/layer.tar"],
    }]);
    let archive = open(&[
        ("config.json", config.as_bytes()),
        ("a/layer.tar", plain),
        ("b/layer.tar", packed),
        ("manifest.json", listed.to_string().as_bytes()),
    ])
    .unwrap();
    assert_eq!(names(&archive), ["docker.io/library/app:1"]);
    let manifest = archive.manifest(&archive.images()[0].top, 10_000).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
    assert_eq!(manifest["layers"][0]["digest"], Digest::of(plain).as_str());
    assert_eq!(manifest["layers"][1]["digest"], Digest::of(packed).as_str());
    let media_type = manifest["layers"][1]["mediaType"].as_str().unwrap();
    assert!(media_type.ends_with("tar+gzip"), "{media_type}");
    let mut part = archive.blob(&Digest::of(plain), plain.len() as u64, 6).unwrap();
    assert_eq!(part.chunk().await.unwrap().unwrap(), &b"layer"[..]);
    assert!(part.chunk().await.unwrap().is_none());
}

#[test]
fn what_is_no_archive_of_images_is_refused() {
    let missing = serde_json::json!([{ "Config": "none", "Layers": [] }]).to_string();
    let cases: [(&str, &[Entry<'_>]); 4] = [
        ("no image", &[("readme", b"hello")]),
        ("no JSON", &[("index.json", b"{")]),
        ("a file that is missing", &[("manifest.json", missing.as_bytes())]),
        ("a digest that is none", &[("index.json", br#"{"manifests":[{"digest":"../../x"}]}"#)]),
    ];
    for (name, files) in cases {
        assert!(open(files).is_err(), "{name}");
    }
    let mut garbage = tempfile::tempfile().unwrap();
    garbage.write_all(&[7; 2048]).unwrap();
    let refused = Archive::open(garbage, None, &Limits::default());
    assert!(matches!(refused, Err(ArchiveError::NotTar(0))));
    let mut short = tempfile::tempfile().unwrap();
    short.write_all(&header("index.json", 1 << 40)).unwrap();
    let refused = Archive::open(short, None, &Limits::default());
    assert!(matches!(refused, Err(ArchiveError::NotTar(_))), "a file beyond the archive");
}
