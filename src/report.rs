//! What a user sees: a progress bar, plain lines, or JSON.

mod json;
mod push;
mod serve;

use bytesize::ByteSize;
use qbulk::error::Error;

pub(crate) use self::push::PushReport;
pub(crate) use self::serve::ServeReport;

/// Says why a command failed.
pub(crate) fn error(error: &Error, json: bool) {
    if json {
        json::error(error);
    } else {
        eprintln!("qbulk: {}", printable(&error.to_string()));
    }
}

/// Text that comes from a peer or a file name, without what could steer a terminal or the order in
/// which it is read.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let steers = char.is_control() || is_bidi_control(char);
            let escaped = steers.then(|| char.escape_default());
            let plain = escaped.is_none().then_some(char);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Marks, embeddings, overrides and isolates (Unicode Standard Annex 9, 2).
fn is_bidi_control(char: char) -> bool {
    matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// A number of things, as in `1 file` and `2 files`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn rate(bytes_per_s: f64) -> String {
    format!("{:.2} Gbit/s ({}/s)", bytes_per_s * 8e-9, size(bytes_per_s as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{fc}"), "a\\u{1b}[2Jb\\n\u{fc}");
        assert_eq!(printable("\u{202e}gpj.exe\u{2066}"), "\\u{202e}gpj.exe\\u{2066}");
    }
}
