//! Text that comes from elsewhere - names of files, what the other side says, what a library makes of either - on
//! its way to a terminal, a log or a line of JSON. Everything of that kind takes this way.

use std::path::Path;

/// A reason that the other side gives, at most so many characters of it.
const SAID_MAX: usize = 1_000;

/// What the other side says, for a person: without what could steer a terminal or forge a line of a log, and not
/// longer than anybody reads.
pub fn said(bytes: &[u8]) -> String {
    // No character of UTF-8 has more bytes.
    let start = &bytes[..bytes.len().min(4 * SAID_MAX)];
    let text = String::from_utf8_lossy(start);
    let mut said = printable(&text.chars().take(SAID_MAX).collect::<String>());
    if start.len() < bytes.len() || text.chars().nth(SAID_MAX).is_some() {
        said.push_str("...");
    }
    said
}

/// A path as it is told of, for programs: the same but for bytes that are not UTF-8. Whoever shows it to a person
/// does so by [`printable`].
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// A path in a line of a log.
pub fn logged(path: impl AsRef<Path>) -> String {
    printable(&path.as_ref().to_string_lossy())
}

/// Text without what could steer a terminal, end a line, or change the order in which it is read. What it has
/// escaped stays as it is when it is escaped again.
pub fn printable(text: &str) -> String {
    escaped(text, |char| char.escape_default().to_string())
}

/// The same for a line of JSON, which stands for the same as before.
pub fn printable_json(line: &str) -> String {
    // All of these have four digits.
    escaped(line, |char| format!("\\u{:04x}", u32::from(char)))
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() || is_format_control(char) {
            out.push_str(&escape(char));
        } else {
            out.push(char);
        }
    }
    out
}

/// Marks, embeddings, overrides and isolates (Unicode Standard Annex 9, 2), and what ends a line or a paragraph.
fn is_format_control(char: char) -> bool {
    matches!(
        char,
        '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{206f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{fc}"), "a\\u{1b}[2Jb\\n\u{fc}");
        assert_eq!(printable("\u{202e}gpj.exe\u{2066}"), "\\u{202e}gpj.exe\\u{2066}");
        assert_eq!(printable("\u{9b}2J\u{7f}\u{2028}"), "\\u{9b}2J\\u{7f}\\u{2028}");
        let once = printable("\u{1b}\n");
        assert_eq!(printable(&once), once);
        assert_eq!(logged("a\r\nb"), "a\\r\\nb");
    }

    #[test]
    fn json_stands_for_the_same() {
        let text = "a\u{1b}\n\u{9b}\u{202e}\u{7f}\u{fc}\u{1f600}\\\"";
        let line = printable_json(&serde_json::to_string(text).unwrap());
        assert!(!line.chars().any(|char| char.is_control() || is_format_control(char)), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }

    #[test]
    fn what_the_other_side_says_has_an_end() {
        assert_eq!(said(b"no room\n\x1b[31m\xff"), "no room\\n\\u{1b}[31m\u{fffd}");
        assert_eq!(said(b""), "");
        let most = "\u{fc}".repeat(SAID_MAX);
        assert_eq!(said(most.as_bytes()), most);
        assert_eq!(said(format!("{most}x").as_bytes()), format!("{most}..."));
        assert_eq!(said(&vec![b'x'; 1 << 20]).len(), SAID_MAX + 3);
    }
}
