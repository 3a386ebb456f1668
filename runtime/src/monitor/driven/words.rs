//! What a runtime's program says went wrong: the last error of its log, or its last line on standard error.

use super::Driven;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// How much of the end of a log is looked at.
const MOST_LOG: u64 = 16 << 10;
/// How much of a program's standard error is looked at.
const MOST_ERRORS: usize = 4 << 10;

impl Driven {
    /// The last error of the log `name` in the bundle. The log is removed.
    pub(super) fn take_error(&self, name: &str) -> Option<String> {
        let text = self.read_end(name, MOST_LOG);
        self.remove(name);
        last_error(&text.ok()?)
    }

    /// The process number in the file `name` of the bundle. The file is removed.
    pub(super) fn take_pid(&self, name: &str) -> Result<rustix::process::Pid, Errno> {
        let text = self.read_end(name, 32)?;
        self.remove(name);
        text.trim().parse().ok().and_then(rustix::process::Pid::from_raw).ok_or(Errno::BADMSG)
    }

    /// Removes a file of the bundle.
    pub(super) fn remove(&self, name: &str) {
        // It may never have been made; the bundle goes with the container in any case.
        rustix::fs::unlinkat(&self.0.bundle, name, AtFlags::empty()).ok();
    }

    fn read_end(&self, name: &str, most: u64) -> Result<String, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0.bundle, name, flags, Mode::empty())?;
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        let mut buffer = vec![0; usize::try_from(size.min(most)).unwrap_or(0)];
        let count = rustix::io::pread(&file, &mut buffer, size.saturating_sub(most))?;
        Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
    }
}

/// The last line that is in a pipe. Nothing is waited for.
pub(super) fn last_line(pipe: &OwnedFd) -> Option<String> {
    let mut buffer = vec![0; MOST_ERRORS];
    let count = rustix::io::read(pipe, &mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer[..count]);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

/// The message of the last line of level error or worse, in the form of `--log-format json`: one object a line.
fn last_error(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let level = value(line, "level")?;
        matches!(level.as_str(), "error" | "fatal" | "panic").then(|| value(line, "msg"))?
    })
}

/// The string behind `key` in an object on one line.
///
/// Not a parser of JSON: what such a program logs are flat objects of strings, and a monitor has no room for more.
fn value(line: &str, key: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("\"{key}\""))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let mut text = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => text.push(unescaped(&mut chars)?),
            plain => text.push(plain),
        }
    }
}

fn unescaped(chars: &mut std::str::Chars<'_>) -> Option<char> {
    match chars.next()? {
        'n' | 'r' | 't' => Some(' '),
        'u' => {
            let digits: String = chars.by_ref().take(4).collect();
            let code = u32::from_str_radix(&digits, 16).ok()?;
            Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
        }
        plain => Some(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        let cases = [
            (
                "runc",
                r#"{"level":"error","msg":"runc create failed: exec: \"nope\": not found","time":"t"}"#,
                Some(r#"runc create failed: exec: "nope": not found"#),
            ),
            (
                "crun, with spaces and the message first",
                r#"{ "msg": "open `x\u0027`:\nNo such file" , "level": "error" }"#,
                Some("open `x'`: No such file"),
            ),
            (
                "the last of several, before warnings",
                "{\"level\":\"error\",\"msg\":\"one\"}\n{\"level\":\"fatal\",\"msg\":\"two\"}\n{\"level\":\"warning\",\"msg\":\"w\"}",
                Some("two"),
            ),
            ("only warnings", r#"{"level":"warning","msg":"w"}"#, None),
            ("cut short", r#"{"level":"error","msg":"abc"#, None),
            ("no JSON", "level error", None),
            ("nothing", "", None),
        ];
        for (name, log, want) in cases {
            assert_eq!(last_error(log).as_deref(), want, "{name}");
        }
    }
}
