//! Paths inside a container, as text. Only the monitor ever resolves them, with `openat2(RESOLVE_IN_ROOT)`.

use crate::error::SpecError;

/// Makes an absolute path canonical without looking at any file: no empty components, no `.`, no `..`.
///
/// # Errors
///
/// [`SpecError::Invalid`], naming `field`, where the path is not absolute or has a NUL in it.
pub(crate) fn clean(field: &str, path: &str) -> Result<String, SpecError> {
    if !path.starts_with('/') {
        return Err(SpecError::invalid(field, path, "must be an absolute path"));
    }
    if path.contains('\0') {
        return Err(SpecError::invalid(field, path, "must not have a NUL in it"));
    }
    let mut kept = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    Ok(format!("/{}", kept.join("/")))
}

/// Whether `path` is `root` or below it. Both must be clean.
pub(crate) fn is_at_or_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How many directories lie above a clean path.
pub(crate) fn depth(path: &str) -> usize {
    if path == "/" { 0 } else { path.matches('/').count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_canonical() {
        let cases = [
            ("as it is", "/a/b", "/a/b"),
            ("root", "/", "/"),
            ("slashes", "//a///b/", "/a/b"),
            ("dots", "/a/./b/.", "/a/b"),
            ("up", "/a/../proc", "/proc"),
            ("up beyond the root", "/../../etc", "/etc"),
            ("names with dots", "/a/..b/...", "/a/..b/..."),
            ("relative", "a", "refused"),
            ("empty", "", "refused"),
            ("NUL", "/a\0b", "refused"),
        ];
        for (case, path, want) in cases {
            let got = clean("field", path).unwrap_or_else(|_| "refused".into());
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn below_means_whole_components() {
        let cases = [
            ("the same", "/proc", "/proc", true),
            ("below", "/proc/sys/net", "/proc", true),
            ("only the beginning of a name", "/process", "/proc", false),
            ("above", "/", "/proc", false),
        ];
        for (case, path, root, want) in cases {
            assert_eq!(is_at_or_below(path, root), want, "{case}");
        }
    }
}
