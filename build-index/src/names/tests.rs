use std::sync::Arc;

use backend::fs::FsBackend;
use backend::memory::MemoryBackend;
use backend::{Backend, Condition};
use oci::Digest;
use tempfile::TempDir;

use super::*;
use crate::metrics::Metrics;

const WAIT: Duration = Duration::from_secs(30);

fn names_over(backend: &Arc<dyn Backend>) -> (Names, Tags) {
    let storage = Storage::new(Arc::clone(backend));
    let repositories = Repositories::new(storage.clone(), Metrics::new(), WAIT);
    let tags = Tags::new(storage.clone(), Metrics::new(), WAIT, 1, true);
    (Names::new(storage, repositories, tags.clone(), WAIT), tags)
}

fn backends() -> (TempDir, [Arc<dyn Backend>; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let fs = FsBackend::open(folder.path()).unwrap();
    (folder, [Arc::new(MemoryBackend::new()), Arc::new(fs)])
}

async fn put_link(backend: &Arc<dyn Backend>, key: Key) {
    let link = layout::link_to(&Digest::sha256(b"x"));
    backend.put(&key, link, Condition::Any).await.unwrap();
}

/// Reads all pages of a length, which must fit together.
async fn all_repositories(names: &Names, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut last: Option<String> = None;
    loop {
        let page = names.repositories(last.as_deref(), limit).await.unwrap();
        assert!(page.names.len() <= limit);
        assert!(page.next.is_none() || page.names.len() == limit);
        all.extend(page.names.iter().map(ToString::to_string));
        match page.next {
            Some(next) => last = Some(next),
            None => return all,
        }
    }
}

async fn all_tags(names: &Names, repository: &RepositoryName, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut last: Option<String> = None;
    loop {
        let page = names.tags(repository, last.as_deref(), limit);
        let page = page.await.unwrap();
        assert!(page.names.len() <= limit);
        all.extend(page.names.iter().map(ToString::to_string));
        match page.next {
            Some(next) => last = Some(next),
            None => return all,
        }
    }
}

/// Names whose order as folders is another than that of their bytes, and repositories within
/// repositories.
const REPOSITORIES: &[&str] = &[
    "a",
    "a-b",
    "a-b.c",
    "a-b.c/d",
    "a-b/c",
    "a.b",
    "a/b",
    "a/b-c/d",
    "a/b/c",
    "a/b/c/d/e/f",
    "a0",
    "b/c",
    "b/c-d",
    "c--d",
    "c--d-e",
    "library/nginx",
    "z__a",
];

#[tokio::test]
async fn repositories_come_in_byte_order() {
    let (_folder, backends) = backends();
    for backend in backends {
        let (names, _) = names_over(&backend);
        assert_eq!(all_repositories(&names, 5).await, [""; 0]);
        for (at, name) in REPOSITORIES.iter().enumerate() {
            let name = name.parse().unwrap();
            let digest = Digest::sha256(b"x");
            // One link is enough, whichever it is.
            let key = if at % 2 == 0 {
                layout::layer_link(&name, &digest)
            } else {
                layout::revision_link(&name, &digest)
            };
            put_link(&backend, key).await;
        }
        // These are no repositories.
        for folder in [
            "b/_uploads/1/data",
            "Upper/_layers/sha256/1/link",
            "nothing/here/x",
        ] {
            let text = format!("{}{folder}", layout::repositories().as_str());
            put_link(&backend, Key::new(text).unwrap()).await;
        }
        for limit in [1, 2, 3, 7, 1000] {
            assert_eq!(
                all_repositories(&names, limit).await,
                REPOSITORIES,
                "{limit}"
            );
        }
        // Any text will do to begin with.
        for (last, first) in [
            ("a-", "a-b"),
            ("a-b.c/", "a-b.c/d"),
            ("a/b/c/d/z", "a0"),
            ("~", ""),
        ] {
            let page = names.repositories(Some(last), 1).await.unwrap();
            let found = page.names.first().map_or("", |name| name.as_str());
            assert_eq!(found, first, "after {last}");
        }
    }
}

/// A walk that takes too long ends its page, not the list.
#[tokio::test]
async fn an_early_end_of_a_page_is_not_that_of_the_list() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (mut names, _) = names_over(&backend);
    names.patience = Duration::ZERO;
    for name in REPOSITORIES {
        let name = name.parse().unwrap();
        put_link(&backend, layout::layer_link(&name, &Digest::sha256(b"x"))).await;
    }
    let (mut all, mut last) = (Vec::new(), None::<String>);
    for pages in 0.. {
        assert!(pages < 100);
        let page = names.repositories(last.as_deref(), 1000).await.unwrap();
        all.extend(page.names.iter().map(ToString::to_string));
        let Some(next) = page.next else { break };
        assert!(last.is_none_or(|last| next > last));
        last = Some(next);
    }
    assert_eq!(all, REPOSITORIES);
}

#[tokio::test]
async fn tags_of_both_kinds_come_in_byte_order() {
    let (_folder, backends) = backends();
    let all = [
        "1", "1-", "1-a", "1.0", "1.0-rc", "10", "A", "_", "v1", "v1-x", "v1.1",
    ];
    for backend in backends {
        let (names, tags) = names_over(&backend);
        let repository: RepositoryName = "team/app".parse().unwrap();
        let unknown = names.tags(&repository, None, 5).await;
        assert!(matches!(unknown, Err(Failure::NameUnknown(_))));
        let digest = Digest::sha256(b"x");
        put_link(&backend, layout::layer_link(&repository, &digest)).await;
        assert_eq!(all_tags(&names, &repository, 5).await, [""; 0]);
        for (at, tag) in all.iter().enumerate() {
            let tag: Tag = tag.parse().unwrap();
            if at % 3 == 0 {
                // Only docker-registry knows it.
                put_link(&backend, layout::tag_link(&repository, &tag)).await;
            } else {
                tags.put(&repository, &tag, &digest, None).await.unwrap();
            }
        }
        for gone in ["0", "1.1", "v1-w"] {
            let tag: Tag = gone.parse().unwrap();
            tags.put(&repository, &tag, &digest, None).await.unwrap();
            assert!(tags.delete(&repository, &tag, None, None).await.unwrap());
        }
        for limit in [1, 2, 4, 1000] {
            assert_eq!(all_tags(&names, &repository, limit).await, all, "{limit}");
        }
        let page = names.tags(&repository, Some("v1"), 1).await.unwrap();
        assert_eq!(page.names, ["v1-x".parse().unwrap()]);
        assert_eq!(page.next.as_deref(), Some("v1-x"));
        let page = names.tags(&repository, Some("v1-x"), 1).await.unwrap();
        assert_eq!((page.names.len(), page.next), (1, None));
        // Another repository that continues its name is not part of it.
        let inner: RepositoryName = "team/app/tags".parse().unwrap();
        put_link(&backend, layout::layer_link(&inner, &digest)).await;
        assert_eq!(all_tags(&names, &repository, 1000).await, all);
    }
}

#[tokio::test]
async fn more_tags_than_one_list_of_storage_holds() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (names, tags) = names_over(&backend);
    let repository: RepositoryName = "a".parse().unwrap();
    let mut all = Vec::new();
    for number in 0..1300 {
        // Those that begin with another one are listed before it.
        let text = if number % 2 == 0 {
            format!("{:04}", number / 2)
        } else {
            format!("{:04}-rc", number / 2)
        };
        let tag: Tag = text.parse().unwrap();
        if number % 5 == 0 {
            tags.put(&repository, &tag, &Digest::sha256(b"x"), None)
                .await
                .unwrap();
        } else {
            put_link(&backend, layout::tag_link(&repository, &tag)).await;
        }
        all.push(text);
    }
    for limit in [97, 1000] {
        assert_eq!(all_tags(&names, &repository, limit).await, all, "{limit}");
    }
}
