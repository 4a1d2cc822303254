//! The agent, or any other registry, as a client sees it.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context as _, bail};
use oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use oci::{Digest, ErrorBody, MAX_MANIFEST_BYTES, Reference, RepositoryName};
use reqwest::{Response, StatusCode, header};

use crate::output;
use crate::pull::check;
use crate::pull::image::Fetched;
use crate::pull::layout::BlobFile;

/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);

/// One repository of a registry.
#[derive(Debug)]
pub(crate) struct Registry {
    client: reqwest::Client,
    addr: String,
    base: String,
    repository: RepositoryName,
}

impl Registry {
    /// # Errors
    /// The client cannot be made.
    pub(crate) fn new(addr: &str, repository: &RepositoryName) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()?;
        Ok(Self {
            client,
            addr: addr.to_owned(),
            repository: repository.clone(),
            base: format!("http://{addr}/v2/{}", repository),
        })
    }

    /// Fetches a manifest and checks it against its digest.
    ///
    /// # Errors
    /// It is not there, cannot be had, or is not what its digest says.
    pub(crate) async fn manifest(&self, reference: &Reference) -> anyhow::Result<Fetched> {
        let types = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let url = format!("{}/manifests/{reference}", self.base);
        let request = self.client.get(url).header(header::ACCEPT, types);
        let response = self.send(request, reference).await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let media_type = header("content-type");
        // A tag's digest is what the registry says, if it says so, and what came in any case.
        let told = header("docker-content-digest");
        let told = told.map(|told| told.parse::<Digest>()).transpose()?;
        let bytes = body(response).await?;
        let digest = reference.digest().copied().or(told);
        let digest = digest.unwrap_or_else(|| Digest::sha256(&bytes));
        check(&digest, &bytes)?;
        Fetched::parse(digest, media_type.as_deref(), bytes)
    }

    /// Reads the rest of a blob into its file.
    ///
    /// # Errors
    /// It is not there, or its body ended early; what came before is kept.
    pub(crate) async fn read_into(
        &self,
        file: &mut BlobFile,
        progress: impl Fn(u64),
    ) -> anyhow::Result<()> {
        let from = file.written();
        let mut request = self
            .client
            .get(format!("{}/blobs/{}", self.base, file.digest()));
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let mut response = self.send(request, file.digest()).await?;
        if from > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            file.restart().await?;
        } else if from > 0 {
            let range = response.headers().get(header::CONTENT_RANGE);
            let range = range
                .and_then(|range| range.to_str().ok())
                .unwrap_or_default();
            if !range.starts_with(&format!("bytes {from}-")) {
                bail!("{} answered another range, {range:?}", self.addr);
            }
        }
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(output::root_cause)
            .context("the body ended early")?
        {
            file.append(&chunk).await?;
            progress(file.written());
        }
        if !file.is_full() {
            bail!("the body ended early");
        }
        Ok(())
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        what: impl Display,
    ) -> anyhow::Result<Response> {
        let response = request
            .send()
            .await
            .map_err(output::root_cause)
            .with_context(|| format!("{} does not answer; is an agent there?", self.addr))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = body(response).await.unwrap_or_default();
        let error = serde_json::from_slice(&bytes).unwrap_or(ErrorBody { errors: Vec::new() });
        let reason = match error.errors.first() {
            Some(error) => format!(": {} {}", error.code.as_str(), error.message),
            None => String::new(),
        };
        bail!(
            "{} answered {status} for {what} of {}{reason}",
            self.addr,
            self.repository
        )
    }
}

async fn body(mut response: Response) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_MANIFEST_BYTES {
            bail!("a manifest of more than {MAX_MANIFEST_BYTES} bytes came");
        }
    }
    Ok(bytes)
}
