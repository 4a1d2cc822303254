//! Storage that Debian's docker-registry filled, and storage that it takes over.

use std::path::Path;

use tests::image::{Image, blobs_of};
use tests::registry::Registry;
use tests::shoal::Up;
use tests::{curl, folder, skopeo};

/// Pulls an image by skopeo and compares its blobs with those pushed.
fn check(registry: impl std::fmt::Display, image: &Image, tag: &str) {
    let folder = folder();
    let pulled = folder.path().join("pulled");
    let target = format!("oci:{}:latest", pulled.display());
    skopeo::copy(&format!("docker://{registry}/some/app:{tag}"), &target);
    assert_eq!(
        blobs_of(&image.folder),
        blobs_of(&pulled),
        "{registry} {tag}"
    );
}

fn push(registry: impl std::fmt::Display, image: &Image, tag: &str) {
    skopeo::copy(
        &image.reference(),
        &format!("docker://{registry}/some/app:{tag}"),
    );
}

fn backend(folder: &Path) -> std::path::PathBuf {
    let backend = folder.join("data/backend");
    std::fs::create_dir_all(&backend).expect("the folder is ours");
    backend
}

#[test]
fn a_folder_goes_to_and_fro() {
    let folder = folder();
    let storage = backend(folder.path());
    let image =
        |name: &str, seed, sizes: &[usize]| Image::of_sizes(&folder.path().join(name), seed, sizes);
    // Layers that are hashed at once, and one that grows while it is served.
    let first = image("first", 1, &[100, 3_000_000, 20_000_000]);
    let second = image("second", 10, &[200, 5_000_000]);
    let third = image("third", 20, &[300, 1_000_000]);

    let registry = Registry::start(&storage, folder.path());
    push(registry.addr, &first, "v1");
    push(registry.addr, &first, "moves");
    registry.stop();

    // Shoal serves what docker-registry wrote, and adds to it.
    let up = Up::start_in(folder, &[]);
    check(up.agents[0], &first, "v1");
    check(up.agents[1], &first, "v1");
    check(up.proxy, &first, "moves");
    push(up.agents[0], &second, "v2");
    push(up.proxy, &second, "moves");
    check(up.agents[1], &second, "moves");
    let folder = up.stop();

    // docker-registry serves what Shoal wrote, and moves a tag back.
    let registry = Registry::start(&storage, folder.path());
    check(registry.addr, &first, "v1");
    check(registry.addr, &second, "v2");
    check(registry.addr, &second, "moves");
    let tags = curl::get(&format!("http://{}/v2/some/app/tags/list", registry.addr)).json();
    assert_eq!(tags["tags"].as_array().map(Vec::len), Some(3), "{tags}");
    push(registry.addr, &third, "moves");
    push(registry.addr, &third, "v3");
    registry.stop();

    // Shoal sees that the tag was moved from outside, though its own record says otherwise.
    let up = Up::start_in(folder, &[]);
    check(up.agents[0], &third, "moves");
    check(up.agents[1], &third, "v3");
    check(up.proxy, &second, "v2");
    // And moves it again.
    push(up.proxy, &first, "moves");
    check(up.agents[0], &first, "moves");
}
