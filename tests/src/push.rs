//! Pushing by curl, step by step as the specification of registries has it.

use oci::Digest;
use serde_json::json;

use crate::curl::{self, Answer};

/// An image that was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

/// Media type of the manifests pushed here.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Starts an upload and returns the URL that goes on with it.
///
/// # Panics
/// Where the registry does not take it.
#[must_use]
pub fn start(registry: &str, repository: &str) -> String {
    let url = format!("{registry}/v2/{repository}/blobs/uploads/");
    let answer = curl::send(
        &url,
        &["--request", "POST", "--header", "Content-Length: 0"],
    );
    assert_eq!(answer.status, 202, "{}\n{}", answer.head, answer.text());
    location(registry, &answer)
}

/// Returns the URL that an answer's `Location` names.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn location(registry: &str, answer: &Answer) -> String {
    let location = answer.header("location");
    let location = location.unwrap_or_else(|| panic!("no Location: {}", answer.head));
    if location.starts_with('/') {
        format!("{registry}{location}")
    } else {
        location.to_owned()
    }
}

/// Ends an upload with all its bytes in one request.
///
/// # Panics
/// Where curl cannot be run.
#[must_use]
pub fn finish(location: &str, digest: &str, bytes: &[u8]) -> Answer {
    let joint = if location.contains('?') { '&' } else { '?' };
    let url = format!("{location}{joint}digest={digest}");
    send_bytes(&url, "PUT", "application/octet-stream", bytes, &[])
}

/// Sends bytes as a body.
///
/// # Panics
/// Where curl cannot be run.
#[must_use]
pub fn send_bytes(
    url: &str,
    method: &str,
    media_type: &str,
    bytes: &[u8],
    more: &[&str],
) -> Answer {
    let folder = crate::folder();
    let body = folder.path().join("body");
    std::fs::write(&body, bytes).expect("the folder is ours");
    let data = format!("@{}", body.display());
    let media_type = format!("Content-Type: {media_type}");
    let mut args = vec!["--request", method, "--header", &media_type];
    // Without `Expect: 100-continue`, which other clients do not send.
    args.extend(["--header", "Expect:", "--data-binary", &data]);
    args.extend(more);
    curl::send(url, &args)
}

/// Pushes a blob; returns its digest.
///
/// # Panics
/// Where the registry does not take it.
pub fn blob(registry: &str, repository: &str, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    let answer = finish(&start(registry, repository), &digest.to_string(), bytes);
    assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
    digest
}

/// Pushes a manifest and returns the answer.
///
/// # Panics
/// Where curl cannot be run.
#[must_use]
pub fn manifest(registry: &str, repository: &str, reference: &str, bytes: &[u8]) -> Answer {
    let url = format!("{registry}/v2/{repository}/manifests/{reference}");
    send_bytes(&url, "PUT", MANIFEST, bytes, &[])
}

/// All of an image but its manifest, pushed.
#[derive(Clone, Debug)]
pub struct Unnamed {
    /// The bytes of its manifest.
    pub manifest: Vec<u8>,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

/// Pushes an image of these layers, but not its manifest.
///
/// # Panics
/// Where the registry does not take it.
#[must_use]
pub fn unnamed(registry: &str, repository: &str, layers: &[Vec<u8>]) -> Unnamed {
    let digests: Vec<_> = layers
        .iter()
        .map(|layer| blob(registry, repository, layer))
        .collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = config.to_string().into_bytes();
    let config_digest = blob(registry, repository, &config);
    let described: Vec<_> = layers
        .iter()
        .zip(&digests)
        .map(|(layer, digest)| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest,
                "size": layer.len(),
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config.len(),
        },
        "layers": described,
    });
    Unnamed {
        manifest: manifest.to_string().into_bytes(),
        config: config_digest,
        layers: digests,
    }
}

/// Pushes an image of these layers.
///
/// # Panics
/// Where the registry does not take it.
#[must_use]
pub fn image(registry: &str, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Pushed {
    let unnamed = unnamed(registry, repository, layers);
    let answer = manifest(registry, repository, tag, &unnamed.manifest);
    assert_eq!(answer.status, 201, "{}\n{}", answer.head, answer.text());
    let manifest = Digest::sha256(&unnamed.manifest);
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*manifest.to_string())
    );
    Pushed {
        manifest,
        config: unnamed.config,
        layers: unnamed.layers,
    }
}
