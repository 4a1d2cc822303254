//! A store in a process of its own; see `fake_s3`.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use fake_s3::{Conditions, Options, Server};
use tokio::net::TcpListener;

/// Serves a folder as a bucket, for tests and for trying Shoal out.
#[derive(Debug, Parser)]
struct Flags {
    /// Where objects are kept; must exist.
    #[arg(long)]
    folder: PathBuf,
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:9000")]
    addr: SocketAddr,
    /// Where it is told what to break, and tells what it was asked for.
    #[arg(long)]
    control: Option<SocketAddr>,
    #[arg(long, default_value = "images")]
    bucket: String,
    #[arg(long, env = "S3_ACCESS_KEY_ID", default_value = "an-id")]
    access_key_id: String,
    #[arg(
        long,
        env = "S3_SECRET_ACCESS_KEY",
        default_value = "a-secret-nobody-prints",
        hide_env_values = true
    )]
    secret_access_key: String,
    /// Looks at conditions of writes, and writes a moment later.
    #[arg(long)]
    racy: bool,
    /// Does not look at conditions of writes.
    #[arg(long, conflicts_with = "racy")]
    ignore_conditions: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse();
    let conditions = match (flags.racy, flags.ignore_conditions) {
        (false, false) => Conditions::Atomic,
        (true, _) => Conditions::Racy,
        (false, true) => Conditions::Ignored,
    };
    let server = Server::start(Options {
        addr: flags.addr,
        folder: flags.folder,
        bucket: flags.bucket,
        conditions,
        access_key_id: flags.access_key_id,
        secret_access_key: flags.secret_access_key,
    });
    let server = server.await?;
    match flags.control {
        Some(addr) => server.control(TcpListener::bind(addr).await?).await?,
        None => std::future::pending().await,
    }
    Ok(())
}
