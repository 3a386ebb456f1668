//! CRI log files, as a kubelet reads them: `time stream tag text`.

use std::fs;
use std::path::Path;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// `P`: the text goes on in the stream's next line. `F`: it ends here.
    pub is_partial: bool,
    pub text: String,
}

/// Reads a log file; every line must have the form.
///
/// # Panics
///
/// On a line that a kubelet could not read.
pub fn read(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(parse).collect()
}

fn parse(line: &str) -> Line {
    let mut fields = line.splitn(4, ' ');
    let mut next = || fields.next().unwrap_or_else(|| panic!("not a CRI log line: {line:?}"));
    let (time, stream, tag, text) = (next(), next(), next(), next());
    assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "not a time: {line:?}");
    assert!(matches!(stream, "stdout" | "stderr"), "not a stream: {line:?}");
    assert!(matches!(tag, "P" | "F"), "not a tag: {line:?}");
    Line {
        time: time.to_owned(),
        stream: stream.to_owned(),
        is_partial: tag == "P",
        text: text.to_owned(),
    }
}

/// What the container wrote to one stream, put together again.
pub fn written(lines: &[Line], stream: &str) -> String {
    let ours = lines.iter().filter(|line| line.stream == stream);
    ours.map(|line| format!("{}{}", line.text, if line.is_partial { "" } else { "\n" })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_lines_are_put_together_per_stream() {
        let lines = [
            "2026-01-01T00:00:00.000000001Z stdout P one ",
            "2026-01-01T00:00:00.000000002Z stderr F other",
            "2026-01-01T00:00:00.000000003Z stdout F line",
            "2026-01-01T00:00:00.000000004Z stdout F ",
        ]
        .map(parse);
        assert_eq!(written(&lines, "stdout"), "one line\n\n");
        assert_eq!(written(&lines, "stderr"), "other\n");
    }

    #[test]
    #[should_panic = "not a tag"]
    fn a_line_without_a_tag_is_refused() {
        parse("2026-01-01T00:00:00.000000001Z stdout hello there");
    }
}
