//! Handshakes that are under way: bounded, so that neither made-up addresses nor a single host keep others
//! out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use crate::mutex::lock;

/// Handshakes that are under way; from there on clients must show first that they receive what is sent
/// to their address, so that made-up addresses cannot keep others out.
const HANDSHAKES_UNPROVEN_MAX: usize = 256;
/// Handshakes under way, of whomever.
const HANDSHAKES_MAX: usize = 1_024;
/// One address, or network, may have one for so many places that are still free, and never more than
/// `HANDSHAKES_PER_ADDRESS_MAX`: a few of them leave room for whoever comes next, however much they want. Of `n`
/// that take all they get, each has `1 / (n + FREE_PER_PLACE)` of the places, and so has the next one.
const FREE_PER_PLACE: usize = 4;
const HANDSHAKES_PER_ADDRESS_MAX: usize = 256;

/// Handshakes that are under way, with anybody: nobody has shown a key yet.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    all: usize,
    /// Those with addresses that are known to be their clients'.
    proven: HashMap<IpAddr, usize>,
}

/// What to do with a first packet.
#[derive(Debug)]
pub(super) enum Knock {
    /// Begin a handshake, which is counted until the guard is dropped.
    Begin(HandshakeSeat),
    /// Have the client prove its address.
    Prove,
    /// Turn it away.
    Refuse,
}

impl Handshakes {
    /// How many there are.
    pub(super) fn under_way(&self) -> usize {
        lock(&self.under_way).all
    }

    /// Somebody at `ip` wants to begin a handshake, and is `proven` to be there or not.
    pub(super) fn knock(self: &Arc<Self>, ip: IpAddr, proven: bool) -> Knock {
        let place = network(ip);
        let mut under_way = lock(&self.under_way);
        if proven {
            let free = HANDSHAKES_MAX.saturating_sub(under_way.all);
            let own_max = free.div_ceil(FREE_PER_PLACE).min(HANDSHAKES_PER_ADDRESS_MAX);
            let own = under_way.proven.get(&place).copied().unwrap_or_default();
            if own >= own_max {
                return Knock::Refuse;
            }
            under_way.proven.insert(place, own + 1);
        } else if under_way.all >= HANDSHAKES_UNPROVEN_MAX {
            return Knock::Prove;
        }
        under_way.all += 1;
        let handshakes = Arc::clone(self);
        Knock::Begin(HandshakeSeat { handshakes, place: proven.then_some(place) })
    }
}

/// A handshake that is counted.
#[derive(Debug)]
pub(super) struct HandshakeSeat {
    handshakes: Arc<Handshakes>,
    place: Option<IpAddr>,
}

impl Drop for HandshakeSeat {
    fn drop(&mut self) {
        let mut under_way = lock(&self.handshakes.under_way);
        under_way.all -= 1;
        let Some(place) = self.place else { return };
        if let Some(count) = under_way.proven.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                under_way.proven.remove(&place);
            }
        }
    }
}

/// What one host can be expected to have for itself: an IPv4 address, or 64 bits of IPv6.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u16) -> IpAddr {
        IpAddr::from([192, 0, (last >> 8) as u8, last as u8])
    }

    fn begins(handshakes: &Arc<Handshakes>, ip: IpAddr, proven: bool) -> Option<HandshakeSeat> {
        match handshakes.knock(ip, proven) {
            Knock::Begin(seat) => Some(seat),
            Knock::Prove | Knock::Refuse => None,
        }
    }

    #[test]
    fn neither_made_up_addresses_nor_one_real_one_keep_others_out() {
        let handshakes = Arc::new(Handshakes::default());
        let mut seats = Vec::new();
        let mut begin = |ip, proven| {
            let seat = begins(&handshakes, ip, proven);
            let has_begun = seat.is_some();
            seats.extend(seat);
            has_begun
        };
        assert!((0..256).all(|last| begin(ip(last), false)));
        assert!(matches!(handshakes.knock(ip(1), false), Knock::Prove));
        let same = "2001:db8::".parse::<Ipv6Addr>().expect("an address").to_bits();
        let same = |last: u128| IpAddr::from(Ipv6Addr::from_bits(same + last));
        let begun = (0..1_024).filter(|&last| begin(same(last), true)).count();
        assert!((128..=256).contains(&begun), "one network has {begun}");
        assert!(begin(ip(1), true), "another address");
        seats.clear();
        assert!(lock(&handshakes.under_way).proven.is_empty());
        assert!(matches!(handshakes.knock(same(1), true), Knock::Begin(_)));
    }

    /// All that made-up addresses can have is taken as well.
    #[test]
    fn a_few_addresses_that_take_all_they_get_leave_room_for_the_lines_of_a_push() {
        for others in [1, 4, 8, 12] {
            let handshakes = Arc::new(Handshakes::default());
            let mut seats: Vec<_> =
                (0..256).filter_map(|last| begins(&handshakes, ip(last), false)).collect();
            for _ in 0..HANDSHAKES_MAX {
                seats.extend((0..others).filter_map(|last| begins(&handshakes, ip(last), true)));
            }
            let honest: Vec<_> = std::iter::repeat_with(|| begins(&handshakes, ip(7_000), true))
                .map_while(|seat| seat)
                .collect();
            assert!(honest.len() >= 32, "beside {others}: {}", honest.len());
            assert!(seats.len() + honest.len() < HANDSHAKES_MAX);
        }
    }
}
