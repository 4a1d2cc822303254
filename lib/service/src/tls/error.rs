//! What can be wrong with certificates and those who show them, in words that say what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error};

use crate::Role;

/// Certificates that cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{given} is given, but not {missing}; give both, or neither for plaintext")]
    Incomplete {
        given: &'static str,
        missing: &'static str,
    },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no {what} in PEM: {reason}", path.display())]
    Malformed {
        path: PathBuf,
        what: &'static str,
        reason: String,
    },
    #[error("the key {} is not that of {}; give the two that were made together",
        key.display(), certificate.display())]
    OtherKey { certificate: PathBuf, key: PathBuf },
    #[error(
        "{} is no certificate of role {role} that the others would take: {reason}; make one with \
         `shoal cert new --role {role}`", path.display()
    )]
    NotOurs {
        path: PathBuf,
        role: Role,
        reason: String,
    },
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("the process cannot see SIGHUP: {0}")]
    Signal(io::Error),
}

/// Why there is no connection with somebody.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it did not end the TLS handshake within {} s", super::HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("it said nothing for {} s", .0.as_secs())]
    Silent(Duration),
}

impl ConnectError {
    /// Returns whether the other side just went, as one does who only looks whether a port is open.
    #[must_use]
    pub fn is_departure(&self) -> bool {
        match self {
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ),
            Self::Timeout => false,
            Self::Silent(_) => true,
        }
    }

    /// Returns whether one of the two does not want the other: it is not who should be there, or
    /// speaks something else. All else is the network, or a process that just goes.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            // What the library says of the handshake has this kind.
            Self::Io(error) => error.kind() == io::ErrorKind::InvalidData,
            Self::Timeout | Self::Silent(_) => false,
        }
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Io(error) => error,
            ConnectError::Timeout | ConnectError::Silent(_) => {
                Self::new(io::ErrorKind::TimedOut, error.to_string())
            }
        }
    }
}

/// Returns whether bytes of a plaintext connection are the beginning of a TLS record, which the
/// other side sends where it has certificates and this one has not.
#[must_use]
pub const fn is_tls_record(bytes: &[u8]) -> bool {
    const ALERT: u8 = 0x15;
    const HANDSHAKE: u8 = 0x16;
    matches!(bytes, [ALERT | HANDSHAKE, 0x03, 0x01..=0x04, ..])
}

/// Puts words for people in the place of what the library says.
pub(super) fn explained(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner.map(explain) {
        Some(text) => io::Error::new(error.kind(), text),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            let text = "it closed the connection during TLS; its log says why";
            io::Error::new(error.kind(), text)
        }
        None => error,
    }
}

/// Says what an error of TLS means here.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library has many more, none of which is about the configuration of a cluster"
)]
pub(super) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidMessage(_) => "the other side does not speak TLS; set `tls` in its \
             configuration too, or in none"
            .into(),
        Error::NoCertificatesPresented => {
            "the other side has no certificate; set `tls` in its configuration".into()
        }
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(alert) => of_alert(*alert),
        other => format!("TLS: {other}"),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not listed is rare, and says enough itself"
)]
pub(super) fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate is by the authority of another cluster; `tls.ca` must be the same \
             everywhere, and the certificate by it"
                .into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired, or the clock is wrong; make a new one with `shoal cert \
             new`"
                .into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet; check the clock".into()
        }
        CertificateError::NotValidForName => "the certificate is of another role".into(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "the certificate is of another role: {} was expected, it has {}; check the address, \
             and which certificate is configured there",
            expected.to_str(),
            presented.join(", ")
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is not for both server and client authentication".into()
        }
        other => format!("the certificate is not right: {other}"),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only alerts about certificates are about the configuration of a cluster"
)]
fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::DecryptError
        | AlertDescription::CertificateUnknown => {
            "the other side refuses the certificate of this process: it is by another authority, \
             or of the wrong role"
                .into()
        }
        AlertDescription::CertificateExpired => {
            "the certificate of this process has expired; make a new one with `shoal cert new`"
                .into()
        }
        AlertDescription::CertificateRequired => {
            "the other side wants a certificate of this process; set `tls` here too".into()
        }
        other => format!("the other side ended TLS: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_fails_is_no_refusal() {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, InvalidData, UnexpectedEof};
        for (kind, is_refusal, is_departure) in [
            (InvalidData, true, false),
            (ConnectionReset, false, true),
            (UnexpectedEof, false, true),
            (ConnectionRefused, false, false),
        ] {
            let error = ConnectError::from(io::Error::from(kind));
            assert_eq!(error.is_refusal(), is_refusal, "{kind}");
            assert_eq!(error.is_departure(), is_departure, "{kind}");
        }
        assert!(!ConnectError::Timeout.is_refusal() && !ConnectError::Timeout.is_departure());
        let silent = ConnectError::Silent(Duration::from_secs(5));
        assert!(!silent.is_refusal() && silent.is_departure());
    }

    #[test]
    fn tls_is_told_from_frames() {
        for (bytes, is_tls) in [
            (&[0x16, 0x03, 0x01, 0x02, 0x00][..], true),
            (&[0x15, 0x03, 0x03][..], true),
            (&[0x16, 0x03][..], false),
            (&[0x00, 0x00, 0x00, 0x3c, 0x01][..], false),
            (b"GET / HTTP/1.1", false),
        ] {
            assert_eq!(is_tls_record(bytes), is_tls, "{bytes:?}");
        }
    }
}
