//! The bucket itself: asked for once at the start, and made where that is wanted.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::config::S3Config;
use super::{S3Backend, failure};
use crate::Error;

/// The region in which a bucket is made where none is named, and in which none may be named.
const DEFAULT_REGION: &str = "us-east-1";

impl S3Backend {
    /// Asks the store for the bucket. Where there is none and `create_bucket` is set, it is made;
    /// of several processes that do so at once, all go on with the same bucket.
    pub(super) async fn look_for_bucket(&self, config: &S3Config) -> Result<(), Error> {
        let asked = self.ask().await;
        let missing = asked
            .as_ref()
            .is_err_and(|error| error.code() == Some("NoSuchBucket"));
        if !(missing && config.create_bucket) {
            return asked.map_err(|error| unusable(config, &error));
        }
        match self.make(&config.region).await {
            Ok(()) => tracing::info!(place = %self.place, "made the bucket"),
            // Another process made it meanwhile: whether it can be used is asked next.
            Err(error) if is_there(&error) => {}
            Err(error) => return Err(unusable(config, &error)),
        }
        self.ask().await.map_err(|error| unusable(config, &error))
    }

    async fn ask(&self) -> Result<(), SdkError<impl ProvideErrorMetadata, HttpResponse>> {
        let request = self.client.list_objects_v2();
        let request = request.bucket(&*self.bucket).max_keys(1);
        request.send().await.map(drop)
    }

    async fn make(
        &self,
        region: &str,
    ) -> Result<(), SdkError<impl ProvideErrorMetadata, HttpResponse>> {
        let place = (region != DEFAULT_REGION).then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(region))
                .build()
        });
        self.client
            .create_bucket()
            .bucket(&*self.bucket)
            .set_create_bucket_configuration(place)
            .send()
            .await
            .map(drop)
    }
}

fn is_there(error: &SdkError<impl ProvideErrorMetadata, HttpResponse>) -> bool {
    matches!(
        error.code(),
        Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists" | "OperationAborted")
    )
}

fn unusable(config: &S3Config, error: &SdkError<impl ProvideErrorMetadata, HttpResponse>) -> Error {
    let mut reason = failure::reason(error);
    if error.code() == Some("NoSuchBucket") {
        reason.push_str("; make it, or set create_bucket: true");
    }
    Error::Config {
        place: config.place(),
        reason,
    }
}
