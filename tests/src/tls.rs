//! Certificates as `shoal cert` makes them, and somebody who has one.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use service::Role;
use service::tls::{Config, Stream, Tls};
use swarm::message::VERSION;
use swarm::{Message, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use torrent::Peer;

use crate::curl::{self, Answer};
use crate::process::run;
use crate::roles::Part;
use crate::shoal;

/// How long a connection may take to be refused.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes an authority and a certificate of each role in a folder.
///
/// # Panics
/// Where `shoal cert` fails.
pub fn make(folder: &Path) {
    run(&mut shoal::command(&["cert", "new", "--out", text(folder)]));
}

/// Returns the `tls` section of a role's configuration.
#[must_use]
pub fn section(folder: &Path, role: &str) -> Value {
    json!({
        "certificate": folder.join(format!("{role}.pem")),
        "key": folder.join(format!("{role}.key")),
        "ca": folder.join("ca.pem"),
    })
}

/// Sends a request to a part as one of the role `as_role`; returns the answer.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn send(folder: &Path, as_role: &str, part: &Part, path: &str, args: &[&str]) -> Answer {
    let host = format!("{}.shoal.internal", part.role());
    let port = part.http.port();
    let certificate = folder.join(format!("{as_role}.pem"));
    let key = folder.join(format!("{as_role}.key"));
    let ca = folder.join("ca.pem");
    let resolve = format!("{host}:{port}:{}", part.http.ip());
    let mut all = vec!["--resolve", &resolve, "--cacert", text(&ca)];
    all.extend(["--cert", text(&certificate), "--key", text(&key)]);
    all.extend(args);
    curl::send(&format!("https://{host}:{port}{path}"), &all)
}

/// A peer with the certificate of a role, which says what a test wants.
#[derive(Debug)]
pub struct Speaker {
    runtime: Runtime,
    stream: Stream,
    buffer: Vec<u8>,
}

impl Speaker {
    /// Connects to the peer address of a part with a certificate of the role `as_role`.
    ///
    /// # Errors
    /// Why there is no connection.
    ///
    /// # Panics
    /// Where the certificate cannot be used.
    pub fn connect(folder: &Path, as_role: Role, part: &Part) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the system has threads");
        let name = as_role.as_str();
        let config = Config {
            certificate: Some(folder.join(format!("{name}.pem"))),
            key: Some(folder.join(format!("{name}.key"))),
            ca: Some(folder.join("ca.pem")),
        };
        let expected = part.role().parse().expect("it is a role");
        let stream = runtime.block_on(async {
            let tls = Tls::open(&config, as_role, &CancellationToken::new()).await;
            let tls = tls.expect("the certificate is right");
            let socket = TcpStream::connect(part.peer).await.expect("it listens");
            let connected = tls.connect(socket, expected).await;
            connected.map_err(|error| error.to_string())
        });
        let (stream, _) = stream?;
        Ok(Self {
            runtime,
            stream,
            buffer: Vec::new(),
        })
    }

    /// Says something. Whether it arrives is another matter.
    pub fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        let _ = self.runtime.block_on(async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        });
    }

    /// Says who it is.
    pub fn hello(&mut self, me: Peer) {
        let version = VERSION;
        self.say(&Message::Hello { version, me });
    }

    /// Returns what comes next; `None` where the other side ended the connection.
    ///
    /// # Panics
    /// Where nothing comes, or what does not decode.
    pub fn hear(&mut self) -> Option<Message> {
        self.runtime.block_on(async {
            loop {
                let decoded = wire::decode(&self.buffer).expect("it is a message");
                if let Some((message, length)) = decoded {
                    self.buffer.drain(..length);
                    return Some(message);
                }
                let read = self.stream.read_buf(&mut self.buffer);
                match tokio::time::timeout(PATIENCE, read).await {
                    Ok(Ok(0) | Err(_)) => return None,
                    Ok(Ok(_)) => {}
                    Err(_) => panic!("it says nothing, and stays"),
                }
            }
        })
    }

    /// Waits for the answer to a PING; returns whether there is one.
    pub fn is_answered(&mut self) -> bool {
        self.say(&Message::Ping { token: 77 });
        while let Some(message) = self.hear() {
            if message == (Message::Pong { token: 77 }) {
                return true;
            }
        }
        false
    }
}

fn text(path: &Path) -> &str {
    path.to_str()
        .expect("folders of the tests have plain names")
}
