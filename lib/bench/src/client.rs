//! What a client of a registry does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::stream;
use oci::{Algorithm, Digest, DigestHasher};
use reqwest::{Body, Client, Response, header};
use serde_json::json;

use crate::payload::Payload;

/// The repository of everything that is measured.
const REPOSITORY: &str = "bench/image";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(60);

/// A blob that a client got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulled {
    /// From the request to the first byte of the body.
    pub(crate) first_byte: Duration,
    /// Whether the bytes have the digest.
    pub(crate) is_right: bool,
}

/// Makes a client with connections of its own.
pub(crate) fn new() -> anyhow::Result<Client> {
    let client = Client::builder().no_proxy().read_timeout(SILENCE).build();
    client.context("a client cannot be made")
}

/// Fetches a short text.
pub(crate) async fn text(url: &str) -> anyhow::Result<String> {
    let answer = new()?.get(url).send().await?;
    Ok(answer.error_for_status()?.text().await?)
}

/// Fetches a blob from an agent and hashes it.
pub(crate) async fn pull(
    client: &Client,
    agent: SocketAddr,
    digest: &Digest,
) -> anyhow::Result<Pulled> {
    let url = format!("http://{agent}/v2/{REPOSITORY}/blobs/{digest}");
    let start = Instant::now();
    let mut answer = well(client.get(url).send().await?).await?;
    let mut hasher = DigestHasher::new(Algorithm::Sha256);
    let mut first_byte = None;
    while let Some(part) = answer.chunk().await? {
        first_byte.get_or_insert_with(|| start.elapsed());
        hasher.update(&part);
    }
    Ok(Pulled {
        first_byte: first_byte.unwrap_or_else(|| start.elapsed()),
        is_right: hasher.finish() == *digest,
    })
}

/// Pushes an image of these blobs as layers, as docker does: each is announced, sent in one request
/// without a length, and named by another.
pub(crate) async fn push(
    client: &Client,
    proxy: SocketAddr,
    layers: &[(Digest, Payload)],
) -> anyhow::Result<()> {
    for (digest, payload) in layers {
        let parts = payload.parts().map(Ok::<_, std::io::Error>);
        let body = Body::wrap_stream(stream::iter(parts));
        push_blob(client, proxy, digest, body).await?;
    }
    let config = b"{}";
    let config_digest = Digest::sha256(config);
    push_blob(client, proxy, &config_digest, Body::from(&config[..])).await?;
    let described: Vec<_> = layers
        .iter()
        .map(|(digest, payload)| {
            json!({"mediaType": LAYER, "digest": digest, "size": payload.length()})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config_digest, "size": config.len()},
        "layers": described,
    });
    let url = format!("http://{proxy}/v2/{REPOSITORY}/manifests/v1");
    let put = client.put(url).header(header::CONTENT_TYPE, MANIFEST);
    well(put.body(manifest.to_string()).send().await?).await?;
    Ok(())
}

async fn push_blob(
    client: &Client,
    proxy: SocketAddr,
    digest: &Digest,
    body: Body,
) -> anyhow::Result<()> {
    let url = format!("http://{proxy}/v2/{REPOSITORY}/blobs/uploads/");
    let begun = well(client.post(url).send().await?).await?;
    let sent = client.patch(location(proxy, &begun)?).body(body);
    let sent = well(sent.send().await?).await?;
    let url = location(proxy, &sent)?;
    let joint = if url.contains('?') { '&' } else { '?' };
    let commit = client.put(format!("{url}{joint}digest={digest}"));
    well(commit.send().await?).await?;
    Ok(())
}

fn location(proxy: SocketAddr, answer: &Response) -> anyhow::Result<String> {
    let location = answer.headers().get(header::LOCATION);
    let location = location.context("the proxy sent no Location")?.to_str()?;
    Ok(if location.starts_with('/') {
        format!("http://{proxy}{location}")
    } else {
        location.to_owned()
    })
}

/// Returns an answer that is no error, else its text.
async fn well(answer: Response) -> anyhow::Result<Response> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let (url, status) = (answer.url().clone(), answer.status());
    let text = answer.text().await.unwrap_or_default();
    bail!("{url} was answered with {status}: {text}")
}
