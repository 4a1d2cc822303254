//! Storage whose use is counted.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use backend::{Backend, Condition, ETag, Error, Key, List, Listing, Object, PutStream, Stat};
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::metrics::{Metrics, Operation, Outcome, Request};

/// Passes everything on to a backend, and counts it.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Backend>,
    metrics: Metrics,
}

impl Counted {
    #[must_use]
    pub const fn new(inner: Arc<dyn Backend>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    fn note_written(&self, is_written: bool, length: u64) {
        if is_written {
            self.metrics.backend_written_bytes.inc_by(length);
        }
    }

    fn note<T>(&self, operation: Operation, result: Result<T, Error>) -> Result<T, Error> {
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(error) if error.is_not_found() => Outcome::Absent,
            Err(_) => Outcome::Failed,
        };
        let request = Request { operation, outcome };
        self.metrics.backend_requests.get_or_create(&request).inc();
        result
    }
}

#[async_trait]
impl Backend for Counted {
    async fn stat(&self, key: &Key) -> Result<Stat, Error> {
        self.note(Operation::Stat, self.inner.stat(key).await)
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object, Error> {
        let mut object = self.note(Operation::Get, self.inner.get(key, range).await)?;
        let counter = self.metrics.backend_read_bytes.clone();
        let body = object.body.inspect(move |part| {
            if let Ok(part) = part {
                counter.inc_by(part.len() as u64);
            }
        });
        object.body = body.boxed();
        Ok(object)
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<(Bytes, Stat), Error> {
        let read = self.note(Operation::Get, self.inner.read(key, limit_bytes).await)?;
        self.metrics.backend_read_bytes.inc_by(read.0.len() as u64);
        Ok(read)
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<ETag, Error> {
        let length = bytes.len() as u64;
        let put = self.inner.put(key, bytes, condition).await;
        self.note_written(put.is_ok(), length);
        self.note(Operation::Put, put)
    }

    async fn put_stream(
        &self,
        key: &Key,
        body: PutStream,
        condition: Condition,
    ) -> Result<ETag, Error> {
        let counter = self.metrics.backend_written_bytes.clone();
        let body = body.inspect(move |part| {
            if let Ok(part) = part {
                counter.inc_by(part.len() as u64);
            }
        });
        let put = self.inner.put_stream(key, body.boxed(), condition).await;
        self.note(Operation::Put, put)
    }

    async fn adopt(&self, key: &Key, file: &Path) -> Result<ETag, Error> {
        let length = tokio::fs::metadata(file).await.map_or(0, |file| file.len());
        let put = self.inner.adopt(key, file).await;
        self.note_written(put.is_ok(), length);
        self.note(Operation::Put, put)
    }

    fn staging(&self) -> Option<PathBuf> {
        self.inner.staging()
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.note(Operation::Delete, self.inner.delete(key).await)
    }

    async fn list(&self, list: List) -> Result<Listing, Error> {
        self.note(Operation::List, self.inner.list(list).await)
    }

    fn doubt(&self, key: &Key, offset: Option<u64>) -> bool {
        self.inner.doubt(key, offset)
    }
}

#[cfg(test)]
mod tests {
    use backend::memory::MemoryBackend;

    use super::*;

    #[tokio::test]
    async fn requests_and_bytes_are_counted() {
        let metrics = Metrics::default();
        let counted = Counted::new(Arc::new(MemoryBackend::new()), metrics.clone());
        let key: Key = "a/b".parse().unwrap();
        assert!(counted.stat(&key).await.is_err());
        let bytes = Bytes::from(vec![1; 1000]);
        counted.put(&key, bytes, Condition::Any).await.unwrap();
        assert_eq!(metrics.backend_written_bytes.get(), 1000);
        let object = counted.get(&key, Some(100..400)).await.unwrap();
        assert_eq!(metrics.backend_read_bytes.get(), 0, "none was taken");
        object.into_bytes(&key).await.unwrap();
        counted.read(&key, 1000).await.unwrap();
        assert_eq!(metrics.backend_read_bytes.get(), 1300);
        let count = |operation, outcome| {
            let request = Request { operation, outcome };
            metrics.backend_requests.get_or_create(&request).get()
        };
        assert_eq!(count(Operation::Get, Outcome::Done), 2);
        assert_eq!(count(Operation::Stat, Outcome::Absent), 1);
        assert_eq!(count(Operation::Put, Outcome::Done), 1);
    }
}
