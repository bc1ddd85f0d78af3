//! Numbers as people read them.

use bytesize::ByteSize;

/// A number of things, as in `1 file` and `2 files`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Folders and links, which are counted together.
pub(super) fn others(number: u64) -> String {
    match number {
        1 => "1 folder or link".into(),
        _ => format!("{} folders and links", grouped(number)),
    }
}

/// With a comma after each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// In the unit that leaves one to three digits before the point, as links are sold by.
pub(super) fn bit_rate(bytes_per_s: f64) -> String {
    let bits = bytes_per_s * 8.0;
    let units = [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")];
    // What would be rounded up to a thousand of one is one of the next.
    let fitting = units.into_iter().find(|(unit, _)| bits >= unit * 0.9995);
    let (unit, name) = fitting.unwrap_or((1.0, "bit/s"));
    let value = bits / unit;
    let places = match value {
        _ if unit < 1e3 || value >= 99.95 => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.places$} {name}")
}

/// The same, and in bytes as well.
pub(super) fn rate(bytes_per_s: f64) -> String {
    format!("{} ({}/s)", bit_rate(bytes_per_s), size(bytes_per_s as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_unit_that_fits() {
        for (bytes_per_s, want) in [
            (0.0, "0 bit/s"),
            (2.0, "16 bit/s"),
            (125.0, "1.00 kbit/s"),
            (600_000.0, "4.80 Mbit/s"),
            (1_437_500.0, "11.5 Mbit/s"),
            (116_250_000.0, "930 Mbit/s"),
            (124_990_000.0, "1.00 Gbit/s"),
            (124_900_000.0, "999 Mbit/s"),
            (1_250_000_000.0, "10.0 Gbit/s"),
            (12_500_000_000.0, "100 Gbit/s"),
        ] {
            assert_eq!(bit_rate(bytes_per_s), want);
        }
    }

    #[test]
    fn one_thing_is_one() {
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(count(1, "connection"), "1 connection");
        assert_eq!(count(1_234_567, "file"), "1,234,567 files");
        assert_eq!(others(1), "1 folder or link");
        assert_eq!(others(1_000), "1,000 folders and links");
    }
}
