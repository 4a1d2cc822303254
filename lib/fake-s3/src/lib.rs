//! A store for tests: a bucket over sockets that is as honest about conditions as it is told to be,
//! and breaks what it is told to break.
//!
//! Behind it is `s3s-fs`, which checks signatures and knows ranges and uploads in parts. It keeps
//! nothing safe: it is for tests and for trying Shoal out, not for images that anybody needs.

mod control;
mod counts;
mod fault;
mod front;
mod store;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub use counts::{Counts, Operation};
pub use fault::{Fault, Rule};
use front::Front;
use store::Store;

/// What a store does with `If-Match` and `If-None-Match` of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditions {
    /// Of those who write at the same time one is told that it wrote, and it did.
    #[default]
    Atomic,
    /// They are looked at before the write, between which others write too.
    Racy,
    Ignored,
}

/// Which bucket is served, and to whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// With port 0 a free one is taken.
    pub addr: SocketAddr,
    /// Must exist. What is in it already is served too.
    pub folder: PathBuf,
    pub bucket: String,
    pub conditions: Conditions,
    pub access_key_id: String,
    pub secret_access_key: String,
}

/// A store that runs. It ends when this is dropped; what is stored stays in its folder.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    front: Arc<Front>,
    accepting: AbortHandle,
}

impl Server {
    /// Starts to serve a bucket, which is made where it is missing.
    ///
    /// # Errors
    /// The folder cannot be used, or the address is taken.
    pub async fn start(options: Options) -> io::Result<Self> {
        let store = Store::open(&options.folder, &options.bucket, options.conditions)?;
        let stale = store.stale();
        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(SimpleAuth::from_single(
            options.access_key_id,
            options.secret_access_key,
        ));
        let (reachable, is_reachable) = watch::channel(true);
        let front = Arc::new(Front::new(builder.build(), stale, reachable));
        let listener = TcpListener::bind(options.addr).await?;
        let addr = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, addr, Arc::clone(&front), is_reachable));
        Ok(Self {
            addr,
            front,
            accepting: accepting.abort_handle(),
        })
    }

    /// Returns where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Replaces all faults. A request takes the first one that fits it.
    ///
    /// # Errors
    /// What is stored cannot be copied for [`Fault::StaleList`].
    pub fn set_faults(&self, rules: Vec<Rule>) -> io::Result<()> {
        self.front.set_faults(rules)
    }

    /// Returns what was asked for since the start, or since the last reset.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.front.counts()
    }

    pub fn reset_counts(&self) {
        self.front.reset_counts();
    }

    /// Takes faults and tells counts over HTTP, until the process ends:
    /// `PUT /faults` with a list of [`Rule`]s, `GET /counts`, `DELETE /counts`.
    ///
    /// # Errors
    /// The listener fails.
    pub async fn control(&self, listener: TcpListener) -> io::Result<()> {
        control::serve(self, listener).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves connections as long as the store shall be reachable, and again when it shall be again.
async fn accept(
    listener: TcpListener,
    addr: SocketAddr,
    front: Arc<Front>,
    mut is_reachable: watch::Receiver<bool>,
) {
    let mut listener = Some(listener);
    // Ends all connections when it is dropped.
    let mut connections = JoinSet::new();
    loop {
        if !*is_reachable.borrow_and_update() {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            listener = TcpListener::bind(addr).await.ok();
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => {
                if let Ok((socket, _)) = accepted {
                    let _ = socket.set_nodelay(true);
                    connections.spawn(front::serve(Arc::clone(&front), socket));
                }
            }
            changed = is_reachable.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
