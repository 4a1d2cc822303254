//! Blobs for clients without an agent.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test]
async fn blobs_come_whole_and_in_parts() {
    let setup = Setup::start().await;
    let bytes: Vec<u8> = (0..100_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let digest = setup.push(&bytes).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let whole = setup.get(&path).await;
    assert!(whole.body == bytes);
    let range = [(header::RANGE, "bytes=5-99")];
    let part = setup.send(Method::GET, &path, &range, "").await;
    assert_eq!(
        (part.status.as_u16(), &part.body[..]),
        (206, &bytes[5..100])
    );
    assert_eq!(part.header("content-range"), "bytes 5-99/100000");
    let empty = setup.push(b"").await;
    let got = setup.get(&format!("/v2/team/app/blobs/{empty}")).await;
    assert_eq!((got.status.as_u16(), got.body.len()), (200, 0));
    // A blob of another repository is none of this one.
    let other = setup.get(&format!("/v2/team/other/blobs/{digest}")).await;
    other.is(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn an_origin_that_breaks_off_is_not_noticed() {
    let setup = Setup::start().await;
    let bytes: Vec<u8> = (0..100_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let digest = setup.push(&bytes).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    setup.world.breaks_after.store(30_000, Ordering::Relaxed);
    assert!(setup.get(&path).await.body == bytes);
    setup.origins[0].kill();
    assert!(setup.get(&path).await.body == bytes);
    setup.origins[1].kill();
    setup.get(&path).await.is(503, "UNAVAILABLE");
}

#[tokio::test]
async fn wrong_bytes_are_never_completed() {
    let setup = Setup::start().await;
    let digest = setup.push(&vec![5; 100_000]).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    setup.world.damages.store(true, Ordering::Relaxed);
    assert!(setup.try_send(Method::GET, &path, &[], "").await.is_err());
    setup.world.damages.store(false, Ordering::Relaxed);
    assert_eq!(setup.get(&path).await.body.len(), 100_000);
}

/// What the build-index knows and no origin has is absent, not broken.
#[tokio::test]
async fn what_no_origin_has_is_not_there() {
    let setup = Setup::start().await;
    let digest = Digest::sha256(b"lost");
    let link = ("team/app".to_owned(), digest);
    setup.world.links.lock().unwrap().insert(link);
    let path = format!("/v2/team/app/blobs/{digest}");
    setup.get(&path).await.is(404, "BLOB_UNKNOWN");
    setup
        .get("/v2/team/app/manifests/v1")
        .await
        .is(404, "MANIFEST_UNKNOWN");
}
