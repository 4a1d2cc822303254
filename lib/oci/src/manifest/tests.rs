use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

fn descriptor(media_type: &str, seed: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(seed.as_bytes()), "size": 5})
}

fn image(media_type: Option<&str>) -> Value {
    let mut image = json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", "config"),
        "layers": [descriptor(LAYER, "one"), descriptor(FOREIGN, "two")],
    });
    if let Some(media_type) = media_type {
        image["mediaType"] = media_type.into();
    }
    image
}

fn index(media_type: Option<&str>) -> Value {
    let mut index = json!({
        "schemaVersion": 2,
        "manifests": [descriptor(OCI_MANIFEST, "child"), descriptor(LAYER, "cache")],
    });
    if let Some(media_type) = media_type {
        index["mediaType"] = media_type.into();
    }
    index
}

fn parse(content_type: Option<&str>, value: &Value) -> Result<Manifest, ManifestError> {
    Manifest::parse(content_type, value.to_string().as_bytes())
}

#[test]
fn the_kind_comes_from_request_field_or_shape() {
    use ManifestKind::{DockerList, DockerManifest, OciIndex, OciManifest};
    let cases = [
        (Some(OCI_MANIFEST), image(Some(OCI_MANIFEST)), OciManifest),
        (Some(OCI_MANIFEST), image(None), OciManifest),
        (
            Some(DOCKER_MANIFEST),
            image(Some(DOCKER_MANIFEST)),
            DockerManifest,
        ),
        (None, image(Some(DOCKER_MANIFEST)), DockerManifest),
        (
            Some("application/json"),
            image(Some(DOCKER_MANIFEST)),
            DockerManifest,
        ),
        (None, image(None), OciManifest),
        (Some(OCI_INDEX), index(None), OciIndex),
        (None, index(None), OciIndex),
        (Some(DOCKER_LIST), index(Some(DOCKER_LIST)), DockerList),
        (
            Some("application/vnd.oci.image.index.v1+json; charset=utf-8"),
            index(Some(OCI_INDEX)),
            OciIndex,
        ),
    ];
    for (content_type, value, kind) in cases {
        let manifest = parse(content_type, &value).unwrap();
        assert_eq!(manifest.kind, kind, "{content_type:?} {value}");
    }
}

#[test]
fn references_have_their_roles() {
    let mut value = image(None);
    value["subject"] = descriptor(OCI_MANIFEST, "subject");
    let manifest = parse(None, &value).unwrap();
    let found: Vec<_> = manifest
        .references()
        .map(|reference| (reference.role, reference.role.must_exist()))
        .collect();
    assert_eq!(
        found,
        [
            (Role::Config, true),
            (Role::Layer, true),
            (Role::ForeignLayer, false),
            (Role::Subject, false),
        ]
    );
    let manifest = parse(None, &index(None)).unwrap();
    let roles: Vec<_> = manifest
        .references()
        .map(|reference| reference.role)
        .collect();
    assert_eq!(roles, [Role::Manifest, Role::Blob]);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let mut both = image(Some(OCI_MANIFEST));
    both["manifests"] = json!([]);
    let mut layered_index = index(Some(OCI_INDEX));
    layered_index["layers"] = json!([]);
    let check = |content_type, value: &Value, part: &str| {
        let error = parse(content_type, value).unwrap_err().to_string();
        assert!(error.contains(part), "{value} gave {error:?}");
    };
    check(Some(OCI_MANIFEST), &both, "\"manifests\"");
    check(Some(OCI_INDEX), &layered_index, "\"layers\"");
    check(Some(OCI_INDEX), &image(None), "\"config\"");
    check(
        Some(OCI_MANIFEST),
        &index(None),
        "must have the field \"config\"",
    );
    check(
        Some(DOCKER_MANIFEST),
        &image(Some(OCI_MANIFEST)),
        "the request says",
    );
    check(Some("text/plain"), &image(None), "not that of a manifest");
    check(None, &json!({"schemaVersion": 2}), "no media type");
    check(None, &json!({"schemaVersion": 1}), "schema version 1");
    check(None, &json!({"layers": 5}), "not valid");
    check(None, &json!([]), "not valid");
    let twice = br#"{"schemaVersion":2,"schemaVersion":2}"#;
    assert!(Manifest::parse(None, twice).is_err());
}

#[test]
fn unusual_but_valid_manifests_are_taken() {
    let mut no_layers = image(Some(OCI_MANIFEST));
    no_layers["layers"] = json!([]);
    let mut null_layers = image(None);
    null_layers["layers"] = Value::Null;
    let mut custom = image(None);
    custom["org.example"] = json!({"deep": [1, {"er": null}]});
    custom["config"]["data"] = json!("e30=");
    let empty_index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
    for value in [no_layers, null_layers, custom, empty_index] {
        parse(None, &value).unwrap_or_else(|error| panic!("{value}: {error}"));
    }
}

#[test]
fn manifests_have_a_largest_size() {
    let mut value = image(None);
    for number in 0..390 {
        value["annotations"][format!("key-{number}")] = "x".repeat(10_000).into();
    }
    assert_eq!(parse(None, &value).unwrap().annotations.len(), 390);
    value["annotations"]["one more"] = "x".repeat(MAX_MANIFEST_BYTES - 3_900_000).into();
    assert!(matches!(
        parse(None, &value),
        Err(ManifestError::TooLarge(_))
    ));
}

#[test]
fn a_referrer_is_described_by_what_it_is() {
    let digest = Digest::sha256(b"referrer");
    let mut value = image(None);
    value["annotations"] = json!({"k": "v"});
    let described = parse(None, &value).unwrap().as_referrer(digest, 9);
    // Without an artifact type it is that of the config.
    let of_config = "application/vnd.oci.image.config.v1+json";
    assert_eq!(described.artifact_type.as_deref(), Some(of_config));
    assert_eq!(described.annotations["k"], "v");
    assert_eq!(described.media_type, OCI_MANIFEST);

    value["artifactType"] = "a/b".into();
    let described = parse(None, &value).unwrap().as_referrer(digest, 9);
    assert_eq!(described.artifact_type.as_deref(), Some("a/b"));

    let described = parse(None, &index(None)).unwrap().as_referrer(digest, 9);
    assert_eq!(described.artifact_type, None);
    assert_eq!(described.media_type, OCI_INDEX);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::parse(None, &bytes);
    }

    #[test]
    fn a_cut_manifest_is_refused(cut in 0..200usize) {
        let text = image(Some(OCI_MANIFEST)).to_string();
        prop_assert!(Manifest::parse(None, &text.as_bytes()[..cut]).is_err());
    }
}
