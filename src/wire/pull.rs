//! What is said where the server sends: what a client asks for, and what it hears beside the data.

use super::extra::Extras;
use super::request::{COMPARES, Compares, EXTRAS, PACKING, Packing, extras_option};
use super::{
    Destination, HostNumber, PATH_BYTES_MAX, PushNumber, Select, Skip, TransferSecret, WireError,
    get_bytes, get_u32, get_varint, put_all, put_bytes, put_varint, within,
};

/// Sources that one request names, at most.
pub const PULL_SOURCES_MAX: usize = 64;
/// What they are called, in bytes, at most: they are told over each connection, in one message.
pub const PULL_SOURCES_BYTES_MAX: usize = 3 << 10;

/// The option that says what to skip.
const SKIP: u64 = 1;
/// The one that says what of the sources is wanted.
pub(super) const SELECT: u64 = 3;

/// What a client wants to have, and how. Every connection of a pull begins with the same one, but for its
/// number: all that follows goes as in a push, with the server at the sender's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    /// A secret that the client drew at random.
    pub transfer: TransferSecret,
    /// The connection's number within the transfer.
    pub conn: u32,
    /// Which pull it is: the same sources to the same place, run again, have the same number.
    pub pull: PushNumber,
    /// Where the client runs: an earlier run of the same pull is ended if it is of the same host.
    pub host: HostNumber,
    /// Where to, relative to the folder that the client writes below.
    pub destination: Vec<u8>,
    /// What is there.
    pub found: Destination,
    /// Paths below the server's root; a trailing slash means a folder's contents.
    pub sources: Vec<Vec<u8>>,
    /// How it is to be sent.
    pub wish: Wish,
    /// The client wants to hear of files that it has already, for its receipt.
    pub names_kept: bool,
    /// What is not sent if it is there already.
    pub skip: Skip,
    /// What of the sources is wanted.
    pub select: Select,
    /// What of metadata is to be sent beyond permissions and times.
    pub extras: Extras,
    /// Whether content is to be packed.
    pub packing: Packing,
}

/// How a client wants to be sent to; the server's own bounds hold as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// N, the connections of the set.
    pub connections: u32,
    /// M, how many of them carry data at a time.
    pub active: u32,
    /// Up to which M may grow.
    pub active_max: u32,
    /// The most to send, in bytes per second; none if 0.
    pub rate_max: u64,
    /// 0 for CUBIC on each connection; else one more than how hard to press: 1 background, 2 normal, 3 max.
    pub pressure: u64,
    /// Padding that one priming may cost at most, in bytes.
    pub prime_bytes: u64,
    /// The smallest and the largest stripe, in bytes.
    pub stripe_bytes: [u64; 2],
    /// Stripes that a connection carries before a reserve takes its turn.
    pub turn_stripes: u64,
    /// After how long an idle reserve is primed again, in microseconds.
    pub reprime_after_us: u64,
    /// Bytes delivered per round trip at which a connection counts as primed.
    pub prime_target_bytes: u64,
    /// How long one priming may take, in microseconds.
    pub prime_time_us: u64,
    /// The share of what its siblings do below which a connection is unsatisfactory, in millionths.
    pub threshold_ppm: u64,
    /// Goodput below which it is in any case, in bytes per second.
    pub floor_bytes_per_s: u64,
    /// The round-trip time above which it is in any case, in microseconds; none if 0.
    pub rtt_max_us: u64,
    /// 1 if nothing that is remembered of the path is to be used, or learned.
    pub no_memory: u64,
}

/// Why something at the source is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// It cannot be read, or not be sent.
    Source,
    /// It is not there any more.
    Vanished,
    /// It was written to under way.
    Changed,
}

/// How far a sender is, told a few times a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sending {
    /// Files, folders and links that were found at the source.
    pub found_items: u64,
    /// Bytes of these files.
    pub found_bytes: u64,
    /// 1 if that is all.
    pub scan_done: u64,
    /// How many of these items the receiver has dealt with.
    pub confirmed_items: u64,
    /// Bytes that the receiver has, of earlier runs as well.
    pub confirmed_bytes: u64,
    /// Bytes that the receiver had of earlier runs.
    pub kept_bytes: u64,
    /// Bytes of files that are skipped.
    pub skipped_bytes: u64,
    /// Connections that carry data.
    pub active: u64,
    /// Connections that stand by.
    pub reserve: u64,
    /// Connections that others took over from.
    pub takeovers: u64,
}

/// Why a priming ended, by number.
pub const PRIME_ENDS: [&str; 5] = ["target", "plateau", "congestion", "budget", "data"];
/// Why a connection was given up, by number.
pub const VERDICTS: [&str; 8] = [
    "silent",
    "slow",
    "collapsed",
    "below_floor",
    "rtt_too_high",
    "primed_badly",
    "lost",
    "surplus",
];
/// What a connection is for, by number.
pub const ROLES: [&str; 4] = ["opening", "priming", "reserve", "active"];

/// A connection's priming is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinePrimed {
    /// Its number.
    pub conn: u64,
    /// Why, one of [`PRIME_ENDS`].
    pub end: u64,
    /// Its congestion window, in bytes.
    pub window_bytes: u64,
    /// Padding sent on it so far, in bytes.
    pub padding_bytes: u64,
}

/// A connection was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineGivenUp {
    /// Its number.
    pub conn: u64,
    /// Why, one of [`VERDICTS`].
    pub verdict: u64,
    /// Stripes that others take over from it.
    pub stripes: u64,
}

/// How a connection does, as its sender measures it; about once a second for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineDoes {
    /// Its number.
    pub conn: u64,
    /// What it is for, one of [`ROLES`].
    pub role: u64,
    /// Its smoothed round-trip time, in microseconds.
    pub rtt_us: u64,
    /// The least round-trip time seen on it, in microseconds.
    pub rtt_min_us: u64,
    /// What was confirmed since this was told last, in bytes per second.
    pub goodput_bytes_per_s: u64,
    /// Its congestion window, in bytes.
    pub window_bytes: u64,
    /// Bytes sent that are neither acknowledged nor declared lost.
    pub in_flight_bytes: u64,
    /// Bytes acknowledged so far.
    pub delivered_bytes: u64,
    /// Bytes declared lost so far.
    pub lost_bytes: u64,
    /// Padding sent so far, in bytes.
    pub padding_bytes: u64,
    /// Stripes that the receiver has confirmed so far.
    pub stripes: u64,
}

/// What the sender did, told when all is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Files that are there.
    pub files: u64,
    /// Folders and links that are there.
    pub others: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// What could not be sent.
    pub unsent: u64,
    /// Of these, what was not there any more.
    pub vanished: u64,
    /// Of these, what was written to under way.
    pub changed: u64,
    /// Files that the receiver had already.
    pub kept_files: u64,
    /// Bytes that were not sent again.
    pub kept_bytes: u64,
    /// Files that were skipped, because of what is there.
    pub skipped_files: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
    /// Bytes of content that were sent.
    pub sent_bytes: u64,
    /// Padding that was sent, in bytes.
    pub padding_bytes: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections given up.
    pub condemned: u64,
    /// Connections given up while they carried stripes.
    pub takeovers: u64,
    /// Stripes confirmed.
    pub stripes: u64,
    /// Stripes sent again.
    pub stripes_again: u64,
    /// Sub-transfers.
    pub sub_transfers: u64,
}

/// A message that is nothing but numbers, in the order of its fields.
macro_rules! numbers {
    ($name:ident: $($field:ident),*) => {
        impl $name {
            pub(super) fn encode(self, body: &mut Vec<u8>) {
                put_all(body, &[$(self.$field),*]);
            }

            pub(super) fn decode(body: &mut &[u8]) -> Result<Self, WireError> {
                Ok(Self { $($field: get_varint(body)?),* })
            }
        }
    };
}

numbers!(Sending: found_items, found_bytes, scan_done, confirmed_items, confirmed_bytes, kept_bytes, skipped_bytes, active, reserve, takeovers);
numbers!(LinePrimed: conn, end, window_bytes, padding_bytes);
numbers!(LineGivenUp: conn, verdict, stripes);
numbers!(LineDoes: conn, role, rtt_us, rtt_min_us, goodput_bytes_per_s, window_bytes, in_flight_bytes, delivered_bytes, lost_bytes, padding_bytes, stripes);
numbers!(Sent: files, others, bytes, unsent, vanished, changed, kept_files, kept_bytes, skipped_files, skipped_bytes, sent_bytes, padding_bytes, opened, condemned, takeovers, stripes, stripes_again, sub_transfers);

impl PullRequest {
    pub(super) fn encode(&self, body: &mut Vec<u8>) {
        self.transfer.encode(body);
        put_varint(body, u64::from(self.conn));
        self.pull.encode(body);
        self.host.encode(body);
        put_bytes(body, &self.destination);
        put_all(body, &[self.found as u64, self.sources.len() as u64]);
        for source in &self.sources {
            put_bytes(body, source);
        }
        self.wish.encode(body);
        put_varint(body, self.names_kept.into());
    }

    pub(super) fn decode(body: &mut &[u8]) -> Result<Self, WireError> {
        let transfer = TransferSecret::decode(body)?;
        let conn = get_u32("connection", body)?;
        let (pull, host) = (PushNumber::decode(body)?, HostNumber::decode(body)?);
        let destination = get_bytes("path", body, PATH_BYTES_MAX)?;
        let found = Destination::of_number(get_varint(body)?)?;
        let count = within("number of sources", get_varint(body)?, PULL_SOURCES_MAX)?;
        let source = |_| get_bytes("path", body, PATH_BYTES_MAX);
        let sources = (0..count).map(source).collect::<Result<_, _>>()?;
        let wish = Wish::decode(body)?;
        let names_kept = within("flag", get_varint(body)?, 1)? == 1;
        Ok(Self {
            transfer,
            conn,
            pull,
            host,
            destination,
            found,
            sources,
            wish,
            names_kept,
            skip: Skip::NOTHING,
            select: Select::default(),
            extras: Extras::default(),
            packing: Packing::None,
        })
    }

    /// What follows the fields, by number.
    pub(super) fn options(&self) -> Vec<(u64, Vec<u8>)> {
        let mut options = Vec::new();
        let compares = self.skip.compares();
        if (Skip { checksum: false, delta: false, ..self.skip }) != Skip::NOTHING {
            let mut value = Vec::new();
            self.skip.encode(&mut value);
            options.push((SKIP, value));
        }
        options.extend(compares.option());
        options.extend(select_option(&self.select));
        options.extend(extras_option(self.extras));
        options.extend(self.packing.option());
        options
    }

    /// Takes the option `number`. False if there is none.
    pub(super) fn take_option(&mut self, number: u64, mut value: &[u8]) -> Result<bool, WireError> {
        match number {
            SKIP => {
                let Skip { checksum, delta, .. } = self.skip;
                self.skip = Skip { checksum, delta, ..Skip::decode(&mut value)? };
            }
            COMPARES => {
                let Compares { checksum, delta } = Compares::decode(&mut value)?;
                self.skip = Skip { checksum, delta, ..self.skip };
            }
            SELECT => self.select = Select::decode(&mut value)?,
            EXTRAS => self.extras = Extras::decode(&mut value)?,
            PACKING => self.packing = Packing::decode(&mut value)?,
            _ => return Ok(false),
        }
        if value.is_empty() { Ok(true) } else { Err(WireError::LeftOver(value.len())) }
    }
}

/// The option that says what is wanted, if that is not everything.
pub(super) fn select_option(select: &Select) -> Option<(u64, Vec<u8>)> {
    (*select != Select::default()).then(|| {
        let mut value = Vec::new();
        select.encode(&mut value);
        (SELECT, value)
    })
}

impl Wish {
    fn encode(&self, body: &mut Vec<u8>) {
        let Self { connections, active, active_max, rate_max, pressure, prime_bytes, .. } = *self;
        put_all(body, &[connections, active, active_max].map(u64::from));
        put_all(body, &[rate_max, pressure, prime_bytes]);
        put_all(body, &self.stripe_bytes);
        put_all(body, &[self.turn_stripes, self.reprime_after_us, self.prime_target_bytes]);
        put_all(body, &[self.prime_time_us, self.threshold_ppm, self.floor_bytes_per_s]);
        put_all(body, &[self.rtt_max_us, self.no_memory]);
    }

    fn decode(body: &mut &[u8]) -> Result<Self, WireError> {
        Ok(Self {
            connections: get_u32("connections", body)?,
            active: get_u32("connections", body)?,
            active_max: get_u32("connections", body)?,
            rate_max: get_varint(body)?,
            pressure: within("pressure", get_varint(body)?, 3)? as u64,
            prime_bytes: get_varint(body)?,
            stripe_bytes: [get_varint(body)?, get_varint(body)?],
            turn_stripes: get_varint(body)?,
            reprime_after_us: get_varint(body)?,
            prime_target_bytes: get_varint(body)?,
            prime_time_us: get_varint(body)?,
            threshold_ppm: get_varint(body)?,
            floor_bytes_per_s: get_varint(body)?,
            rtt_max_us: get_varint(body)?,
            no_memory: get_varint(body)?,
        })
    }
}

impl Unsendable {
    pub(super) fn of_number(value: u64) -> Result<Self, WireError> {
        Ok(match value {
            0 => Self::Source,
            1 => Self::Vanished,
            2 => Self::Changed,
            value => return Err(WireError::Unknown { what: "reason", value }),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::VARINT_MAX;
    use super::super::extra::tests::extras;
    use super::super::look::tests::skip;
    use super::super::select::tests::select;
    use super::*;

    /// Any request to be sent something.
    pub(in crate::wire) fn pull_request() -> impl Strategy<Value = PullRequest> {
        let name = || proptest::collection::vec(any::<u8>(), 0..40);
        let counts = proptest::array::uniform12(0..=VARINT_MAX);
        let numbers = (any::<[u32; 3]>(), 0..4_u64, counts);
        let wish = numbers.prop_map(|([connections, active, active_max], pressure, counts)| {
            let [
                rate_max,
                prime_bytes,
                min,
                max,
                turn,
                reprime,
                target,
                time,
                threshold,
                floor,
                rtt,
                memory,
            ] = counts;
            Wish {
                connections,
                active,
                active_max,
                rate_max,
                pressure,
                prime_bytes,
                stripe_bytes: [min, max],
                turn_stripes: turn,
                reprime_after_us: reprime,
                prime_target_bytes: target,
                prime_time_us: time,
                threshold_ppm: threshold,
                floor_bytes_per_s: floor,
                rtt_max_us: rtt,
                no_memory: memory,
            }
        });
        let sources = proptest::collection::vec(name(), 0..PULL_SOURCES_MAX);
        let asked = (skip(), select(), extras());
        (any::<[[u8; 16]; 3]>(), any::<u32>(), name(), 0..3_u64, sources, wish, asked).prop_map(
            |([transfer, pull, host], conn, destination, found, sources, wish, asked)| {
                let (skip, select, extras) = asked;
                PullRequest {
                    transfer: TransferSecret(transfer),
                    conn,
                    pull: PushNumber(pull),
                    host: HostNumber(host),
                    destination,
                    found: Destination::of_number(found).unwrap(),
                    sources,
                    wish,
                    names_kept: transfer[0] & 1 == 1,
                    skip,
                    select,
                    extras,
                    packing: [Packing::None, Packing::Auto, Packing::Always]
                        [usize::from(transfer[1] % 3)],
                }
            },
        )
    }
}
