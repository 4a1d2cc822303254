//! Single requests by curl: what is answered, to the header.

use oci::Digest;
use serde_json::json;
use tests::curl::{get, head, send};
use tests::roles::{Cluster, Size};
use tests::shoal::Up;
use tests::{push, random};

const LENGTH: usize = 3_500_000;

/// Starts everything with one blob in `team/app`; returns the blob's URLs at an agent and the
/// proxy.
fn with_blob() -> (Up, Vec<u8>, [String; 2]) {
    let up = Up::start();
    let bytes = random::bytes(7, LENGTH);
    let pushed = push::image(&up.proxy(), "team/app", "v1", std::slice::from_ref(&bytes));
    let path = format!("/v2/team/app/blobs/{}", pushed.layers[0]);
    let urls = [
        format!("{}{path}", up.agent(1)),
        format!("{}{path}", up.proxy()),
    ];
    (up, bytes, urls)
}

#[test]
fn ranges_are_exact() {
    let (_up, bytes, urls) = with_blob();
    let last = LENGTH - 1;
    let cases = [
        ("500-1499", 500, 1499),
        ("0-0", 0, 0),
        ("1048575-1048576", 1_048_575, 1_048_576),
        ("3000000-", 3_000_000, last),
        ("-500", LENGTH - 500, last),
        ("-99999999", 0, last),
        ("3400000-99999999", 3_400_000, last),
        ("0-", 0, last),
    ];
    for url in urls {
        for (range, from, to) in cases {
            let answer = send(&url, &["--header", &format!("Range: bytes={range}")]);
            assert_eq!(answer.status, 206, "{url} {range}");
            let expected = format!("bytes {from}-{to}/{LENGTH}");
            assert_eq!(answer.header("content-range"), Some(&*expected), "{range}");
            let length = (to + 1 - from).to_string();
            assert_eq!(answer.header("content-length"), Some(&*length), "{range}");
            assert!(
                answer.body == bytes[from..=to],
                "{url} {range}: other bytes"
            );
        }
    }
}

#[test]
fn ranges_that_cannot_be_had() {
    let (_up, bytes, urls) = with_blob();
    for url in urls {
        for range in ["500-0", "3500000-", "3500000-3500001", "99999999-"] {
            let answer = send(&url, &["--header", &format!("Range: bytes={range}")]);
            assert_eq!(answer.status, 416, "{url} {range}");
            assert_eq!(
                answer.header("content-range"),
                Some(&*format!("bytes */{LENGTH}"))
            );
        }
        let answer = send(&url, &["--header", "Range: bytes=0-1,5-6"]);
        assert_eq!(answer.status, 400, "{url}: several ranges");
        let answer = send(&url, &["--header", "Range: items=0-1"]);
        assert_eq!(answer.status, 200, "{url}: another unit");
        assert!(answer.body == bytes);
    }
}

#[test]
fn whole_blobs_have_their_headers() {
    let (_up, bytes, urls) = with_blob();
    let digest = Digest::sha256(&bytes).to_string();
    for url in urls {
        for answer in [head(&url), get(&url)] {
            assert_eq!(answer.status, 200, "{url}");
            assert_eq!(answer.header("content-length"), Some(&*LENGTH.to_string()));
            assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            assert_eq!(answer.header("content-encoding"), None);
            assert!(answer.body.is_empty() || answer.body == bytes);
        }
        assert_eq!(get(&url).body.len(), LENGTH);
    }
}

#[test]
fn head_does_not_download() {
    let (up, bytes, urls) = with_blob();
    assert_eq!(head(&urls[0]).status, 200);
    let marker = &bytes[2_000_000..2_000_032];
    assert_eq!(
        tests::files_with(&up.data().join("agent-2"), marker).len(),
        0
    );
    // The search would find it: a download leaves it there.
    assert_eq!(get(&urls[0]).status, 200);
    assert_eq!(
        tests::files_with(&up.data().join("agent-2"), marker).len(),
        1
    );
}

#[test]
fn an_agent_that_refuses_writes_serves_pulls() {
    let mut cluster = Cluster::new(Size::default());
    cluster.configure("agent-1", |config| {
        config["writes"] = json!("refuse");
        config["proxies"] = json!([]);
    });
    cluster.start_all();
    let bytes = random::bytes(3, 1_500_000);
    let layers = std::slice::from_ref(&bytes);
    let pushed = push::image(&cluster.proxy(), "team/app", "v1", layers);
    let agent = format!("{}/v2/team/app", cluster.part("agent-1").url());
    let blob = format!("{agent}/blobs/{}", pushed.layers[0]);
    let manifest = format!("{agent}/manifests/v1");
    for (method, url) in [
        ("POST", format!("{agent}/blobs/uploads/")),
        ("PATCH", format!("{agent}/blobs/uploads/1?_state=x")),
        ("PUT", format!("{agent}/blobs/uploads/1?_state=x")),
        ("PUT", manifest.clone()),
        ("DELETE", manifest.clone()),
        ("DELETE", blob.clone()),
    ] {
        let answer = send(&url, &["--request", method, "--data-binary", "bytes"]);
        assert_eq!(answer.status, 405, "{method} {url}");
        assert_eq!(answer.code(), "UNSUPPORTED", "{method} {url}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.header("allow").is_some(), "{}", answer.head);
    }
    let answer = get(&manifest);
    let digest = pushed.manifest.to_string();
    assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
    assert!(get(&blob).body == bytes);
}

#[test]
fn what_is_malformed_is_refused() {
    let up = Up::start();
    let digest = Digest::sha256(b"").to_string();
    let cases = [
        (format!("/v2/UPPER/blobs/{digest}"), "NAME_INVALID"),
        (format!("/v2/team/-app/blobs/{digest}"), "NAME_INVALID"),
        ("/v2/UPPER/manifests/v1".into(), "NAME_INVALID"),
        ("/v2/team/app/blobs/sha256:beef".into(), "DIGEST_INVALID"),
        ("/v2/team/app/blobs/sha256:".into(), "DIGEST_INVALID"),
        (
            format!("/v2/team/app/blobs/{}", digest.to_uppercase()),
            "DIGEST_INVALID",
        ),
        (
            "/v2/team/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e".into(),
            "DIGEST_INVALID",
        ),
    ];
    for registry in [up.agent(0), up.proxy()] {
        for (path, code) in &cases {
            let answer = get(&format!("{registry}{path}"));
            assert_eq!(
                (answer.status, &*answer.code()),
                (400, *code),
                "{registry}{path}"
            );
            let media_type = answer.header("content-type").unwrap_or_default();
            assert!(media_type.starts_with("application/json"), "{media_type}");
        }
        let answer = get(&format!("{registry}/v2/team/app/manifests/sha256:beef"));
        assert!([400, 404].contains(&answer.status), "{}", answer.head);
    }
}

#[test]
fn what_is_unknown_is_not_found() {
    let (up, _, _) = with_blob();
    let digest = Digest::sha256(b"nobody has these bytes");
    let cases = [
        (
            format!("/v2/team/app/blobs/{digest}"),
            &["BLOB_UNKNOWN"][..],
        ),
        ("/v2/team/app/manifests/v2".into(), &["MANIFEST_UNKNOWN"]),
        (
            format!("/v2/team/app/manifests/{digest}"),
            &["MANIFEST_UNKNOWN"],
        ),
        (
            "/v2/team/none/manifests/v1".into(),
            &["MANIFEST_UNKNOWN", "NAME_UNKNOWN"],
        ),
        (
            format!("/v2/team/none/blobs/{digest}"),
            &["BLOB_UNKNOWN", "NAME_UNKNOWN"],
        ),
    ];
    for registry in [up.agent(0), up.agent(1), up.proxy()] {
        for (path, codes) in &cases {
            let url = format!("{registry}{path}");
            let answer = get(&url);
            assert_eq!(answer.status, 404, "{url}: {}", answer.text());
            assert!(codes.contains(&&*answer.code()), "{url}: {}", answer.text());
            assert_eq!(head(&url).status, 404, "{url}");
        }
    }
}

#[test]
fn manifests_come_as_they_were_pushed() {
    let (up, _, _) = with_blob();
    for registry in [up.agent(0), up.agent(1), up.proxy()] {
        let by_tag = get(&format!("{registry}/v2/team/app/manifests/v1"));
        assert_eq!(by_tag.status, 200, "{}", by_tag.head);
        assert_eq!(by_tag.header("content-type"), Some(push::MANIFEST));
        let digest = Digest::sha256(&by_tag.body).to_string();
        assert_eq!(by_tag.header("docker-content-digest"), Some(&*digest));
        let by_digest = get(&format!("{registry}/v2/team/app/manifests/{digest}"));
        assert_eq!(by_digest.status, 200);
        assert_eq!(by_digest.body, by_tag.body);
        let asked = head(&format!("{registry}/v2/team/app/manifests/v1"));
        assert_eq!(
            asked.header("content-length"),
            Some(&*by_tag.body.len().to_string())
        );
        assert_eq!(asked.header("docker-content-digest"), Some(&*digest));
    }
}

#[test]
fn tags_repositories_and_the_ping() {
    let (up, _, _) = with_blob();
    for tag in ["v2", "a", "v10"] {
        let _ = push::image(&up.proxy(), "team/app", tag, &[tag.into()]);
    }
    for registry in [up.agent(0), up.proxy()] {
        assert_eq!(get(&format!("{registry}/v2/")).status, 200);
        let tags = get(&format!("{registry}/v2/team/app/tags/list"));
        assert_eq!(
            tags.json()["tags"],
            serde_json::json!(["a", "v1", "v10", "v2"])
        );
        let page = get(&format!("{registry}/v2/team/app/tags/list?n=2&last=a"));
        assert_eq!(page.json()["tags"], serde_json::json!(["v1", "v10"]));
        assert!(
            page.header("link")
                .is_some_and(|link| link.contains("rel=\"next\""))
        );
        let referrers = get(&format!(
            "{registry}/v2/team/app/referrers/{}",
            Digest::sha256(b"")
        ));
        assert_eq!(referrers.status, 200);
        assert_eq!(referrers.json()["manifests"], serde_json::json!([]));
    }
    let catalog = get(&format!("{}/v2/_catalog", up.proxy()));
    assert_eq!(
        catalog.json()["repositories"],
        serde_json::json!(["team/app"])
    );
}

#[test]
fn a_client_that_leaves_does_not_end_the_download_for_others() {
    let up = Up::start();
    let bytes = random::bytes(3, 48 << 20);
    let pushed = push::image(&up.proxy(), "team/big", "v1", std::slice::from_ref(&bytes));
    let path = format!("/v2/team/big/blobs/{}", pushed.layers[0]);
    let mut stays = tests::http::Body::get(up.agents[1], &path);
    assert_eq!(
        (stays.status, stays.length),
        (200, Some(bytes.len() as u64))
    );
    for _ in 0..5 {
        let mut leaves = tests::http::Body::get(up.agents[1], &path);
        assert!(leaves.take(1 << 20) == bytes[..1 << 20]);
        leaves.leave();
    }
    assert!(stays.take(1 << 20) == bytes[..1 << 20]);
    assert!(stays.rest() == bytes[1 << 20..], "other bytes");
    let whole = get(&format!("{}{path}", up.agent(1)));
    assert!(whole.body == bytes);
}
