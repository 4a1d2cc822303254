//! Skopeo as the client.

use tests::image::{Image, blobs_of};
use tests::roles::{Cluster, Size};
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

/// A manifest joins the swarms of all its blobs at once: a layer must not cost a round trip each.
#[test]
fn many_small_layers_join_together() {
    let mut cluster = Cluster::new(Size::default());
    cluster.start_all();
    let folder = folder();
    let sizes: Vec<_> = (0..100).map(|number| 200 + number * 97).collect();
    let image = Image::of_sizes(&folder.path().join("pushed"), 1, &sizes);
    let proxy = cluster.part("proxy-1").http;
    skopeo::copy(&image.reference(), &format!("docker://{proxy}/team/app:v1"));
    let tracker = cluster.part("tracker-1");
    for agent in ["agent-1", "agent-2"] {
        let before = tracker.metric("tracker_join_messages_total", &[]);
        let from = cluster.part(agent).http;
        let pulled = format!("oci:{}:latest", folder.path().join(agent).display());
        skopeo::copy(&format!("docker://{from}/team/app:v1"), &pulled);
        let after = tracker.metric("tracker_join_messages_total", &[]);
        // One, where the network is kind.
        let joins = after - before;
        assert!((1..=5).contains(&joins), "{agent}: {joins}");
    }
}

#[test]
fn many_small_layers() {
    let up = Up::start();
    let sizes: Vec<_> = (0..100).map(|number| 200 + number * 997).collect();
    there_and_back(&up, up.proxy, up.agents[1], &sizes);
}
