use std::time::Duration;

use http::Method;
use oci::{Algorithm, Digest, ErrorCode};
use serde_json::{Value, json};

use crate::tests::fake::Fault;
use crate::tests::{INDEX, MANIFEST, Registry, image};
use crate::{Extent, Fallback, Options, Writes};

/// Starts a registry with a blob of 3,000 bytes in `team/app`.
async fn with_blob() -> (Registry, Vec<u8>, String) {
    let registry = Registry::new();
    let bytes: Vec<u8> = (0..3000u32).map(|number| (number % 251) as u8).collect();
    let digest = registry.push_blob("team/app", &bytes).await;
    (registry, bytes, format!("/v2/team/app/blobs/{digest}"))
}

/// Stores a manifest, whose blobs are pushed before.
async fn push_manifest(registry: &Registry, uri: &str, manifest: &Value) -> String {
    registry.push_blob("team/app", b"{}").await;
    let bytes = manifest.to_string();
    let answer = registry
        .send_bytes(Method::PUT, uri, &[], bytes.clone())
        .await;
    answer.is(201);
    bytes
}

#[tokio::test]
async fn ping() {
    let registry = Registry::new();
    for uri in ["/v2/", "/v2"] {
        assert_eq!(registry.get(uri).await.is(200).json(), json!({}));
        registry.head(uri).await.is(200);
    }
}

#[tokio::test]
async fn whole_blobs() {
    let (registry, bytes, uri) = with_blob().await;
    let digest = Digest::sha256(&bytes).to_string();
    for answer in [registry.get(&uri).await, registry.head(&uri).await] {
        let answer = answer.is(200);
        assert_eq!(answer.header("content-length"), "3000");
        assert_eq!(answer.header("docker-content-digest"), digest);
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert!(answer.bytes().is_empty() || answer.bytes() == bytes);
    }
    assert_eq!(registry.get(&uri).await.bytes().len(), 3000);
}

#[tokio::test]
async fn an_empty_blob_has_a_length() {
    let registry = Registry::new();
    let digest = registry.push_blob("a", b"").await;
    let uri = format!("/v2/a/blobs/{digest}");
    for range in [None, Some("bytes=0-"), Some("bytes=-5")] {
        let headers: Vec<_> = range.iter().map(|&range| ("range", range)).collect();
        let answer = registry.ask(Method::GET, &uri, &headers).await.is(200);
        assert_eq!(answer.header("content-length"), "0");
        assert!(answer.bytes().is_empty());
    }
    assert_eq!(
        registry.head(&uri).await.is(200).header("content-length"),
        "0"
    );
}

#[tokio::test]
async fn ranges_of_blobs() {
    let (registry, bytes, uri) = with_blob().await;
    for (range, from, to) in [
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, 2999),
        ("bytes=-500", 2500, 2999),
        ("bytes=2000-5000", 2000, 2999),
        ("bytes=0-", 0, 2999),
        ("bytes=0-0", 0, 0),
    ] {
        let answer = registry
            .ask(Method::GET, &uri, &[("range", range)])
            .await
            .is(206);
        assert_eq!(
            answer.header("content-range"),
            format!("bytes {from}-{to}/3000")
        );
        assert_eq!(answer.header("content-length"), (to + 1 - from).to_string());
        assert!(answer.bytes() == &bytes[from..=to], "{range}");
    }
    for range in ["bytes=500-0", "bytes=3000-", "bytes=5000-10000"] {
        let answer = registry
            .ask(Method::GET, &uri, &[("range", range)])
            .await
            .is(416);
        assert_eq!(answer.header("content-range"), "bytes */3000");
        assert_eq!(answer.code(), ErrorCode::RangeInvalid);
    }
    let several = [("range", "bytes=0-1,5-6")];
    registry.ask(Method::GET, &uri, &several).await.is(400);
    for ignored in ["items=0-1", "bytes=x", "bytes"] {
        let answer = registry
            .ask(Method::GET, &uri, &[("range", ignored)])
            .await
            .is(200);
        assert!(answer.bytes() == bytes);
    }
}

#[tokio::test]
async fn only_who_names_the_end_may_never_come_for_the_rest() {
    let (registry, _, uri) = with_blob().await;
    for (range, extent) in [
        ("bytes=500-1499", Extent::Part),
        ("bytes=2900-2999", Extent::Part),
        ("bytes=-500", Extent::Part),
        // This is how clients go on after an interruption.
        ("bytes=500-", Extent::Rest),
        ("items=0-1", Extent::Rest),
    ] {
        registry.ask(Method::GET, &uri, &[("range", range)]).await;
        assert_eq!(registry.fake.reads(), [extent], "{range}");
    }
    registry.get(&uri).await.is(200);
    assert_eq!(registry.fake.reads(), [Extent::Rest]);
}

#[tokio::test]
async fn conditions_on_the_content() {
    let (registry, bytes, uri) = with_blob().await;
    let etag = format!("\"{}\"", Digest::sha256(&bytes));
    let known = [("if-none-match", etag.as_str())];
    for method in [Method::GET, Method::HEAD] {
        let answer = registry.ask(method, &uri, &known).await.is(304);
        assert!(answer.bytes().is_empty());
        assert_eq!(answer.header("etag"), etag);
    }
    let other = [("if-none-match", "\"other\"")];
    registry.ask(Method::GET, &uri, &other).await.is(200);
    let range = ("range", "bytes=0-9");
    let same = [range, ("if-range", etag.as_str())];
    registry.ask(Method::GET, &uri, &same).await.is(206);
    let changed = [range, ("if-range", "\"other\"")];
    registry.ask(Method::GET, &uri, &changed).await.is(200);
}

#[tokio::test]
async fn what_is_unknown_is_not_found() {
    let (registry, ..) = with_blob().await;
    let digest = Digest::sha256(b"nobody has it");
    for (uri, code) in [
        (
            format!("/v2/team/app/blobs/{digest}"),
            ErrorCode::BlobUnknown,
        ),
        (
            format!("/v2/team/app/manifests/{digest}"),
            ErrorCode::ManifestUnknown,
        ),
        (
            "/v2/team/app/manifests/none".to_owned(),
            ErrorCode::ManifestUnknown,
        ),
        ("/v2/none/tags/list".to_owned(), ErrorCode::NameUnknown),
        ("/v1/_ping".to_owned(), ErrorCode::Unsupported),
    ] {
        let answer = registry.get(&uri).await.is(404);
        assert_eq!(answer.code(), code, "{uri}");
        assert_eq!(answer.header("content-type"), "application/json");
        registry.head(&uri).await.is(404);
    }
    for uri in [
        "/v2/team/app/manifests/sha256:baddigeststring",
        "/v2/team/app/blobs/sha256:baddigeststring",
        "/v2/team/app/referrers/sha256:baddigeststring",
        "/v2/UPPER/tags/list",
    ] {
        registry.get(uri).await.is(400);
    }
}

#[tokio::test]
async fn manifests_come_as_they_were_pushed() {
    let registry = Registry::new();
    let mut manifest = image();
    manifest["org.example.unknown"] = json!({"b": 1, "a": [null]});
    let bytes = push_manifest(&registry, "/v2/team/app/manifests/v1", &manifest).await;
    let digest = Digest::sha256(bytes.as_bytes());
    for reference in ["v1".to_owned(), digest.to_string()] {
        let uri = format!("/v2/team/app/manifests/{reference}");
        // Some clients ask for a range of everything.
        for headers in [&[][..], &[("range", "bytes=0-"), ("accept", INDEX)]] {
            let answer = registry.ask(Method::GET, &uri, headers).await.is(200);
            assert_eq!(answer.header("content-type"), MANIFEST);
            assert_eq!(answer.header("content-length"), bytes.len().to_string());
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
            assert!(answer.bytes() == bytes.as_bytes());
        }
        let answer = registry.head(&uri).await.is(200);
        assert_eq!(answer.header("content-length"), bytes.len().to_string());
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(answer.header("content-type"), MANIFEST);
    }
}

#[tokio::test]
async fn content_named_by_sha512_keeps_its_name() {
    let registry = Registry::new();
    let bytes = image().to_string();
    let digest = Digest::of(Algorithm::Sha512, bytes.as_bytes());
    let uri = format!("/v2/team/app/manifests/{digest}");
    push_manifest(&registry, &uri, &image()).await;
    let answer = registry.get(&uri).await.is(200);
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());

    let digest = Digest::of(Algorithm::Sha512, b"layer");
    let uri = format!("/v2/a/blobs/uploads/?digest={digest}");
    let answer = registry
        .send_bytes(Method::POST, &uri, &[], "layer")
        .await
        .is(201);
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    let answer = registry.get(answer.header("location")).await.is(200);
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
}

#[tokio::test]
async fn tags_in_pages() {
    let registry = Registry::new();
    for tag in ["v2", "a", "v10", "v1"] {
        push_manifest(
            &registry,
            &format!("/v2/team/app/manifests/{tag}"),
            &image(),
        )
        .await;
    }
    let list = "/v2/team/app/tags/list";
    let tags = |query: &str| {
        let uri = format!("{list}{query}");
        let registry = &registry;
        async move {
            let answer = registry.get(&uri).await.is(200);
            let body = answer.json();
            assert_eq!(body["name"], "team/app");
            (body["tags"].clone(), answer.header("link").to_owned())
        }
    };
    let none = String::new();
    assert_eq!(
        tags("").await,
        (json!(["a", "v1", "v10", "v2"]), none.clone())
    );
    assert_eq!(tags("?last=v1").await, (json!(["v10", "v2"]), none.clone()));
    assert_eq!(tags("?n=0").await, (json!([]), none.clone()));
    let link = format!("<{list}?n=2&last=v1>; rel=\"next\"");
    assert_eq!(tags("?n=2").await, (json!(["a", "v1"]), link));
    // Following the links shows each tag once.
    assert_eq!(tags("?n=2&last=v1").await, (json!(["v10", "v2"]), none));
    let answer = registry.get(&format!("{list}?n=-1")).await.is(400);
    assert_eq!(answer.code(), ErrorCode::PaginationNumberInvalid);
}

#[tokio::test]
async fn catalog_in_pages() {
    let registry = Registry::new();
    push_manifest(&registry, "/v2/team/app/manifests/v1", &image()).await;
    for name in ["b", "a/b"] {
        registry.push_blob(name, b"{}").await;
        let uri = format!("/v2/{name}/manifests/v1");
        let answer = registry
            .send_bytes(Method::PUT, &uri, &[], image().to_string())
            .await;
        answer.is(201);
    }
    let all = registry.get("/v2/_catalog").await.is(200).json();
    assert_eq!(all, json!({"repositories": ["a/b", "b", "team/app"]}));
    let answer = registry.get("/v2/_catalog?n=1").await.is(200);
    assert_eq!(answer.json(), json!({"repositories": ["a/b"]}));
    assert_eq!(
        answer.header("link"),
        "</v2/_catalog?n=1&last=a/b>; rel=\"next\""
    );
}

#[tokio::test]
async fn referrers() {
    let registry = Registry::new();
    let subject = Digest::sha256(b"a subject that is not there");
    let uri = format!("/v2/team/app/referrers/{subject}");
    let empty = registry.get(&uri).await.is(200);
    assert_eq!(empty.header("content-type"), INDEX);
    let expected = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    assert_eq!(empty.json(), expected);

    for artifact_type in ["a/sbom+json", "a/signature"] {
        let mut manifest = image();
        manifest["artifactType"] = artifact_type.into();
        manifest["annotations"] = json!({"k": artifact_type});
        manifest["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
        let bytes = manifest.to_string();
        let digest = Digest::sha256(bytes.as_bytes());
        push_manifest(
            &registry,
            &format!("/v2/team/app/manifests/{digest}"),
            &manifest,
        )
        .await;
    }
    let all = registry.get(&uri).await.is(200);
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(all.header("oci-filters-applied"), "");
    for filter in ["a/sbom+json", "a%2Fsbom%2Bjson"] {
        let answer = registry
            .get(&format!("{uri}?artifactType={filter}"))
            .await
            .is(200);
        assert_eq!(answer.header("oci-filters-applied"), "artifactType");
        let found = &answer.json()["manifests"];
        assert_eq!(found.as_array().unwrap().len(), 1, "{filter}");
        assert_eq!(found[0]["artifactType"], "a/sbom+json");
        assert_eq!(found[0]["annotations"]["k"], "a/sbom+json");
        assert_eq!(found[0]["mediaType"], MANIFEST);
    }
}

#[tokio::test]
async fn bodies_that_fail_never_end_well() {
    let (registry, bytes, uri) = with_blob().await;
    for fault in [
        Fault::CutAfter(1000),
        Fault::EndAfter(1000),
        Fault::WrongBytes,
    ] {
        registry.fake.fail(fault);
        let answer = registry.get(&uri).await.is(200);
        assert_eq!(answer.header("content-length"), "3000");
        // The one byte too many is never sent, whatever comes before it is right.
        if fault == Fault::WrongBytes {
            assert_eq!(answer.bytes(), bytes);
        } else {
            assert!(answer.body.is_none(), "{fault:?}");
        }
    }
}

#[tokio::test]
async fn what_is_answered_is_counted() {
    use prometheus_client::encoding::text::encode;
    let mut counters = prometheus_client::registry::Registry::default();
    let metrics = crate::Metrics::register(&mut counters);
    let registry = Registry::with(Options {
        metrics,
        ..Options::default()
    });
    let digest = registry.push_blob("a", b"layer").await;
    let uri = format!("/v2/a/blobs/{digest}");
    registry.get(&uri).await.is(200);
    registry
        .ask(Method::GET, &uri, &[("range", "bytes=0-1")])
        .await
        .is(206);
    registry.fake.fail(Fault::CutAfter(1));
    registry.get(&uri).await.is(200);
    registry.get("/").await.is(404);
    let mut text = String::new();
    encode(&mut text, &counters).unwrap();
    for line in [
        "registry_requests_total{endpoint=\"blob\",method=\"get\",code=\"200\"} 2",
        "registry_requests_total{endpoint=\"blob\",method=\"get\",code=\"206\"} 1",
        "registry_requests_total{endpoint=\"unknown\",method=\"get\",code=\"404\"} 1",
        "registry_requests_total{endpoint=\"upload\",method=\"post\",code=\"201\"} 1",
        "registry_received_bytes_total 5",
        "registry_sent_bytes_total 8",
        "registry_bodies_cut_total 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_ever() {
    let (registry, _, uri) = with_blob().await;
    registry.fake.fail(Fault::StallAfter(1000));
    assert!(registry.get(&uri).await.is(200).body.is_none());
    registry.fake.fail(Fault::Silent);
    let began = tokio::time::Instant::now();
    for uri in [
        &uri,
        "/v2/a/manifests/v1",
        "/v2/a/tags/list",
        "/v2/_catalog",
    ] {
        let answer = registry.get(uri).await.is(503);
        assert_eq!(answer.code(), ErrorCode::Unavailable);
    }
    registry.head(&uri).await.is(503);
    assert!(began.elapsed() < Duration::from_secs(120));

    // Who mounts an image waits 5 s, and takes 404 for the last word.
    for (method, range) in [(Method::GET, "bytes=0-9"), (Method::HEAD, "bytes=0-9")] {
        let began = tokio::time::Instant::now();
        let answer = registry.ask(method, &uri, &[("range", range)]).await;
        answer.is(503);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn wrong_manifests_are_not_sent() {
    let registry = Registry::new();
    push_manifest(&registry, "/v2/team/app/manifests/v1", &image()).await;
    registry.fake.fail(Fault::WrongBytes);
    let answer = registry.get("/v2/team/app/manifests/v1").await.is(500);
    assert_eq!(answer.code(), ErrorCode::Unknown);
}

#[tokio::test]
async fn a_mirror_sends_clients_elsewhere() {
    let options = |fallback| Options {
        fallback,
        ..Options::default()
    };
    let digest = Digest::sha256(b"");
    let cases = [
        (format!("/v2/a/blobs/{digest}"), ErrorCode::BlobUnknown),
        ("/v2/a/manifests/v1".to_owned(), ErrorCode::ManifestUnknown),
        ("/v2/a/tags/list".to_owned(), ErrorCode::NameUnknown),
    ];
    for (uri, code) in cases {
        let mirror = Registry::with(options(Fallback::Mirror));
        mirror.fake.fail(Fault::Unavailable);
        assert_eq!(mirror.get(&uri).await.is(404).code(), code);
        mirror.head(&uri).await.is(404);
        let registry = Registry::with(options(Fallback::Registry));
        registry.fake.fail(Fault::Unavailable);
        assert_eq!(
            registry.get(&uri).await.is(503).code(),
            ErrorCode::Unavailable
        );
    }
}

#[tokio::test]
async fn images_of_other_hosts_are_not_taken_for_ours() {
    let mut options = Options::default();
    options.namespaces.insert("images.example".to_owned());
    let registry = Registry::with(options);
    push_manifest(&registry, "/v2/team/app/manifests/v1", &image()).await;
    let uri = "/v2/team/app/manifests/v1";
    for (namespace, status) in [
        ("images.example", 200),
        ("docker.io", 404),
        ("me:5000", 200),
    ] {
        let uri = format!("{uri}?ns={namespace}");
        let answer = registry
            .ask(Method::GET, &uri, &[("host", "me:5000")])
            .await
            .is(status);
        assert_eq!(answer.header("oci-namespace"), namespace);
    }
}

#[tokio::test]
async fn a_registry_that_only_reads_says_so() {
    let Registry { fake, .. } = Registry::new();
    let router = crate::router(fake.clone(), Writes::Refuse, Options::default());
    let registry = Registry { fake, router };
    let digest = Digest::sha256(b"");
    let cases = [
        (Method::PUT, "/v2/a/manifests/v1".to_owned(), "GET, HEAD"),
        (Method::DELETE, format!("/v2/a/blobs/{digest}"), "GET, HEAD"),
        (Method::POST, "/v2/a/blobs/uploads/".to_owned(), ""),
        (Method::GET, "/v2/a/blobs/uploads/x".to_owned(), ""),
        (Method::POST, "/v2/".to_owned(), "GET, HEAD"),
    ];
    for (method, uri, allow) in cases {
        let answer = registry.ask(method, &uri, &[]).await.is(405);
        assert_eq!(answer.code(), ErrorCode::Unsupported);
        assert_eq!(answer.headers.get("allow").unwrap(), allow);
    }
}
