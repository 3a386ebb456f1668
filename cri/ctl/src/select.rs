//! Which pods or containers a command means: labels, patterns for names, the newest ones.

use std::collections::BTreeMap;

use cri_api::runtime::v1::{Container, PodSandbox};
use regex::Regex;

use crate::error::{CliError, OptionError};

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";

/// What crictl shows for a pod that did not give its containers its name.
const UNKNOWN: &str = "unknown";

/// The flags that pods and containers have in common.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Selection {
    /// Only those whose name matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub(crate) name: Option<String>,

    /// Only those whose pod's namespace matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub(crate) namespace: Option<String>,

    /// Only those with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,

    /// Only the newest one, in whatever state
    #[arg(short, long)]
    pub(crate) latest: bool,

    /// Only the newest N, in whatever state; 0 is all of them
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) last: Option<usize>,
}

/// What a selection looks at.
pub(crate) trait Selectable {
    fn name(&self) -> Option<&str>;
    fn namespace(&self) -> &str;
    fn created_at(&self) -> i64;
}

impl Selectable for PodSandbox {
    fn name(&self) -> Option<&str> {
        self.metadata.as_ref().map(|metadata| metadata.name.as_str())
    }

    fn namespace(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| &metadata.namespace)
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }
}

impl Selectable for Container {
    fn name(&self) -> Option<&str> {
        self.metadata.as_ref().map(|metadata| metadata.name.as_str())
    }

    fn namespace(&self) -> &str {
        pod_label(&self.labels, POD_NAMESPACE)
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }
}

/// What a container's labels say about its pod.
pub(crate) fn pod_label<'a>(labels: &'a BTreeMap<String, String>, label: &str) -> &'a str {
    labels.get(label).map_or(UNKNOWN, String::as_str)
}

impl Selection {
    pub(crate) fn labels(&self) -> Result<BTreeMap<String, String>, CliError> {
        pairs("--label", &self.label)
    }

    /// Whether only the newest are wanted, which goes for all states.
    pub(crate) fn wants_newest(&self) -> bool {
        self.latest || self.last.is_some_and(|last| last > 0)
    }

    /// Those that match, newest first.
    pub(crate) fn apply<T: Selectable>(&self, mut items: Vec<T>) -> Result<Vec<T>, CliError> {
        let name = pattern("--name", self.name.as_deref())?;
        let namespace = pattern("--namespace", self.namespace.as_deref())?;
        let matches = |pattern: &Option<Regex>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
        };
        items.retain(|item| {
            item.name().is_some_and(|text| matches(&name, text))
                && matches(&namespace, item.namespace())
        });
        items.sort_by_key(|item| std::cmp::Reverse(item.created_at()));
        let limit = match self.last {
            Some(last) if last > 0 => last,
            _ if self.latest => 1,
            _ => items.len(),
        };
        items.truncate(limit);
        Ok(items)
    }
}

/// `KEY=VALUE` texts of one option, as a map.
pub(crate) fn pairs(
    option: &'static str,
    texts: &[String],
) -> Result<BTreeMap<String, String>, CliError> {
    texts
        .iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(CliError::option(option, text)(OptionError::Form("KEY=VALUE"))),
        })
        .collect()
}

/// An unanchored regular expression, if the option is given.
pub(crate) fn pattern(option: &'static str, text: Option<&str>) -> Result<Option<Regex>, CliError> {
    let Some(text) = text else { return Ok(None) };
    Regex::new(text)
        .map(Some)
        .map_err(|error| CliError::option(option, text)(OptionError::Pattern(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::runtime::v1::PodSandboxMetadata;

    fn pods() -> Vec<PodSandbox> {
        [("web-1", "default", 10), ("web-2", "kube-system", 30), ("db", "default", 20)]
            .map(|(name, namespace, created_at)| PodSandbox {
                metadata: Some(PodSandboxMetadata {
                    name: name.into(),
                    namespace: namespace.into(),
                    ..Default::default()
                }),
                created_at,
                ..Default::default()
            })
            .into()
    }

    fn names(selection: &Selection) -> Vec<String> {
        let pods = selection.apply(pods()).unwrap();
        pods.iter().map(|pod| pod.name().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_newest_come_first_and_patterns_are_not_anchored() {
        let by = |name: Option<&str>, namespace: Option<&str>| Selection {
            name: name.map(Into::into),
            namespace: namespace.map(Into::into),
            ..Default::default()
        };
        assert_eq!(names(&by(None, None)), ["web-2", "db", "web-1"]);
        assert_eq!(names(&by(Some("eb"), None)), ["web-2", "web-1"]);
        assert_eq!(names(&by(Some("^d"), Some("default"))), ["db"]);
        assert_eq!(names(&Selection { latest: true, ..by(None, Some("def")) }), ["db"]);
        assert_eq!(names(&Selection { last: Some(2), ..by(None, None) }), ["web-2", "db"]);
        assert_eq!(names(&Selection { last: Some(0), ..by(None, None) }).len(), 3);
        assert!(by(Some("("), None).apply(pods()).is_err());
    }

    #[test]
    fn a_label_is_a_key_and_a_value() {
        let labels = |text: &str| pairs("--label", &[text.to_owned()]);
        assert_eq!(labels("a=b=c").unwrap(), BTreeMap::from([("a".into(), "b=c".into())]));
        assert_eq!(labels("a=").unwrap(), BTreeMap::from([("a".into(), String::new())]));
        assert!(labels("a").is_err() && labels("=b").is_err());
    }
}
