//! Several origins over one object store, which fails.

use backend::flaky::{Faults, FlakyBackend};
use backend::memory::MemoryBackend;
use backend::{Key, layout};
use oci::RepositoryName;
use serde_json::json;

use super::*;

/// Origins that know each other, and the store that they share.
struct Origins {
    folder: tempfile::TempDir,
    store: Arc<FlakyBackend>,
    cluster: Cluster,
    listeners: Vec<Option<Listeners>>,
    started: Vec<Option<(Running, CancellationToken)>>,
    client: OriginClient,
    commit_wait: Duration,
}

impl Origins {
    async fn new(count: usize) -> Self {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Some(listeners().await));
        }
        let members = all.iter().flatten().enumerate().map(|(at, listeners)| {
            json!({
                "name": name(at),
                "http": listeners.http.local_addr().unwrap().to_string(),
                "peer": listeners.peer.local_addr().unwrap().to_string(),
            })
        });
        let cluster = json!({
            "origins": members.collect::<Vec<_>>(),
            "trackers": [{"name": "tracker-1", "peer": "127.0.0.1:1"}],
        });
        let cluster: Cluster = serde_json::from_value(cluster).unwrap();
        let memory = Arc::new(MemoryBackend::new());
        Self {
            folder: tempfile::tempdir().unwrap(),
            store: Arc::new(FlakyBackend::new(memory, 1, Faults::default())),
            client: OriginClient::new(Http::new(Limits::default()), Arc::new(cluster.clone())),
            cluster,
            listeners: all,
            started: (0..count).map(|_| None).collect(),
            commit_wait: Duration::from_secs(30),
        }
    }

    async fn started(count: usize) -> Self {
        let mut origins = Self::new(count).await;
        for at in 0..count {
            origins.start(at).await;
        }
        origins
    }

    fn config(&self, at: usize) -> Config {
        Config {
            name: name(at),
            backend: backend::Config::Memory,
            staging: Some(self.folder.path().join("staging")),
            cluster_key_file: self.folder.path().join("cluster.key"),
            cluster: self.cluster.clone(),
            write_back: crate::config::WriteBack {
                mirror_wait: Duration::from_millis(200),
                commit_wait: self.commit_wait,
                ..crate::config::WriteBack::default()
            },
            ..Config::default()
        }
    }

    async fn start(&mut self, at: usize) {
        let listeners = match self.listeners[at].take() {
            Some(listeners) => listeners,
            None => Listeners {
                http: bind(self.cluster.origins.as_slice()[at].http.as_str()).await,
                peer: bind(self.cluster.origins.as_slice()[at].peer.as_str()).await,
            },
        };
        let (store, stop) = (Arc::clone(&self.store), CancellationToken::new());
        let running = start_over(store, self.config(at), listeners, stop.clone()).await;
        self.started[at] = Some((running.unwrap(), stop));
    }

    async fn stop(&mut self, at: usize) {
        self.listeners[at] = None;
        if let Some((running, stop)) = self.started[at].take() {
            stop.cancel();
            running.wait().await.unwrap();
        }
    }

    fn fail(&self, error: f64) {
        self.store.set(Faults {
            error,
            ..Faults::default()
        });
    }

    /// Uploads at one origin.
    async fn upload(&self, at: usize, bytes: &Bytes) -> String {
        // They take turns.
        loop {
            let (origin, id) = self.client.begin_upload().await.unwrap();
            let member = origin.name.as_str();
            if origin.name == name(at) {
                if !bytes.is_empty() {
                    let appended = self.client.append(member, &id, Some(0), body(bytes));
                    appended.await.unwrap();
                }
                return id;
            }
            self.client.cancel(member, &id).await.unwrap();
        }
    }

    async fn push(&self, at: usize, bytes: &Bytes) -> Digest {
        let id = self.upload(at, bytes).await;
        let digest = Digest::sha256(bytes);
        let committed = self.client.commit(name(at).as_str(), &id, &digest).await;
        assert!(committed.unwrap().is_held);
        digest
    }

    async fn pending(&self, at: usize) -> serde_json::Value {
        let (running, _) = self.started[at].as_ref().unwrap();
        running.admin.status().await["write_back"]["pending"].clone()
    }

    fn held(&self, at: usize, digest: &Digest) -> bool {
        let folder = self.folder.path().join("staging").join(name(at).as_str());
        folder
            .join("held")
            .join(layout::blob(digest).as_str())
            .exists()
    }

    async fn until_stored(&self, digest: &Digest) {
        let key: Key = layout::blob(digest);
        until("the store has it", async || {
            self.store.stat(&key).await.is_ok()
        })
        .await;
    }
}

fn name(at: usize) -> api::Name {
    format!("origin-{}", at + 1).parse().unwrap()
}

async fn bind(addr: &str) -> TcpListener {
    let mut bound = TcpListener::bind(addr).await;
    for _ in 0..1000 {
        if bound.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        bound = TcpListener::bind(addr).await;
    }
    bound.unwrap()
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    waited.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn a_push_is_on_two_disks_before_it_is_acknowledged() {
    let origins = Origins::started(3).await;
    origins.fail(1.0);
    for bytes in [bytes(3_500_000), bytes(10), Bytes::new()] {
        let digest = origins.push(0, &bytes).await;
        let copies = (0..3).filter(|at| origins.held(*at, &digest)).count();
        assert_eq!(copies, 2);
        assert!(origins.held(0, &digest), "where it was pushed");
    }
    assert_eq!(origins.pending(0).await, 3);
    origins.fail(0.0);
    for length in [3_500_000, 10, 0] {
        let bytes = bytes(length);
        let digest = Digest::sha256(&bytes);
        origins.until_stored(&digest).await;
        let read = origins.store.read(&layout::blob(&digest), 4_000_000).await;
        assert!(read.unwrap().0 == bytes);
        until("the second copy goes", async || {
            !origins.held(1, &digest) && !origins.held(2, &digest)
        })
        .await;
    }
    assert_eq!(origins.pending(0).await, 0);
}

#[tokio::test]
async fn the_second_origin_writes_what_the_first_cannot() {
    let mut origins = Origins::started(2).await;
    origins.fail(1.0);
    let bytes = bytes(2_000_000);
    let digest = origins.push(0, &bytes).await;
    origins.stop(0).await;
    origins.fail(0.0);
    origins.until_stored(&digest).await;
    // It comes back without anything.
    let staging = origins.folder.path().join("staging/origin-1");
    std::fs::remove_dir_all(staging).unwrap();
    origins.start(0).await;
    assert_eq!(origins.pending(0).await, 0);
    assert!(read(&origins.client, &digest, 0..2_000_000).await == bytes);
}

#[tokio::test]
async fn a_restart_loses_nothing_that_waits() {
    let mut origins = Origins::started(2).await;
    origins.fail(1.0);
    let digest = origins.push(0, &bytes(1_000_000)).await;
    for at in [0, 1] {
        origins.stop(at).await;
    }
    origins.start(0).await;
    assert_eq!(origins.pending(0).await, 1);
    origins.fail(0.0);
    origins.until_stored(&digest).await;
    until("nothing is left", async || origins.pending(0).await == 0).await;
}

#[tokio::test]
async fn alone_the_end_of_a_push_waits_for_storage() {
    let mut origins = Origins::new(2).await;
    origins.commit_wait = Duration::from_millis(500);
    origins.listeners[1] = None;
    origins.start(0).await;
    origins.fail(1.0);
    let bytes = bytes(700_000);
    let digest = Digest::sha256(&bytes);
    let id = origins.upload(0, &bytes).await;
    let commit = async || origins.client.commit("origin-1", &id, &digest).await;
    for _ in 0..2 {
        let error = commit().await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Unavailable), "{error}");
    }
    origins.fail(0.0);
    until("it is taken", async || commit().await.is_ok()).await;
    origins.until_stored(&digest).await;
}

#[tokio::test]
async fn an_upload_goes_on_without_its_second_copy() {
    let mut origins = Origins::started(2).await;
    origins.fail(1.0);
    // Either of them begins anew in the middle.
    for restarted in [0, 1] {
        let bytes = bytes(3_000_000 + restarted);
        let (first, rest) = (bytes.slice(..2_000_000), bytes.slice(2_000_000..));
        let digest = Digest::sha256(&bytes);
        let id = origins.upload(0, &first).await;
        origins.stop(restarted).await;
        origins.start(restarted).await;
        let client = &origins.client;
        let appended = client.append("origin-1", &id, Some(2_000_000), body(&rest));
        assert_eq!(appended.await.unwrap(), bytes.len() as u64);
        client.commit("origin-1", &id, &digest).await.unwrap();
        assert!(origins.held(0, &digest) && origins.held(1, &digest));
    }
}

#[tokio::test]
async fn everybody_hears_how_far_a_blob_is() {
    let origins = Origins::started(3).await;
    let name: RepositoryName = "team/app".parse().unwrap();
    origins.fail(1.0);
    let bytes = bytes(100_000);
    let digest = Digest::sha256(&bytes);
    let id = origins.upload(0, &bytes).await;
    let query = api::origin::CommitQuery {
        digest: digest.to_string(),
        mirror_of: None,
        repository: Some(name.clone()),
    };
    origins
        .client
        .end_upload("origin-1", &id, &query)
        .await
        .unwrap();
    let ask = |wait| origins.client.stored(&digest, &name, wait);
    // One origin has nothing of it, and storage does not say.
    let stored = ask(Duration::ZERO).await.unwrap().unwrap();
    assert!(!stored.stored && stored.is_pushed && stored.length == 100_000);
    origins.fail(0.0);
    let stored = ask(Duration::from_secs(10)).await.unwrap().unwrap();
    assert!(stored.stored && stored.is_pushed);
    let other: RepositoryName = "other".parse().unwrap();
    let of_other = origins.client.stored(&digest, &other, Duration::ZERO).await;
    assert!(!of_other.unwrap().unwrap().is_pushed);
    let unknown = Digest::sha256(b"unknown");
    let stored = origins.client.stored(&unknown, &name, Duration::ZERO).await;
    assert_eq!(stored.unwrap(), None);
}

#[tokio::test]
async fn a_blob_that_is_removed_is_gone_everywhere() {
    let origins = Origins::started(2).await;
    let digest = origins.push(0, &bytes(500_000)).await;
    origins.until_stored(&digest).await;
    origins.client.delete(&digest).await.unwrap();
    for at in [0, 1] {
        assert!(!origins.held(at, &digest));
        until("nothing waits", async || origins.pending(at).await == 0).await;
    }
    let key = layout::blob(&digest);
    assert!(origins.store.stat(&key).await.unwrap_err().is_not_found());
    let absent = origins.client.length(&digest).await.unwrap_err();
    assert_eq!(absent.code(), Some(ErrorCode::BlobUnknown));
}
