//! Network configurations, as the Container Network Interface has them: a list of plugins in a `.conflist`, or one plugin in a
//! `.conf` or `.json`. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

/// A version of the specification that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// A network: plugins that are run one after the other, each with what the one before made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) plugins: Vec<Plugin>,
    pub(super) disable_check: bool,
    pub(super) disable_gc: bool,
}

/// One plugin of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plugin {
    /// The name of its program.
    pub(super) kind: String,
    /// What it asks to be told of each pod.
    pub(super) capabilities: BTreeSet<String>,
    /// All of its configuration.
    pub(super) object: Map<String, Value>,
}

/// Why a text is no network configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadConfig {
    #[error("it is no JSON: {0}")]
    Json(String),
    #[error("{0} is missing or of the wrong type")]
    Missing(&'static str),
    #[error("{what} {name:?} is no name")]
    Name { what: &'static str, name: String },
    #[error("version {0:?} is none of 0.3.1, 0.4.0, 1.0.0 and 1.1.0")]
    Version(String),
}

impl Version {
    const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl List {
    /// Reads a configuration; one of a single plugin becomes a list of one.
    pub(super) fn parse(text: &str) -> Result<Self, BadConfig> {
        let value: Value =
            serde_json::from_str(text).map_err(|err| BadConfig::Json(err.to_string()))?;
        Self::read(&value)
    }

    pub(super) fn read(value: &Value) -> Result<Self, BadConfig> {
        let object = value.as_object().ok_or(BadConfig::Missing("an object"))?;
        let name = object.get("name").and_then(Value::as_str).ok_or(BadConfig::Missing("name"))?;
        check_network_name(name)?;
        let plugins = match object.get("plugins") {
            Some(Value::Array(plugins)) if !plugins.is_empty() => {
                plugins.iter().map(Plugin::read).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(BadConfig::Missing("plugins")),
            None => vec![Plugin::read(value)?],
        };
        let flag = |key| object.get(key).is_some_and(is_true);
        Ok(Self {
            name: name.to_owned(),
            version: version(object)?,
            plugins,
            disable_check: flag("disableCheck"),
            disable_gc: flag("disableGC"),
        })
    }

    /// The list in the form that [`read`](Self::read) takes.
    pub(super) fn to_value(&self) -> Value {
        let plugins: Vec<Value> =
            self.plugins.iter().map(|plugin| Value::Object(plugin.object.clone())).collect();
        serde_json::json!({
            "name": self.name,
            "cniVersion": self.version.as_str(),
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "plugins": plugins,
        })
    }
}

impl Plugin {
    fn read(value: &Value) -> Result<Self, BadConfig> {
        let object = value.as_object().ok_or(BadConfig::Missing("a plugin's object"))?;
        let kind = object.get("type").and_then(Value::as_str).ok_or(BadConfig::Missing("type"))?;
        check_type(kind)?;
        let capabilities = object.get("capabilities").and_then(Value::as_object);
        let wanted = capabilities.into_iter().flatten().filter(|(_, wanted)| is_true(wanted));
        Ok(Self {
            kind: kind.to_owned(),
            capabilities: wanted.map(|(name, _)| name.clone()).collect(),
            object: object.clone(),
        })
    }
}

/// The specification has booleans; the reference library takes them as text as well.
fn is_true(value: &Value) -> bool {
    value == &Value::Bool(true) || value.as_str() == Some("true")
}

/// The highest version of `cniVersions` that we speak, or else `cniVersion`.
fn version(object: &Map<String, Value>) -> Result<Version, BadConfig> {
    let several = object.get("cniVersions").and_then(Value::as_array);
    let best =
        several.into_iter().flatten().filter_map(Value::as_str).filter_map(Version::parse).max();
    let one = object.get("cniVersion").and_then(Value::as_str);
    match (best.or(one.and_then(Version::parse)), one) {
        (Some(version), _) => Ok(version),
        (None, Some(one)) => Err(BadConfig::Version(one.to_owned())),
        (None, None) => Err(BadConfig::Missing("cniVersion")),
    }
}

/// The name of a program in a directory, and nothing else (CVE-2021-20206).
fn check_type(name: &str) -> Result<(), BadConfig> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let good =
        (1..=128).contains(&name.len()) && name.bytes().all(plain) && !matches!(name, "." | "..");
    let bad = || BadConfig::Name { what: "plugin type", name: name.to_owned() };
    good.then_some(()).ok_or_else(bad)
}

/// As in the specification; plugins make file names of it.
fn check_network_name(name: &str) -> Result<(), BadConfig> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let good = name.len() <= 128
        && name.bytes().all(plain)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let bad = || BadConfig::Name { what: "network name", name: name.to_owned() };
    good.then_some(()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read_as_the_specification_has_them() {
        let cases = [
            (
                "a list",
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#,
                "n 1.0.0 2",
            ),
            ("one plugin", r#"{"cniVersion":"0.3.1","name":"n","type":"bridge"}"#, "n 0.3.1 1"),
            (
                "the best of several versions",
                r#"{"cniVersion":"0.3.1","cniVersions":["0.4.0","1.1.0","9.9.9"],"name":"n","type":"a"}"#,
                "n 1.1.0 1",
            ),
            ("no JSON", "{", "it is no JSON"),
            ("empty", "", "it is no JSON"),
            ("no object", "[]", "an object is missing"),
            ("no name", r#"{"cniVersion":"1.0.0","type":"a"}"#, "name is missing"),
            ("no version", r#"{"name":"n","type":"a"}"#, "cniVersion is missing"),
            (
                "an old version",
                r#"{"cniVersion":"0.2.0","name":"n","type":"a"}"#,
                "version \"0.2.0\"",
            ),
            (
                "a new version",
                r#"{"cniVersion":"2.0.0","name":"n","type":"a"}"#,
                "version \"2.0.0\"",
            ),
            (
                "no plugin",
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
                "plugins is missing",
            ),
            ("no type", r#"{"cniVersion":"1.0.0","name":"n"}"#, "type is missing"),
            (
                "a path as type",
                r#"{"cniVersion":"1.0.0","name":"n","type":"../x"}"#,
                "plugin type \"../x\"",
            ),
            ("parent as type", r#"{"cniVersion":"1.0.0","name":"n","type":".."}"#, "plugin type"),
            (
                "zero in type",
                r#"{"cniVersion":"1.0.0","name":"n","type":"a\u0000"}"#,
                "plugin type",
            ),
            (
                "empty type",
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":""}]}"#,
                "plugin type",
            ),
            (
                "a path as name",
                r#"{"cniVersion":"1.0.0","name":"../n","type":"a"}"#,
                "network name",
            ),
            ("empty name", r#"{"cniVersion":"1.0.0","name":"","type":"a"}"#, "network name"),
        ];
        for (what, text, expected) in cases {
            let said = match List::parse(text) {
                Ok(list) => format!("{} {} {}", list.name, list.version, list.plugins.len()),
                Err(err) => err.to_string(),
            };
            assert!(said.starts_with(expected), "{what}: {said}");
        }
    }

    #[test]
    fn a_list_reads_back_with_what_it_asks_for() {
        let text = r#"{"cniVersion":"1.1.0","name":"n","disableGC":true,"disableCheck":"true","plugins":[
            {"type":"portmap","capabilities":{"portMappings":true,"mac":false},"more":[1]}]}"#;
        let list = List::parse(text).unwrap();
        assert!(list.disable_gc && list.disable_check);
        assert_eq!(list.plugins[0].capabilities, BTreeSet::from(["portMappings".to_owned()]));
        assert_eq!(List::read(&list.to_value()).unwrap(), list);
    }
}
