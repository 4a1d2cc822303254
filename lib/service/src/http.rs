//! The HTTP server of every role: HTTP/1.1, with limits, and an end that loses no answer.

mod door;
mod farewell;
mod patient;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::tls::Stream;
pub use door::Door;
use door::{Guard, Lock};
use patient::Patient;

/// Pause after an error that further attempts would meet too, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long, and for how many bytes, a client is listened to after its last answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// How a server is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Most open connections; further clients wait until one ends.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request, and how long a connection may
    /// be without one.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a client may take nothing of an answer.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long open requests may take to end after the process was told to end.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            header_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Answers requests until shutdown, and then those that are open, as long as they may take. Who
/// comes meanwhile is answered with 503.
///
/// An error of one connection, or of accepting one, does not end it.
///
/// # Errors
/// The listener cannot be used at all.
pub async fn serve(
    door: impl Into<Door>,
    router: Router,
    options: Options,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let Door { listener, lock } = door.into();
    listener.local_addr()?;
    let limit = options.max_connections.clamp(1, Semaphore::MAX_PERMITS);
    let permits = Arc::new(Semaphore::new(limit));
    let open = TaskTracker::new();
    let cut = CancellationToken::new();
    // In this order: who is not let in yet waits in the kernel's queue.
    while let Some(Ok(permit)) = shutdown
        .run_until_cancelled(Arc::clone(&permits).acquire_owned())
        .await
    {
        let accepted = shutdown.run_until_cancelled(accept(&listener)).await;
        let Some((socket, addr)) = accepted else {
            break;
        };
        let connection = Connection {
            addr,
            permit,
            header_timeout: options.header_timeout,
            write_timeout: options.write_timeout,
            shutdown: shutdown.clone(),
        };
        let served = connection.serve(socket, lock.clone(), router.clone());
        let cut = cut.clone();
        open.spawn(async move {
            cut.run_until_cancelled(served).await;
        });
    }
    open.close();
    let drained = tokio::select! {
        drained = tokio::time::timeout(options.drain_timeout, open.wait()) => drained.is_ok(),
        never = farewell::turn_away(&listener, &lock) => match never {},
    };
    drop(listener);
    if !drained {
        tracing::warn!(connections = open.len(), "cutting requests that do not end");
        cut.cancel();
        open.wait().await;
    }
    Ok(())
}

/// Waits for the next connection, whatever errors come before it: too many open files, or a client
/// that left, are no reason to stop listening.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        let error = match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => error,
        };
        // Those are about one client, which is gone.
        let of_client = [
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::Interrupted,
        ];
        if !of_client.contains(&error.kind()) {
            tracing::warn!(%error, "cannot accept connections; trying on");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// A client's connection.
#[derive(Debug)]
struct Connection {
    addr: SocketAddr,
    /// Held until the end.
    permit: OwnedSemaphorePermit,
    header_timeout: Duration,
    write_timeout: Duration,
    shutdown: CancellationToken,
}

impl Connection {
    async fn serve(self, socket: TcpStream, lock: Lock, router: Router) {
        crate::socket::prepare(&socket);
        let opened = tokio::select! {
            biased;
            // Plaintext is open at once: who came in time gets an answer.
            opened = lock.open(socket, self.header_timeout) => opened,
            () = self.shutdown.cancelled() => return,
        };
        match opened {
            Ok((socket, guard)) => self.answer(socket, guard, router).await,
            Err(error) if error.is_departure() => {
                tracing::debug!(addr = %self.addr, %error, "a connection broke off");
            }
            Err(error) => tracing::warn!(addr = %self.addr, %error, "refusing a connection"),
        }
    }

    async fn answer(self, mut socket: Stream, guard: Guard, router: Router) {
        let served = {
            let socket = Patient::new(&mut socket, self.write_timeout);
            let service = guard.service(router);
            let mut connection = pin!(
                http1::Builder::new()
                    // A client may close its side once it has sent its request.
                    .half_close(true)
                    .timer(TokioTimer::new())
                    .header_read_timeout(self.header_timeout)
                    .serve_connection(TokioIo::new(socket), service)
            );
            tokio::select! {
                served = connection.as_mut() => served,
                () = self.shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        match served {
            Ok(()) => linger(&mut socket).await,
            Err(error) => tracing::debug!(%error, "a connection broke off"),
        }
        drop(self.permit);
    }
}

/// Answers with a few last bytes, and lets them arrive.
async fn turn_away(mut socket: TcpStream, answer: &[u8]) -> io::Result<()> {
    let written = async {
        socket.write_all(answer).await?;
        socket.shutdown().await
    };
    tokio::time::timeout(LINGER, written).await??;
    linger(&mut socket).await;
    Ok(())
}

/// Reads and throws away what a client still sends. A socket that is closed with bytes unread is
/// reset, and the client loses the answer it has not read yet.
async fn linger(socket: &mut (impl AsyncRead + Unpin)) {
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut count = 0;
        while count < LINGER_BYTES {
            match socket.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => count += length,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, read).await;
}

#[cfg(test)]
mod tests;
