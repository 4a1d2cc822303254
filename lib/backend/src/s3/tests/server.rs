//! A store over sockets that checks signatures, with a layer in front that is as honest about
//! conditions as it is told to be, and breaks what it is told to break.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, dto};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::s3::{S3Config, SecretKey};

pub(super) const SECRET: &str = "a-secret-nobody-prints";
const ID: &str = "an-id";
const BUCKET: &str = "images";

type Error = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Error>;

/// What becomes of `If-Match` and `If-None-Match` of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conditional {
    Atomic,
    /// Looked at before the write, between which others write too.
    Racy,
    Ignored,
}

/// What becomes of a request, instead of the right answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// The right one.
    Right,
    Status(u16, &'static str),
    /// The connection ends without an answer.
    Reset,
    /// The body ends early.
    CutAfter(usize),
    /// The body never comes.
    Stall,
}

pub(super) struct Server {
    endpoint: String,
    front: Arc<Front>,
    pub(super) requests: Arc<AtomicUsize>,
    _folder: TempDir,
}

struct Front {
    store: S3Service,
    next: Mutex<VecDeque<Answer>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    pub(super) async fn start(conditional: Conditional) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(Store {
            files: s3s_fs::FileSystem::new(folder.path()).unwrap(),
            folder: folder.path().to_owned(),
            conditional,
            writing: tokio::sync::Mutex::default(),
        });
        builder.set_auth(SimpleAuth::from_single(ID, SECRET));
        let requests = Arc::new(AtomicUsize::new(0));
        let front = Arc::new(Front {
            store: builder.build(),
            next: Mutex::default(),
            requests: Arc::clone(&requests),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let serving = Arc::clone(&front);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let front = Arc::clone(&serving);
                let service = service_fn(move |request| {
                    let front = Arc::clone(&front);
                    async move { front.answer(request).await }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(connection);
            }
        });
        Self {
            endpoint,
            front,
            requests,
            _folder: folder,
        }
    }

    pub(super) fn config(&self) -> S3Config {
        S3Config {
            bucket: BUCKET.into(),
            endpoint: Some(self.endpoint.clone()),
            access_key_id: Some(ID.into()),
            secret_access_key: Some(secret(SECRET)),
            ..S3Config::default()
        }
    }

    /// Answers the next requests like this, and those after them right.
    pub(super) fn next(&self, answers: &[Answer]) {
        *self.front.next.lock() = answers.iter().copied().collect();
    }
}

impl Front {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let fault = self.next.lock().pop_front();
        match fault {
            Some(Answer::Status(status, code)) => return Ok(refusal(status, code)),
            Some(Answer::Reset) => return Err("the connection is cut".into()),
            Some(Answer::Right | Answer::CutAfter(_) | Answer::Stall) | None => {}
        }
        let response = self.store.call(request.map(s3s::Body::from)).await;
        let response = response.map_err(|error| format!("{error:?}"))?;
        Ok(response.map(|body| damaged(body, fault)))
    }
}

/// Files behind a layer that decides about conditions.
struct Store {
    files: s3s_fs::FileSystem,
    folder: std::path::PathBuf,
    conditional: Conditional,
    writing: tokio::sync::Mutex<()>,
}

macro_rules! impl_store {
    ($($call:ident: $input:ident -> $output:ident,)*) => {
        #[async_trait]
        impl S3 for Store {
            $(
                async fn $call(
                    &self,
                    request: S3Request<dto::$input>,
                ) -> S3Result<S3Response<dto::$output>> {
                    self.files.$call(request).await
                }
            )*

            async fn put_object(
                &self,
                request: S3Request<dto::PutObjectInput>,
            ) -> S3Result<S3Response<dto::PutObjectOutput>> {
                self.put_as_told(request).await
            }

            async fn delete_object(
                &self,
                request: S3Request<dto::DeleteObjectInput>,
            ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
                self.delete_with_folders(request).await
            }
        }
    };
}

impl_store!(
    get_object: GetObjectInput -> GetObjectOutput,
    head_object: HeadObjectInput -> HeadObjectOutput,
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output,
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput,
    upload_part: UploadPartInput -> UploadPartOutput,
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput,
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput,
);

impl Store {
    async fn put_as_told(
        &self,
        mut request: S3Request<dto::PutObjectInput>,
    ) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let _turn = match self.conditional {
            // What is behind looks at conditions, and writes a moment later.
            Conditional::Racy => None,
            Conditional::Atomic => Some(self.writing.lock().await),
            Conditional::Ignored => {
                request.input.if_match = None;
                request.input.if_none_match = None;
                None
            }
        };
        self.files.put_object(request).await
    }

    /// Removes the folders too that held nothing else: buckets have none.
    async fn delete_with_folders(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        let bucket = self.folder.join(&request.input.bucket);
        let path = bucket.join(&request.input.key);
        let deleted = self.files.delete_object(request).await;
        for folder in path
            .ancestors()
            .skip(1)
            .take_while(|folder| **folder != bucket)
        {
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
        deleted
    }
}

pub(super) fn secret(text: &str) -> SecretKey {
    text.to_owned().try_into().unwrap()
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let text = format!("<Error><Code>{code}</Code><Message>as told</Message></Error>");
    let body = http_body_util::Full::from(text).map_err(|never: Infallible| match never {});
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/xml")
        .body(body.boxed_unsync())
        .unwrap()
}

fn damaged(body: s3s::Body, fault: Option<Answer>) -> Body {
    let body = body.map_err(|error| error.to_string().into());
    match fault {
        Some(Answer::CutAfter(limit)) => {
            let state = (Box::pin(body), limit);
            let parts = stream::unfold(state, |(mut body, left)| async move {
                let part = match body.frame().await?.map(Frame::into_data) {
                    Ok(Ok(part)) if left > 0 => Ok(part.slice(..part.len().min(left))),
                    Ok(Ok(_)) => Err(Error::from("the body is cut")),
                    Ok(Err(_)) => return None,
                    Err(error) => Err(error),
                };
                let sent = part.as_ref().map_or(0, Bytes::len);
                Some((part.map(Frame::data), (body, left - sent)))
            });
            StreamBody::new(parts).boxed_unsync()
        }
        Some(Answer::Stall) => StreamBody::new(stream::pending()).boxed_unsync(),
        Some(Answer::Right | Answer::Status(..) | Answer::Reset) | None => body.boxed_unsync(),
    }
}
