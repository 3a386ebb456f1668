//! Control characters made visible.

use std::borrow::Cow;
use std::fmt::Write;

/// Replaces what a terminal would act upon by `\u001b` and the like, except for the characters in `kept`.
///
/// That is all control characters, the 8-bit ones too, and those that reorder text (CVE-2021-42574). The form
/// is that of JSON strings, so an escaped JSON document is still the same document.
pub(crate) fn escape<'a>(text: &'a str, kept: &str) -> Cow<'a, str> {
    let acts = |c: char| (c.is_control() || is_bidirectional(c)) && !kept.contains(c);
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            write!(shown, "\\u{:04x}", u32::from(c)).expect("a string takes everything");
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        let cases = [
            ("plain text", "grüße, 世界 🚢", "", "grüße, 世界 🚢"),
            ("a colour", "\x1b[31mred", "", "\\u001b[31mred"),
            ("a title", "\x1b]0;root\x07", "", "\\u001b]0;root\\u0007"),
            ("the 8-bit introducer", "\u{9b}2J", "", "\\u009b2J"),
            ("delete", "a\x7fb", "", "a\\u007fb"),
            ("reordered text", "a\u{202e}b", "", "a\\u202eb"),
            ("line ends, unwanted", "a\nb\tc", "", "a\\u000ab\\u0009c"),
            ("line ends, wanted", "a\nb\tc\rd", "\n\t", "a\nb\tc\\u000dd"),
        ];
        for (name, text, kept, want) in cases {
            assert_eq!(escape(text, kept), want, "{name}");
        }
    }

    #[test]
    fn an_escaped_document_is_still_the_same_document() {
        let value = serde_json::json!({ "label": "a\u{7f}\u{9b}\u{202e}b" });
        let shown = escape(&value.to_string(), "\n").into_owned();
        assert!(!shown.contains('\u{9b}'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
