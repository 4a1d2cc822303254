//! Connections that are plaintext or TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsStream;

use super::error::explained;

type Session = TlsStream<BufReader<TcpStream>>;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<Session>),
}

/// The reading half of a [`Stream`].
#[derive(Debug)]
pub enum ReadHalf {
    Plain(OwnedReadHalf),
    Tls(tokio::io::ReadHalf<Box<Session>>),
}

/// The writing half of a [`Stream`]. What was written is on its way only after a flush.
#[derive(Debug)]
pub enum WriteHalf {
    Plain(OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<Box<Session>>),
}

impl Stream {
    /// Returns halves for two tasks. Those of plaintext share no lock.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Plain(socket) => {
                let (read, write) = socket.into_split();
                (ReadHalf::Plain(read), WriteHalf::Plain(write))
            }
            Self::Tls(session) => {
                let (read, write) = tokio::io::split(session);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }

    /// Has the socket send as ours do ([`crate::socket::prepare`]).
    pub fn prepare(&self) {
        match self {
            Self::Plain(socket) => crate::socket::prepare(socket),
            Self::Tls(session) => crate::socket::prepare(session.get_ref().0.get_ref()),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

/// For clients that keep connections.
impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Says in words for people what went wrong. Only errors pay for it.
fn told<T>(polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    polled.map_err(explained)
}

macro_rules! impl_read {
    ($($type:ident),*) => {$(
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
                    Self::Tls(session) => told(Pin::new(session).poll_read(context, buffer)),
                }
            }
        }
    )*};
}

macro_rules! impl_write {
    ($($type:ident),*) => {$(
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
                    Self::Tls(session) => told(Pin::new(session).poll_write(context, bytes)),
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                parts: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_write_vectored(context, parts),
                    Self::Tls(session) => {
                        told(Pin::new(session).poll_write_vectored(context, parts))
                    }
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    Self::Plain(socket) => socket.is_write_vectored(),
                    Self::Tls(session) => session.is_write_vectored(),
                }
            }

            fn poll_flush(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_flush(context),
                    Self::Tls(session) => told(Pin::new(session).poll_flush(context)),
                }
            }

            fn poll_shutdown(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
                    Self::Tls(session) => told(Pin::new(session).poll_shutdown(context)),
                }
            }
        }
    )*};
}

impl_read!(Stream, ReadHalf);
impl_write!(Stream, WriteHalf);
