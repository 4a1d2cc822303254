//! TLS between the parts of a cluster: certificates on both sides, by the cluster's own authority.
//!
//! A certificate says which roles its process has, as DNS names such as `origin.shoal.internal`.
//! Whoever calls somebody asks for the role it expects there, not for an address: members have
//! several, and stand behind NAT. Whoever is called knows the roles of the caller, and decides by
//! them what it may do ([`crate::access`]).
//!
//! Without certificates everything is plaintext, and everybody may do everything. The streams are
//! an enum, so that plaintext pays nothing for what it does not use.

mod authority;
mod caller;
mod config;
mod error;
mod files;
mod registry;
mod stream;
mod verify;
mod watch;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry as Metrics;
use rustls::pki_types::ServerName;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::sync::CancellationToken;

pub use authority::{Authority, AuthorityError, Issued};
pub use caller::{Caller, Roles};
pub use config::{Config, RegistryConfig};
pub use error::{ConnectError, TlsError, is_tls_record};
pub use registry::Registry;
pub use stream::{ReadHalf, Stream, WriteHalf};

use crate::Role;
use files::{Files, Loaded};
use watch::Current;

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes asked of a socket at a time. What decrypts asks for 4 KiB, a system call each.
const READ_BYTES: usize = 32 * 1024;

/// How this process speaks to the others of its cluster: in plaintext, or as who its certificate
/// says. Clones are the same, also after certificates were loaded anew.
#[derive(Clone)]
pub struct Tls(Option<Arc<Shared>>);

struct Shared {
    role: Role,
    /// What new connections use.
    current: Current<Loaded>,
}

impl Tls {
    /// Returns that of a cluster without certificates.
    #[must_use]
    pub const fn plain() -> Self {
        Self(None)
    }

    /// Reads the certificates of a process of this role; plaintext where none are configured. Until
    /// `shutdown` the files are looked at again now and then, and on SIGHUP; must be called inside
    /// a tokio runtime.
    ///
    /// # Errors
    /// [`TlsError`], also where the certificate is not one that others would take for this role.
    pub async fn open(
        config: &Config,
        role: Role,
        shutdown: &CancellationToken,
    ) -> Result<Self, TlsError> {
        let Some(files) = config.files()? else {
            return Ok(Self::plain());
        };
        let load = move |files: &Files| files.load(role);
        let current = watch::open(files, load, shutdown).await?;
        Ok(Self(Some(Arc::new(Shared { role, current }))))
    }

    /// Reads the certificates of a process of this role once, as [`Self::open`] would.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn check(config: &Config, role: Role) -> Result<(), TlsError> {
        match config.files()? {
            Some(files) => files.load(role).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Registers when the certificate expires, where there is one.
    pub fn register(&self, metrics: &mut Metrics) {
        if let Some(shared) = &self.0 {
            metrics.register(
                "tls_certificate_expiry_timestamp_seconds",
                "When the certificate towards the cluster expires, seconds after 1970",
                shared.current.expiry().clone(),
            );
        }
    }

    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.0.is_none()
    }

    /// Takes a connection. Returns at once where it is plaintext.
    ///
    /// # Errors
    /// [`ConnectError`]: the caller has no certificate of this cluster, or is too slow.
    pub async fn accept(&self, socket: TcpStream) -> Result<(Stream, Caller), ConnectError> {
        let Some(shared) = &self.0 else {
            return Ok((Stream::Plain(socket), Caller::Anybody));
        };
        let loaded = shared.loaded();
        let handshake = TlsAcceptor::from(Arc::clone(&loaded.server)).accept(buffered(socket));
        let session = within(handshake).await?;
        let (_, connection) = session.get_ref();
        let caller = verify::caller(connection.peer_certificates());
        Ok((Stream::Tls(Box::new(TlsStream::Server(session))), caller))
    }

    /// Makes sure that a process of the role `expected` is at the other end. Returns at once where
    /// it is plaintext.
    ///
    /// # Errors
    /// [`ConnectError`]: it has no certificate of that role by this cluster, or is too slow.
    pub async fn connect(
        &self,
        socket: TcpStream,
        expected: Role,
    ) -> Result<(Stream, Caller), ConnectError> {
        let Some(shared) = &self.0 else {
            return Ok((Stream::Plain(socket), Caller::Anybody));
        };
        let loaded = shared.loaded();
        // Who is there is decided by the role. Sessions are kept by this name; registries are told
        // it, since they have a certificate for clients too.
        let name = match expected {
            Role::Proxy => verify::name_of(expected),
            Role::Agent | Role::Origin | Role::Tracker | Role::BuildIndex => {
                ServerName::IpAddress(socket.peer_addr()?.ip().into())
            }
        };
        let connector = TlsConnector::from(Arc::clone(loaded.client(expected)));
        let session = within(connector.connect(name, buffered(socket))).await?;
        let (_, connection) = session.get_ref();
        let caller = verify::caller(connection.peer_certificates());
        Ok((Stream::Tls(Box::new(TlsStream::Client(session))), caller))
    }
}

impl Shared {
    fn loaded(&self) -> Arc<Loaded> {
        self.current.get()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Tls(plaintext)"),
            Some(shared) => write!(f, "Tls({})", shared.role),
        }
    }
}

fn buffered(socket: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(READ_BYTES, socket)
}

async fn within<T>(handshake: impl Future<Output = io::Result<T>>) -> Result<T, ConnectError> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(done) => Ok(done.map_err(error::explained)?),
        Err(_) => Err(ConnectError::Timeout),
    }
}

#[cfg(test)]
mod tests;
