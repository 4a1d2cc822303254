//! What is pushed as a manifest, and what comes back.

use super::*;

#[tokio::test]
async fn an_image_is_pushed_and_read() {
    let (_folder, both) = Index::both();
    for index in both {
        let repository = "team%2Fapp";
        let name: RepositoryName = "team/app".parse().unwrap();
        index
            .get("/team%2Fapp/manifests/v1")
            .await
            .is(404, ErrorCode::NameUnknown);
        let config = index.push_blob(repository, "{}").await;
        let layer = index.push_blob(repository, "layer").await;
        index
            .get("/team%2Fapp/manifests/v1")
            .await
            .is(404, ErrorCode::ManifestUnknown);
        let value = manifest(&config, &[layer]);
        let path = "/team%2Fapp/manifests/v1?tag=latest&tag=v1.0";
        let stored: ManifestStored = index.put(path, Some(OCI_MANIFEST), &value).await.json(201);
        let digest = digest_of(&value);
        assert_eq!(stored.digest, digest);
        assert_eq!(
            stored.tags,
            ["latest".parse().unwrap(), "v1.0".parse().unwrap()]
        );

        for reference in ["v1", "latest", "v1.0", &digest.to_string()] {
            let path = format!("/{repository}/manifests/{reference}");
            for method in [Method::GET, Method::HEAD] {
                let answer = index.send(method.clone(), &path, None, Body::empty()).await;
                assert_eq!(answer.status, 200);
                assert_eq!(answer.header("content-type"), OCI_MANIFEST);
                assert_eq!(answer.header("docker-content-digest"), digest.to_string());
                let length = value.to_string().len().to_string();
                assert_eq!(answer.header("content-length"), length);
                if method == Method::GET {
                    assert_eq!(answer.body, value.to_string());
                }
            }
        }
        // All is where docker-registry looks for it.
        assert_eq!(
            index.link(&layout::revision_link(&name, &digest)).await,
            Some(digest)
        );
        assert_eq!(
            index.link(&layout::layer_link(&name, &layer)).await,
            Some(layer)
        );
        for tag in ["v1", "latest", "v1.0"] {
            let tag = tag.parse().unwrap();
            assert_eq!(
                index.link(&layout::tag_link(&name, &tag)).await,
                Some(digest)
            );
        }
        assert!(index.backend.stat(&layout::blob(&digest)).await.is_ok());
        let tags: NamesAnswer = index.get("/team%2Fapp/tags?n=2").await.json(200);
        assert_eq!(tags.names, ["latest", "v1"]);
        assert_eq!(tags.next.as_deref(), Some("v1"));
        let tags: NamesAnswer = index.get("/team%2Fapp/tags?n=2&last=v1").await.json(200);
        assert_eq!((tags.names, tags.next), (vec!["v1.0".to_owned()], None));
        let all: NamesAnswer = index.get("").await.json(200);
        assert_eq!(all.names, ["team/app"]);
        assert_eq!(index.metrics.manifests_stored.get(), 1);
        // It is not in other repositories, also not in one whose name it begins with.
        for other in ["team", "team%2Fapp%2Fx", "other"] {
            let path = format!("/{other}/manifests/{digest}");
            index.get(&path).await.is(404, ErrorCode::NameUnknown);
            let path = format!("/{other}/blobs/{layer}");
            index.get(&path).await.is(404, ErrorCode::BlobUnknown);
        }
    }
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let (_folder, both) = Index::both();
    for index in both {
        let there = index.push_blob("a", "there").await;
        index.push_blob("b", "elsewhere").await;
        let elsewhere = Digest::sha256(b"elsewhere");
        let nowhere = Digest::sha256(b"nowhere");
        let lost = index.push_blob("a", "lost").await;
        index.remove(&layout::blob(&lost)).await;
        let value = manifest(&there, &[elsewhere, nowhere, there, nowhere, lost]);
        let answer = index
            .put("/a/manifests/v1", Some(OCI_MANIFEST), &value)
            .await;
        let body: ErrorBody = answer.json(400);
        assert_eq!(body.code, ErrorCode::ManifestBlobUnknown);
        assert_eq!(body.missing, [elsewhere, nowhere, lost]);
        index
            .get("/a/manifests/v1")
            .await
            .is(404, ErrorCode::ManifestUnknown);

        // Manifests of an index are manifests of the repository; a blob is none.
        let of_none = index_of(OCI_INDEX, OCI_MANIFEST, &[there]);
        let answer = index.put("/a/manifests/v1", None, &of_none).await;
        assert_eq!(answer.json::<ErrorBody>(400).missing, [there]);
        // What is foreign, and what this is about, may be absent.
        let mut free = manifest(&there, &[]);
        free["layers"] = json!([descriptor(FOREIGN, &nowhere)]);
        free["subject"] = descriptor(OCI_MANIFEST, &nowhere);
        let stored: ManifestStored = index.put("/a/manifests/v1", None, &free).await.json(201);
        assert_eq!(stored.subject, Some(nowhere));
        let of_it = index_of(OCI_INDEX, OCI_MANIFEST, &[stored.digest]);
        let _: ManifestStored = index.put("/a/manifests/v2", None, &of_it).await.json(201);
        // Nested, and with what is no manifest among its manifests, as build caches have it.
        let mut nested = index_of(OCI_INDEX, OCI_INDEX, &[digest_of(&of_it)]);
        let cache = descriptor(LAYER, &there);
        nested["manifests"].as_array_mut().unwrap().push(cache);
        let _: ManifestStored = index.put("/a/manifests/v3", None, &nested).await.json(201);
        let empty = index_of(OCI_INDEX, OCI_INDEX, &[]);
        let _: ManifestStored = index.put("/a/manifests/v4", None, &empty).await.json(201);
    }
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    let index = Index::new(Arc::new(MemoryBackend::new()));
    let config = index.push_blob("a", "{}").await;
    let value = manifest(&config, &[]);
    let put = async |reference: &str, media_type, text: String| {
        let path = format!("/a/manifests/{reference}");
        index.send(Method::PUT, &path, media_type, text).await
    };
    let text = value.to_string();
    put("v1", Some(DOCKER_MANIFEST), text.clone())
        .await
        .is(400, ErrorCode::ManifestInvalid);
    let mut wrong_size = value.clone();
    wrong_size["config"]["size"] = json!(3);
    let answer = put("v1", None, wrong_size.to_string()).await;
    answer.is(400, ErrorCode::ManifestInvalid);
    let error: ErrorBody = answer.json(400);
    assert!(error.message.contains("it has 2"), "{}", error.message);
    put("v1", None, "{\"layers\": 5}".into())
        .await
        .is(400, ErrorCode::ManifestInvalid);
    put("v1", None, String::new())
        .await
        .is(400, ErrorCode::ManifestInvalid);
    let wrong = Digest::sha256(b"wrong").to_string();
    put(&wrong, None, text.clone())
        .await
        .is(400, ErrorCode::DigestInvalid);
    put("sha256:bad", None, text.clone())
        .await
        .is(400, ErrorCode::DigestInvalid);
    put("-", None, text.clone())
        .await
        .is(400, ErrorCode::TagInvalid);
    put("v1?tag=a&tga=b", None, text.clone())
        .await
        .is(400, ErrorCode::BadRequest);
    put("v1?tag=-", None, text.clone())
        .await
        .is(400, ErrorCode::TagInvalid);
    let many = "tag=a&".repeat(MAX_TAGS + 1);
    put(&format!("v1?{many}"), None, text.clone())
        .await
        .is(400, ErrorCode::BadRequest);
    let mut long = value.clone();
    long["annotations"] = json!({"long": "x".repeat(MAX_MANIFEST_BYTES)});
    put("v1", None, long.to_string())
        .await
        .is(413, ErrorCode::TooLarge);
    let answer = index.put("/A/manifests/v1", None, &value).await;
    answer.is(400, ErrorCode::NameInvalid);
    let broken = futures_util::stream::iter([Ok("{"), Err(std::io::Error::other("gone"))]);
    let answer = index
        .send(
            Method::PUT,
            "/a/manifests/v1",
            None,
            Body::from_stream(broken),
        )
        .await;
    answer.is(400, ErrorCode::Body);
    let tags: NamesAnswer = index.get("/a/tags").await.json(200);
    assert_eq!(tags.names, [""; 0]);
    // Nearly as long as that is taken.
    long["annotations"] = json!({"long": "x".repeat(MAX_MANIFEST_BYTES - 1000)});
    let _: ManifestStored = put("v1", None, long.to_string()).await.json(201);
    assert_eq!(index.get("/a/manifests/v1").await.body, long.to_string());
}

#[tokio::test]
async fn media_types_are_those_pushed() {
    let (_folder, both) = Index::both();
    for index in both {
        let config = index.push_blob("a", "{}").await;
        let mut image = manifest(&config, &[]);
        let mut list = index_of(OCI_INDEX, OCI_MANIFEST, &[]);
        for value in [&mut image, &mut list] {
            value.as_object_mut().unwrap().remove("mediaType");
        }
        for (reference, value, media_type) in [
            ("oci", &image, OCI_MANIFEST),
            // The same bytes under another type: what came last counts.
            ("docker", &image, DOCKER_MANIFEST),
            ("list", &list, DOCKER_LIST),
            ("index", &list, OCI_INDEX),
        ] {
            let path = format!("/a/manifests/{reference}");
            let with_parameter = format!("{media_type}; charset=utf-8");
            let answer = index.put(&path, Some(&with_parameter), value).await;
            assert_eq!(answer.status, 201);
            assert_eq!(index.get(&path).await.header("content-type"), media_type);
        }
        // Without a word of it the shape decides, also of what docker-registry wrote.
        index.remove(&layout::media_type(&digest_of(&image))).await;
        let answer = index.get("/a/manifests/oci").await;
        assert_eq!(answer.header("content-type"), OCI_MANIFEST);
    }
}

#[tokio::test]
async fn what_docker_registry_wrote_is_read() {
    let (_folder, both) = Index::both();
    for index in both {
        let name: RepositoryName = "some/app".parse().unwrap();
        let tag: Tag = "v1".parse().unwrap();
        let mut value = manifest(&Digest::sha256(b"{}"), &[]);
        value["mediaType"] = DOCKER_MANIFEST.into();
        let digest = digest_of(&value);
        index.write(&layout::blob(&digest), value.to_string()).await;
        for key in [
            layout::revision_link(&name, &digest),
            layout::tag_link(&name, &tag),
            layout::tag_index_link(&name, &tag, &digest),
        ] {
            index.write(&key, layout::link_to(&digest)).await;
        }
        for reference in ["v1", &digest.to_string()] {
            let answer = index
                .get(&format!("/some%2Fapp/manifests/{reference}"))
                .await;
            assert_eq!(answer.body, value.to_string());
            assert_eq!(answer.header("content-type"), DOCKER_MANIFEST);
        }
        let tags: NamesAnswer = index.get("/some%2Fapp/tags").await.json(200);
        assert_eq!(tags.names, ["v1"]);
        // It has removed the content, and left the link.
        let index = Index::new(Arc::clone(&index.backend));
        index.remove(&layout::blob(&digest)).await;
        index
            .get("/some%2Fapp/manifests/v1")
            .await
            .is(404, ErrorCode::ManifestUnknown);
        // Or the content is damaged.
        index.write(&layout::blob(&digest), "something else").await;
        index
            .get("/some%2Fapp/manifests/v1")
            .await
            .is(500, ErrorCode::Storage);
    }
}
