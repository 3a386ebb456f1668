//! The configuration of an image.

use super::manifest::or_default;
use super::{DocumentError, json};
use crate::digest::Digest;
use crate::record::Config;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// Steps of a history; Docker's builder writes one for each line.
const MAX_HISTORY: usize = 4096;

/// A configuration, parsed.
#[derive(Clone, Debug)]
pub(crate) struct ConfigDocument {
    pub(crate) config: Config,
    /// Lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    created: Option<String>,
    config: Option<RawConfig>,
    rootfs: Option<RootFs>,
    #[serde(default, deserialize_with = "or_default")]
    history: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

/// Go's encoder writes `null` for what is not set, so everything may be.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
}

impl ConfigDocument {
    /// Reads the configuration of an image with `layers` layers.
    ///
    /// # Errors
    ///
    /// See [`DocumentError`].
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, DocumentError> {
        let raw: Raw = json::parse(bytes)
            .map_err(|source| DocumentError::Json { what: "image configuration", source })?;
        let Some(rootfs) = raw.rootfs.filter(|rootfs| rootfs.kind == "layers") else {
            return Err(DocumentError::Artifact("configuration without layers".into()));
        };
        if raw.history.len() > MAX_HISTORY {
            let (count, limit) = (raw.history.len(), MAX_HISTORY);
            return Err(DocumentError::TooMany { what: "history entries", count, limit });
        }
        let diff_ids = rootfs.diff_ids;
        if diff_ids.len() != layers {
            return Err(DocumentError::LayerCount { layers, diff_ids: diff_ids.len() });
        }
        let config = raw.config.unwrap_or_default();
        let config = Config {
            user: config.user.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            labels: config.labels.unwrap_or_default(),
            stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
            exposed_ports: config.exposed_ports.unwrap_or_default().into_keys().collect(),
            architecture: raw.architecture,
            os: raw.os,
            created: raw.created,
        };
        Ok(Self { config, diff_ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_configuration_keeps_every_byte_of_its_author() {
        let json = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"yesterday","history":[{{}}],
            "rootfs":{{"type":"layers","diff_ids":["sha256:{HEX}"]}},
            "config":{{"User":"1000:x","Env":["A=1","PATH","=","é\u0001"],"Entrypoint":["/a"],"Cmd":null,
            "WorkingDir":"../x","Labels":{{"io.internal":"yes"}},"StopSignal":"SIGQUIT","Volumes":{{"/v":{{}}}},
            "ExposedPorts":{{"80/tcp":{{}}}},"Healthcheck":{{"Test":["x"]}},"OnBuild":null}}}}"#
        );
        let ConfigDocument { config, diff_ids } =
            ConfigDocument::parse(json.as_bytes(), 1).unwrap();
        assert_eq!(diff_ids[0].hex(), HEX);
        assert_eq!(config.user, "1000:x");
        assert_eq!(config.env, ["A=1", "PATH", "=", "é\u{1}"]);
        assert_eq!((config.entrypoint.len(), config.cmd.len()), (1, 0));
        assert_eq!(config.working_dir, "../x");
        assert_eq!(config.labels["io.internal"], "yes");
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(
            (config.volumes[0].as_str(), config.exposed_ports[0].as_str()),
            ("/v", "80/tcp")
        );
        assert_eq!(config.created.as_deref(), Some("yesterday"));
    }

    #[test]
    fn what_go_leaves_out_or_writes_as_null_is_empty() {
        for config in
            ["", r#""config":null,"#, r#""config":{"Env":null,"Labels":null,"StopSignal":""},"#]
        {
            let json = format!(r#"{{{config}"rootfs":{{"type":"layers","diff_ids":null}}}}"#);
            let parsed = ConfigDocument::parse(json.as_bytes(), 0).unwrap();
            assert_eq!(parsed.config, Config::default(), "{config}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let many =
            format!(r#"{{"rootfs":{{"type":"layers"}},"history":[{}{{}}]}}"#, "{},".repeat(4096));
        let cases = [
            ("an artifact", r#"{"title":"chart"}"#.to_owned(), "artifact"),
            ("another root file system", r#"{"rootfs":{"type":"disk"}}"#.into(), "artifact"),
            ("an empty object", "{}".into(), "artifact"),
            (
                "a layer too many",
                format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["sha256:{HEX}"]}}}}"#),
                "diff ids",
            ),
            (
                "a bad diff id",
                r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../x"]}}"#.into(),
                "parse",
            ),
            (
                "a key twice",
                r#"{"os":"linux","os":"linux","rootfs":{"type":"layers"}}"#.into(),
                "parse",
            ),
            (
                "a number for a user",
                r#"{"config":{"User":0},"rootfs":{"type":"layers"}}"#.into(),
                "parse",
            ),
            ("endless history", many, "history"),
        ];
        for (name, json, want) in cases {
            let text = ConfigDocument::parse(json.as_bytes(), 0).unwrap_err().to_string();
            assert!(text.contains(want), "{name}: {text}");
        }
    }
}
