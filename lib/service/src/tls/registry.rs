//! TLS of the registries towards clients, which need no certificate.

use std::fmt;
use std::sync::Arc;

use prometheus_client::registry::Registry as Metrics;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;

use super::config::RegistryConfig;
use super::error::{ConnectError, TlsError};
use super::files::Files;
use super::stream::Stream;
use super::watch::Current;
use super::{Tls, buffered, watch, within};
use crate::Role;

/// How a registry takes connections. Clones are the same.
#[derive(Clone)]
pub struct Registry {
    server: Option<Arc<ServerConfig>>,
    /// The certificate for clients; without one they speak plaintext.
    clients: Option<Current<CertifiedKey>>,
}

/// The certificate for clients, and that of the cluster for its own parts, which ask for its role
/// by name.
#[derive(Debug)]
struct ByName {
    clients: Option<Current<CertifiedKey>>,
    cluster: Tls,
}

impl Registry {
    /// Reads the certificate for clients, and looks after it until `shutdown`; must be called
    /// inside a tokio runtime. The parts of the cluster get the certificate of `cluster`: a registry
    /// without one of its own takes them by TLS, and clients in plaintext, on the same port.
    ///
    /// # Errors
    /// [`TlsError`].
    pub async fn open(
        config: &RegistryConfig,
        cluster: &Tls,
        shutdown: &CancellationToken,
    ) -> Result<Self, TlsError> {
        let mut clients = None;
        if let Some(files) = config.files()? {
            clients = Some(watch::open(files, Files::certified, shutdown).await?);
        }
        if clients.is_none() && cluster.is_plain() {
            return Ok(Self::plain());
        }
        let certificates = ByName {
            clients: clients.clone(),
            cluster: cluster.clone(),
        };
        // Clients of registries are not all of this year: TLS 1.2 is taken from them too.
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has these versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificates));
        let server = Some(Arc::new(server));
        Ok(Self { server, clients })
    }

    /// Returns one that takes plaintext only.
    #[must_use]
    pub const fn plain() -> Self {
        Self {
            server: None,
            clients: None,
        }
    }

    pub(crate) const fn is_plain(&self) -> bool {
        self.server.is_none()
    }

    pub(crate) const fn takes_plaintext(&self) -> bool {
        self.clients.is_none()
    }

    /// Registers when the certificate for clients expires, where there is one.
    pub fn register(&self, metrics: &mut Metrics) {
        if let Some(clients) = &self.clients {
            metrics.register(
                "registry_tls_certificate_expiry_timestamp_seconds",
                "When the certificate towards clients expires, seconds after 1970",
                clients.expiry().clone(),
            );
        }
    }

    /// Takes a connection that begins as TLS does.
    pub(crate) async fn accept(&self, socket: TcpStream) -> Result<Stream, ConnectError> {
        let Some(server) = &self.server else {
            return Ok(Stream::Plain(socket));
        };
        let handshake = TlsAcceptor::from(Arc::clone(server)).accept(buffered(socket));
        let session = within(handshake).await?;
        Ok(Stream::Tls(Box::new(TlsStream::Server(session))))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("tls", &self.server.is_some())
            .field("plaintext", &self.takes_plaintext())
            .finish()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name();
        let cluster = self.cluster.0.as_ref();
        let of_cluster = || cluster.map(|shared| Arc::clone(&shared.loaded().certified));
        let of_clients = || {
            let clients = self.clients.as_ref();
            clients.map(Current::get)
        };
        if asked == Some(Role::Proxy.dns_name()) {
            of_cluster().or_else(of_clients)
        } else {
            of_clients().or_else(of_cluster)
        }
    }
}
