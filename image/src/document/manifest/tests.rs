use super::*;
use media::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use serde_json::{Value, json};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(media_type.as_bytes()), "size": 7 })
}

fn manifest() -> Value {
    json!({ "schemaVersion": 2, "config": descriptor(CONFIG), "layers": [descriptor(LAYER)] })
}

fn index() -> Value {
    json!({ "schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST)] })
}

/// `value` with `change` made to it.
fn with(mut value: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut value);
    value
}

fn parse(value: &Value, announced: &str) -> Result<Document, DocumentError> {
    Document::parse(value.to_string().as_bytes(), announced, 256)
}

#[test]
fn both_families_of_documents_are_read() {
    for media_type in [OCI_MANIFEST, DOCKER_MANIFEST] {
        for own in [None, Some(media_type)] {
            let value = with(manifest(), |m| {
                if let Some(own) = own {
                    m["mediaType"] = json!(own);
                }
            });
            let Document::Manifest(manifest) = parse(&value, media_type).unwrap() else {
                panic!("an index")
            };
            assert_eq!(manifest.layers[0].compression, Compression::Gzip);
            assert_eq!(manifest.config.size, 7);
        }
    }
    for media_type in [OCI_INDEX, DOCKER_LIST] {
        let Document::Index(index) = parse(&index(), media_type).unwrap() else {
            panic!("a manifest")
        };
        assert_eq!(index.entries.len(), 1);
    }
    let no_layers = with(manifest(), |m| m["layers"] = json!([]));
    assert!(parse(&no_layers, OCI_MANIFEST).is_ok(), "an image may be empty");
    let twice = with(manifest(), |m| m["layers"] = json!([descriptor(LAYER), descriptor(LAYER)]));
    assert!(parse(&twice, OCI_MANIFEST).is_ok(), "a layer may be there twice");
}

#[test]
fn documents_with_two_meanings_are_refused() {
    let cases = [
        (
            "a manifest that is an index too",
            with(manifest(), |m| m["manifests"] = json!([])),
            OCI_MANIFEST,
        ),
        ("an index that is a manifest too", with(index(), |i| i["layers"] = json!([])), OCI_INDEX),
        (
            "an index with a configuration",
            with(index(), |i| i["config"] = descriptor(CONFIG)),
            OCI_INDEX,
        ),
        ("schema 1 inside schema 2", with(manifest(), |m| m["fsLayers"] = json!([])), OCI_MANIFEST),
        ("a manifest announced as an index", manifest(), OCI_INDEX),
        ("an index announced as a manifest", index(), OCI_MANIFEST),
        (
            "another own type",
            with(manifest(), |m| m["mediaType"] = json!(DOCKER_MANIFEST)),
            OCI_MANIFEST,
        ),
        ("no known type", manifest(), "text/html"),
        ("no type", manifest(), ""),
        ("schema version 1", with(manifest(), |m| m["schemaVersion"] = json!(1)), OCI_MANIFEST),
        ("no schema version", with(manifest(), |m| m["schemaVersion"] = Value::Null), OCI_MANIFEST),
        ("schema 1", manifest(), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ];
    for (name, value, announced) in cases {
        assert!(parse(&value, announced).is_err(), "{name}");
    }
    let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
    assert!(Document::parse(twice, OCI_INDEX, 256).is_err(), "a key twice");
}

/// SECURITY: every field of a descriptor with everything that is no value for it (CVE-2026-95839).
#[test]
fn bad_descriptors_are_errors_and_never_panics() {
    let long = "a".repeat(1 << 20);
    let values = [
        json!(""),
        json!("sha256:"),
        json!("sha256:zz"),
        json!(":"),
        json!("../../etc/passwd"),
        json!(long),
        json!(7.5),
        json!(-1),
        json!(null),
        json!([[]]),
        json!({ "a": {} }),
        json!("9223372036854775808"),
    ];
    for field in ["mediaType", "digest", "size"] {
        for value in &values {
            for (base, list, announced) in
                [(manifest(), "layers", OCI_MANIFEST), (index(), "manifests", OCI_INDEX)]
            {
                let broken = with(base, |b| b[list][0][field] = value.clone());
                let opaque_type = list == "manifests" && field == "mediaType" && value.is_string();
                assert_eq!(
                    parse(&broken, announced).is_ok(),
                    opaque_type,
                    "{list} {field} {value:.50}"
                );
            }
            let broken = with(manifest(), |m| m["config"][field] = value.clone());
            assert!(parse(&broken, OCI_MANIFEST).is_err(), "config {field} {value:.50}");
        }
    }
}

#[test]
fn what_this_node_does_not_take_is_said_clearly() {
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let urls = with(manifest(), |m| m["layers"][0]["urls"] = json!(["http://evil.example/"]));
    let many = with(manifest(), |m| m["layers"] = json!(vec![descriptor(LAYER); 257]));
    let cases = [
        ("foreign", with(manifest(), |m| m["layers"][0] = descriptor(foreign)), "foreign layer"),
        ("urls", urls, "foreign layer"),
        (
            "encrypted",
            with(manifest(), |m| m["layers"][0] = descriptor("x+encrypted")),
            "unknown media type",
        ),
        ("257 layers", many, "257 layers, at most 256"),
    ];
    for (name, value, want) in cases {
        let text = parse(&value, OCI_MANIFEST).unwrap_err().to_string();
        assert!(text.contains(want), "{name}: {text}");
    }
    let wide = with(index(), |i| i["manifests"] = json!(vec![descriptor(OCI_MANIFEST); 1025]));
    assert!(parse(&wide, OCI_INDEX).unwrap_err().is_limit());
}

#[test]
fn each_blob_of_an_artifact_is_a_file_with_its_title_or_digest() {
    let titled = |title: &str| {
        let mut entry = descriptor("application/vnd.example.model");
        entry["annotations"] = json!({ "org.opencontainers.image.title": title });
        entry
    };
    let titles = ["model/weights.bin", "../escape", "/etc/passwd", "a/.wh.b", ""];
    let value = with(manifest(), |m| {
        m["config"] = descriptor("application/vnd.oci.empty.v1+json");
        m["artifactType"] = json!("application/vnd.example.chart");
        m["layers"] = titles.map(titled).into();
    });
    let Document::Manifest(manifest) = parse(&value, OCI_MANIFEST).unwrap() else {
        panic!("it is a manifest")
    };
    assert_eq!(manifest.artifact.as_deref(), Some("application/vnd.example.chart"));
    for (title, layer) in titles.iter().zip(&manifest.layers) {
        let frame = layer.frame.as_ref().unwrap();
        let end = frame.head.iter().position(|byte| *byte == 0).unwrap();
        let name = String::from_utf8_lossy(&frame.head[..end]);
        let want = if *title == titles[0] { title } else { layer.digest.hex() };
        assert_eq!(name, want, "{title}");
        let size = usize::try_from(layer.size).unwrap();
        assert_eq!((frame.head.len() + size + frame.tail.len()) % 512, 0);
    }
}
