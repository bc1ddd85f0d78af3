//! Handshakes that are under way: bounded, so that neither made-up addresses nor a single host keep others
//! out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use crate::mutex::lock;

/// Handshakes that are under way; from there on clients must show first that they receive what is sent
/// to their address, so that made-up addresses cannot keep others out.
const HANDSHAKES_UNPROVEN_MAX: usize = 256;
/// Handshakes with clients that have shown it: of all of them, and from one address.
const HANDSHAKES_MAX: usize = 2_048;
const HANDSHAKES_PER_ADDRESS_MAX: usize = 512;

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
    /// Somebody at `ip` wants to begin a handshake, and is `proven` to be there or not.
    pub(super) fn knock(self: &Arc<Self>, ip: IpAddr, proven: bool) -> Knock {
        let place = place(ip);
        let mut under_way = lock(&self.under_way);
        if !proven {
            if under_way.all >= HANDSHAKES_UNPROVEN_MAX {
                return Knock::Prove;
            }
        } else if under_way.all >= HANDSHAKES_MAX {
            return Knock::Refuse;
        } else {
            let count = under_way.proven.entry(place).or_default();
            if *count >= HANDSHAKES_PER_ADDRESS_MAX {
                return Knock::Refuse;
            }
            *count += 1;
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
fn place(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_made_up_addresses_nor_one_real_one_keep_others_out() {
        let handshakes = Arc::new(Handshakes::default());
        let ip = |last: u16| IpAddr::from([192, 0, (last >> 8) as u8, last as u8]);
        let mut seats = Vec::new();
        let mut begin = |ip, proven| match handshakes.knock(ip, proven) {
            Knock::Begin(seat) => {
                seats.push(seat);
                true
            }
            _ => false,
        };
        assert!((0..256).all(|last| begin(ip(last), false)));
        assert!(matches!(handshakes.knock(ip(1), false), Knock::Prove));
        let same = "2001:db8::".parse::<Ipv6Addr>().expect("an address").to_bits();
        let same = |last: u128| IpAddr::from(Ipv6Addr::from_bits(same + last));
        assert!((0..512).all(|last| begin(same(last), true)), "one network");
        assert!(!begin(same(7_000), true));
        assert!(begin(ip(1), true), "another address");
        seats.clear();
        assert!(lock(&handshakes.under_way).proven.is_empty());
        assert!(matches!(handshakes.knock(same(1), true), Knock::Begin(_)));
    }
}
