//! The authority of a cluster: makes the certificates of its processes.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::X509Name;

use crate::Role;

/// Common name of every authority made here. Which one signed is told by the key.
const NAME: &str = "Shoal cluster authority";

/// A certificate or key that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(
        "this is no private key in PEM, or of a kind that is not known: {0}; write it as PKCS #8 \
         with `openssl pkcs8 -topk8 -nocrypt`"
    )]
    Key(rcgen::Error),
    #[error("this is no certificate of an authority in PEM: {0}")]
    Certificate(String),
    #[error("the key is not that of the certificate, but of the authority of another cluster")]
    OtherKey,
    #[error(
        "the authority's name has several parts of one kind, such as DC=example, DC=com, and \
         cannot be repeated in what it signs; make certificates with the tool that made it"
    )]
    Name,
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its private key, in PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// Logs shall not have the key.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("certificate", &self.certificate)
            .field("key", &"<hidden>")
            .finish()
    }
}

/// Who signs the certificates of a cluster.
pub struct Authority(Issuer<'static, KeyPair>);

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// Makes one with a new key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(valid: Range<SystemTime>) -> Result<(Self, Issued), AuthorityError> {
        let key = KeyPair::generate()?;
        let params = authority(valid);
        let made = Issued {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        };
        Ok((Self(Issuer::new(params, key)), made))
    }

    /// Returns one that was made before, here or by another tool: that of the certificates whose
    /// key this is. There are several while one authority takes the place of another.
    ///
    /// # Errors
    /// This is no key, or none of these certificates is one of an authority with this key.
    pub fn of_pem(certificates: &str, key: &str) -> Result<Self, AuthorityError> {
        let malformed = |error: &dyn fmt::Display| AuthorityError::Certificate(error.to_string());
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key)?;
        let all = CertificateDer::pem_slice_iter(certificates.as_bytes());
        let all: Vec<_> = all
            .collect::<Result<_, _>>()
            .map_err(|error| malformed(&error))?;
        if all.is_empty() {
            return Err(malformed(&"there is none"));
        }
        for certificate in &all {
            let parsed = parse_x509_certificate(certificate);
            let (_, parsed) = parsed.map_err(|error| malformed(&error))?;
            if parsed.public_key().raw == key.subject_public_key_info() {
                if repeats(parsed.subject()) {
                    return Err(AuthorityError::Name);
                }
                let issuer = Issuer::from_ca_cert_der(certificate, key);
                return Ok(Self(issuer.map_err(|error| malformed(&error))?));
            }
        }
        Err(AuthorityError::OtherKey)
    }

    /// Makes the certificate of a process of these roles, for a key that it has already, or a new
    /// one.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(
        &self,
        roles: &[Role],
        key: Option<&str>,
        valid: Range<SystemTime>,
    ) -> Result<Issued, AuthorityError> {
        let key = match key {
            Some(key) => KeyPair::from_pem(key).map_err(AuthorityError::Key)?,
            None => KeyPair::generate()?,
        };
        let names: Vec<_> = roles.iter().map(|role| role.dns_name().into()).collect();
        let mut params = CertificateParams::new(names)?;
        let common: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
        params.distinguished_name = named(&format!("Shoal {}", common.join(", ")));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every process both calls and is called.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        span(&mut params, valid);
        Ok(Issued {
            certificate: params.signed_by(&key, &self.0)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Returns whether a name has several parts of one kind: the library would keep the last one only.
fn repeats(name: &X509Name<'_>) -> bool {
    let kinds: Vec<_> = name
        .iter_attributes()
        .map(|part| part.attr_type())
        .collect();
    let mut before = kinds.iter().enumerate();
    before.any(|(at, kind)| kinds[..at].contains(kind))
}

fn authority(valid: Range<SystemTime>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(NAME);
    // It signs certificates of processes, and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    span(&mut params, valid);
    params
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn span(params: &mut CertificateParams, valid: Range<SystemTime>) {
    let since = |at: SystemTime| {
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        Duration::from_secs(since.unwrap_or_default().as_secs())
    };
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since(valid.start);
    params.not_after = epoch + since(valid.end);
}
