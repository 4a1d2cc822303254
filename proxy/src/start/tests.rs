//! A proxy over sockets, with origins and a build-index that speak the contract and keep all in
//! memory.

mod fake;
mod pulls;
mod pushes;

use std::time::Duration;

use http::{Method, StatusCode, header};
use oci::Digest;
use serde_json::Value;

use super::*;
use fake::{Part, World};

/// A cluster with two origins and a proxy.
struct Setup {
    world: Arc<World>,
    origins: [Part; 2],
    index: Part,
    proxy: Running,
    url: String,
    config: Config,
    client: reqwest::Client,
    shutdown: CancellationToken,
}

/// What a client of the registry gets.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn is(&self, status: u16, code: &str) {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let found = (self.status.as_u16(), body["errors"][0]["code"].as_str());
        assert_eq!(found, (status, Some(code)), "{body}");
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

impl Setup {
    async fn start() -> Self {
        let world = Arc::new(World::default());
        let origins = [Part::origin(&world).await, Part::origin(&world).await];
        let index = Part::index(&world).await;
        let cluster = serde_json::json!({
            "origins": [
                {"name": "o1", "http": origins[0].addr, "peer": "o1:1"},
                {"name": "o2", "http": origins[1].addr, "peer": "o2:1"},
            ],
            "build_indexes": [{"name": "b1", "http": index.addr}],
        });
        let config = Config {
            cluster: serde_json::from_value(cluster).unwrap(),
            upload_secret: Some(Secret::from([1; 32])),
            commit_wait: Duration::from_secs(2),
            write_back_wait: Duration::from_secs(5),
            ..Config::default()
        };
        let shutdown = CancellationToken::new();
        let (proxy, url) = proxy(&config, &shutdown).await;
        Self {
            world,
            origins,
            index,
            proxy,
            url,
            config,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            shutdown,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = request.body(body).send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    /// Begins an upload; returns where it goes on.
    async fn begin(&self) -> String {
        let begun = self
            .send(Method::POST, "/v2/team/app/blobs/uploads/", &[], "")
            .await;
        assert_eq!(begun.status, 202);
        begun.header("location").to_owned()
    }

    async fn finish(&self, location: &str, digest: &Digest) -> Answer {
        let path = format!("{location}&digest={digest}");
        self.send(Method::PUT, &path, &[], "").await
    }

    async fn push(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let location = self.begin().await;
        let patched = self
            .send(Method::PATCH, &location, &[], bytes.to_vec())
            .await;
        assert_eq!(patched.status, 202);
        let put = self.finish(patched.header("location"), &digest).await;
        assert_eq!(put.status, 201, "{put:?}");
        digest
    }
}

async fn proxy(config: &Config, shutdown: &CancellationToken) -> (Running, String) {
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", http.local_addr().unwrap());
    let listeners = Listeners { http };
    let running = start(config.clone(), listeners, shutdown.clone()).await;
    (running.unwrap(), url)
}

fn manifest(config: &Digest, layers: &[Digest]) -> String {
    let of = |kind: &str, digest: &Digest| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": 1})
    };
    let layers: Vec<_> = layers.iter().map(|one| of("layer.v1.tar", one)).collect();
    let value = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": oci::media_type::OCI_MANIFEST,
        "config": of("config.v1+json", config),
        "layers": layers,
    });
    value.to_string()
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let setup = Setup::start().await;
    setup.push(b"some bytes").await;
    let status = setup.proxy.admin.status().await;
    assert_eq!(status["received_bytes"], 10, "{status}");
    assert_eq!(status["build_indexes"][0], setup.index.addr.as_str());
    assert!(setup.proxy.admin.not_ready().await.is_empty());
    let metrics = setup.proxy.admin.metrics();
    assert!(metrics.contains("registry_requests_total{"), "{metrics}");
    setup.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), setup.proxy.wait());
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_missing_in_the_configuration_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let fails = async |change: &dyn Fn(&mut Config)| {
        let mut config = Config {
            cluster: serde_json::from_value(serde_json::json!({
                "origins": [{"name": "o", "http": "o:1", "peer": "o:2"}],
                "build_indexes": [{"name": "b", "http": "b:1"}],
            }))
            .unwrap(),
            ..Config::default()
        };
        change(&mut config);
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let started = start(config, Listeners { http }, CancellationToken::new()).await;
        started.err().map(|error| error.to_string())
    };
    assert_eq!(fails(&|_| {}).await, None);
    let no_origins = fails(&|config| config.cluster.origins = api::Members::default()).await;
    assert!(no_origins.unwrap().contains("cluster.origins"));
    let with_file = |config: &mut Config| config.upload_secret_file = Some(file.clone());
    assert!(fails(&with_file).await.unwrap().contains("secret"));
    std::fs::write(&file, "no secret").unwrap();
    assert!(fails(&with_file).await.unwrap().contains("openssl"));
    std::fs::write(&file, format!("{}\n", "ab".repeat(32))).unwrap();
    assert_eq!(fails(&with_file).await, None);
    let both = |config: &mut Config| {
        with_file(config);
        config.upload_secret = Some(Secret::from([1; 32]));
    };
    assert!(fails(&both).await.unwrap().contains("not both"));
}
