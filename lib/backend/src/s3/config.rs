//! Where an S3-compatible store is, and how hard it may be asked.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use serde::{Deserialize, Serialize};

use crate::Error;

/// An S3-compatible store. Swapping one for another is an endpoint, a bucket and keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    pub bucket: String,
    /// Whether the bucket is made where there is none.
    pub create_bucket: bool,
    /// Folder in the bucket that everything lies in, without slashes at its ends; empty for none.
    pub prefix: String,
    /// URL of the store; AWS where absent.
    pub endpoint: Option<String>,
    pub region: String,
    /// Whether the bucket is named in the path instead of the host; by default it is where an
    /// endpoint is given.
    pub path_style: Option<bool>,
    /// Key of this store. Where absent the usual places are asked: the environment
    /// (`AWS_ACCESS_KEY_ID`, …), the files in `~/.aws`, a web identity, the instance's role.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<SecretKey>,
    /// PEM file with the authority that the store's certificate is signed by, besides those the
    /// system trusts.
    pub ca_file: Option<PathBuf>,
    /// Most requests at a time.
    pub max_requests: NonZeroU32,
    /// Most bytes per second that are read; no limit where absent.
    pub read_bytes_per_s: Option<NonZeroU64>,
    /// How long a connection may take.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the first byte of an answer, and each next one, may take. Where a body is sent first,
    /// it may take 1 s longer for each 256 KiB.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// Times that a request is tried; failures that will not mend themselves are tried once.
    pub attempts: NonZeroU32,
    /// Whether writes with a condition, and removals, are sent once whatever becomes of them. For who
    /// writes alone over a store that does not look at conditions: there a write which was given up
    /// could be made after its repetition. Not for users to set.
    #[serde(skip)]
    pub send_once: bool,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            create_bucket: false,
            prefix: String::new(),
            endpoint: None,
            region: "us-east-1".into(),
            path_style: None,
            access_key_id: None,
            secret_access_key: None,
            ca_file: None,
            max_requests: NonZeroU32::new(64).expect("not zero"),
            read_bytes_per_s: None,
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(30),
            attempts: NonZeroU32::new(4).expect("not zero"),
            send_once: false,
        }
    }
}

/// What a secret is written as.
const HIDDEN: &str = "<hidden>";

/// The secret half of a store's key. It is never written out.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SecretKey(String);

impl TryFrom<String> for SecretKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        if text == HIDDEN {
            return Err("<hidden> is what is printed instead of a secret; write the secret itself");
        }
        Ok(Self(text))
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for SecretKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl S3Config {
    /// Returns what people call this store.
    pub(super) fn place(&self) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or("AWS");
        format!("bucket {:?} at {endpoint}", self.bucket)
    }

    /// Makes a client; nothing is asked of the store yet.
    pub(super) async fn client(&self) -> Result<Client, Error> {
        let wrong = |reason: String| Error::Config {
            place: self.place(),
            reason,
        };
        if self.bucket.is_empty() {
            return Err(wrong("name a bucket".into()));
        }
        let credentials = match (&self.access_key_id, &self.secret_access_key) {
            (Some(id), Some(secret)) => {
                let fixed = Credentials::from_keys(id, &secret.0, None);
                Some(SharedCredentialsProvider::new(fixed))
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                let text = "set both access_key_id and secret_access_key, or neither";
                return Err(wrong(text.into()));
            }
        };
        let http = self.http().map_err(wrong)?;
        let region = Region::new(self.region.clone());
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(region);
        if let Some(credentials) = credentials {
            loader = loader.credentials_provider(credentials);
        }
        let shared = loader.load().await;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.read_timeout)
            .build();
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(self.path_style.unwrap_or(self.endpoint.is_some()))
            .retry_config(RetryConfig::standard().with_max_attempts(self.attempts.get()))
            .timeout_config(timeouts)
            // Other stores know no trailing checksums; pieces are hashed anyway.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // Pauses of bodies are bounded here, and a slow reader is not the store's fault.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Client::from_conf(config.build()))
    }

    fn http(&self) -> Result<SharedHttpClient, String> {
        let mut trusted = TrustStore::default();
        if let Some(path) = &self.ca_file {
            let pem = std::fs::read(path)
                .map_err(|error| format!("cannot read ca_file {}: {error}", path.display()))?;
            trusted = trusted.with_pem_certificate(pem);
        }
        let context = TlsContext::builder().with_trust_store(trusted).build();
        let context = context.map_err(|error| format!("ca_file cannot be used: {error}"))?;
        Ok(aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context)
            .build_https())
    }
}
