//! What a client says first on each bidirectional stream that it opens: what the stream is for.
//!
//! The first field is the version, so that it can be told whatever follows; then a type and its fields, and at the
//! end a list of options: a count, and for each its number and its value (bytes). A server refuses what it does not
//! know, the version ([`CLOSE_VERSION`](super::CLOSE_VERSION)), the type and every option
//! ([`CLOSE_UNKNOWN`](super::CLOSE_UNKNOWN)): nothing that was asked for is passed over in silence.
//!
//! | type | request | fields | needs |
//! |---|---|---|---|
//! | 1 | [`Request::Push`] | transfer (16 bytes), connection, destination (bytes), run (16 bytes), host (16 bytes), [`Keep`] | write |
//! | 2 | [`Request::Pull`] | transfer (16 bytes), connection, run (16 bytes), host (16 bytes), destination (bytes), found (as in a welcome), count, for each source: path (bytes), [`Wish`](super::Wish): its fields in their order, whether kept files are to be named (0, 1) | read |
//! | 3 | [`Request::Verify`] | destination (bytes) | read |
//! | 4 | [`Request::List`] | path (bytes), recursive (0, 1) | read |
//! | 5 | [`Request::Survey`] | count, for each source: path (bytes) | read |
//! | 6 | [`Request::Sweep`] | destination (bytes), count, for each folder: path (bytes) | read and write, and not only what is new |
//!
//! | option | of | value |
//! |---|---|---|
//! | 1 | a pull | [`Skip`](super::Skip): what, seconds; without, everything is sent |
//! | 3 | a pull, a survey | [`Select`](super::Select): what of the sources is wanted; without, everything |
//! | 4 | a survey | none: the client asks about names, and is not told what there is |
//! | 2 | a verify | none: what is compared would be written there, which needs the right to write as well |
//! | 16 | a push, a pull | [`Extras`]: what beyond permissions and times is kept |
//! | 17 | a push | none: it is one file that comes from a pipe, and how long it is is known at its end |
//! | 19 | a push, a pull | [`Packing`]: 1 if content is packed where that pays, 2 if wherever it shrinks; of a push both say that it may be |
//! | 18 | a push, a pull | a sum of 1 if content that is there decides what is sent, and 2 if of files only what differs is |

use super::extra::Extras;
use super::limit;
use super::message::Message;
use super::{
    HostNumber, ListRequest, PATH_BYTES_MAX, PullRequest, PushNumber, REQUEST_BYTES_MAX,
    SurveyRequest, SweepRequest, TransferSecret, VERSION, WireError, get_bytes, get_u32,
    get_varint, put_bytes, put_varint, within,
};

/// Options of one request, at most.
const OPTIONS_MAX: usize = 64;
/// The option that says what else of metadata is kept.
pub(super) const EXTRAS: u64 = 16;
/// The option that says that content which is there is asked for.
pub(super) const COMPARES: u64 = 18;
/// The option that says that content may be packed.
pub(super) const PACKING: u64 = 19;
/// The option that says that what is pushed comes from a pipe.
const STREAM: u64 = 17;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To look at what is there.
    Read,
    /// To put something there. Where that is allowed only for what is new, nothing else is done.
    Write,
}

/// What a client wants of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To send something there. The client says [`ToReceiver`](super::ToReceiver), the server
    /// [`ToSender`](super::ToSender).
    Push(PushRequest),
    /// To be sent something: the other way round.
    Pull(Box<PullRequest>),
    /// To compare what is there with what it has. It asks [`Question`](super::Question)s, and hears
    /// [`Answer`](super::Answer)s.
    Verify(VerifyRequest),
    /// To know what is there. It asks no more, and hears [`Answer`](super::Answer)s.
    List(ListRequest),
    /// To know what a pull would send. It hears [`Answer`](super::Answer)s as well.
    Survey(SurveyRequest),
    /// To have removed what is not at its source. It hears [`Answer`](super::Answer)s, and says
    /// [`Question`](super::Question)s.
    Sweep(SweepRequest),
}

/// What a client that compares says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRequest {
    /// Where to look, relative to the server's root.
    pub destination: Vec<u8>,
    /// It would be written there.
    pub writes: bool,
}

/// The option that says that it would be written there.
const WRITES: u64 = 2;

/// What a client that pushes says on each connection of the transfer: the first one begins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRequest {
    /// A secret that the client drew at random.
    pub transfer: TransferSecret,
    /// The connection's number within the transfer.
    pub conn: u32,
    /// Where to write, relative to the server's root.
    pub destination: Vec<u8>,
    /// Which push it is: the same sources to the same destination, run again, have the same number.
    /// Others of the same client may have it as well, and go on with what it has left.
    pub push: PushNumber,
    /// Where the client runs: another run of the same push is ended at once if it is of the same
    /// host, and otherwise only if it gives no sign of life.
    pub host: HostNumber,
    /// What of metadata is to be kept.
    pub keep: Keep,
    /// What beyond that.
    pub extras: Extras,
    /// It is one file that comes from a pipe: all pieces but the last ones say [`FILE_BYTES_MAX`] for its size, and
    /// nothing of it is kept for a later run.
    ///
    /// [`FILE_BYTES_MAX`]: crate::hashtree::FILE_BYTES_MAX
    pub is_stream: bool,
    /// What content that is there is asked for, by its hashes.
    pub compares: Compares,
    /// Whether content may be packed.
    pub packing: Packing,
}

/// Whether content is packed before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// It is not.
    #[default]
    None,
    /// While the path and not this end is what holds the transfer up.
    Auto,
    /// Wherever it shrinks.
    Always,
}

impl Packing {
    pub(super) fn option(self) -> Option<(u64, Vec<u8>)> {
        let mut value = Vec::new();
        put_varint(&mut value, self as u64);
        (self != Self::None).then_some((PACKING, value))
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        match get_varint(input)? {
            1 => Ok(Self::Auto),
            2 => Ok(Self::Always),
            value => Err(WireError::Unknown { what: "packing", value }),
        }
    }
}

/// What content that is at the destination is asked for, by its hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compares {
    /// It decides what is sent.
    pub checksum: bool,
    /// Of what is sent only what differs goes over the wire.
    pub delta: bool,
}

impl Compares {
    /// Whether any is.
    pub fn is_any(self) -> bool {
        self.checksum || self.delta
    }

    pub(super) fn option(self) -> Option<(u64, Vec<u8>)> {
        let number = u64::from(self.checksum) + 2 * u64::from(self.delta);
        let mut value = Vec::new();
        put_varint(&mut value, number);
        self.is_any().then_some((COMPARES, value))
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let number = limit("what to compare", get_varint(input)?, 3)?;
        Ok(Self { checksum: number & 1 != 0, delta: number & 2 != 0 })
    }
}

/// What of metadata is to be kept at the receiver: a sum of 1 if modes are not, 2 if times are not, and 4 if those
/// of folders are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Permission bits. Without, what is new gets what the receiver's mask leaves of them, and what
    /// replaces something has its.
    pub modes: bool,
    /// Modification times.
    pub times: bool,
    /// Those of folders, where times are kept at all.
    pub folder_times: bool,
}

impl Default for Keep {
    fn default() -> Self {
        Self { modes: true, times: true, folder_times: true }
    }
}

impl Keep {
    fn number(self) -> u64 {
        let lacks = [!self.modes, !self.times, !self.folder_times];
        lacks.into_iter().zip([1, 2, 4]).map(|(lacks, bit)| u64::from(lacks) * bit).sum()
    }

    fn of_number(number: u64) -> Self {
        let keeps = |bit| number & bit == 0;
        Self { modes: keeps(1), times: keeps(2), folder_times: keeps(4) }
    }
}

impl Request {
    /// What the client's key must allow.
    pub fn right(&self) -> Right {
        match self {
            Self::Push(_) | Self::Sweep(_) => Right::Write,
            Self::Pull(_) | Self::Verify(_) | Self::List(_) | Self::Survey(_) => Right::Read,
        }
    }
}

impl Message for Request {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn put(&self, body: &mut Vec<u8>) {
        put_varint(body, VERSION);
        match self {
            Self::Push(request) => {
                put_varint(body, 1);
                request.encode(body);
            }
            Self::Pull(request) => {
                put_varint(body, 2);
                request.encode(body);
            }
            Self::Verify(VerifyRequest { destination, .. }) => {
                put_varint(body, 3);
                put_bytes(body, destination);
            }
            Self::List(request) => {
                put_varint(body, 4);
                request.encode(body);
            }
            Self::Survey(request) => {
                put_varint(body, 5);
                request.encode(body);
            }
            Self::Sweep(request) => {
                put_varint(body, 6);
                request.encode(body);
            }
        }
        let options = match self {
            Self::Push(request) => request.options(),
            Self::Pull(request) => request.options(),
            Self::Verify(VerifyRequest { writes: true, .. }) => vec![(WRITES, Vec::new())],
            Self::Survey(request) => request.options(),
            Self::Verify(_) | Self::List(_) | Self::Sweep(_) => Vec::new(),
        };
        put_varint(body, options.len() as u64);
        for (number, value) in options {
            put_varint(body, number);
            put_bytes(body, &value);
        }
    }

    fn get(body: &mut &[u8]) -> Result<Self, WireError> {
        let version = get_varint(body)?;
        if version != VERSION {
            *body = &[];
            return Err(WireError::Version(version));
        }
        let mut request = match get_varint(body)? {
            1 => Self::Push(PushRequest::decode(body)?),
            2 => Self::Pull(Box::new(PullRequest::decode(body)?)),
            3 => Self::Verify(VerifyRequest {
                destination: get_bytes("path", body, PATH_BYTES_MAX)?,
                writes: false,
            }),
            4 => Self::List(ListRequest::decode(body)?),
            5 => Self::Survey(SurveyRequest::decode(body)?),
            6 => Self::Sweep(SweepRequest::decode(body)?),
            value => return Err(WireError::Unasked { what: "request", value }),
        };
        for _ in 0..within("number of options", get_varint(body)?, OPTIONS_MAX)? {
            let number = get_varint(body)?;
            let value = get_bytes("option", body, REQUEST_BYTES_MAX)?;
            let is_known = match &mut request {
                Self::Push(request) => request.take_option(number, &value)?,
                Self::Pull(request) => request.take_option(number, &value)?,
                Self::Verify(request) if number == WRITES && value.is_empty() => {
                    request.writes = true;
                    true
                }
                Self::Survey(request) => request.take_option(number, &value)?,
                Self::Verify(_) | Self::List(_) | Self::Sweep(_) => false,
            };
            if !is_known {
                return Err(WireError::Unasked { what: "option", value: number });
            }
        }
        Ok(request)
    }
}

impl PushRequest {
    fn encode(&self, body: &mut Vec<u8>) {
        self.transfer.encode(body);
        put_varint(body, u64::from(self.conn));
        put_bytes(body, &self.destination);
        self.push.encode(body);
        self.host.encode(body);
        put_varint(body, self.keep.number());
    }

    fn decode(body: &mut &[u8]) -> Result<Self, WireError> {
        Ok(Self {
            transfer: TransferSecret::decode(body)?,
            conn: get_u32("connection", body)?,
            destination: get_bytes("path", body, PATH_BYTES_MAX)?,
            push: PushNumber::decode(body)?,
            host: HostNumber::decode(body)?,
            keep: Keep::of_number(limit("what to keep", get_varint(body)?, 7)?),
            extras: Extras::default(),
            is_stream: false,
            compares: Compares::default(),
            packing: Packing::None,
        })
    }

    /// What follows the fields, by number.
    fn options(&self) -> Vec<(u64, Vec<u8>)> {
        let stream = self.is_stream.then(|| (STREAM, Vec::new()));
        let compares = self.compares.option();
        let options = [extras_option(self.extras), stream, compares, self.packing.option()];
        options.into_iter().flatten().collect()
    }

    /// Takes the option `number`. False if there is none.
    fn take_option(&mut self, number: u64, mut value: &[u8]) -> Result<bool, WireError> {
        match number {
            EXTRAS => self.extras = Extras::decode(&mut value)?,
            STREAM => self.is_stream = true,
            COMPARES => self.compares = Compares::decode(&mut value)?,
            PACKING => self.packing = Packing::decode(&mut value)?,
            _ => return Ok(false),
        }
        if value.is_empty() { Ok(true) } else { Err(WireError::LeftOver(value.len())) }
    }
}

/// What is asked for beyond modes and times, if that is anything.
pub(super) fn extras_option(extras: Extras) -> Option<(u64, Vec<u8>)> {
    let mut value = Vec::new();
    extras.encode(&mut value);
    extras.is_any().then_some((EXTRAS, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::extra::tests::extras;
    use super::super::message::tests::survives;
    use super::super::path::tests::path;
    use super::super::pull::tests::pull_request;
    use super::super::select::tests::select;
    use super::*;

    fn request() -> impl Strategy<Value = Request> {
        let text = proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (any::<[[u8; 16]; 3]>(), any::<u32>(), text.clone(), 0..8_u64, extras()).prop_map(
                |([transfer, push, host], conn, destination, keep, extras)| {
                    Request::Push(PushRequest {
                        transfer: TransferSecret(transfer),
                        conn,
                        destination,
                        push: PushNumber(push),
                        host: HostNumber(host),
                        keep: Keep::of_number(keep),
                        extras,
                        is_stream: transfer[0] & 1 == 1,
                        compares: Compares {
                            checksum: transfer[1] & 1 == 1,
                            delta: transfer[1] & 2 == 2,
                        },
                        packing: [Packing::None, Packing::Auto, Packing::Always]
                            [usize::from(transfer[2] % 3)],
                    })
                }
            ),
            pull_request().prop_map(|request| Request::Pull(Box::new(request))),
            (text.clone(), any::<bool>()).prop_map(|(destination, writes)| {
                Request::Verify(VerifyRequest { destination, writes })
            }),
            (proptest::collection::vec(text.clone(), 0..5), select(), any::<bool>()).prop_map(
                |(sources, select, is_about_names)| {
                    Request::Survey(SurveyRequest { sources, select, is_about_names })
                }
            ),
            (text.clone(), proptest::collection::vec(path(), 0..5)).prop_map(
                |(destination, scopes)| Request::Sweep(SweepRequest { destination, scopes })
            ),
            (text, any::<bool>())
                .prop_map(|(path, recursive)| Request::List(ListRequest { path, recursive })),
        ]
    }

    /// A request for nothing but its version, type and options.
    fn decode(body: &[u8]) -> Result<Option<(Request, usize)>, WireError> {
        let mut out = Vec::new();
        put_bytes(&mut out, body);
        Request::decode(&out)
    }

    #[test]
    fn what_is_not_known_is_told_apart_from_what_is_broken() {
        let unknown = |what, value| Err(WireError::Unasked { what, value });
        assert_eq!(decode(&[VERSION as u8 + 1, 77]), Err(WireError::Version(VERSION + 1)));
        assert_eq!(decode(&[VERSION as u8, 63]), unknown("request", 63));
        assert_eq!(decode(&[VERSION as u8, 3, 0, 1, 9, 0]), unknown("option", 9));
        assert_eq!(decode(&[VERSION as u8, 3, 0]), Err(WireError::Short));
        let verify = Request::Verify(VerifyRequest { destination: vec![], writes: false });
        assert_eq!(decode(&[VERSION as u8, 3, 0, 0]), Ok(Some((verify, 5))));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(request in request()) {
            survives(&request);
        }
    }
}
