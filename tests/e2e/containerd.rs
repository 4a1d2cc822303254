//! Containerd as the client, with an agent as its mirror.

use serde_json::json;
use tests::containerd::Containerd;
use tests::image::Image;
use tests::roles::{Cluster, Size};
use tests::{folder, skopeo};

const HOST: &str = "registry.test";

#[test]
fn pulls_by_tag_and_by_digest_from_mirrors() {
    let mut cluster = Cluster::new(Size::default());
    for agent in ["agent-1", "agent-2"] {
        cluster.configure(agent, |config| {
            config["namespaces"] = json!([HOST]);
            config["fallback"] = json!("mirror");
        });
    }
    cluster.start_all();
    let folder = folder();
    let image = Image::of_sizes(folder.path(), 1, &[5, 70_000, 3_000_000, 11_000_000]);
    let proxy = cluster.part("proxy-1").http;
    skopeo::copy(&image.reference(), &format!("docker://{proxy}/team/app:v1"));

    let names = [
        ("agent-1", format!("{HOST}/team/app@{}", image.manifest)),
        ("agent-1", format!("{HOST}/team/app:v1")),
        ("agent-2", format!("{HOST}/team/app@{}", image.manifest)),
    ];
    for (agent, name) in names {
        let containerd = Containerd::start();
        containerd.mirror(HOST, cluster.part(agent).http);
        containerd.pull(&name);
        let content = containerd.content();
        for layer in &image.layers {
            let digest = layer.digest.to_string();
            assert!(content.contains(&digest), "{name}: {digest}: {content:?}");
        }
        // It has nobody else to go to: all came from the agent.
        let sent = cluster.part(agent).metric("registry_sent_bytes_total", &[]);
        let length: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
        assert!(sent >= length as u64, "{agent} sent {sent} of {length}");
    }
}
