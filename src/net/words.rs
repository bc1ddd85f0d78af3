//! Why a connection has ended, in words for people.

use quinn::{ApplicationClose, ConnectionError, TransportErrorCode};
use rustls::AlertDescription;

use crate::text::{printable, said};
use crate::wire;

/// Why a connection has ended.
pub fn why(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "no answer any more".into(),
        ConnectionError::Reset => {
            "the other side does not know the connection: was it restarted?".into()
        }
        ConnectionError::LocallyClosed => "this side has closed it".into(),
        ConnectionError::VersionMismatch => "the other side speaks another version of QUIC".into(),
        ConnectionError::CidsExhausted => "it has no connection numbers left".into(),
        ConnectionError::ApplicationClosed(close) => closed(close),
        ConnectionError::TransportError(error) => match alert(error.code.into()) {
            Some(alert) => format!("this side {}", refusal(alert)),
            None => printable(&error.to_string()),
        },
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code.into()) {
            Some(alert) => format!("the other side {}", refusal(alert)),
            // So says an endpoint that is being stopped, or has too much to do.
            None if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
                "the other side takes no new connections".into()
            }
            None if close.reason.is_empty() => {
                format!("the other side has closed it: {}", close.error_code)
            }
            None => said(&close.reason),
        },
    }
}

fn closed(close: &ApplicationClose) -> String {
    if !close.reason.is_empty() {
        return said(&close.reason);
    }
    let code = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
    match code {
        wire::CLOSE_DONE => "the other side has closed it".into(),
        wire::CLOSE_ABORTED => "the other side has ended the transfer".into(),
        wire::CLOSE_CONDEMNED => "the other side has given it up".into(),
        wire::CLOSE_PROTOCOL => "the other side says that the protocol was broken".into(),
        wire::CLOSE_REFUSED => "the other side has refused it".into(),
        wire::CLOSE_CROWDED => "the other side has no room for it now".into(),
        wire::CLOSE_STOPPING => "the other side is being stopped".into(),
        wire::CLOSE_BUSY => "the other side still has an earlier run of this".into(),
        wire::CLOSE_DENIED => "the other side does not allow it to this key".into(),
        wire::CLOSE_VERSION => "the other side speaks another version of the protocol".into(),
        wire::CLOSE_UNKNOWN => "the other side does not know what is asked for".into(),
        _ => format!("the other side has closed it (code {code})"),
    }
}

/// QUIC carries the alerts of TLS as codes from 0x100 on (RFC 9001, 4.8).
pub(super) fn alert(code: u64) -> Option<AlertDescription> {
    let alert = code.checked_sub(0x100)?;
    u8::try_from(alert).ok().map(AlertDescription::from)
}

fn refusal(alert: AlertDescription) -> String {
    let what = match alert {
        AlertDescription::CertificateExpired => {
            "finds the certificate expired, or a clock is wrong"
        }
        AlertDescription::CertificateRevoked => "knows the certificate as revoked",
        AlertDescription::UnknownCA => "does not know the authority that the certificate is from",
        AlertDescription::UnsupportedCertificate => {
            "does not accept the certificate for this: it is a client's for serving, or a server's for a client"
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "does not accept the key",
        AlertDescription::DecryptError => "finds a signature wrong",
        AlertDescription::CertificateRequired => "was shown no key",
        AlertDescription::NoApplicationProtocol => "does not speak qbulk",
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            "speaks no version of TLS that both know"
        }
        alert => return format!("has ended the handshake (TLS: {alert:?})"),
    };
    what.into()
}

#[cfg(test)]
mod tests {
    use quinn::{ConnectionClose, VarInt};

    use super::*;

    #[test]
    fn no_number_is_left_where_there_is_a_word() {
        let close = |code: u32, reason: &'static str| {
            let error_code = VarInt::from_u32(code);
            let reason = reason.into();
            why(&ConnectionError::ApplicationClosed(ApplicationClose { error_code, reason }))
        };
        assert_eq!(close(wire::CLOSE_REFUSED, "no room"), "no room");
        for code in 0..=10 {
            let words = close(code, "");
            assert!(!words.contains("code") && !words.contains(char::is_numeric), "{words}");
        }
        let (error_code, reason) = (TransportErrorCode::CONNECTION_REFUSED, "".into());
        let error = ConnectionClose { error_code, frame_type: None, reason };
        assert_eq!(
            why(&ConnectionError::ConnectionClosed(error)),
            "the other side takes no new connections"
        );
        let error_code = TransportErrorCode::crypto(u8::from(AlertDescription::UnknownCA));
        let reason = "internals".into();
        let error = ConnectionClose { error_code, frame_type: None, reason };
        assert_eq!(
            why(&ConnectionError::ConnectionClosed(error)),
            "the other side does not know the authority that the certificate is from"
        );
    }
}
