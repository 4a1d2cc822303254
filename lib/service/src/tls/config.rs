//! Which files have the certificates.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::TlsError;
use super::files::Files;

/// The certificate of a process towards the other parts of its cluster, in files in PEM. All three
/// or none: without them everything is plaintext.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The certificate, and those between it and the authority.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The authority of the cluster; several while one takes the place of another.
    pub ca: Option<PathBuf>,
}

/// The certificate of a registry towards its clients, in files in PEM. Both or none: without them
/// it is plaintext.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// The certificate, and those between it and an authority that clients trust.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

impl Config {
    /// Checks what can be known without reading the files.
    ///
    /// # Errors
    /// One of them is missing.
    pub fn validate(&self) -> Result<(), TlsError> {
        self.files().map(|_| ())
    }

    pub(super) fn files(&self) -> Result<Option<Files>, TlsError> {
        let all = [
            ("tls.certificate", &self.certificate),
            ("tls.key", &self.key),
            ("tls.ca", &self.ca),
        ];
        let Some([certificate, key, ca]) = complete(all)? else {
            return Ok(None);
        };
        Ok(Some(Files {
            certificate,
            key,
            ca: Some(ca),
        }))
    }
}

impl RegistryConfig {
    /// Checks what can be known without reading the files.
    ///
    /// # Errors
    /// One of them is missing.
    pub fn validate(&self) -> Result<(), TlsError> {
        self.files().map(|_| ())
    }

    pub(super) fn files(&self) -> Result<Option<Files>, TlsError> {
        let all = [
            ("registry_tls.certificate", &self.certificate),
            ("registry_tls.key", &self.key),
        ];
        let Some([certificate, key]) = complete(all)? else {
            return Ok(None);
        };
        Ok(Some(Files {
            certificate,
            key,
            ca: None,
        }))
    }
}

/// Returns the paths, or nothing where none is given.
fn complete<const N: usize>(
    keys: [(&'static str, &Option<PathBuf>); N],
) -> Result<Option<[PathBuf; N]>, TlsError> {
    let Some((given, _)) = keys.iter().find(|(_, path)| path.is_some()) else {
        return Ok(None);
    };
    if let Some((missing, _)) = keys.iter().find(|(_, path)| path.is_none()) {
        return Err(TlsError::Incomplete { given, missing });
    }
    Ok(Some(keys.map(|(_, path)| path.clone().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_or_none() {
        assert!(Config::default().files().unwrap().is_none());
        let mut config = Config {
            certificate: Some("c".into()),
            key: None,
            ca: Some("a".into()),
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(
            error.contains("tls.certificate") && error.contains("tls.key"),
            "{error}"
        );
        config.key = Some("k".into());
        let files = config.files().unwrap().unwrap();
        assert_eq!(files.ca.as_deref(), Some("a".as_ref()));

        let registry = RegistryConfig {
            certificate: None,
            key: Some("k".into()),
        };
        assert!(registry.validate().is_err());
    }
}
