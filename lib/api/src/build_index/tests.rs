use axum::body::Body;
use axum::response::Response;

use super::*;
use crate::fake::{self, Asked, Server, cluster, error, json, nobody};

fn name() -> RepositoryName {
    "team/app".parse().unwrap()
}

fn client(addrs: &[&Addr]) -> BuildIndexClient {
    BuildIndexClient::new(fake::http(), cluster(&[], addrs))
}

fn digest() -> Digest {
    Digest::sha256(b"x")
}

/// A build-index that says yes to everything.
async fn agreeable() -> Server {
    let digest = digest();
    Server::start(move |asked: &Asked| {
        let (line, tags) = (&asked.line, vec![Tag::latest()]);
        if line.contains("/manifests/") && line.starts_with("GET") {
            let manifest = Response::builder()
                .header("content-type", "a/b")
                .header(DIGEST_HEADER, digest.to_string());
            manifest.body(Body::from("bytes")).unwrap()
        } else if line.starts_with("DELETE") {
            let done = Response::builder().status(204);
            done.body(Body::empty()).unwrap()
        } else if line.contains("/blobs/") {
            json(200, &BlobStat::new(Some(5)))
        } else if line.contains("/referrers/") {
            let descriptors = Vec::new();
            json(200, &Referrers { descriptors })
        } else if line.starts_with("PUT") {
            let subject = None;
            let stored = ManifestStored {
                digest,
                subject,
                tags,
            };
            json(201, &stored)
        } else {
            let names = vec!["n".to_owned()];
            json(200, &Names { names, next: None })
        }
    })
    .await
}

const BASE: &str = "/v1/repositories/team%2Fapp";

#[tokio::test]
async fn calls_about_manifests_have_their_paths() {
    let (server, digest) = (agreeable().await, digest());
    let client = client(&[&server.addr]);
    let (name, tag) = (name(), Reference::Tag("v1".parse().unwrap()));
    let manifest = client.manifest(&name, &tag).await.unwrap();
    assert_eq!(manifest.media_type, "a/b");
    assert_eq!(manifest.bytes, "bytes");
    assert_eq!(manifest.digest, digest);
    client.manifest(&name, &digest.into()).await.unwrap();
    client.delete_manifest(&name, &tag).await.unwrap();
    assert_eq!(
        server.lines(),
        [
            format!("GET {BASE}/manifests/v1"),
            format!("GET {BASE}/manifests/{digest}"),
            format!("DELETE {BASE}/manifests/v1"),
        ]
    );
    let tags = ["a".parse().unwrap(), "b".parse().unwrap()];
    let bytes = Bytes::from_static(b"manifest");
    let stored = client.put_manifest(&name, &tag, &tags, Some("c/d"), bytes.clone());
    assert_eq!(stored.await.unwrap().tags, [Tag::latest()]);
    let stored = client.put_manifest(&name, &tag, &[], None, bytes);
    assert_eq!(stored.await.unwrap().digest, digest);
    let put = |query: &str, content_type: Option<&str>| Asked {
        line: format!("PUT {BASE}/manifests/v1{query}"),
        content_type: content_type.map(str::to_owned),
        body: b"manifest".to_vec(),
    };
    let expected = [put("?tag=a&tag=b", Some("c/d")), put("", None)];
    assert_eq!(server.take(), expected);
}

#[tokio::test]
async fn calls_about_repositories_have_their_paths() {
    let (server, digest) = (agreeable().await, digest());
    let (client, name) = (client(&[&server.addr]), name());
    let from = "other/one".parse().unwrap();
    assert_eq!(client.blob(&name, &digest).await.unwrap().length, Some(5));
    for from in [None, Some(&from)] {
        let linked = client.link_blob(&name, &digest, from).await;
        assert_eq!(linked.unwrap(), Some(BlobStat::new(Some(5))));
    }
    client.unlink_blob(&name, &digest).await.unwrap();
    for artifact_type in [None, Some("x/y+z")] {
        let found = client.referrers(&name, &digest, artifact_type).await;
        assert_eq!(found.unwrap(), []);
    }
    let page = PageQuery {
        n: Some(7),
        last: Some("a/b".into()),
    };
    assert_eq!(client.tags(&name, &page).await.unwrap().names, ["n"]);
    client.repositories(&page).await.unwrap();
    client.repositories(&PageQuery::default()).await.unwrap();
    assert_eq!(
        server.lines(),
        [
            format!("GET {BASE}/blobs/{digest}"),
            format!("PUT {BASE}/blobs/{digest}"),
            format!("PUT {BASE}/blobs/{digest}?from=other%2Fone"),
            format!("DELETE {BASE}/blobs/{digest}"),
            format!("GET {BASE}/referrers/{digest}"),
            format!("GET {BASE}/referrers/{digest}?artifact_type=x%2Fy%2Bz"),
            format!("GET {BASE}/tags?n=7&last=a%2Fb"),
            "GET /v1/repositories?n=7&last=a%2Fb".into(),
            "GET /v1/repositories".into(),
        ]
    );
}

/// The paths of the contract are those that the client asks for.
#[test]
fn paths_are_those_of_the_contract() {
    for (path, parts) in [
        (TAGS, &["tags"][..]),
        (MANIFEST, &["manifests", "{reference}"]),
        (BLOB, &["blobs", "{digest}"]),
        (REFERRERS, &["referrers", "{digest}"]),
    ] {
        let expected = format!("{REPOSITORIES}/{{repository}}/{}", parts.join("/"));
        assert_eq!(path, expected);
    }
}

#[tokio::test]
async fn the_next_one_is_asked_where_one_cannot_answer() {
    let good = Server::start(|_: &Asked| json(200, &BlobStat::new(Some(5)))).await;
    let away = Server::start(|_: &Asked| error(ErrorCode::Unavailable)).await;
    let strange = Server::start(|_: &Asked| json(200, &"no stat")).await;
    let dead = nobody().await;
    // Whichever the ring has first.
    for bad in [&away.addr, &strange.addr, &dead] {
        for addrs in [[bad, &good.addr], [&good.addr, bad]] {
            let stat = client(&addrs).blob(&name(), &digest()).await;
            assert_eq!(stat.unwrap().length, Some(5));
        }
    }
    let nobody_good = client(&[&away.addr, &strange.addr, &dead]);
    let failed = nobody_good.blob(&name(), &digest()).await;
    assert!(!failed.unwrap_err().is_permanent());
    let none = client(&[]).blob(&name(), &digest()).await;
    assert!(matches!(none, Err(CallError::NoMember(_))));
}

#[tokio::test]
async fn what_all_would_answer_is_an_answer() {
    let unknown = Server::start(|_: &Asked| error(ErrorCode::BlobUnknown)).await;
    let other = Server::start(|_: &Asked| error(ErrorCode::BlobUnknown)).await;
    let client = client(&[&unknown.addr, &other.addr]);
    let answer = client.blob(&name(), &digest()).await.unwrap_err();
    assert_eq!(answer.code(), Some(ErrorCode::BlobUnknown));
    let linked = client.link_blob(&name(), &digest(), None).await;
    assert_eq!(linked.unwrap(), None);
    assert_eq!(
        unknown.lines().len() + other.lines().len(),
        2,
        "each asked one"
    );
}

#[tokio::test]
async fn answers_have_bounds_and_must_make_sense() {
    type Make = fn() -> Response;
    let cases: [(Make, &str); 4] = [
        (|| Response::new(Body::from(vec![b' '; 20_000])), "bytes"),
        (|| Response::new(Body::from("bytes")), "without its type"),
        (
            || {
                let broken = Response::builder().header("content-type", "a/b");
                let broken = broken.header(DIGEST_HEADER, "sha256:1");
                broken.body(Body::from("bytes")).unwrap()
            },
            "without its type",
        ),
        (
            || {
                Response::builder()
                    .status(418)
                    .body(Body::from("{}"))
                    .unwrap()
            },
            "answered 418",
        ),
    ];
    for (answer, expected) in cases {
        let server = Server::start(move |_: &Asked| answer()).await;
        let client = client(&[&server.addr]);
        let manifest = client.manifest(&name(), &digest().into()).await;
        let error = manifest.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let hangs = axum::Router::new().fallback(|| async {
        std::future::pending::<()>().await;
    });
    let hangs = fake::serve(hangs).await;
    let blob = client(&[&hangs]).blob(&name(), &digest()).await;
    assert!(matches!(blob, Err(CallError::Timeout { .. })), "{blob:?}");
    // The head comes, the rest does not.
    let stalls = Server::start(|_: &Asked| {
        let parts = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        Response::new(Body::from_stream(parts))
    });
    let blob = client(&[&stalls.await.addr]).blob(&name(), &digest()).await;
    assert!(matches!(blob, Err(CallError::Timeout { .. })), "{blob:?}");
}

#[test]
fn names_of_changes_are_32_hex_digits() {
    let id = WriteId::random();
    assert_eq!(id.to_string().parse(), Ok(id));
    let digits = "0123456789abcdef0123456789abcdef";
    assert_eq!(digits.parse::<WriteId>().unwrap().to_string(), digits);
    let plus = format!("+{}", &digits[1..]);
    for wrong in ["", "7", &digits[1..], &format!("{digits}0"), &plus, "x"] {
        assert_eq!(wrong.parse::<WriteId>(), Err(WriteIdError), "{wrong}");
    }
}
