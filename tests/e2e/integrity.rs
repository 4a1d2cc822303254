//! Bytes that are not what their name says never reach a client.

use std::path::{Path, PathBuf};

use tests::image::Image;
use tests::registry::Registry;
use tests::shoal::Up;
use tests::{curl, files_with, folder, push, random, skopeo};

/// Changes one bit in the middle of the marker.
fn flip(path: &Path, marker: &[u8]) {
    let mut bytes = std::fs::read(path).expect("the file can be read");
    let at = bytes
        .windows(marker.len())
        .position(|window| window == marker);
    bytes[at.expect("the file has the marker") + marker.len() / 2] ^= 1;
    std::fs::write(path, bytes).expect("the file can be written");
}

fn only(found: Vec<PathBuf>) -> PathBuf {
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().expect("there is one")
}

#[test]
fn a_flipped_bit_in_a_cache_never_reaches_a_client() {
    let up = Up::start();
    let bytes = random::bytes(1, 9_000_000);
    let pushed = push::image(&up.proxy(), "team/app", "v1", std::slice::from_ref(&bytes));
    let path = format!("/v2/team/app/blobs/{}", pushed.layers[0]);
    let get = |up: &Up, range: &str| {
        curl::send(
            &format!("{}{path}", up.agent(0)),
            &["--header", &format!("Range: bytes={range}")],
        )
    };
    let whole = curl::get(&format!("{}{path}", up.agent(0)));
    assert!(whole.body == bytes);
    let cache = up.data().join("agent-1");

    // While the agent runs, ...
    let marker = &bytes[5_000_000..5_000_064];
    let file = only(files_with(&cache, marker));
    flip(&file, marker);
    assert!(get(&up, "4900000-5100000").body == bytes[4_900_000..=5_100_000]);
    assert!(curl::get(&format!("{}{path}", up.agent(0))).body == bytes);

    // ... and while it does not.
    let folder = up.stop();
    let marker = &bytes[7_000_000..7_000_064];
    flip(&only(files_with(&cache, marker)), marker);
    let up = Up::start_in(folder, &[]);
    assert!(curl::get(&format!("{}{path}", up.agent(0))).body == bytes);
    assert!(get(&up, "6900000-7100000").body == bytes[6_900_000..=7_100_000]);
    // The damaged piece was fetched again and is right on disk too.
    tests::wait::until_true("the piece is right on disk", || {
        files_with(&cache, marker).len() == 1
    });
}

/// A folder filled by docker-registry, with one bit changed in a blob of this length.
fn with_wrong_source(length: usize) -> (Up, String, Vec<u8>) {
    let folder = folder();
    let storage = folder.path().join("data/backend");
    std::fs::create_dir_all(&storage).expect("the folder is ours");
    let image = Image::of_sizes(&folder.path().join("image"), 5, &[length]);
    let registry = Registry::start(&storage, folder.path());
    skopeo::copy(
        &image.reference(),
        &format!("docker://{}/some/app:v1", registry.addr),
    );
    registry.stop();
    let layer = &image.layers[0];
    let marker = layer.bytes[length - 1000..length - 936].to_vec();
    flip(&only(files_with(&storage, &marker)), &marker);
    let path = format!("/v2/some/app/blobs/{}", layer.digest);
    (Up::start_in(folder, &[]), path, layer.bytes.clone())
}

fn nothing_of_a_wrong_source_is_kept(length: usize) {
    let (up, path, bytes) = with_wrong_source(length);
    for registry in [up.agent(0), up.agent(1), up.proxy()] {
        for _ in 0..2 {
            let (code, body, _) = curl::get_cut(&format!("{registry}{path}"));
            let refused = serde_json::from_slice::<serde_json::Value>(&body)
                .is_ok_and(|json| json["errors"].is_array());
            if !refused {
                assert_ne!(
                    code,
                    0,
                    "{registry}: a body of {} bytes was completed",
                    body.len()
                );
                assert!(
                    body.len() < bytes.len(),
                    "{registry}: the last byte was sent"
                );
                assert!(
                    body[..] == bytes[..body.len()],
                    "{registry}: wrong bytes were sent"
                );
            }
        }
    }
    let marker = &bytes[length / 2..length / 2 + 64];
    for part in ["agent-1", "agent-2", "origin-1"] {
        tests::wait::until_true("everybody drops what came of it", || {
            files_with(&up.data().join(part), marker).is_empty()
        });
    }
}

#[test]
fn nothing_of_a_wrong_source_is_kept_small() {
    nothing_of_a_wrong_source_is_kept(3_000_000);
}

#[test]
fn nothing_of_a_wrong_source_is_kept_large() {
    nothing_of_a_wrong_source_is_kept(40_000_000);
}

#[test]
fn a_source_that_was_mended_is_served() {
    let (up, path, bytes) = with_wrong_source(20_000_000);
    let url = format!("{}{path}", up.agent(0));
    let (_, body, _) = curl::get_cut(&url);
    assert!(body != bytes);
    let storage = up.data().join("backend");
    let marker = &bytes[..4096];
    let file = only(files_with(&storage, marker));
    std::fs::write(file, &bytes).expect("the folder is ours");
    tests::wait::until_true("the right bytes are served", || {
        let (code, body, _) = curl::get_cut(&url);
        code == 0 && body == bytes
    });
}
