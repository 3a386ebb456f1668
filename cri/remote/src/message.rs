//! What is said on the channels beside the bytes of the program: how it ended, and how large its terminal is.

use serde::{Deserialize, Serialize};

/// How an exec or an attach ended: a `metav1.Status` of Kubernetes, as far as its clients read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    metadata: Empty,
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Empty {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

const SUCCESS: &str = "Success";
const EXIT_CODE: &str = "ExitCode";

impl Status {
    /// The program returned `code`.
    #[must_use]
    pub fn exited(code: i32) -> Self {
        if code == 0 {
            return Self::new(SUCCESS, String::new(), "");
        }
        let message = format!("command terminated with non-zero exit code: {code}");
        let cause = Cause { reason: EXIT_CODE.into(), message: code.to_string() };
        let details = Some(Details { causes: vec![cause] });
        Self { details, ..Self::new("Failure", message, "NonZeroExitCode") }
    }

    /// It could not be done, or not to its end.
    #[must_use]
    pub fn failed(message: String) -> Self {
        Self { code: Some(500), ..Self::new("Failure", message, "InternalError") }
    }

    fn new(status: &str, message: String, reason: &str) -> Self {
        Self {
            metadata: Empty {},
            status: status.into(),
            message,
            reason: reason.into(),
            details: None,
            code: None,
        }
    }

    /// What the program returned, where that is what the status tells.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        if self.status == SUCCESS {
            return Some(0);
        }
        let causes = &self.details.as_ref()?.causes;
        causes.iter().find(|cause| cause.reason == EXIT_CODE)?.message.parse().ok()
    }

    /// The text for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The size of a terminal in characters, as Kubernetes' clients tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The sizes in a stream of JSON, in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Sizes {
    pending: Vec<u8>,
}

/// The longest that a size can be written.
const MOST_PENDING: usize = 1024;

/// This is no stream of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed terminal size")]
pub struct BadSize;

impl Sizes {
    /// Takes a piece. Gives the last size that is complete, for the ones before it are out of date.
    ///
    /// # Errors
    ///
    /// [`BadSize`] where the piece, after those before it, cannot become one.
    pub fn take(&mut self, piece: &[u8]) -> Result<Option<Size>, BadSize> {
        self.pending.extend_from_slice(piece);
        let mut sizes = serde_json::Deserializer::from_slice(&self.pending).into_iter();
        let mut last = None;
        let rest = loop {
            match sizes.next() {
                Some(Ok(size)) => last = Some(size),
                Some(Err(err)) if err.is_eof() => break sizes.byte_offset(),
                Some(Err(_)) => return Err(BadSize),
                None => break self.pending.len(),
            }
        };
        self.pending.drain(..rest);
        if self.pending.len() > MOST_PENDING { Err(BadSize) } else { Ok(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_what_clients_read() {
        let cases = [
            (Status::exited(0), r#"{"metadata":{},"status":"Success"}"#, Some(0)),
            (
                Status::exited(7),
                r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#,
                Some(7),
            ),
            (
                Status::failed("no".into()),
                r#"{"metadata":{},"status":"Failure","message":"no","reason":"InternalError","code":500}"#,
                None,
            ),
        ];
        for (status, json, code) in cases {
            assert_eq!(serde_json::to_string(&status).unwrap(), json);
            let back: Status = serde_json::from_str(json).unwrap();
            assert_eq!((back.exit_code(), &back), (code, &status));
        }
    }

    #[test]
    fn sizes_come_in_any_pieces() {
        let mut sizes = Sizes::default();
        let size = |width, height| Ok(Some(Size { width, height }));
        let steps = [
            ("a line", "{\"Width\":80,\"Height\":24}\n", size(80, 24)),
            ("half of one", "{\"Width\":1", Ok(None)),
            ("the other half", "32,\"Height\":50}", size(132, 50)),
            ("two", "{\"Width\":1,\"Height\":2}{\"Width\":3,\"Height\":4}\n{", size(3, 4)),
            ("no size", "\"Width\":-1,\"Height\":4}", Err(BadSize)),
        ];
        for (name, piece, want) in steps {
            assert_eq!(sizes.take(piece.as_bytes()), want, "{name}");
        }
        let mut sizes = Sizes::default();
        let endless = (0..100).find_map(|_| sizes.take(&[b' '; 100]).err());
        assert!(endless.is_none(), "blanks are nothing");
        assert_eq!(sizes.take(&[b'{'; 2000]), Err(BadSize));
        let mut sizes = Sizes::default();
        let text = format!("{{\"Width\":1,\"{}", "x".repeat(2000));
        assert_eq!(sizes.take(text.as_bytes()), Err(BadSize), "too long");
    }
}
