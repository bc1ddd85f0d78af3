//! Values as people type them: sizes, times, numbers, addresses.

use std::net::{AddrParseError, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{PossibleValue, PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use qbulk::net::address::parse_listen;
use qbulk::net::path::{DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN};

use super::url::DEFAULT_PORT;

/// Longer than anything runs, and short enough to be added to any point in time.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// A number of bytes, as in `64KiB` or `5MB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let size: ByteSize = text.trim().parse().map_err(|_| "expected a size such as 64KiB or 5MB")?;
    Ok(size.as_u64())
}

/// The same as it is typed, in the largest unit of which it is a whole number.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap_or((1, "B"));
    format!("{}{name}", bytes / unit)
}

/// Bytes per second, as in `5MB`, `5MB/s` or `40Mbit/s`.
pub(super) fn bytes_per_s(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let per_s = text.strip_suffix("/s").unwrap_or(text);
    let bits = ["bit", "bits"].into_iter().find_map(|unit| per_s.strip_suffix(unit));
    match bits {
        Some(bits) => bytes(bits).map(|bits| bits / 8),
        None => bytes(per_s),
    }
    .map_err(|_| "expected bytes per second such as 5MB, or 40Mbit".into())
}

/// A rate that still moves something.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    match bytes_per_s(text)? {
        0..1_000 => Err("expected at least 1kB per second".into()),
        rate => Ok(rate),
    }
}

/// Where this host listens for itself, unless an address is said: `PORT`, or `IP:PORT`.
pub(super) fn own_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let own = text.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    own.or_else(|_| text.parse()).map_err(|_: AddrParseError| {
        "expected a port, for this host alone, such as 9433; or IP:PORT, such as [::]:9433 for all".into()
    })
}

/// What rsync takes as `--bwlimit`: KiB per second, or with a unit as in `1.5m`, of which there are 1,024, or `2MB`, of
/// which there are 1,000. Nothing is no limit.
pub(super) fn bwlimit(text: &str) -> Result<u64, String> {
    let wrong = || "expected KiB per second, or a size a second such as 1.5m or 2MB".to_owned();
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let (letter, step) = match unit.strip_suffix("ib") {
        Some(letter) => (letter, 1_024_f64),
        None => match unit.strip_suffix('b') {
            Some("") => ("b", 1.0),
            Some(letter) => (letter, 1_000.0),
            None => (unit, 1_024.0),
        },
    };
    let power = match letter {
        "b" => 0,
        "" | "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    match number * step.powi(power) {
        0.0 => Ok(0),
        ..1_000.0 => Err("expected at least 1kB per second, or 0 for no limit".into()),
        bytes => Ok(bytes as u64),
    }
}

/// How many of something there may be.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.trim().replace('_', "").parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("expected a number from 1 to 1000000".into()),
    }
}

/// A stripe's size.
pub(super) fn stripe_bytes(text: &str) -> Result<u64, String> {
    let size = bytes(text)?;
    if size.is_power_of_two() && (64 << 10..=16 << 20).contains(&size) {
        Ok(size)
    } else {
        Err("expected a power of two from 64KiB to 16MiB".into())
    }
}

/// A span of time, as in `250ms`, `1h 30m`, or `10`, which are seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    // To humantime, M is a month: nobody means that.
    let text = text.trim().to_ascii_lowercase();
    let seconds = || text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let time = seconds().or_else(|| humantime::parse_duration(&text).ok());
    time.map(|time| time.min(TIME_MAX)).ok_or_else(|| "expected a time such as 250ms or 10s".into())
}

/// The same as it is typed, in the largest unit of which it is a whole number.
pub(super) fn time(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap_or((1, "ms"));
    format!("{}{name}", ms / unit)
}

/// A share between nothing and all, as in `0.5` or `50%`.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse().map(|percent: f64| percent / 100.0),
        None => text.parse(),
    };
    match share {
        Ok(share) if (0.05..=0.95).contains(&share) => Ok(share),
        _ => Err("expected a number from 0.05 to 0.95".into()),
    }
}

/// A datagram's size, in bytes of UDP payload.
pub(super) fn datagram_bytes() -> RangedI64ValueParser<u16> {
    let (min, max) = (i64::from(DATAGRAM_BYTES_MIN), i64::from(DATAGRAM_BYTES_MAX));
    RangedI64ValueParser::new().range(min..=max)
}

/// One of several values, with its name and what it does.
pub(super) type Choice<T> = (T, &'static str, &'static str);

/// One of `choices`, by its name.
pub(super) fn one_of<T: Copy + Send + Sync + 'static>(
    choices: &'static [Choice<T>],
) -> impl TypedValueParser<Value = T> {
    let shown = choices.iter().map(|(_, name, help)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(shown).try_map(|typed| {
        let chosen = choices.iter().find(|(_, name, _)| *name == typed);
        chosen.map(|(value, ..)| *value).ok_or("it is not one of them")
    })
}

/// The name of one of `choices`.
pub(super) fn name_of<T: PartialEq>(choices: &[Choice<T>], value: &T) -> &'static str {
    choices.iter().find(|(choice, ..)| choice == value).map_or("", |(_, name, _)| name)
}

/// Where to listen: an address, a port of all addresses, or both.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    parse_listen(text, DEFAULT_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_as_rsync_takes_it_is_in_kibibytes_unless_it_has_a_unit() {
        for (typed, want) in [
            ("1000", 1_024_000),
            ("1.5m", 1_572_864),
            ("2MB", 2_000_000),
            ("2MiB", 2 << 20),
            ("2KiB", 2_048),
            ("5000b", 5_000),
            ("1g", 1 << 30),
            ("0", 0),
        ] {
            assert_eq!(bwlimit(typed), Ok(want), "{typed}");
        }
        for typed in ["", "k", "1x", "-1", "10b", "0.1", "1kk", "1.2.3", "ib"] {
            assert!(bwlimit(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn times_are_what_people_mean() {
        let ms = Duration::from_millis;
        for (text, time) in [
            ("10", ms(10_000)),
            ("0", ms(0)),
            ("0.5", ms(500)),
            (" 10 s ", ms(10_000)),
            ("250ms", ms(250)),
            ("1.5h", ms(5_400_000)),
            ("1h30m", ms(5_400_000)),
            ("2 min", ms(120_000)),
            ("10M", ms(600_000)),
            ("10S", ms(10_000)),
            ("7d", ms(7 * 86_400_000)),
            ("1e18", TIME_MAX),
            ("9999999 years", TIME_MAX),
        ] {
            assert_eq!(duration(text), Ok(time), "{text}");
        }
        for text in ["", "soon", "-1", "-1s", "nan", "inf", "10 parsecs", "s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_rates_are_what_people_mean() {
        for (text, size) in [
            ("0", 0),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("5M", 5_000_000),
            ("1.5GB", 1_500_000_000),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
            assert_eq!(bytes_per_s(text), Ok(size), "{text}");
            assert_eq!(bytes_per_s(&format!("{text}/s")), Ok(size), "{text}");
        }
        for (text, size) in [
            ("100Mbit", 12_500_000),
            ("100 Mbit/s", 12_500_000),
            ("1Gbits/s", 125_000_000),
            ("8000bit", 1_000),
        ] {
            assert_eq!(rate(text), Ok(size), "{text}");
        }
        for text in ["", "lots", "-5", "5 apples", "5MB/h", "100Mbps"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert!(rate("999").is_err());
    }

    #[test]
    fn defaults_are_shown_as_they_are_typed() {
        let (mib, day_s) = (1 << 20, 86_400);
        for (bytes_, typed) in [(0, "0B"), (999, "999B"), (65_536, "64KiB"), (4 * mib, "4MiB")] {
            assert_eq!((size(bytes_).as_str(), bytes(typed)), (typed, Ok(bytes_)));
        }
        for (ms, typed) in
            [(0, "0ms"), (250, "250ms"), (2_000, "2s"), (600_000, "10m"), (7_000 * day_s, "7d")]
        {
            let span = Duration::from_millis(ms);
            assert_eq!((time(span).as_str(), duration(typed)), (typed, Ok(span)));
        }
    }

    #[test]
    fn numbers_are_what_people_mean() {
        assert_eq!([count("64"), count(" 1_000 ")], [Ok(64), Ok(1_000)]);
        assert!(["0", "-1", "1.5", "2000000", ""].iter().all(|text| count(text).is_err()));
        assert_eq!([share("0.5"), share("50%"), share(" 50 % ")], [Ok(0.5), Ok(0.5), Ok(0.5)]);
        assert!(["1.5", "50", "nan", "%", ""].iter().all(|text| share(text).is_err()));
    }
}
