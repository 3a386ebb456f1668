//! Why a request cannot become a container.

use crate::seccomp::ProfileError;

/// Why a request or a spec was refused. The text starts with the path of the field that it is about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The caller asked for something that cannot be (`InvalidArgument`).
    #[error("{field}: {} {rule}", shorten(value))]
    Invalid {
        /// The field, such as `mounts[2].container_path`.
        field: String,
        /// Its value.
        value: String,
        /// What it has to be.
        rule: &'static str,
    },

    /// The caller left something out that is needed (`InvalidArgument`).
    #[error("{field}: {rule}")]
    Missing {
        /// The field.
        field: String,
        /// What is needed.
        rule: &'static str,
    },

    /// The request makes sense, but Berth cannot do that (`Unimplemented`).
    #[error("{field}: {feature} not supported")]
    Unsupported {
        /// The field.
        field: String,
        /// What it asks for, with its verb: `image volumes are`.
        feature: &'static str,
    },

    /// As [`Invalid`](Self::Invalid), for an image as a volume: the kubelet looks for the first word.
    #[error("ImageVolumeMountFailed: {field}: {} {rule}", shorten(value))]
    ImageVolume {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What it has to be.
        rule: &'static str,
    },

    /// A seccomp profile that cannot be used (`InvalidArgument`).
    #[error("{field}")]
    Seccomp {
        /// The field.
        field: String,
        /// What is wrong with it.
        source: ProfileError,
    },
}

impl SpecError {
    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl Into<String>,
        rule: &'static str,
    ) -> Self {
        Self::Invalid { field: field.into(), value: value.into(), rule }
    }

    pub(crate) fn missing(field: impl Into<String>, rule: &'static str) -> Self {
        Self::Missing { field: field.into(), rule }
    }

    pub(crate) fn unsupported(field: impl Into<String>, feature: &'static str) -> Self {
        Self::Unsupported { field: field.into(), feature }
    }
}

/// A value as it is shown in a message: quoted, escaped, and short enough for a log line.
fn shorten(value: &str) -> String {
    const SHOWN: usize = 120;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &value[..end]),
        None => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_field_and_stay_on_one_short_line() {
        let error =
            SpecError::invalid("mounts[2].container_path", "a\nb", "must be an absolute path");
        assert_eq!(
            error.to_string(),
            r#"mounts[2].container_path: "a\nb" must be an absolute path"#
        );

        let error = SpecError::invalid("envs[0].key", "ä".repeat(5_000), "must not be empty");
        assert!(error.to_string().chars().count() < 200, "{error}");
    }
}
