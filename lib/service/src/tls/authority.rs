//! The authority of a cluster: makes the certificates of its processes.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use crate::Role;

/// Common name of every authority. Which one signed is told by the key.
const NAME: &str = "Shoal cluster authority";

/// A certificate or key that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("this is no private key in PEM, or of a kind that is not known: {0}")]
    Key(rcgen::Error),
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

    /// Returns one that was made before, by its key.
    ///
    /// # Errors
    /// This is no key.
    pub fn of_key(key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key)?;
        // What it signs names it by name and key, and says nothing of its own time.
        let params = authority(SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH);
        Ok(Self(Issuer::new(params, key)))
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
