//! From files in PEM to what connections are made with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};

use super::error::{TlsError, explain};
use super::verify::{OfRole, name_of};
use super::watch::Shows;
use crate::Role;

/// Most bytes of a file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where certificates are. Those of registries have no authority of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: Option<PathBuf>,
}

/// What tells whether files were changed: their times and lengths.
pub(super) type Seen = Vec<Option<(SystemTime, u64)>>;

/// What connections of a process of the cluster are made with.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    /// The certificate, for whom is not asked for one.
    pub(super) certified: Arc<CertifiedKey>,
    /// By the role that is expected at the other end, in the order of [`Role::ALL`].
    clients: Vec<Arc<ClientConfig>>,
    /// Of those that are called, and of those who call.
    checks: (Arc<WebPkiServerVerifier>, Arc<dyn ClientCertVerifier>),
}

impl Shows for Loaded {
    fn certified(&self) -> &CertifiedKey {
        &self.certified
    }
}

impl Loaded {
    pub(super) fn client(&self, expected: Role) -> &Arc<ClientConfig> {
        &self.clients[expected as usize]
    }
}

impl Files {
    /// Returns what is there at this moment.
    pub(super) fn seen(&self) -> Seen {
        let paths = [Some(&self.certificate), Some(&self.key), self.ca.as_ref()];
        let look = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        paths.into_iter().flatten().map(look).collect()
    }

    /// Reads the certificate and its key.
    pub(super) fn certified(&self) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = private_key(&self.key)?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
            if matches!(error, Error::InconsistentKeys(_)) {
                return TlsError::OtherKey {
                    certificate: self.certificate.clone(),
                    key: self.key.clone(),
                };
            }
            unusable(&self.certificate, &error)
        })
    }

    /// Reads everything, and checks that others would take the certificate for one of this role.
    pub(super) fn load(&self, role: Role) -> Result<Loaded, TlsError> {
        let loaded = self.load_unchecked()?;
        self.check(role, &loaded)?;
        Ok(loaded)
    }

    pub(super) fn load_unchecked(&self) -> Result<Loaded, TlsError> {
        let ca = self.ca.as_deref().unwrap_or(Path::new(""));
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            let added = roots.add(certificate);
            added.map_err(|error| unusable(ca, &error))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let servers = servers.build().map_err(|error| TlsError::Unusable {
            path: ca.to_owned(),
            reason: error.to_string(),
        })?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let clients = clients.map_err(|error| TlsError::Unusable {
            path: ca.to_owned(),
            reason: error.to_string(),
        })?;
        let certified = Arc::new(self.certified()?);
        let expecting = |role| client_config(&provider, &servers, role, &certified);
        Ok(Loaded {
            server: Arc::new(server_config(&provider, Arc::clone(&clients), &certified)),
            clients: Role::ALL.map(expecting).into(),
            checks: (servers, clients),
            certified,
        })
    }

    /// Looks at the own certificate as others will.
    fn check(&self, role: Role, loaded: &Loaded) -> Result<(), TlsError> {
        let (servers, clients) = &loaded.checks;
        let now = UnixTime::now();
        let first = loaded.certified.end_entity_cert();
        let first = first.map_err(|error| unusable(&self.certificate, &error))?;
        let between = loaded.certified.cert.get(1..).unwrap_or_default();
        servers
            .verify_server_cert(first, between, &name_of(role), &[], now)
            .and_then(|_| clients.verify_client_cert(first, between, now))
            .map_err(|error| TlsError::NotOurs {
                path: self.certificate.clone(),
                role,
                reason: explain(&error),
            })?;
        Ok(())
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    certified: &Arc<CertifiedKey>,
) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Always(Arc::clone(certified))))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    servers: &Arc<WebPkiServerVerifier>,
    role: Role,
    certified: &Arc<CertifiedKey>,
) -> Arc<ClientConfig> {
    let verifier = OfRole::new(Arc::clone(servers), role);
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Always(Arc::clone(certified))));
    Arc::new(config)
}

/// The one certificate there is, whoever asks.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Always {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| malformed(path, "certificate", &error))?;
    if all.is_empty() {
        return Err(malformed(path, "certificate", &pem::Error::NoItemsFound));
    }
    Ok(all)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| malformed(path, "private key", &error))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    if read.map_err(failed)? as u64 > MAX_FILE_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

fn malformed(path: &Path, what: &'static str, error: &pem::Error) -> TlsError {
    TlsError::Malformed {
        path: path.to_owned(),
        what,
        reason: error.to_string(),
    }
}

fn unusable(path: &Path, error: &Error) -> TlsError {
    TlsError::Unusable {
        path: path.to_owned(),
        reason: explain(error),
    }
}
