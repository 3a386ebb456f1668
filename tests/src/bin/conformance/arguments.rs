//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Default)]
pub(crate) struct Arguments {
    /// The suite, a program.
    pub(crate) critest: PathBuf,
    /// Debian packages, unpacked over each other.
    pub(crate) packages: PathBuf,
    /// Small programs that only the suite's images have.
    pub(crate) helpers: PathBuf,
    /// Where the log and the report go.
    pub(crate) report: PathBuf,
    /// For critest.
    pub(crate) rest: Vec<String>,
}

impl Arguments {
    /// # Errors
    ///
    /// What is missing or not known.
    pub(crate) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let place = match word.to_str() {
                Some("--critest") => &mut arguments.critest,
                Some("--packages") => &mut arguments.packages,
                Some("--helpers") => &mut arguments.helpers,
                Some("--report") => &mut arguments.report,
                Some("--") => {
                    arguments.rest =
                        words.map(|word| word.to_string_lossy().into_owned()).collect();
                    break;
                }
                _ => return Err(format!("{} is not an option", word.display())),
            };
            *place = words.next().ok_or(format!("{} needs a value", word.display()))?.into();
        }
        for (name, path) in [
            ("--critest", &arguments.critest),
            ("--packages", &arguments.packages),
            ("--helpers", &arguments.helpers),
            ("--report", &arguments.report),
        ] {
            if path.as_os_str().is_empty() {
                return Err(format!("{name} is missing"));
            }
        }
        Ok(arguments)
    }
}
