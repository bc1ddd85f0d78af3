//! Content that goes over the wire smaller than it is (Zstandard, RFC 8878).

/// How hard it is tried: what zstd itself takes for a good balance.
const LEVEL: i32 = 3;
/// Less is not worth it, in bytes.
const BYTES_MIN: usize = 4 << 10;
/// What it must shrink to, as a share: what saves less costs more than it brings.
const SHARE_MAX: (usize, usize) = (9, 10);
/// Of more than this a sample is tried first: so many parts of so many bytes.
const SAMPLED_BYTES_MIN: usize = 64 << 10;
const SAMPLES: usize = 4;
const SAMPLE_BYTES: usize = 4 << 10;

/// The same, smaller; `None` if it does not shrink.
pub(super) fn pack(content: &[u8]) -> Option<Vec<u8>> {
    if content.len() < BYTES_MIN || (content.len() >= SAMPLED_BYTES_MIN && !is_promising(content)) {
        return None;
    }
    let packed = zstd::bulk::compress(content, LEVEL).ok()?;
    is_worth_it(packed.len(), content.len()).then_some(packed)
}

/// Whether samples of it shrink.
fn is_promising(content: &[u8]) -> bool {
    let step = content.len() / SAMPLES;
    let sample = |at: usize| &content[at * step..at * step + SAMPLE_BYTES];
    let sampled: Vec<u8> = (0..SAMPLES).flat_map(sample).copied().collect();
    let packed = zstd::bulk::compress(&sampled, LEVEL);
    packed.is_ok_and(|packed| is_worth_it(packed.len(), sampled.len()))
}

fn is_worth_it(packed: usize, whole: usize) -> bool {
    packed * SHARE_MAX.1 <= whole * SHARE_MAX.0
}

/// What it was, if that was no more than `bytes_max`.
pub fn unpack(packed: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    zstd::bulk::decompress(packed, bytes_max).ok().filter(|content| !content.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_shrink_stays_as_it_is_and_what_grows_without_bound_is_refused() {
        let text = "all work and no play ".repeat(50_000).into_bytes();
        let packed = pack(&text).unwrap();
        assert!(packed.len() < text.len() / 20);
        assert_eq!(unpack(&packed, text.len()).as_ref(), Some(&text));
        assert_eq!(unpack(&packed, text.len() - 1), None);
        let mut reader = blake3::Hasher::new().finalize_xof();
        let mut random = vec![0; 1 << 20];
        reader.fill(&mut random);
        for noise in [&random[..], &random[..5_000], &text[..100], b""] {
            assert_eq!(pack(noise), None);
        }
        // One that begins with what shrinks, and goes on with what does not.
        let mixed = [&text[..10_000], &random].concat();
        assert_eq!(pack(&mixed), None);
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(unit in prop::collection::vec(any::<u8>(), 1..50), times in 1..9_000_usize) {
            let content = unit.repeat(times);
            if let Some(packed) = pack(&content) {
                prop_assert!(packed.len() < content.len());
                prop_assert_eq!(unpack(&packed, content.len()), Some(content));
            }
        }

        #[test]
        fn no_input_makes_it_panic(packed in prop::collection::vec(any::<u8>(), 0..2_000), bytes_max in 0..100_000_usize) {
            if let Some(content) = unpack(&packed, bytes_max) {
                prop_assert!(content.len() <= bytes_max);
            }
        }
    }
}
