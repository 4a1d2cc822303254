//! A store over sockets for these tests.

use fake_s3::{Conditions, Options, Rule};
use tempfile::TempDir;

use crate::s3::{S3Config, SecretKey};

pub(super) const SECRET: &str = "a-secret-nobody-prints";
const ID: &str = "an-id";
const BUCKET: &str = "images";

pub(super) struct Server {
    inner: fake_s3::Server,
    folder: TempDir,
}

impl Server {
    pub(super) async fn start(conditions: Conditions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let started = fake_s3::Server::start(Options {
            addr: ([127, 0, 0, 1], 0).into(),
            folder: folder.path().to_owned(),
            bucket: BUCKET.into(),
            conditions,
            access_key_id: ID.into(),
            secret_access_key: SECRET.into(),
        });
        Self {
            inner: started.await.unwrap(),
            folder,
        }
    }

    pub(super) fn config(&self) -> S3Config {
        S3Config {
            bucket: BUCKET.into(),
            endpoint: Some(format!("http://{}", self.inner.addr())),
            access_key_id: Some(ID.into()),
            secret_access_key: Some(secret(SECRET)),
            ..S3Config::default()
        }
    }

    /// Breaks what these say from now on, and nothing else.
    pub(super) fn faults(&self, rules: impl IntoIterator<Item = Rule>) {
        let rules = rules.into_iter().collect();
        self.inner.set_faults(rules).unwrap();
    }

    /// Returns how many parts are stored of uploads that are no objects.
    pub(super) fn stored_parts(&self) -> usize {
        let files = std::fs::read_dir(self.folder.path().join("live")).unwrap();
        let names = files.map(|file| file.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with(".upload_id-"))
            .count()
    }

    pub(super) fn counts(&self) -> fake_s3::Counts {
        self.inner.counts()
    }
}

pub(super) fn secret(text: &str) -> SecretKey {
    text.to_owned().try_into().unwrap()
}
