//! The five roles, as the binary starts them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context as _, anyhow};
use api::Cluster;
use serde::Serialize;
use serde::de::DeserializeOwned;
use service::Running;
use service::http::Options;
use service::telemetry::Log;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Sockets that are listened on, by the key of the configuration that names their address.
pub(crate) type Sockets = BTreeMap<&'static str, TcpListener>;

/// A role's configuration, which is enough to start it.
pub(crate) trait Part: Serialize + DeserializeOwned + Default {
    fn admin_addr(&self) -> SocketAddr;
    fn log(&self) -> &Log;
    fn server(&self) -> &Options;

    /// Where the parts of the cluster are.
    fn cluster(&mut self) -> &mut Cluster;

    /// Checks what can be known without starting it.
    ///
    /// # Errors
    /// What a start would refuse. The text says what to do.
    fn check(&self) -> anyhow::Result<()>;

    /// Returns the keys and values of all addresses that it listens on beside the admin address.
    fn addrs(&self) -> Vec<(&'static str, SocketAddr)>;

    /// Starts it on sockets for [`Self::addrs`].
    ///
    /// # Errors
    /// What it lacks. The text says what to do.
    fn start(
        self,
        sockets: Sockets,
        shutdown: CancellationToken,
    ) -> impl Future<Output = anyhow::Result<Running>>;
}

macro_rules! impl_part {
    ($($role:ident {
        $($listener:ident: $key:ident),+ $(; $optional:ident: $optional_key:ident)?
    };)+) => {$(
        impl Part for $role::Config {
            fn admin_addr(&self) -> SocketAddr {
                self.admin_addr
            }

            fn log(&self) -> &Log {
                &self.log
            }

            fn server(&self) -> &Options {
                &self.server
            }

            fn cluster(&mut self) -> &mut Cluster {
                &mut self.cluster
            }

            fn check(&self) -> anyhow::Result<()> {
                self.validate()?;
                self.log.validate()?;
                Ok(())
            }

            fn addrs(&self) -> Vec<(&'static str, SocketAddr)> {
                let mut addrs = vec![$((stringify!($key), self.$key)),+];
                addrs.extend([$((stringify!($optional_key), self.$optional_key))?]
                    .into_iter()
                    .filter_map(|(key, addr): (_, Option<SocketAddr>)| Some((key, addr?))));
                addrs
            }

            async fn start(
                self,
                mut sockets: Sockets,
                shutdown: CancellationToken,
            ) -> anyhow::Result<Running> {
                $(let $optional = sockets.remove(stringify!($optional_key));)?
                let mut take = |key| sockets.remove(key).with_context(|| format!("no socket for {key}"));
                let listeners = $role::Listeners {
                    $($listener: take(stringify!($key))?),+
                    $(, $optional)?
                };
                Ok($role::start(self, listeners, shutdown).await?)
            }
        }
    )+};
}

impl_part! {
    agent { registry: registry_addr, peer: peer_addr; forward_proxy: forward_proxy_addr };
    origin { http: http_addr, peer: peer_addr };
    tracker { peer: peer_addr };
    build_index { http: http_addr };
    proxy { http: http_addr };
}

/// Listens on an address. `setting` is the key or flag that it came from.
///
/// # Errors
/// Why that is not possible, and what to change.
pub(crate) async fn bind(setting: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let error = match TcpListener::bind(addr).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let kind = error.kind();
    let why = if kind == ErrorKind::AddrInUse {
        format!("{addr} is in use; end the process that listens there, or change {setting}")
    } else if kind == ErrorKind::AddrNotAvailable {
        format!("{addr} is no address of this machine; change {setting}")
    } else if kind == ErrorKind::PermissionDenied {
        format!("this user may not listen on {addr}; change {setting} to a port above 1023")
    } else {
        format!("cannot listen on {addr}: {error}; change {setting}")
    };
    Err(anyhow!(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_its_setting() {
        let taken = bind("x", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = taken.local_addr().unwrap();
        let error = bind("--here", addr).await.unwrap_err().to_string();
        for part in [&*addr.to_string(), "in use", "--here"] {
            assert!(error.contains(part), "{error}");
        }
        let error = bind("y", "192.0.2.1:0".parse().unwrap()).await.unwrap_err();
        assert!(
            error.to_string().contains("no address of this machine"),
            "{error}"
        );
    }
}
