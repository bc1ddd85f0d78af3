//! When a certificate ends (RFC 5280, 4.1.2.5): libraries that check it do not say.

use std::{str::from_utf8, time::SystemTime};

/// What the elements of DER are.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's life, if it says so in the form that it must have.
pub(crate) fn end_of(cert: &[u8]) -> Option<SystemTime> {
    let mut cert = sequence(&mut &*cert)?;
    let mut signed = sequence(&mut cert)?;
    // The version may be left out; then come serial number, algorithm and issuer.
    if element(&mut signed)?.0 == VERSION {
        element(&mut signed)?;
    }
    element(&mut signed)?;
    element(&mut signed)?;
    let mut validity = sequence(&mut signed)?;
    element(&mut validity)?;
    let (kind, text) = element(&mut validity)?;
    let text = from_utf8(text).ok()?;
    let (century, rest) = match kind {
        UTC_TIME if text.get(..2)? < "50" => ("20", text),
        UTC_TIME => ("19", text),
        GENERALIZED_TIME => (text.get(..2)?, text.get(2..)?),
        _ => return None,
    };
    let two = |at: usize| rest.get(at..at + 2);
    let (year, month, day) = (two(0)?, two(2)?, two(4)?);
    let (hour, minute, second) = (two(6)?, two(8)?, two(10)?);
    let time = format!("{century}{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    humantime::parse_rfc3339(&time).ok()
}

fn sequence<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    match element(input)? {
        (SEQUENCE, contents) => Some(contents),
        _ => None,
    }
}

/// Takes an element off the front: its tag and contents.
fn element<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], mut rest) = input.split_first_chunk::<2>()?;
    let len = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x84 => {
            let (bytes, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = behind;
            bytes.iter().fold(0, |len, &byte| len << 8 | usize::from(byte))
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    *input = rest;
    Some((tag, contents))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_end_is_what_the_certificate_says() {
        let key = KeyPair::generate().unwrap();
        for (year, want) in [
            (1999, "1999-02-03T00:00:00Z"),
            (2049, "2049-02-03T00:00:00Z"),
            (2050, "2050-02-03T00:00:00Z"),
            (4096, "4096-02-03T00:00:00Z"),
        ] {
            let mut params = CertificateParams::new(["name".to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 2, 3);
            let cert = params.self_signed(&key).unwrap();
            let end = end_of(cert.der()).expect("a time");
            assert_eq!(humantime::format_rfc3339(end).to_string(), want);
            for cut in 0..cert.der().len() {
                assert_eq!(end_of(&cert.der()[..cut]), None);
            }
        }
    }
}
