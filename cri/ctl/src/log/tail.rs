//! Where the last lines of a file begin.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK: usize = 16 * 1024;

/// The offset at which the last `count` whole lines begin. What follows the last line end does not count as a
/// line: it is still being written.
pub(super) fn start_of_last(file: &File, count: u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = vec![0; BLOCK];
    // The line end before the wanted lines is one more than they have themselves.
    let mut to_find = count.saturating_add(1);
    while end > 0 {
        let length = usize::try_from(end).unwrap_or(BLOCK).min(BLOCK);
        let begin = end - length as u64;
        file.read_exact_at(&mut block[..length], begin)?;
        for (index, _) in
            block[..length].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n')
        {
            to_find -= 1;
            if to_find == 0 {
                return Ok(begin + index as u64 + 1);
            }
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tail(text: &str, count: u64) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let start = start_of_last(&file, count).unwrap();
        text[usize::try_from(start).unwrap()..].to_owned()
    }

    #[test]
    fn the_last_lines_are_found() {
        let cases = [
            ("two of three", "a\nb\nc\n", 2, "b\nc\n"),
            ("none", "a\nb\n", 0, ""),
            ("all", "a\nb\n", 2, "a\nb\n"),
            ("more than there are", "a\nb\n", 9, "a\nb\n"),
            ("an unfinished one", "a\nb\nc", 1, "b\nc"),
            ("an unfinished one alone", "c", 0, "c"),
            ("an empty file", "", 3, ""),
            ("empty lines", "a\n\n\n", 2, "\n\n"),
        ];
        for (name, text, count, want) in cases {
            assert_eq!(tail(text, count), want, "{name}");
        }
    }

    #[test]
    fn lines_may_lie_across_blocks() {
        let long = "x".repeat(BLOCK - 1);
        let text = format!("{long}\n{long}\n{long}\nend\n");
        assert_eq!(tail(&text, 2), format!("{long}\nend\n"));
    }
}
