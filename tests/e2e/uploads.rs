//! Uploads that go wrong, and on.

use oci::Digest;
use tests::shoal::Up;
use tests::{curl, files_with, http, push, random};

/// The registries that take uploads: the proxy, and an agent that passes them on.
fn takers(up: &Up) -> [(std::net::SocketAddr, String); 2] {
    [(up.proxy, up.proxy()), (up.agents[0], up.agent(0))]
}

#[test]
fn wrong_content_is_refused_and_not_kept() {
    let up = Up::start();
    let wrong = Digest::sha256(b"something else").to_string();
    for (seed, (_, registry)) in takers(&up).into_iter().enumerate() {
        let bytes = random::bytes(seed as u64, 2_000_000);
        let answer = push::finish(&push::start(&registry, "team/app"), &wrong, &bytes);
        assert_eq!(
            (answer.status, &*answer.code()),
            (400, "DIGEST_INVALID"),
            "{registry}"
        );

        // The same in pieces: PATCH, then PUT.
        let location = push::start(&registry, "team/app");
        let media_type = "application/octet-stream";
        let patched = push::send_bytes(&location, "PATCH", media_type, &bytes, &[]);
        assert_eq!(patched.status, 202, "{}", patched.head);
        let answer = push::finish(&push::location(&registry, &patched), &wrong, b"");
        assert_eq!(
            (answer.status, &*answer.code()),
            (400, "DIGEST_INVALID"),
            "{registry}"
        );

        let right = Digest::sha256(&bytes);
        for digest in [&wrong, &right.to_string()] {
            let url = format!("{registry}/v2/team/app/blobs/{digest}");
            assert_eq!(curl::get(&url).status, 404, "{url}");
        }
        let left = files_with(&up.data(), &bytes[1_000_000..1_000_032]);
        assert_eq!(left, Vec::<std::path::PathBuf>::new());
        // The right bytes are taken afterwards, and the search would have found them.
        assert_eq!(push::blob(&registry, "team/app", &bytes), right);
        assert!(!files_with(&up.data(), &bytes[1_000_000..1_000_032]).is_empty());
    }
}

#[test]
fn an_interrupted_upload_goes_on() {
    let up = Up::start();
    for (seed, (addr, registry)) in takers(&up).into_iter().enumerate() {
        let bytes = random::bytes(10 + seed as u64, 6_000_000);
        let location = push::start(&registry, "team/app");
        let path = location
            .strip_prefix(&registry)
            .expect("it is at the same registry");
        http::patch_and_leave(addr, path, &bytes[..4_000_000], bytes.len());

        // What was on its way between two parts may be lost, and what was not may still arrive:
        // the client goes on from what it is told, as often as that was not the end of it.
        let answer = tests::wait::until("the upload goes on", || {
            let answer = curl::get(&location);
            assert_eq!(answer.status, 204, "{}\n{}", answer.head, answer.text());
            let range = answer.header("range")?.strip_prefix("0-")?.to_owned();
            let received = range.parse::<usize>().expect("a range ends with a number") + 1;
            assert!(received <= 4_000_000, "{received} bytes were never sent");
            let rest = bytes.get(received..).filter(|_| received > 1)?;
            let range = format!("Content-Range: {received}-{}", bytes.len() - 1);
            let more = ["--header", &range];
            let answer =
                push::send_bytes(&location, "PATCH", "application/octet-stream", rest, &more);
            let is_late = answer.status == 416;
            assert!(
                is_late || answer.status == 202,
                "{}\n{}",
                answer.head,
                answer.text()
            );
            (!is_late).then_some(answer)
        });
        let digest = Digest::sha256(&bytes).to_string();
        let answer = push::finish(&push::location(&registry, &answer), &digest, b"");
        assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
        let blob = curl::get(&format!("{registry}/v2/team/app/blobs/{digest}"));
        assert!(blob.body == bytes, "{registry}: other bytes");
    }
}

#[test]
fn chunks_out_of_order_are_refused_and_the_upload_survives() {
    let up = Up::start();
    let bytes = random::bytes(20, 300_000);
    let (_, registry) = &takers(&up)[0];
    let mut location = push::start(registry, "team/app");
    let patch = |location: &str, from: usize, to: usize| {
        let range = format!("Content-Range: {from}-{}", to - 1);
        let part = &bytes[from..to];
        push::send_bytes(
            location,
            "PATCH",
            "application/octet-stream",
            part,
            &["--header", &range],
        )
    };
    let answer = patch(&location, 0, 100_000);
    assert_eq!(answer.status, 202, "{}", answer.head);
    assert_eq!(answer.header("range"), Some("0-99999"));
    location = push::location(registry, &answer);
    for (from, to) in [(200_000, 300_000), (0, 100_000)] {
        assert_eq!(patch(&location, from, to).status, 416);
    }
    let answer = patch(&location, 100_000, 300_000);
    assert_eq!(answer.status, 202, "{}", answer.head);
    let digest = Digest::sha256(&bytes).to_string();
    let answer = push::finish(&push::location(registry, &answer), &digest, b"");
    assert_eq!(answer.status, 201, "{}", answer.head);
}

#[test]
fn an_upload_can_be_given_up() {
    let up = Up::start();
    for (_, registry) in takers(&up) {
        let location = push::start(&registry, "team/app");
        assert_eq!(curl::send(&location, &["--request", "DELETE"]).status, 204);
        let answer = curl::get(&location);
        assert_eq!(
            (answer.status, &*answer.code()),
            (404, "BLOB_UPLOAD_UNKNOWN")
        );
    }
}

#[test]
fn a_manifest_needs_its_blobs() {
    let up = Up::start();
    let missing = Digest::sha256(b"not pushed");
    let text = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": push::MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": missing,
            "size": 10,
        },
        "layers": [],
    });
    for (_, registry) in takers(&up) {
        let answer = push::manifest(&registry, "team/app", "v1", text.to_string().as_bytes());
        assert_eq!(
            (answer.status, &*answer.code()),
            (400, "MANIFEST_BLOB_UNKNOWN")
        );
        assert!(
            answer.text().contains(&missing.to_string()),
            "{}",
            answer.text()
        );
        let answer = push::manifest(&registry, "team/app", "v1", b"{\"layers\": 5}");
        assert_eq!((answer.status, &*answer.code()), (400, "MANIFEST_INVALID"));
        assert_eq!(
            curl::get(&format!("{registry}/v2/team/app/manifests/v1")).status,
            404
        );
    }
}

#[test]
fn deleted_is_gone_for_everybody() {
    let up = Up::start();
    let pushed = push::image(&up.proxy(), "team/app", "v1", &[b"layer".to_vec()]);
    let manifest =
        |registry: &str, reference: &str| format!("{registry}/v2/team/app/manifests/{reference}");
    let digest = pushed.manifest.to_string();
    assert_eq!(curl::get(&manifest(&up.agent(0), "v1")).status, 200);
    let delete = curl::send(&manifest(&up.proxy(), "v1"), &["--request", "DELETE"]);
    assert_eq!(delete.status, 202, "{}", delete.head);
    for registry in [up.proxy(), up.agent(0), up.agent(1)] {
        assert_eq!(
            curl::get(&manifest(&registry, "v1")).status,
            404,
            "{registry}"
        );
        assert_eq!(
            curl::get(&manifest(&registry, &digest)).status,
            200,
            "{registry}"
        );
    }
    let delete = curl::send(&manifest(&up.proxy(), &digest), &["--request", "DELETE"]);
    assert_eq!(delete.status, 202, "{}", delete.head);
    assert_eq!(curl::get(&manifest(&up.proxy(), &digest)).status, 404);
}
