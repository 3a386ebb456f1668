//! `hosts.toml`, as it is written.

use super::HostsError;
use crate::registry::tls::Identity;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file. Keys that are unknown are left alone, as containerd leaves them.
#[derive(Debug, Deserialize)]
pub(super) struct File {
    pub(super) server: Option<String>,
    /// In the order of the file.
    #[serde(default)]
    host: toml::Table,
    /// What the file says about the server itself.
    #[serde(flatten)]
    pub(super) entry: Entry,
}

/// What the file says about one host.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Entry {
    pub(super) capabilities: Option<Vec<String>>,
    ca: Option<Texts>,
    client: Option<Clients>,
    pub(super) skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<String, Texts>,
    #[serde(default)]
    pub(super) override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// A file with certificate and key, several, or pairs of files.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    Many(Vec<Texts>),
}

/// The files that an entry names.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    pub(super) authorities: Vec<PathBuf>,
    /// Certificate and key; no key where both are in one file.
    pub(super) clients: Vec<(PathBuf, Option<PathBuf>)>,
}

impl File {
    /// The mirrors, in order.
    pub(super) fn hosts(&self, path: &Path) -> Result<Vec<(String, Entry)>, HostsError> {
        let parse = |(name, value): (&String, &toml::Value)| {
            let entry = value.clone().try_into::<Entry>();
            entry.map(|entry| (name.clone(), entry)).map_err(|source| HostsError::Parse {
                path: path.to_owned(),
                source: Box::new(source),
            })
        };
        self.host.iter().map(parse).collect()
    }
}

impl Entry {
    pub(super) fn certificates(&self, directory: &Path) -> Result<Certificates, HostsError> {
        let absolute = |path: &String| directory.join(path);
        let authorities = self.ca.iter().flat_map(Texts::all).map(absolute).collect();
        let pair = |texts: &Texts| {
            let mut texts = texts.all().iter().filter(|text| !text.is_empty()).map(absolute);
            texts.next().map(|certificate| (certificate, texts.next()))
        };
        let clients = match &self.client {
            None => Vec::new(),
            Some(Clients::One(path)) => vec![(absolute(path), None)],
            Some(Clients::Many(many)) => many.iter().filter_map(pair).collect(),
        };
        Ok(Certificates { authorities, clients })
    }

    pub(super) fn headers(&self, path: &Path) -> Result<HeaderMap, HostsError> {
        let mut headers = HeaderMap::new();
        for (name, values) in &self.header {
            // The value may be a password, and is not shown.
            let bad = || HostsError::Value {
                path: path.to_owned(),
                key: "header",
                value: name.clone(),
                want: "a header with values that can be sent",
            };
            let header = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
            for value in values.all() {
                let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| bad())?;
                value.set_sensitive(true);
                headers.append(header.clone(), value);
            }
        }
        Ok(headers)
    }

    pub(super) fn dial_timeout(&self, path: &Path) -> Result<Option<Duration>, HostsError> {
        let Some(text) = &self.dial_timeout else { return Ok(None) };
        let bad = || HostsError::Value {
            path: path.to_owned(),
            key: "dial_timeout",
            value: text.clone(),
            want: "a time such as 500ms or 1m30s",
        };
        duration(text).map(Some).ok_or_else(bad)
    }
}

impl Texts {
    fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl Certificates {
    /// The content of the files.
    pub(super) fn read(&self) -> Result<Identity, HostsError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|source| HostsError::Read { path: path.clone(), source })
        };
        let mut identity = Identity::default();
        for path in &self.authorities {
            identity.authorities.push(read(path)?);
        }
        for (certificate, key) in &self.clients {
            let certificate_text = read(certificate)?;
            let key = key.as_ref().map(read).transpose()?;
            identity.clients.push((certificate_text.clone(), key.unwrap_or(certificate_text)));
        }
        Ok(identity)
    }
}

/// Go's durations: numbers with units, one after the other.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit = match unit {
            "ns" => Duration::from_nanos(1),
            "us" | "µs" => Duration::from_micros(1),
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        let number: f64 = number.parse().ok().filter(|number: &f64| *number < 1e9)?;
        all = all.checked_add(Duration::try_from_secs_f64(unit.as_secs_f64() * number).ok()?)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        let cases = [
            ("3s", Some(3000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1500)),
            ("500ms", Some(500)),
            ("3", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("99999999999h", None),
        ];
        for (text, want) in cases {
            assert_eq!(duration(text).map(|time| time.as_millis()), want, "{text:?}");
        }
    }
}
