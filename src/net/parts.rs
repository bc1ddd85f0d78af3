//! Parts of batches that were received.
//!
//! quinn copies a batch that is received into one piece of memory, all of which is held for as long as one datagram in it
//! is: a peer that fills batches with what is used at once, but for one datagram of a stripe that cannot be read yet,
//! would have 44 times held what its window allows. So it is given small parts of batches.

use std::io::IoSliceMut;

use quinn::udp::RecvMeta;

/// A batch that is received is no larger than this, whatever is in it. Each has room for that much.
pub(super) const RECEIVED_BYTES_MAX: u16 = 65_527;
/// So many batches are received at a time, of which parts are made: more of them would make those parts larger.
pub(super) const RECEIVED_BATCHES_MAX: usize = 2;

/// Makes small parts of the `received` batches at the front, as many as there are buffers for: about as many datagrams in
/// each, in the order in which they came. Returns how many there are.
pub(super) fn part(bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta], received: usize) -> usize {
    let all = bufs.len().min(meta.len());
    // An empty datagram is one as well.
    let datagrams = |meta: &RecvMeta| meta.len.div_ceil(meta.stride.max(1)).max(1);
    let parts = |most: usize| -> usize {
        meta[..received].iter().map(|meta| datagrams(meta).div_ceil(most)).sum()
    };
    let longest = meta[..received].iter().map(datagrams).max().unwrap_or(1);
    let Some(most) = (1..longest).find(|most| parts(*most) <= all) else { return received };
    // From the back, so that none is written over before it was looked at.
    let first = all - received;
    for at in (0..received).rev() {
        bufs.swap(at, first + at);
        meta.swap(at, first + at);
    }
    let mut made = 0;
    for at in first..all {
        let (whole, batch) = (meta[at], made);
        bufs.swap(at, batch);
        let part_bytes = most * whole.stride;
        for start in (0..whole.len).step_by(part_bytes.max(1)) {
            let len = part_bytes.min(whole.len - start);
            if start > 0 {
                let (before, after) = bufs.split_at_mut(made);
                after[0][..len].copy_from_slice(&before[batch][start..start + len]);
            }
            meta[made] = RecvMeta { len, ..whole };
            made += 1;
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is received, and what quinn makes of it: each datagram, and how many others are held with it.
    fn parted(batches: &[(usize, usize)]) -> Vec<(Vec<u8>, usize)> {
        const BUFFERS: usize = 32;
        let room = usize::from(RECEIVED_BYTES_MAX);
        let mut memory = vec![0; BUFFERS * room];
        let mut bufs: Vec<_> = memory.chunks_mut(room).map(IoSliceMut::new).collect();
        let mut meta = vec![RecvMeta::default(); BUFFERS];
        let mut mark = 0;
        for (at, (stride, len)) in batches.iter().copied().enumerate() {
            for datagram in bufs[at][..len].chunks_mut(stride) {
                datagram.fill(mark);
                mark = mark.wrapping_add(1);
            }
            meta[at] = RecvMeta { len, stride, ..RecvMeta::default() };
        }
        let parts = part(&mut bufs, &mut meta, batches.len());
        let parts = meta[..parts].iter().zip(&bufs);
        let datagrams = parts.flat_map(|(meta, buf)| {
            let held = meta.len.div_ceil(meta.stride);
            buf[..meta.len].chunks(meta.stride).map(move |datagram| (datagram.to_vec(), held))
        });
        datagrams.collect()
    }

    #[test]
    fn no_datagram_has_many_others_held() {
        // As much as the system gives at once.
        for (stride, most) in [(1_200, 4), (1_472, 3), (8_972, 1), (65_000, 1)] {
            let full = (stride, usize::from(RECEIVED_BYTES_MAX) / stride * stride);
            let held = parted(&[full; RECEIVED_BATCHES_MAX]).into_iter().map(|(_, held)| held);
            assert_eq!(held.max(), Some(most), "{stride}");
        }
    }

    #[test]
    fn an_empty_datagram_behind_full_batches_is_no_fault() {
        for count in [31, 32, 33, 63, 64] {
            let held = parted(&[(1_000, 1_000 * count), (1, 0)]);
            assert_eq!(held.len(), count);
        }
    }

    proptest! {
        #[test]
        fn parts_are_what_was_received_in_its_order(
            batches in prop::collection::vec((1..9_000_usize, 0..=64_usize, 0..100_usize), 1..=8),
        ) {
            let batches: Vec<_> = batches
                .into_iter()
                .map(|(stride, count, less)| {
                    let count = count.min(usize::from(RECEIVED_BYTES_MAX) / stride);
                    (stride, (stride * count).saturating_sub(less % stride))
                })
                .collect();
            let parted = parted(&batches);
            let mut mark = 0_u8;
            let mut parts = parted.iter();
            for (stride, len) in batches {
                for start in (0..len).step_by(stride) {
                    let datagram = vec![mark; stride.min(len - start)];
                    prop_assert_eq!(Some(&datagram), parts.next().map(|(part, _)| part));
                    mark = mark.wrapping_add(1);
                }
            }
            prop_assert!(parts.next().is_none());
        }
    }
}
