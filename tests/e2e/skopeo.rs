//! Skopeo as the client.

use tests::image::{Image, blobs_of};
use tests::shoal::Up;
use tests::{curl, folder, skopeo};

/// Pushes an image to one registry, pulls it from another, and compares every byte.
fn there_and_back(up: &Up, to: std::net::SocketAddr, from: std::net::SocketAddr, sizes: &[usize]) {
    let _ = up;
    let folder = folder();
    let image = Image::of_sizes(&folder.path().join("pushed"), 1, sizes);
    skopeo::copy(
        &image.reference(),
        &format!("docker://{to}/some/where/image:v1"),
    );
    let pulled = folder.path().join("pulled");
    let target = format!("oci:{}:latest", pulled.display());
    skopeo::copy(&format!("docker://{from}/some/where/image:v1"), &target);
    assert_eq!(blobs_of(&image.folder), blobs_of(&pulled));
    let answer = curl::head(&format!("http://{from}/v2/some/where/image/manifests/v1"));
    let digest = image.manifest.to_string();
    assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
}

#[test]
fn there_through_the_proxy_and_back_through_an_agent() {
    let up = Up::start();
    there_and_back(
        &up,
        up.proxy,
        up.agents[1],
        &[0, 1, 10_000, 1 << 20, 9_000_000, 40_000_000],
    );
}

#[test]
fn there_and_back_through_agents() {
    let up = Up::start();
    there_and_back(&up, up.agents[0], up.agents[1], &[5, 2_500_000, 17_000_000]);
}

#[test]
fn there_and_back_through_the_proxy() {
    let up = Up::start();
    there_and_back(&up, up.proxy, up.proxy, &[5, 2_500_000, 17_000_000]);
}

#[test]
fn many_small_layers() {
    let up = Up::start();
    let sizes: Vec<_> = (0..100).map(|number| 200 + number * 997).collect();
    there_and_back(&up, up.proxy, up.agents[1], &sizes);
}
