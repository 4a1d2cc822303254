//! What belongs to a repository, and what refers to what in it.

use super::*;

#[tokio::test]
async fn blobs_belong_to_repositories() {
    let (_folder, both) = Index::both();
    for index in both {
        let unknown = Digest::sha256(b"unknown");
        let put = async |path: String| index.send(Method::PUT, &path, None, Body::empty()).await;
        put(format!("/a/blobs/{unknown}"))
            .await
            .is(404, ErrorCode::BlobUnknown);
        let digest = index.push_blob("team%2Fapp", "some bytes").await;
        let path = format!("/team%2Fapp/blobs/{digest}");
        assert_eq!(
            index.get(&path).await.json::<BlobStat>(200).length,
            Some(10)
        );
        // A mount needs a repository that has it.
        let from = |name: &str| format!("/a/blobs/{digest}?from={}", encoded(name));
        put(from("b")).await.is(404, ErrorCode::BlobUnknown);
        put(from("NO")).await.is(400, ErrorCode::BadRequest);
        assert_eq!(
            put(from("team/app")).await.json::<BlobStat>(200).length,
            Some(10)
        );
        let name = "a".parse().unwrap();
        assert_eq!(
            index.link(&layout::layer_link(&name, &digest)).await,
            Some(digest)
        );
        assert_eq!(index.delete(&path).await.status, 204);
        index.get(&path).await.is(404, ErrorCode::BlobUnknown);
        index.delete(&path).await.is(404, ErrorCode::BlobUnknown);
        assert_eq!(index.get(&format!("/a/blobs/{digest}")).await.status, 200);
        // Of what storage does not have origins know more.
        index.remove(&layout::blob(&digest)).await;
        let forgetful = Index::new(Arc::clone(&index.backend));
        let answer = forgetful.get(&format!("/a/blobs/{digest}")).await;
        assert_eq!(answer.json::<BlobStat>(200).length, None);
        put(format!("/b/blobs/{digest}?from=a"))
            .await
            .is(404, ErrorCode::BlobUnknown);
        index
            .get("/a/blobs/sha256:bad")
            .await
            .is(400, ErrorCode::DigestInvalid);
    }
}

/// An origin has taken a blob, and brings it to storage later.
#[tokio::test]
async fn a_blob_is_in_its_repository_before_it_is_in_storage() {
    let (_folder, both) = Index::both();
    for index in both {
        let put = async |path: String| index.send(Method::PUT, &path, None, Body::empty()).await;
        let (sha256, sha512) = (Digest::sha256(b"{}"), Digest::of(Algorithm::Sha512, b"{}"));
        for digest in [sha256, sha512] {
            let path = format!("/a/blobs/{digest}");
            let taken = put(format!("{path}?sha256={sha256}&length=2")).await;
            assert_eq!(taken.json::<BlobStat>(200).length, Some(2));
            assert_eq!(index.get(&path).await.json::<BlobStat>(200).length, None);
            let mounted = put(format!("/b/blobs/{digest}?from=a&length=2")).await;
            assert_eq!(mounted.json::<BlobStat>(200).length, Some(2));
            put(format!("/b/blobs/{digest}?from=c&length=2"))
                .await
                .is(404, ErrorCode::BlobUnknown);
        }
        put(format!("/a/blobs/{sha512}?sha256={sha512}&length=2"))
            .await
            .is(400, ErrorCode::BadRequest);
        let value = manifest(&sha256, &[]);
        let refused = index.put("/a/manifests/v1", None, &value).await;
        refused.is(400, ErrorCode::ManifestBlobUnknown);
        index.store("{}").await;
        for repository in ["a", "b"] {
            let path = format!("/{repository}/manifests/v1");
            let _: ManifestStored = index.put(&path, None, &value).await.json(201);
        }
    }
}

#[tokio::test]
async fn a_sha512_is_as_good_a_name() {
    let (_folder, both) = Index::both();
    for index in both {
        let name: RepositoryName = "a".parse().unwrap();
        let sha512 = |bytes: &[u8]| Digest::of(Algorithm::Sha512, bytes);
        let (config, content) = (sha512(b"{}"), index.store("{}").await);
        let path = format!("/a/blobs/{config}");
        let put = index.send(Method::PUT, &path, None, Body::empty()).await;
        put.is(404, ErrorCode::BlobUnknown);
        index
            .write(&layout::alias(&config), layout::link_to(&content))
            .await;
        let put = index.send(Method::PUT, &path, None, Body::empty()).await;
        assert_eq!(put.json::<BlobStat>(200).length, Some(2));
        assert_eq!(
            index.link(&layout::layer_link(&name, &config)).await,
            Some(content)
        );
        // docker-registry looks for it by its sha256 too.
        let answer = index.get(&format!("/a/blobs/{content}")).await;
        assert_eq!(answer.json::<BlobStat>(200).length, Some(2));

        let value = manifest(&config, &[]);
        let (bytes, digest) = (value.to_string(), sha512(value.to_string().as_bytes()));
        let path = format!("/a/manifests/{digest}?tag=v1");
        let stored: ManifestStored = index.put(&path, None, &value).await.json(201);
        assert_eq!(stored.digest, digest);
        for reference in ["v1".to_owned(), digest.to_string()] {
            let answer = index.get(&format!("/a/manifests/{reference}")).await;
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.body, bytes);
        }
        let revision = layout::revision_link(&name, &digest);
        let sha256 = Digest::sha256(bytes.as_bytes());
        assert_eq!(index.link(&revision).await, Some(sha256));
        let answer = index.get(&format!("/a/manifests/{sha256}")).await;
        answer.is(404, ErrorCode::ManifestUnknown);
        let of_it = index_of(OCI_INDEX, OCI_MANIFEST, &[digest]);
        let _: ManifestStored = index.put("/a/manifests/all", None, &of_it).await.json(201);
        // From storage as well as from memory.
        let other = Index::new(Arc::clone(&index.backend));
        let answer = other.get("/a/manifests/v1").await;
        assert_eq!(answer.body, bytes);
        assert_eq!(
            other.delete(&format!("/a/manifests/{digest}")).await.status,
            204
        );
        index
            .get("/a/manifests/v1")
            .await
            .is(404, ErrorCode::ManifestUnknown);
    }
}

#[tokio::test]
async fn a_sha512_of_docker_registry_is_found() {
    let (_folder, both) = Index::both();
    for index in both {
        let name: RepositoryName = "a".parse().unwrap();
        let content = index.store("some bytes").await;
        let digest = Digest::of(Algorithm::Sha512, b"some bytes");
        for named in [&content, &digest] {
            let link = layout::layer_link(&name, named);
            index.write(&link, layout::link_to(&content)).await;
        }
        let answer = index.get(&format!("/a/blobs/{digest}")).await;
        assert_eq!(answer.json::<BlobStat>(200).length, Some(10));
        // Origins find it by this.
        assert_eq!(index.link(&layout::alias(&digest)).await, Some(content));
        let value = manifest(&digest, &[digest]);
        let _: ManifestStored = index.put("/a/manifests/v1", None, &value).await.json(201);
    }
}

#[tokio::test]
async fn deleted_is_gone() {
    let (_folder, both) = Index::both();
    for index in both {
        let name: RepositoryName = "a".parse().unwrap();
        let config = index.push_blob("a", "{}").await;
        let (one, two) = (manifest(&config, &[]), manifest(&config, &[config]));
        for (reference, value) in [("v1", &one), ("latest", &one), ("v2", &two)] {
            let path = format!("/a/manifests/{reference}");
            assert_eq!(index.put(&path, None, value).await.status, 201);
        }
        // A tag goes alone.
        assert_eq!(index.delete("/a/manifests/v1").await.status, 204);
        index
            .get("/a/manifests/v1")
            .await
            .is(404, ErrorCode::ManifestUnknown);
        index
            .delete("/a/manifests/v1")
            .await
            .is(404, ErrorCode::ManifestUnknown);
        let digest = digest_of(&one);
        let path = format!("/a/manifests/{digest}");
        assert_eq!(index.get(&path).await.status, 200);
        // A manifest goes with its tags, also those that docker-registry gave it.
        let theirs = layout::tag_link(&name, &"theirs".parse().unwrap());
        index.write(&theirs, layout::link_to(&digest)).await;
        assert_eq!(index.delete(&path).await.status, 204);
        index.get(&path).await.is(404, ErrorCode::ManifestUnknown);
        index
            .delete(&path)
            .await
            .is(404, ErrorCode::ManifestUnknown);
        for tag in ["latest", "theirs"] {
            let answer = index.get(&format!("/a/manifests/{tag}")).await;
            answer.is(404, ErrorCode::ManifestUnknown);
        }
        assert_eq!(index.link(&theirs).await, None);
        let tags: NamesAnswer = index.get("/a/tags").await.json(200);
        assert_eq!(tags.names, ["v2"]);
        // What was removed can be pushed again.
        assert_eq!(index.put("/a/manifests/v1", None, &one).await.status, 201);
        assert_eq!(index.get("/a/manifests/v1").await.body, one.to_string());
        index
            .delete("/b/manifests/v1")
            .await
            .is(404, ErrorCode::NameUnknown);
    }
}

#[tokio::test]
async fn referrers_are_those_there_are() {
    let (_folder, both) = Index::both();
    for index in both {
        let config = index.push_blob("a", "{}").await;
        let subject = manifest(&config, &[]);
        let about = digest_of(&subject);
        let path = format!("/a/referrers/{about}");
        let list = async |path: &str| {
            let answer: ReferrersAnswer = index.get(path).await.json(200);
            answer.descriptors
        };
        assert_eq!(list(&path).await, []);
        let mut values = Vec::new();
        for kind in ["x/signature", "x/sbom"] {
            let mut value = manifest(&config, &[]);
            value["artifactType"] = kind.into();
            value["subject"] = descriptor(OCI_MANIFEST, &about);
            value["annotations"] = json!({"kind": kind});
            let at = format!("/a/manifests/{}", digest_of(&value));
            let stored: ManifestStored = index.put(&at, None, &value).await.json(201);
            assert_eq!(stored.subject, Some(about));
            values.push(value);
        }
        let mut found: Vec<Descriptor> = list(&path).await;
        assert_eq!(found.len(), 2);
        found.sort_by_key(|found| found.artifact_type.clone());
        assert_eq!(found[0].artifact_type.as_deref(), Some("x/sbom"));
        assert_eq!(found[1].digest, digest_of(&values[0]));
        assert_eq!(found[1].size, values[0].to_string().len() as u64);
        assert_eq!(found[1].annotations["kind"], "x/signature");
        let filtered = list(&format!("{path}?artifact_type=x%2Fsbom")).await;
        assert_eq!(filtered, found[..1]);
        assert_eq!(list(&format!("/b/referrers/{about}")).await, []);
        // One goes by the front door, one by docker-registry.
        let digest = digest_of(&values[0]);
        assert_eq!(
            index.delete(&format!("/a/manifests/{digest}")).await.status,
            204
        );
        assert_eq!(list(&path).await, found[..1]);
        let name = "a".parse().unwrap();
        index
            .remove(&layout::revision_link(&name, &found[0].digest))
            .await;
        assert_eq!(list(&path).await, []);
    }
}

#[tokio::test]
async fn questions_have_bounds() {
    let index = Index::new(Arc::new(MemoryBackend::new()));
    for path in [
        "?n=0",
        "?n=1001",
        "?n=x",
        "?m=1",
        &format!("?last={}", "x".repeat(600)),
    ] {
        index.get(path).await.is(400, ErrorCode::BadRequest);
    }
    let answer = index.get("?n=1000&last=").await;
    assert_eq!(answer.json::<NamesAnswer>(200).names, [""; 0]);
    let asked = index
        .metrics
        .requests
        .get_or_create(&crate::metrics::Request {
            endpoint: Endpoint::Repositories,
            method: crate::metrics::Verb::Get,
            code: 400,
        });
    assert_eq!(asked.get(), 5);
}
