use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;

use super::*;
use crate::ErrorCode;
use crate::fake::{self, Asked, Server, cluster, error, json, nobody};

fn client(addrs: &[&Addr]) -> OriginClient {
    OriginClient::new(fake::http(), cluster(addrs, &[]))
}

fn digest() -> Digest {
    Digest::sha256(b"x")
}

fn parts(parts: &'static [&'static str]) -> BlobStream {
    stream::iter(
        parts
            .iter()
            .map(|part| Ok(Bytes::from_static(part.as_bytes()))),
    )
    .boxed()
}

#[tokio::test]
async fn an_upload_stays_where_it_began() {
    let digest = digest();
    let server = Server::start(move |asked: &Asked| {
        let line = &asked.line;
        if line.starts_with("POST") {
            return json(201, &UploadBegun { id: "u1".into() });
        }
        if line.starts_with("PUT") {
            return json(
                201,
                &Committed {
                    digest,
                    length: 9,
                    sha256: digest,
                    is_held: false,
                },
            );
        }
        let offset = 9;
        json(200, &UploadOffset { offset })
    })
    .await;
    let other = Server::start(|_: &Asked| error(ErrorCode::UploadUnknown)).await;
    let client = client(&[&server.addr, &other.addr]);
    let (origin, id) = client.begin_upload().await.unwrap();
    assert_eq!((origin.name.as_str(), &*id), ("o0", "u1"));
    server.take();
    assert_eq!(client.upload_offset("o0", &id).await.unwrap(), 9);
    let body = parts(&["some", " more"]);
    assert_eq!(client.append("o0", &id, Some(4), body).await.unwrap(), 9);
    assert_eq!(
        client.append("o0", &id, None, parts(&["x"])).await.unwrap(),
        9
    );
    let committed = client.commit("o0", &id, &digest).await.unwrap();
    assert_eq!(committed.length, 9);
    client.cancel("o0", &id).await.unwrap();
    let asked = server.take();
    let lines: Vec<_> = asked.iter().map(|asked| asked.line.clone()).collect();
    assert_eq!(
        lines,
        [
            "GET /v1/uploads/u1".to_owned(),
            "PATCH /v1/uploads/u1?offset=4".into(),
            "PATCH /v1/uploads/u1".into(),
            format!(
                "PUT /v1/uploads/u1?digest={}",
                digest.to_string().replace(':', "%3A")
            ),
            "DELETE /v1/uploads/u1".into(),
        ]
    );
    assert_eq!(asked[1].body, b"some more");
    // Nobody else is asked for it.
    let unknown = client.upload_offset("o1", &id).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::UploadUnknown));
    let gone = client.upload_offset("o7", &id).await;
    assert!(matches!(gone, Err(CallError::UnknownMember { .. })));
}

#[tokio::test]
async fn uploads_begin_in_turn_where_somebody_takes_them() {
    let begin = |id: &'static str| {
        Server::start(move |_: &Asked| json(201, &UploadBegun { id: id.into() }))
    };
    let (one, two) = (begin("one").await, begin("two").await);
    let full = Server::start(|_: &Asked| error(ErrorCode::TooManyUploads)).await;
    let dead = nobody().await;
    let all = client(&[&one.addr, &dead, &full.addr, &two.addr]);
    let mut taken = Vec::new();
    for _ in 0..8 {
        taken.push(all.begin_upload().await.unwrap().1);
    }
    for id in ["one", "two"] {
        assert!(taken.iter().any(|taken| taken == id), "{taken:?}");
    }
    let nobody = client(&[&dead, &full.addr]);
    assert!(!nobody.begin_upload().await.unwrap_err().is_permanent());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_the_origins_fault() {
    let server = Server::start(|_: &Asked| json(200, &UploadOffset { offset: 1 })).await;
    let client = client(&[&server.addr]);
    let gone = io::Error::from(io::ErrorKind::ConnectionReset);
    let body = parts(&["some"]).chain(stream::iter([Err(gone)])).boxed();
    let broken = client.append("o0", "u", None, body).await;
    assert!(matches!(broken, Err(CallError::Body { .. })), "{broken:?}");
    // One that pauses is given up.
    let body = parts(&["some"]).chain(stream::pending()).boxed();
    let paused = client.append("o0", "u", None, body).await;
    assert!(
        matches!(paused, Err(CallError::Timeout { .. })),
        "{paused:?}"
    );
}

#[tokio::test]
async fn a_blob_is_read_as_far_as_the_origin_says_it_is() {
    let digest = digest();
    let answer = |asked: &Asked| {
        let length = if asked.line.starts_with("HEAD") {
            100
        } else {
            10
        };
        Response::builder()
            .status(206)
            .header("content-range", "bytes 5-14/100")
            .header("content-length", length)
            .body(Body::from(vec![7; 10]))
            .unwrap()
    };
    let server = Server::start(answer).await;
    let client = client(&[&server.addr]);
    assert_eq!(client.order(&digest), [0]);
    let read = client.read(0, &digest, 5..15).await.unwrap();
    let read: Vec<_> = read.map(Result::unwrap).collect().await;
    assert_eq!(read.concat(), [7; 10]);
    for range in [0..10, 5..14, 5..16] {
        let read = client.read(0, &digest, range).await;
        assert!(matches!(read, Err(CallError::Malformed { .. })));
    }
    server.take();
    let mut empty = client.read(0, &digest, 5..5).await.unwrap();
    assert!(empty.next().await.is_none());
    assert_eq!(server.lines(), [""; 0]);
    assert_eq!(server.take(), []);
    let nobody = client.read(1, &digest, 0..1).await;
    assert!(matches!(nobody, Err(CallError::NoMember(_))));
}

#[tokio::test]
async fn absence_is_told_from_failure() {
    let digest = digest();
    let absent = Server::start(|_: &Asked| error(ErrorCode::BlobUnknown)).await;
    let length = client(&[&absent.addr]).length(&digest).await.unwrap_err();
    assert_eq!(length.code(), Some(ErrorCode::BlobUnknown));
    let read = client(&[&absent.addr]).read(0, &digest, 0..1).await;
    let read = read.err().and_then(|error| error.code());
    assert_eq!(read, Some(ErrorCode::BlobUnknown));
    let dead = nobody().await;
    let length = client(&[&dead]).length(&digest).await.unwrap_err();
    assert!(
        matches!(length, CallError::Unreachable { .. }),
        "{length:?}"
    );
}

/// An origin that stops in the middle is noticed.
#[tokio::test]
async fn a_stream_that_pauses_ends_with_an_error() {
    let answer = |_: &Asked| {
        let first = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"1234"))]);
        Response::builder()
            .status(206)
            .header("content-range", "bytes 0-9/10")
            .body(Body::from_stream(first.chain(stream::pending())))
            .unwrap()
    };
    let server = Server::start(answer).await;
    let read = client(&[&server.addr]).read(0, &digest(), 0..10).await;
    let mut read = read.unwrap();
    assert_eq!(read.next().await.unwrap().unwrap(), "1234");
    let error = read.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(read.next().await.is_none());
}
