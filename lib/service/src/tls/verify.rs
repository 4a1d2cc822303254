//! Who somebody is, by its certificate.

use std::sync::Arc;

use rustls::DigitallySignedStruct;
use rustls::Error;
use rustls::SignatureScheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use super::caller::{Caller, Roles};
use crate::Role;

/// Checks the other side as every client of TLS does, but for the role that is expected there
/// instead of the address that was called.
#[derive(Debug)]
pub(super) struct OfRole {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl OfRole {
    pub(super) fn new(inner: Arc<WebPkiServerVerifier>, role: Role) -> Self {
        Self {
            inner,
            name: name_of(role),
        }
    }
}

impl ServerCertVerifier for OfRole {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _called: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner
            .verify_server_cert(certificate, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

pub(super) fn name_of(role: Role) -> ServerName<'static> {
    let name = DnsName::try_from_str(role.dns_name());
    ServerName::DnsName(name.expect("it is a name").to_owned())
}

/// Returns the roles of a certificate that was checked already.
pub(super) fn caller(chain: Option<&[CertificateDer<'_>]>) -> Caller {
    let first = chain.and_then(<[_]>::first);
    let Some(Ok(certificate)) = first.map(ParsedCertificate::try_from) else {
        return Caller::Known(Roles::default());
    };
    let has = |role: &Role| verify_server_name(&certificate, &name_of(*role)).is_ok();
    Caller::Known(Role::ALL.into_iter().filter(has).collect())
}
