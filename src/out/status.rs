//! The line at the end of a terminal that says how far something is.

use std::os::fd::AsFd;

/// What it says: the first of its parts are those that matter most, and the last go where there is no
/// room for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Status {
    /// How much of it is done, from 0 to 1, if that is known.
    pub(crate) share: Option<f64>,
    pub(crate) parts: Vec<String>,
}

/// From this width on there is a bar.
const COLUMNS_FOR_BAR: usize = 100;
const BAR: usize = 20;
/// Where the terminal does not say.
const COLUMNS: usize = 80;

impl Status {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.all().collect::<Vec<_>>().join(", ")
    }

    /// Its parts, with the share in per cent first: all is there only when the end says so.
    fn all(&self) -> impl Iterator<Item = String> {
        let percent = self.share.map(|share| format!("{}%", ((share * 100.0) as u64).min(99)));
        let parts = self.parts.iter().filter(|part| !part.is_empty());
        percent.into_iter().chain(parts.cloned())
    }

    /// As it is in a terminal of so many columns, of which one stays free: a line that fills the last
    /// may wrap.
    pub(super) fn line(&self, columns: usize) -> String {
        let room = columns.saturating_sub(1);
        let mut line = String::new();
        if let (Some(share), true) = (self.share, columns >= COLUMNS_FOR_BAR) {
            let full = (share.clamp(0.0, 1.0) * BAR as f64) as usize;
            line = format!("[{}{}] ", "=".repeat(full), " ".repeat(BAR - full));
        }
        for (index, part) in self.all().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            if line.chars().count() + comma.len() + part.chars().count() > room {
                break;
            }
            line.push_str(comma);
            line.push_str(&part);
        }
        line
    }
}

/// How wide a terminal is.
pub(super) fn columns(terminal: impl AsFd) -> usize {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => COLUMNS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_fills_the_last_column_and_never_cuts_a_part() {
        let parts = ["1.2 GiB of 3.0 GiB", "930 Mbit/s", "1 of 2 files"];
        let status = Status { share: Some(0.425), parts: parts.map(String::from).into() };
        let all = status.text();
        for columns in 0..200 {
            let line = status.line(columns);
            assert!(line.chars().count() < columns.max(1), "{columns}: {line:?}");
            let told = line.split("] ").last().unwrap_or_default();
            assert!(told.is_empty() || all.starts_with(told), "{line:?}");
            let rest = &all[told.len()..];
            assert!(told.is_empty() || rest.is_empty() || rest.starts_with(", "), "{line:?}");
        }
        assert_eq!(status.line(24), "42%, 1.2 GiB of 3.0 GiB");
        assert!(status.line(120).starts_with("[========            ] 42%, "));
    }
}
