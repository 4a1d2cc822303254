//! Clusters over object stores.

use fake_s3::{Conditions, Fault, Operation};
use serde_json::json;
use tests::curl::get;
use tests::image::layer;
use tests::process::{attempt, both};
use tests::roles::{Backend, Cluster, Size};
use tests::s3::S3Options;
use tests::{push, shoal};

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

/// Runs a part whose storage cannot be used; returns the line that says why it ended.
fn told_at_start(cluster: &Cluster, name: &str) -> String {
    let part = cluster.part(name);
    let config = part.config();
    let config = config.to_str().expect("a plain name");
    let output = attempt(&mut shoal::command(&[part.role(), "--config", config]));
    let text = both(&output);
    assert!(!output.status.success(), "{name} starts: {text}");
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("bucket"))
        .collect();
    assert_eq!(lines.len(), 1, "{name}: {text}");
    assert!(
        !text.contains(cluster.s3().keys().1),
        "a secret is printed: {text}"
    );
    lines[0].to_owned()
}

#[test]
fn storage_that_cannot_be_used_is_told_at_the_start() {
    let cluster = Cluster::new(Size {
        backend: Backend::S3(S3Options::default()),
        ..Size::default()
    });
    let endpoint = cluster.s3().endpoint();
    let nobody = format!("http://{}", shoal::free_addr());
    let none: (&str, &str) = ("bucket", cluster.s3().bucket());
    for (key, value, code, fault) in [
        ("secret_access_key", "wrong", "SignatureDoesNotMatch", None),
        ("access_key_id", "nobody", "NotSignedUp", None),
        ("bucket", "missing", "NoSuchBucket", None),
        ("endpoint", &*nobody, "refused", None),
        (none.0, none.1, "RequestTimeTooSkewed", Some(403)),
        (none.0, none.1, "AccessDenied", Some(403)),
    ] {
        if let Some(status) = fault {
            cluster.s3().set_fault(Fault::status(status, code));
        }
        for name in ["origin-1", "build-index-1"] {
            cluster.configure(name, |config| config["backend"]["s3"][key] = json!(value));
            let line = told_at_start(&cluster, name);
            let endpoint = if key == "endpoint" { value } else { &endpoint };
            let bucket = if key == "bucket" { value } else { none.1 };
            for word in [code, endpoint, bucket] {
                assert!(line.contains(word), "{name} with {key}: no {word}: {line}");
            }
            let clock = code == "RequestTimeTooSkewed";
            assert_eq!(line.contains("set the clock"), clock, "{line}");
        }
        cluster.s3().set_faults(&[]);
    }
}

/// Where a store cannot decide between writers, somebody has to be named; and then it works.
#[test]
fn a_store_without_conditions_needs_a_writer() {
    for conditions in [Conditions::Racy, Conditions::Ignored] {
        let mut cluster = Cluster::new(Size {
            agents: 1,
            build_indexes: 2,
            backend: Backend::S3(S3Options { conditions }),
            ..Size::default()
        });
        cluster.configure("build-index-2", |config| {
            config["tag_writer"] = json!(null);
        });
        let part = cluster.part("build-index-2");
        let config = part.config();
        let config = config.to_str().expect("a plain name");
        let output = attempt(&mut shoal::command(&["build-index", "--config", config]));
        assert!(!output.status.success());
        assert!(both(&output).contains("tag_writer"), "{}", both(&output));

        // It passes on what it is asked to change, and says so where that is not possible.
        cluster.configure("build-index-2", |_| {});
        cluster.configure("proxy-1", |config| {
            let indexes = &mut config["cluster"]["build_indexes"];
            let only = indexes[1].take();
            *indexes = json!([only]);
            // It asks again as long, in case that storage is only late.
            config["write_back_wait"] = json!("1s");
        });
        cluster.start_all();
        let proxy = cluster.proxy();
        let pushed = push::image(&proxy, "team/app", "v1", &[b"layer".to_vec()]);
        let found = |cluster: &Cluster| {
            let agent = cluster.part("agent-1").url();
            let answer = get(&format!("{agent}/v2/team/app/manifests/v1"));
            answer.header("docker-content-digest").map(str::to_owned)
        };
        assert_eq!(found(&cluster), Some(pushed.manifest.to_string()));
        cluster.kill("build-index-1");
        let manifest = get(&format!("{proxy}/v2/team/app/manifests/v1")).body;
        let refused = push::manifest(&proxy, "team/app", "v2", &manifest);
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(found(&cluster), Some(pushed.manifest.to_string()));
        let index = cluster.part("build-index-2").url();
        let url = format!("{index}/v1/repositories/team%2Fapp/manifests/v2");
        let told = push::send_bytes(&url, "PUT", push::MANIFEST, &manifest, &[]);
        assert_eq!(told.status, 503);
        assert!(
            told.text().contains("build-index-1 (`tag_writer`)"),
            "{}",
            told.text()
        );
        cluster.start_part("build-index-1");
        let stored = push::manifest(&proxy, "team/app", "v2", &manifest);
        assert_eq!(stored.status, 201, "{}", stored.text());
    }
}
