//! How messages are written and read.

use bytes::{Buf, BufMut};

use super::super::ids::{
    FileKey, HostNumber, PushNumber, SourceBasis, SourceState, TransferSecret,
};
use super::super::stripe::{get_path, limit};
use super::super::{
    CONTROL_BYTES_MAX, ListRequest, Listed, PATH_BYTES_MAX, PullRequest, Sending, Sent, Subject,
    TEXT_BYTES_MAX, Unsendable, Verdict, WireError, get_array, get_bytes, get_u32, get_varint,
    put_all, put_bytes, put_varint, within,
};
use super::{Control, Destination, KEPT_MAX, Keep, KeptFile, KeptPiece, Unkept, What};

impl Control {
    /// Appends the message with its length in front.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        match self {
            Self::Hello { version, transfer, conn, destination, push, host, keep } => {
                put_all(&mut body, &[1, *version]);
                transfer.encode(&mut body);
                put_varint(&mut body, u64::from(*conn));
                put_bytes(&mut body, destination);
                push.encode(&mut body);
                host.encode(&mut body);
                put_varint(&mut body, keep.number());
            }
            Self::Welcome { version, destination, instance, kept } => {
                let kept = u64::from(*kept);
                put_all(&mut body, &[2, *version, *destination as u64, *instance, kept]);
            }
            Self::Confirm(stripe) => put_all(&mut body, &[3, *stripe]),
            Self::Damaged(stripe) => put_all(&mut body, &[4, *stripe]),
            Self::Heard(number) => put_all(&mut body, &[15, *number]),
            Self::Failed { number, item, path, message } => {
                put_all(&mut body, &[5, *number, item.map_or(0, |item| item + 1)]);
                put_bytes(&mut body, path);
                put_bytes(&mut body, message);
            }
            Self::Drop(conn) => put_all(&mut body, &[6, u64::from(*conn)]),
            Self::Finish { stripes } => put_all(&mut body, &[7, *stripes]),
            Self::Finished {
                files,
                bytes,
                failed_files,
                discarded_files,
                failed_others,
                padding_bytes,
            } => {
                let counts = [files, bytes, failed_files, discarded_files, failed_others];
                put_varint(&mut body, 8);
                put_all(&mut body, &counts.map(|&count| count));
                put_varint(&mut body, *padding_bytes);
            }
            Self::Recall => put_varint(&mut body, 9),
            Self::KeptFiles(files) => {
                put_all(&mut body, &[10, files.len() as u64]);
                for KeptFile { file, state, hash } in files {
                    file.encode(&mut body);
                    state.encode(&mut body);
                    body.put_slice(hash);
                }
            }
            Self::KeptPieces { file, basis, state, pieces } => {
                put_varint(&mut body, 11);
                file.encode(&mut body);
                basis.encode(&mut body);
                state.encode(&mut body);
                put_varint(&mut body, pieces.len() as u64);
                for KeptPiece { offset, len, hash } in pieces {
                    put_all(&mut body, &[*offset, *len]);
                    body.put_slice(hash);
                }
            }
            Self::KeptEnd => put_varint(&mut body, 12),
            Self::Unkept(Unkept { what, count, path, reason }) => {
                put_all(&mut body, &[13, *what as u64, *count]);
                put_bytes(&mut body, path);
                put_bytes(&mut body, reason);
            }
            Self::Waiting { message } => {
                put_varint(&mut body, 14);
                put_bytes(&mut body, message);
            }
            Self::Verify { version, destination } => {
                put_all(&mut body, &[20, *version]);
                put_bytes(&mut body, destination);
            }
            Self::Compare { item, path, subject } => {
                put_all(&mut body, &[21, *item]);
                put_bytes(&mut body, path);
                subject.encode(&mut body);
            }
            Self::Expect { item, hash } => {
                put_all(&mut body, &[22, *item]);
                body.put_slice(hash.as_ref().map_or(&[], |hash| hash));
            }
            Self::Compared { item, verdict } => {
                put_all(&mut body, &[23, *item]);
                verdict.encode(&mut body);
            }
            Self::Pull(request) => {
                put_varint(&mut body, 24);
                request.encode(&mut body);
            }
            Self::Grant { version, instance } => put_all(&mut body, &[25, *version, *instance]),
            Self::Wanted { lines } => put_all(&mut body, &[26, *lines]),
            Self::Unopened(conn) => put_all(&mut body, &[27, u64::from(*conn)]),
            Self::Sending(sending) => {
                put_varint(&mut body, 28);
                sending.encode(&mut body);
            }
            Self::Unsent { number, why, path, message } => {
                put_all(&mut body, &[29, *number, *why as u64]);
                put_bytes(&mut body, path);
                put_bytes(&mut body, message);
            }
            Self::Sent(sent) => {
                put_varint(&mut body, 30);
                sent.encode(&mut body);
            }
            Self::List(request) => {
                put_varint(&mut body, 31);
                request.encode(&mut body);
            }
            Self::ListFolder(path) => {
                put_varint(&mut body, 32);
                put_bytes(&mut body, path);
            }
            Self::Listed(listed) => {
                put_varint(&mut body, 33);
                listed.encode(&mut body);
            }
            Self::Unlisted { path, message } => {
                put_varint(&mut body, 34);
                put_bytes(&mut body, path);
                put_bytes(&mut body, message);
            }
            Self::ListEnd => put_varint(&mut body, 35),
        }
        put_bytes(out, &body);
    }

    /// Reads one message from the front of `input`: the message and how many bytes it took, or `None`
    /// if more bytes are needed.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let mut rest = input;
        let len = match get_varint(&mut rest) {
            Ok(len) => within("control message", len, CONTROL_BYTES_MAX)?,
            Err(_) => return Ok(None),
        };
        let Some(mut body) = rest.get(..len) else { return Ok(None) };
        let message = Self::decode_body(&mut body)?;
        if body.has_remaining() {
            return Err(WireError::LeftOver(body.remaining()));
        }
        Ok(Some((message, input.len() - rest.len() + len)))
    }

    fn decode_body(body: &mut &[u8]) -> Result<Self, WireError> {
        Ok(match get_varint(body)? {
            1 => {
                let version = get_varint(body)?;
                let transfer = TransferSecret::decode(body)?;
                let conn = get_u32("connection", body)?;
                let destination = get_bytes("path", body, PATH_BYTES_MAX)?;
                let (push, host) = (PushNumber::decode(body)?, HostNumber::decode(body)?);
                let keep = Keep::of_number(limit("what to keep", get_varint(body)?, 7)?);
                Self::Hello { version, transfer, conn, destination, push, host, keep }
            }
            2 => Self::Welcome {
                version: get_varint(body)?,
                destination: Destination::of_number(get_varint(body)?)?,
                instance: get_varint(body)?,
                kept: within("kept flag", get_varint(body)?, 1)? == 1,
            },
            3 => Self::Confirm(get_varint(body)?),
            4 => Self::Damaged(get_varint(body)?),
            15 => Self::Heard(get_varint(body)?),
            5 => Self::Failed {
                number: get_varint(body)?,
                item: get_varint(body)?.checked_sub(1),
                path: get_bytes("path", body, PATH_BYTES_MAX)?,
                message: get_bytes("message", body, TEXT_BYTES_MAX)?,
            },
            6 => Self::Drop(get_u32("connection", body)?),
            7 => Self::Finish { stripes: get_varint(body)? },
            8 => Self::Finished {
                files: get_varint(body)?,
                bytes: get_varint(body)?,
                failed_files: get_varint(body)?,
                discarded_files: get_varint(body)?,
                failed_others: get_varint(body)?,
                padding_bytes: get_varint(body)?,
            },
            9 => Self::Recall,
            10 => {
                let count = within("number of files", get_varint(body)?, KEPT_MAX)?;
                let file = |_| {
                    let (file, state) = (FileKey::decode(body)?, SourceState::decode(body)?);
                    Ok(KeptFile { file, state, hash: get_array(body)? })
                };
                Self::KeptFiles((0..count).map(file).collect::<Result<_, WireError>>()?)
            }
            11 => {
                let file = FileKey::decode(body)?;
                let (basis, state) = (SourceBasis::decode(body)?, SourceState::decode(body)?);
                let count = within("number of pieces", get_varint(body)?, KEPT_MAX)?;
                let piece = |_| {
                    let (offset, len) = (get_varint(body)?, get_varint(body)?);
                    Ok(KeptPiece { offset, len, hash: get_array(body)? })
                };
                let pieces = (0..count).map(piece).collect::<Result<_, WireError>>()?;
                Self::KeptPieces { file, basis, state, pieces }
            }
            12 => Self::KeptEnd,
            13 => Self::Unkept(Unkept {
                what: match get_varint(body)? {
                    0 => What::Modes,
                    1 => What::Times,
                    value => return Err(WireError::Unknown { what: "metadata", value }),
                },
                count: get_varint(body)?,
                path: get_bytes("path", body, PATH_BYTES_MAX)?,
                reason: get_bytes("message", body, TEXT_BYTES_MAX)?,
            }),
            14 => Self::Waiting { message: get_bytes("message", body, TEXT_BYTES_MAX)? },
            24 => Self::Pull(Box::new(PullRequest::decode(body)?)),
            25 => Self::Grant { version: get_varint(body)?, instance: get_varint(body)? },
            26 => Self::Wanted { lines: get_varint(body)? },
            27 => Self::Unopened(get_u32("connection", body)?),
            28 => Self::Sending(Sending::decode(body)?),
            29 => Self::Unsent {
                number: get_varint(body)?,
                why: Unsendable::of_number(get_varint(body)?)?,
                path: get_bytes("path", body, PATH_BYTES_MAX)?,
                message: get_bytes("message", body, TEXT_BYTES_MAX)?,
            },
            30 => Self::Sent(Sent::decode(body)?),
            20 => Self::Verify {
                version: get_varint(body)?,
                destination: get_bytes("path", body, PATH_BYTES_MAX)?,
            },
            21 => Self::Compare {
                item: get_varint(body)?,
                path: get_path(body, false)?,
                subject: Subject::decode(body)?,
            },
            22 => Self::Expect {
                item: get_varint(body)?,
                hash: if body.is_empty() { None } else { Some(get_array(body)?) },
            },
            23 => Self::Compared { item: get_varint(body)?, verdict: Verdict::decode(body)? },
            31 => Self::List(ListRequest::decode(body)?),
            32 => Self::ListFolder(get_path(body, true)?),
            33 => Self::Listed(Listed::decode(body)?),
            34 => Self::Unlisted {
                path: get_path(body, true)?,
                message: get_bytes("message", body, TEXT_BYTES_MAX)?,
            },
            35 => Self::ListEnd,
            value => return Err(WireError::Unknown { what: "message type", value }),
        })
    }
}

/// Finds the messages in what a stream brings, however that is cut. Holds no more than what was pushed
/// since the last whole message: push only when there is none to [`take`](Self::take).
#[derive(Debug, Default)]
pub struct ControlBuffer {
    bytes: Vec<u8>,
    /// How much of it has been decoded.
    decoded: usize,
}

impl ControlBuffer {
    /// Appends what the stream has brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.decoded);
        self.decoded = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, or `None` if more bytes are needed.
    pub fn take(&mut self) -> Result<Option<Control>, WireError> {
        let Some((message, len)) = Control::decode(&self.bytes[self.decoded..])? else {
            return Ok(None);
        };
        self.decoded += len;
        Ok(Some(message))
    }

    /// Bytes that no message was made of yet.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.decoded
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::compare::tests::{subject, verdict};
    use super::super::super::list::tests::listed;
    use super::super::super::pull::tests::request;
    use super::super::super::stripe::tests::path;
    use super::super::super::{VARINT_MAX, VERSION, put_varint};
    use super::*;
    use proptest::prelude::*;

    fn control() -> impl Strategy<Value = Control> {
        let number = 0..=VARINT_MAX;
        let text = proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (number.clone(), any::<[[u8; 16]; 3]>(), any::<u32>(), text.clone(), 0..8_u64)
                .prop_map(|(version, [transfer, push, host], conn, destination, keep)| {
                    let keep = Keep::of_number(keep);
                    let transfer = TransferSecret(transfer);
                    let (push, host) = (PushNumber(push), HostNumber(host));
                    Control::Hello { version, transfer, conn, destination, push, host, keep }
                }),
            (any::<bool>(), number.clone(), text.clone(), text.clone()).prop_map(
                |(is_mode, count, path, reason)| {
                    let what = if is_mode { What::Modes } else { What::Times };
                    Control::Unkept(Unkept { what, count, path, reason })
                }
            ),
            (number.clone(), any::<bool>()).prop_map(|(instance, kept)| Control::Welcome {
                version: VERSION,
                destination: Destination::Folder,
                instance,
                kept,
            }),
            Just(Control::Recall),
            Just(Control::KeptEnd),
            text.clone().prop_map(|message| Control::Waiting { message }),
            proptest::collection::vec(any::<([[u8; 16]; 2], [u8; 32])>(), 0..=KEPT_MAX).prop_map(
                |files| Control::KeptFiles(
                    files
                        .into_iter()
                        .map(|([file, state], hash)| KeptFile {
                            file: FileKey(file),
                            state: SourceState(state),
                            hash
                        })
                        .collect()
                )
            ),
            (
                any::<[[u8; 16]; 3]>(),
                proptest::collection::vec(
                    (number.clone(), number.clone(), any::<[u8; 32]>())
                        .prop_map(|(offset, len, hash)| KeptPiece { offset, len, hash }),
                    0..=KEPT_MAX
                )
            )
                .prop_map(|([file, basis, state], pieces)| Control::KeptPieces {
                    file: FileKey(file),
                    basis: SourceBasis(basis),
                    state: SourceState(state),
                    pieces
                }),
            number.clone().prop_map(Control::Confirm),
            number.clone().prop_map(Control::Damaged),
            number.clone().prop_map(Control::Heard),
            (number.clone(), proptest::option::of(0..1_u64 << 60), text.clone(), text.clone())
                .prop_map(|(number, item, path, message)| Control::Failed {
                    number,
                    item,
                    path,
                    message
                }),
            any::<u32>().prop_map(Control::Drop),
            number.clone().prop_map(|stripes| Control::Finish { stripes }),
            proptest::array::uniform6(number.clone()).prop_map(
                |[files, bytes, failed_files, discarded_files, failed_others, padding_bytes]| {
                    Control::Finished {
                        files,
                        bytes,
                        failed_files,
                        discarded_files,
                        failed_others,
                        padding_bytes,
                    }
                }
            ),
            (number.clone(), text.clone())
                .prop_map(|(version, destination)| Control::Verify { version, destination }),
            (number.clone(), text.clone(), any::<bool>()).prop_map(|(version, path, recursive)| {
                Control::List(ListRequest { version, path, recursive })
            }),
            path().prop_map(Control::ListFolder),
            Just(Control::ListFolder(vec![])),
            listed().prop_map(Control::Listed),
            (path(), text).prop_map(|(path, message)| Control::Unlisted { path, message }),
            Just(Control::ListEnd),
            (number.clone(), path(), subject())
                .prop_map(|(item, path, subject)| Control::Compare { item, path, subject }),
            (number.clone(), any::<Option<[u8; 32]>>())
                .prop_map(|(item, hash)| Control::Expect { item, hash }),
            (number.clone(), verdict())
                .prop_map(|(item, verdict)| Control::Compared { item, verdict }),
            request().prop_map(|request| Control::Pull(Box::new(request))),
            (number.clone(), number.clone())
                .prop_map(|(version, instance)| Control::Grant { version, instance }),
            number.clone().prop_map(|lines| Control::Wanted { lines }),
            any::<u32>().prop_map(Control::Unopened),
            number.clone().prop_map(|found_bytes| {
                Control::Sending(Sending { found_bytes, takeovers: 3, ..Sending::default() })
            }),
            (number.clone(), 0..3_u64, path(), path()).prop_map(|(number, why, path, message)| {
                let why = Unsendable::of_number(why).unwrap();
                let message = message[..message.len().min(TEXT_BYTES_MAX)].to_vec();
                Control::Unsent { number, why, path, message }
            }),
            number.prop_map(|files| Control::Sent(Sent {
                files,
                stripes_again: 7,
                ..Sent::default()
            })),
        ]
    }

    #[test]
    fn a_length_beyond_its_limit_is_refused_before_it_is_waited_for() {
        let mut out = Vec::new();
        put_varint(&mut out, 1 << 40);
        assert!(matches!(Control::decode(&out), Err(WireError::Limit { .. })));
    }

    #[test]
    fn paths_that_lead_out_are_not_compared() {
        for path in [b"" as &[u8], b"../x", b"a/../x", b"/etc/passwd", b"a//b", b"a\0b"] {
            let mut out = Vec::new();
            let subject = Subject::Folder;
            Control::Compare { item: 1, path: path.to_vec(), subject }.encode(&mut out);
            assert!(matches!(Control::decode(&out), Err(WireError::UnsafePath(_))), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_a_prefix_asks_for_more(message in control()) {
            let mut out = Vec::new();
            message.encode(&mut out);
            for len in 0..out.len() {
                prop_assert_eq!(Control::decode(&out[..len]), Ok(None));
            }
            let taken = out.len();
            out.push(7);
            prop_assert_eq!(Control::decode(&out), Ok(Some((message, taken))));
        }

        #[test]
        fn no_input_makes_the_decoder_panic(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, taken))) = Control::decode(&input) {
                prop_assert!(taken <= input.len());
            }
        }
    }
}
