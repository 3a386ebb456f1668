//! What the suite reported, in a few lines.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::at;

/// The specs of a run by how they ended.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    passed: usize,
    /// Name and message.
    failed: BTreeMap<String, String>,
    skipped: BTreeMap<String, String>,
    /// Left out by the command line, as benchmarks are.
    filtered: usize,
}

/// Reads ginkgo's report.
///
/// # Errors
///
/// When there is none, or it is not one.
pub(crate) fn read(path: &Path) -> Result<Summary, String> {
    let text = at(path, fs::read(path))?;
    let suites: Value =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut summary = Summary::default();
    let specs = suites
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
    specs.for_each(|spec| summary.add(spec));
    Ok(summary)
}

impl Summary {
    fn add(&mut self, spec: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let above = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().map(text);
        let mut name: Vec<String> = above.collect();
        name.push(text(&spec["LeafNodeText"]));
        let name = name.join(" ");
        let message = text(&spec["Failure"]["Message"]);
        match (spec["LeafNodeType"].as_str(), spec["State"].as_str()) {
            (Some("It"), Some("passed")) => self.passed += 1,
            (_, Some("passed")) => {}
            (_, Some("skipped")) if message.is_empty() => self.filtered += 1,
            (_, Some("skipped" | "pending")) => {
                self.skipped.insert(name, message);
            }
            (_, state) => {
                self.failed.insert(name, format!("{}: {message}", state.unwrap_or("no state")));
            }
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.failed.is_empty() && self.passed > 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, specs) in [("skipped", &self.skipped), ("FAILED", &self.failed)] {
            for (name, message) in specs {
                let line = message.lines().next().unwrap_or_default();
                writeln!(f, "{what}: {name}: {}", line.chars().take(200).collect::<String>())?;
            }
        }
        if self.filtered > 0 {
            writeln!(f, "left out: {}", self.filtered)?;
        }
        let (failed, skipped) = (self.failed.len(), self.skipped.len());
        writeln!(f, "critest: {} passed, {failed} failed, {skipped} skipped", self.passed)
    }
}
