//! Clusters over object stores.

use fake_s3::Operation;
use tests::curl::get;
use tests::image::layer;
use tests::push;
use tests::roles::{Backend, Cluster, Size};
use tests::s3::S3Options;

/// Several of everything: what one proxy took, every agent gives, and all of it is in the bucket.
#[test]
fn an_image_goes_through_a_bucket() {
    let cluster = Cluster::start(Size {
        trackers: 2,
        origins: 2,
        agents: 2,
        build_indexes: 2,
        proxies: 2,
        backend: Backend::S3(S3Options::default()),
        ..Size::default()
    });
    let layers = vec![layer(1, 3_000_000), layer(2, 20_000_000)];
    let proxy = cluster.part("proxy-2").url();
    let pushed = push::image(&proxy, "team/app", "v1", &layers);
    for part in cluster.parts("agent").chain(cluster.parts("proxy")) {
        let url = part.url();
        let manifest = get(&format!("{url}/v2/team/app/manifests/v1"));
        assert_eq!(manifest.status, 200, "{}", manifest.text());
        let digest = manifest.header("docker-content-digest");
        assert_eq!(digest, Some(&*pushed.manifest.to_string()));
        for (digest, bytes) in pushed.layers.iter().zip(&layers) {
            let blob = get(&format!("{url}/v2/team/app/blobs/{digest}"));
            assert_eq!(blob.status, 200, "{}", part.name);
            assert!(blob.body == *bytes, "{} gives other bytes", part.name);
        }
    }
    for (digest, bytes) in pushed.layers.iter().zip(&layers) {
        let hex = digest.hex();
        let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let stored = std::fs::read(cluster.backend().join(path));
        assert!(stored.expect("it is in the bucket") == *bytes);
    }
    assert!(cluster.s3().counts().of(Operation::Put) > 0);
}
