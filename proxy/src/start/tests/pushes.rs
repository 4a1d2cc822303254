//! Uploads and manifests, and what becomes of them when something breaks.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::*;

const UPLOADS: &str = "/v2/team/app/blobs/uploads/";

/// Waits for something that another task does.
async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("it happens");
}

/// A body that is sent part by part.
fn by_parts() -> (mpsc::Sender<Bytes>, reqwest::Body) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let parts = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let part = receiver.recv().await?;
        Some((Ok::<_, io::Error>(part), receiver))
    });
    (sender, reqwest::Body::wrap_stream(parts))
}

fn uploaded(setup: &Setup) -> usize {
    let count = |part: &Part| {
        let uploads = part.uploads.lock().unwrap();
        uploads.values().map(Vec::len).sum::<usize>()
    };
    setup.origins.iter().map(count).sum()
}

#[tokio::test]
async fn an_image_is_pushed() {
    let setup = Setup::start().await;
    let layer = setup.push(&vec![7; 300_000]).await;
    let digest = Digest::sha256(b"{}");
    let head = |digest: Digest| format!("/v2/team/app/blobs/{digest}");
    setup.get(&head(digest)).await.is(404, "BLOB_UNKNOWN");
    // Whole, with the first request.
    let whole = format!("{UPLOADS}?digest={digest}");
    let pushed = setup.send(Method::POST, &whole, &[], "{}").await;
    assert_eq!(pushed.status, 201);
    assert_eq!(pushed.header("location"), head(digest));
    let found = setup.send(Method::HEAD, &head(digest), &[], "").await;
    assert_eq!(
        (found.status.as_u16(), found.header("content-length")),
        (200, "2")
    );

    let media_type = [(header::CONTENT_TYPE, oci::media_type::OCI_MANIFEST)];
    let path = "/v2/team/app/manifests/v1";
    let nowhere = Digest::sha256(b"nowhere");
    let text = manifest(&digest, &[layer, nowhere]);
    let refused = setup.send(Method::PUT, path, &media_type, text).await;
    refused.is(400, "MANIFEST_BLOB_UNKNOWN");
    assert!(String::from_utf8_lossy(&refused.body).contains(&nowhere.to_string()));
    let refused = setup.send(Method::PUT, path, &media_type, "{").await;
    refused.is(400, "MANIFEST_INVALID");
    let text = manifest(&digest, &[layer]);
    let put = setup
        .send(Method::PUT, path, &media_type, text.clone())
        .await;
    assert_eq!(put.status, 201, "{put:?}");
    let name = Digest::sha256(text.as_bytes()).to_string();
    assert_eq!(put.header("docker-content-digest"), name);
    let pulled = setup.get(path).await;
    assert_eq!(
        (pulled.body, pulled.status),
        (text.into_bytes(), StatusCode::OK)
    );

    let removed = setup.send(Method::DELETE, &head(digest), &[], "").await;
    assert_eq!(removed.status, 202);
    setup.get(&head(digest)).await.is(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn a_mount_needs_a_repository_that_has_it() {
    let setup = Setup::start().await;
    let digest = setup.push(b"some bytes").await;
    let mount = async |from: &str| {
        let path = format!("/v2/other/blobs/uploads/?mount={digest}{from}");
        let answer = setup.send(Method::POST, &path, &[], "").await;
        answer.status.as_u16()
    };
    for from in ["", "&from=third", "&from=NO", "&from=other"] {
        assert_eq!(mount(from).await, 202, "{from}");
    }
    assert_eq!(mount("&from=team/app").await, 201);
    assert_eq!(mount("&from=other").await, 201);
    let got = setup.get(&format!("/v2/other/blobs/{digest}")).await;
    assert_eq!(got.body, b"some bytes");
}

/// The client's connection breaks in the middle of a chunked PATCH, as docker sends it. It goes on
/// at another proxy.
#[tokio::test]
async fn an_interrupted_upload_goes_on_anywhere() {
    let mut setup = Setup::start().await;
    let bytes: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let location = setup.begin().await;
    let addr = setup.url.strip_prefix("http://").unwrap().to_owned();
    let mut socket = TcpStream::connect(&addr).await.unwrap();
    let head =
        format!("PATCH {location} HTTP/1.1\r\nhost: {addr}\r\ntransfer-encoding: chunked\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(b"186a0\r\n").await.unwrap();
    socket.write_all(&bytes[..100_000]).await.unwrap();
    until(|| uploaded(&setup) == 100_000).await;
    drop(socket);

    let (_other, url) = proxy(&setup.config, &setup.shutdown).await;
    setup.url = url;
    let shown = setup.get(&location).await;
    assert_eq!(
        (shown.status.as_u16(), shown.header("range")),
        (204, "0-99999")
    );
    // Not at the wrong place, though, and that is said without reading it all.
    let wrong = [(header::CONTENT_RANGE, "0-199999")];
    let refused = setup
        .send(Method::PATCH, &location, &wrong, bytes.clone())
        .await;
    assert_eq!(refused.status, 416);
    assert_eq!(refused.header("range"), "0-99999");
    let right = [(header::CONTENT_RANGE, "100000-199999")];
    let rest = bytes[100_000..].to_vec();
    let patched = setup.send(Method::PATCH, &location, &right, rest).await;
    assert_eq!(patched.status, 202, "{patched:?}");
    let digest = Digest::sha256(&bytes);
    let put = setup.finish(&location, &digest).await;
    assert_eq!(put.status, 201);
    let got = setup.get(&format!("/v2/team/app/blobs/{digest}")).await;
    assert!(got.body == bytes);
}

#[tokio::test]
async fn an_upload_is_gone_with_its_origin() {
    let setup = Setup::start().await;
    let location = setup.begin().await;
    let (parts, body) = by_parts();
    let path = location.clone();
    let sending = setup.try_send(Method::PATCH, &path, &[], body);
    let breaking = async {
        parts.send(vec![1; 50_000].into()).await.unwrap();
        until(|| uploaded(&setup) == 50_000).await;
        let holds = |part: &&Part| part.uploads.lock().unwrap().len() == 1;
        let origin = setup.origins.iter().find(holds).unwrap();
        origin.kill();
        // The client sends on, until it is told.
        for _ in 0..1000 {
            if parts.send(vec![1; 50_000].into()).await.is_err() {
                break;
            }
        }
        drop(parts);
    };
    let (sent, ()) = tokio::join!(sending, breaking);
    if let Ok(answer) = sent {
        assert!(answer.status.as_u16() >= 400, "{answer:?}");
    }
    setup.get(&location).await.is(404, "BLOB_UPLOAD_UNKNOWN");
    let digest = Digest::sha256(b"x");
    setup
        .finish(&location, &digest)
        .await
        .is(404, "BLOB_UPLOAD_UNKNOWN");
    let patched = setup.send(Method::PATCH, &location, &[], "x").await;
    patched.is(404, "BLOB_UPLOAD_UNKNOWN");
    // Another origin takes the next one.
    for fill in 0..4 {
        setup.push(&[fill; 1000]).await;
    }
}

#[tokio::test]
async fn an_upload_that_is_not_there_is_unknown() {
    let setup = Setup::start().await;
    let location = setup.begin().await;
    let cancel = setup.send(Method::DELETE, &location, &[], "").await;
    assert_eq!(cancel.status, 204);
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let answer = setup.send(method, &location, &[], "").await;
        answer.is(404, "BLOB_UPLOAD_UNKNOWN");
    }
    // Also where the origin answers before it has read what is sent.
    let answer = setup
        .try_send(Method::PATCH, &location, &[], vec![0; 20_000_000])
        .await;
    answer.unwrap().is(404, "BLOB_UPLOAD_UNKNOWN");
    let forged = location.replace("_state=", "_state=A");
    setup.get(&forged).await.is(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn wrong_bytes_are_refused() {
    let setup = Setup::start().await;
    let wrong = Digest::sha256(b"wrong");
    let location = setup.begin().await;
    setup.send(Method::PATCH, &location, &[], "right").await;
    setup
        .finish(&location, &wrong)
        .await
        .is(400, "DIGEST_INVALID");
    setup.get(&location).await.is(404, "BLOB_UPLOAD_UNKNOWN");
    let whole = format!("{UPLOADS}?digest={wrong}");
    let refused = setup.send(Method::POST, &whole, &[], "right").await;
    refused.is(400, "DIGEST_INVALID");
    let answer = setup.get(&format!("/v2/team/app/blobs/{wrong}")).await;
    answer.is(404, "BLOB_UNKNOWN");
    assert!(setup.world.links.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_build_index_nothing_is_promised() {
    let setup = Setup::start().await;
    let config = setup.push(b"{}").await;
    let location = setup.begin().await;
    setup.send(Method::PATCH, &location, &[], "layer").await;
    setup.index.kill();
    let digest = Digest::sha256(b"layer");
    setup
        .finish(&location, &digest)
        .await
        .is(503, "UNAVAILABLE");
    let path = "/v2/team/app/manifests/v1";
    let media_type = [(header::CONTENT_TYPE, oci::media_type::OCI_MANIFEST)];
    let text = manifest(&config, &[digest]);
    let refused = setup
        .send(Method::PUT, path, &media_type, text.clone())
        .await;
    refused.is(503, "UNAVAILABLE");
    setup.get(path).await.is(503, "UNAVAILABLE");
    let blob = format!("/v2/team/app/blobs/{config}");
    setup.get(&blob).await.is(503, "UNAVAILABLE");
    // Once it is back, the same requests do what they say.
    setup.index.revive().await;
    assert_eq!(setup.finish(&location, &digest).await.status, 201);
    let put = setup.send(Method::PUT, path, &media_type, text).await;
    assert_eq!(put.status, 201, "{put:?}");
}

#[tokio::test]
async fn without_origins_no_upload_begins() {
    let setup = Setup::start().await;
    for origin in &setup.origins {
        origin.kill();
    }
    let begun = setup.send(Method::POST, UPLOADS, &[], "").await;
    begun.is(503, "UNAVAILABLE");
}

/// Pushes a manifest of blobs that were pushed before.
async fn put_manifest(setup: &Setup, config: &Digest, layers: &[Digest]) -> Answer {
    let media_type = [(header::CONTENT_TYPE, oci::media_type::OCI_MANIFEST)];
    let (path, text) = ("/v2/team/app/manifests/v1", manifest(config, layers));
    setup.send(Method::PUT, path, &media_type, text).await
}

#[tokio::test]
async fn a_manifest_waits_for_blobs_on_their_way() {
    let setup = Setup::start().await;
    let (config, layer) = (setup.push(b"{}").await, setup.push(&[7; 1000]).await);
    let on_its_way = || setup.world.on_its_way.lock().unwrap();
    on_its_way().insert(layer, 0);
    on_its_way().insert(config, 1);
    let (asked, layers) = (&setup.world.asked_stored, [layer]);
    let put = put_manifest(&setup, &config, &layers);
    let moving = async {
        until(|| asked.load(Ordering::Relaxed) >= 4).await;
        on_its_way().clear();
    };
    let (put, ()) = tokio::join!(put, moving);
    assert_eq!(put.status, 201, "{put:?}");
    let seen = asked.load(Ordering::Relaxed);
    assert_eq!(put_manifest(&setup, &config, &[layer]).await.status, 201);
    let again = asked.load(Ordering::Relaxed);
    assert_eq!(seen, again, "where nothing waits nobody is asked");
}

#[tokio::test]
async fn a_manifest_does_not_wait_for_what_gets_no_further() {
    let mut setup = Setup::start().await;
    setup.config.write_back_wait = Duration::from_millis(1200);
    (setup.proxy, setup.url) = proxy(&setup.config, &setup.shutdown).await;
    let (config, layer) = (setup.push(b"{}").await, setup.push(&[7; 1000]).await);
    setup.world.on_its_way.lock().unwrap().insert(layer, 500);
    let put = put_manifest(&setup, &config, &[layer]).await;
    put.is(503, "UNAVAILABLE");
    assert_eq!(put.header("retry-after"), "5");
    // What nobody has is told at once.
    let began = std::time::Instant::now();
    let unknown = Digest::sha256(b"unknown");
    let put = put_manifest(&setup, &config, &[layer, unknown]).await;
    put.is(400, "MANIFEST_BLOB_UNKNOWN");
    assert!(began.elapsed() < Duration::from_secs(1));
    setup.world.on_its_way.lock().unwrap().clear();
    assert_eq!(put_manifest(&setup, &config, &[layer]).await.status, 201);
}

#[tokio::test]
async fn a_blob_gets_into_its_repository_late() {
    let setup = Setup::start().await;
    let (config, layer) = (setup.push(b"{}").await, setup.push(&[7; 1000]).await);
    setup.world.links.lock().unwrap().clear();
    let put = put_manifest(&setup, &config, &[layer]).await;
    put.is(400, "MANIFEST_BLOB_UNKNOWN");
    setup.world.is_pushed.store(true, Ordering::Relaxed);
    assert_eq!(put_manifest(&setup, &config, &[layer]).await.status, 201);
}
