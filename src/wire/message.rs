//! Messages on a bidirectional stream: each is a length, at most [`CONTROL_BYTES_MAX`] but for a request, then a type
//! and its fields.

use bytes::Buf;

use super::{CONTROL_BYTES_MAX, WireError, get_varint, put_bytes, within};

/// What one end may say on a stream, by its role there.
pub trait Message: Sized {
    /// The length of one at most, in bytes.
    const BYTES_MAX: usize = CONTROL_BYTES_MAX;

    /// Appends type and fields.
    fn put(&self, body: &mut Vec<u8>);

    /// Takes type and fields from the front of `body`.
    fn get(body: &mut &[u8]) -> Result<Self, WireError>;

    /// Appends the message with its length in front.
    fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        self.put(&mut body);
        put_bytes(out, &body);
    }

    /// Reads one message from the front of `input`: the message and how many bytes it took, or `None`
    /// if more bytes are needed.
    fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        let mut rest = input;
        let len = match get_varint(&mut rest) {
            Ok(len) => within("message", len, Self::BYTES_MAX)?,
            Err(_) => return Ok(None),
        };
        let Some(mut body) = rest.get(..len) else { return Ok(None) };
        let message = Self::get(&mut body)?;
        if body.has_remaining() {
            return Err(WireError::LeftOver(body.remaining()));
        }
        Ok(Some((message, input.len() - rest.len() + len)))
    }
}

/// Finds the messages in what a stream brings, however that is cut. Holds no more than what was pushed
/// since the last whole message: push only when there is none to [`take`](Self::take).
#[derive(Debug, Default)]
pub struct MessageBuffer {
    bytes: Vec<u8>,
    /// How much of it has been decoded.
    decoded: usize,
}

impl MessageBuffer {
    /// Appends what the stream has brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.decoded);
        self.decoded = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, or `None` if more bytes are needed.
    pub fn take<M: Message>(&mut self) -> Result<Option<M>, WireError> {
        let Some((message, len)) = M::decode(&self.bytes[self.decoded..])? else {
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
pub(super) mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::super::{Answer, Question, Request, ToReceiver, ToSender, put_varint};
    use super::*;

    /// What was encoded is decoded as the same, and a part of it asks for more.
    pub(in super::super) fn survives<M: Message + PartialEq + Debug>(message: &M) {
        let mut out = Vec::new();
        message.encode(&mut out);
        for len in 0..out.len() {
            assert_eq!(M::decode(&out[..len]), Ok(None));
        }
        let taken = out.len();
        out.push(7);
        let (again, len) = M::decode(&out).expect("a message").expect("a whole one");
        assert_eq!((&again, len), (message, taken));
    }

    fn is_bounded<M: Message>(input: &[u8]) {
        if let Ok(Some((_, taken))) = M::decode(input) {
            assert!(taken <= input.len());
        }
    }

    #[test]
    fn a_length_beyond_its_limit_is_refused_before_it_is_waited_for() {
        let mut out = Vec::new();
        put_varint(&mut out, 1 << 40);
        assert!(matches!(Request::decode(&out), Err(WireError::Limit { .. })));
    }

    proptest! {
        #[test]
        fn no_input_makes_a_decoder_panic(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            is_bounded::<Request>(&input);
            is_bounded::<ToReceiver>(&input);
            is_bounded::<ToSender>(&input);
            is_bounded::<Question>(&input);
            is_bounded::<Answer>(&input);
        }
    }
}
