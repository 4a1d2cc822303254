use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use prometheus_client::encoding::text::encode_registry;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const WAIT: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn valid() -> Range<SystemTime> {
    let now = SystemTime::now();
    now - DAY..now + DAY
}

fn expired() -> Range<SystemTime> {
    let now = SystemTime::now();
    now - 3 * DAY..now - DAY
}

/// A cluster with an authority of its own.
struct Cluster {
    authority: Authority,
    folder: TempDir,
    shutdown: CancellationToken,
}

impl Cluster {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority, made) = Authority::new(valid()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), made.certificate).unwrap();
        Self {
            authority,
            folder,
            shutdown: CancellationToken::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a certificate of these roles, and returns its configuration.
    fn files(&self, roles: &[Role], valid: Range<SystemTime>) -> Config {
        let issued = self.authority.issue(roles, None, valid).unwrap();
        let name = roles[0].as_str();
        std::fs::write(self.path(&format!("{name}.pem")), issued.certificate).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), issued.key).unwrap();
        Config {
            certificate: Some(self.path(&format!("{name}.pem"))),
            key: Some(self.path(&format!("{name}.key"))),
            ca: Some(self.path("ca.pem")),
        }
    }

    /// Returns an origin with the configuration whose files it looks after.
    async fn origin(&self) -> (Config, Tls) {
        let config = self.files(&[Role::Origin], valid());
        let opened = Tls::open(&config, Role::Origin, &self.shutdown).await;
        (config, opened.unwrap())
    }

    async fn open(&self, role: Role) -> Tls {
        let config = self.files(&[role], valid());
        Tls::open(&config, role, &self.shutdown).await.unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Lets `client` call `server`; returns what each of them says of the other, once a byte went
/// each way.
async fn call(server: &Tls, client: &Tls, expected: Role) -> (Said, Said) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = async {
        let (socket, _) = listener.accept().await.unwrap();
        let (mut stream, caller) = server.accept(socket).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        stream.flush().await?;
        Ok(caller)
    };
    let calling = async {
        let socket = TcpStream::connect(addr).await.unwrap();
        let (mut stream, caller) = client.connect(socket, expected).await?;
        stream.write_all(&[7]).await?;
        stream.flush().await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        if byte != [7] {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        Ok(caller)
    };
    let both = async { tokio::join!(serving, calling) };
    tokio::time::timeout(WAIT, both).await.unwrap()
}

type Said = Result<Caller, ConnectError>;

fn text(said: Said) -> String {
    said.unwrap_err().to_string()
}

fn of(role: Role) -> Caller {
    Caller::Known([role].into_iter().collect())
}

#[tokio::test]
async fn each_side_knows_the_role_of_the_other() {
    let cluster = Cluster::new();
    let (origin, agent) = (
        cluster.open(Role::Origin).await,
        cluster.open(Role::Agent).await,
    );
    // The second one may go on with the session of the first.
    for _ in 0..2 {
        let (of_server, of_client) = call(&origin, &agent, Role::Origin).await;
        assert_eq!(of_server.unwrap(), of(Role::Agent));
        assert_eq!(of_client.unwrap(), of(Role::Origin));
    }
}

#[tokio::test]
async fn a_certificate_may_have_several_roles() {
    let cluster = Cluster::new();
    let both = cluster.files(&[Role::Tracker, Role::Proxy], valid());
    let both = Tls::open(&both, Role::Proxy, &cluster.shutdown)
        .await
        .unwrap();
    let agent = cluster.open(Role::Agent).await;
    for expected in [Role::Tracker, Role::Proxy] {
        let caller = call(&both, &agent, expected).await.1.unwrap();
        assert!(caller.may_be(Role::Tracker) && caller.may_be(Role::Proxy));
        assert!(!caller.may_be(Role::Origin));
    }
}

#[tokio::test]
async fn who_has_another_role_than_expected_is_not_talked_to() {
    let cluster = Cluster::new();
    let (agent, other) = (
        cluster.open(Role::Agent).await,
        cluster.open(Role::Tracker).await,
    );
    let (of_server, of_client) = call(&agent, &other, Role::Origin).await;
    let text = text(of_client);
    for part in [
        "another role",
        "origin.shoal.internal",
        "agent.shoal.internal",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(of_server.is_err());
}

#[tokio::test]
async fn another_cluster_is_not_talked_to() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (server, client) = (
        ours.open(Role::Origin).await,
        theirs.open(Role::Agent).await,
    );
    let (of_server, of_client) = call(&server, &client, Role::Origin).await;
    assert!(text(of_client).contains("another cluster"));
    assert!(text(of_server).contains("authority"));

    // The client believes the server, but not the other way round.
    let mut config = theirs.files(&[Role::Agent], valid());
    let all = [ours.path("ca.pem"), theirs.path("ca.pem")];
    let bundle: String = all
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    std::fs::write(theirs.path("both.pem"), bundle).unwrap();
    config.ca = Some(theirs.path("both.pem"));
    let client = Tls::open(&config, Role::Agent, &theirs.shutdown)
        .await
        .unwrap();
    let (of_server, of_client) = call(&server, &client, Role::Origin).await;
    assert!(text(of_server).contains("another cluster"));
    let text = text(of_client);
    assert!(text.contains("refuses the certificate"), "{text}");
}

#[tokio::test]
async fn what_has_expired_is_worth_nothing() {
    let cluster = Cluster::new();
    let config = cluster.files(&[Role::Agent], expired());
    let error = Tls::open(&config, Role::Agent, &cluster.shutdown).await;
    let text = error.unwrap_err().to_string();
    for part in ["expired", "shoal cert new --role agent", "agent.pem"] {
        assert!(text.contains(part), "{text}");
    }

    // One that expired while the process ran.
    let origin = cluster.open(Role::Origin).await;
    let agent = cluster.open(Role::Agent).await;
    let loaded = agent.0.as_ref().unwrap();
    let files = Files {
        certificate: config.certificate.unwrap(),
        key: config.key.unwrap(),
        ca: config.ca,
    };
    let issued = cluster
        .authority
        .issue(&[Role::Agent], None, expired())
        .unwrap();
    std::fs::write(&files.certificate, issued.certificate).unwrap();
    std::fs::write(&files.key, issued.key).unwrap();
    loaded.current.set(&files, files.load_unchecked().unwrap());
    let (of_server, of_client) = call(&origin, &agent, Role::Origin).await;
    let said = self::text(of_server);
    assert!(said.contains("expired"), "{said}");
    let said = self::text(of_client);
    assert!(said.contains("has expired"), "{said}");
}

#[tokio::test]
async fn plaintext_and_tls_tell_each_other() {
    let cluster = Cluster::new();
    let (tls, plain) = (cluster.open(Role::Origin).await, Tls::plain());
    let (of_server, of_client) = call(&tls, &plain, Role::Origin).await;
    let said = text(of_server);
    assert!(said.contains("does not speak TLS"), "{said}");
    // What it is sent is an alert, which readers of frames know.
    assert!(of_client.is_err());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let speaking = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut first = [0; 5];
        socket.read_exact(&mut first).await.unwrap();
        assert!(is_tls_record(&first), "{first:?}");
        socket.write_all(&[0, 0, 0, 60, 1, 0, 1]).await.unwrap();
        // Until it has read that.
        let _ = socket.read_to_end(&mut Vec::new()).await;
    };
    let calling = async {
        let socket = TcpStream::connect(addr).await.unwrap();
        tls.connect(socket, Role::Origin).await.map(|(_, who)| who)
    };
    let ((), said) = tokio::join!(speaking, calling);
    let said = text(said);
    assert!(said.contains("does not speak TLS"), "{said}");
}

#[tokio::test]
async fn files_that_cannot_be_used_say_why() {
    let cluster = Cluster::new();
    let other = Cluster::new();
    let good = cluster.files(&[Role::Agent], valid());
    let origin = cluster.files(&[Role::Origin], valid());
    let nothing = cluster.path("nothing.pem");
    std::fs::write(&nothing, "no PEM").unwrap();
    let with = |change: &dyn Fn(&mut Config)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    for (config, parts) in [
        (
            with(&|config| config.certificate = Some("/nowhere".into())),
            ["cannot read /nowhere", ""],
        ),
        (
            with(&|config| config.certificate = Some(nothing.clone())),
            ["nothing.pem", "no certificate in PEM"],
        ),
        (
            with(&|config| config.key = Some(nothing.clone())),
            ["nothing.pem", "no private key in PEM"],
        ),
        (
            with(&|config| config.key.clone_from(&origin.key)),
            ["origin.key", "made together"],
        ),
        (
            origin.clone(),
            ["origin.pem", "shoal cert new --role agent"],
        ),
        (
            with(&|config| config.ca = Some(other.path("ca.pem"))),
            ["agent.pem", "another cluster"],
        ),
    ] {
        let error = Tls::check(&config, Role::Agent).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
    assert!(Tls::check(&good, Role::Agent).is_ok());
}

/// Lets the clock run until somebody has looked at the files.
async fn look() {
    tokio::time::sleep(watch::LOOK_EVERY * 3).await;
}

/// Writes new files, which are seen to be new however slowly the clock of the file system ticks.
fn touch(config: &Config) {
    static LATER: AtomicU32 = AtomicU32::new(1);
    let later = DAY * LATER.fetch_add(1, Ordering::Relaxed);
    let path = config.certificate.as_ref().unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() + later).unwrap();
}

#[tokio::test(start_paused = true)]
async fn new_certificates_are_taken_without_a_restart() {
    let cluster = Cluster::new();
    let (config, origin) = cluster.origin().await;
    let loaded = || origin.0.as_ref().unwrap().loaded();
    let before = loaded();
    look().await;
    assert!(Arc::ptr_eq(&before, &loaded()), "nobody touched them");

    // Bad ones change nothing, and are no obstacle to good ones.
    std::fs::write(config.certificate.as_ref().unwrap(), "half of a file").unwrap();
    touch(&config);
    look().await;
    assert!(Arc::ptr_eq(&before, &loaded()), "it cannot be used");
    touch(&cluster.files(&[Role::Agent], valid()));
    touch(&cluster.files(&[Role::Origin], valid()));
    look().await;
    assert_ne!(loaded().certified.cert, before.certified.cert);
}

#[tokio::test(start_paused = true)]
async fn the_expiry_is_that_of_what_is_in_use() {
    let cluster = Cluster::new();
    let (config, origin) = cluster.origin().await;
    let mut metrics = Metrics::default();
    origin.register(&mut metrics);
    Tls::plain().register(&mut metrics);
    let expiry = || {
        let mut text = String::new();
        encode_registry(&mut text, &metrics).unwrap();
        let name = "\ntls_certificate_expiry_timestamp_seconds ";
        let (_, value) = text.split_once(name).unwrap();
        value.trim().parse::<u64>().unwrap()
    };
    let in_days = |days: u32| {
        let then = SystemTime::now() + DAY * days;
        then.duration_since(SystemTime::UNIX_EPOCH).unwrap()
    };
    assert!(expiry() <= in_days(1).as_secs() && expiry() > in_days(0).as_secs());

    let later = SystemTime::now() - DAY..SystemTime::now() + 400 * DAY;
    touch(&cluster.files(&[Role::Origin], later));
    look().await;
    assert!(expiry() <= in_days(400).as_secs() && expiry() > in_days(399).as_secs());

    // What cannot be used changes nothing.
    std::fs::write(config.certificate.as_ref().unwrap(), "half of a file").unwrap();
    touch(&config);
    look().await;
    assert!(expiry() > in_days(399).as_secs());
}

/// A disk may fail to read what is right, and do better later.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_loaded_is_tried_again() {
    let cluster = Cluster::new();
    let (config, origin) = cluster.origin().await;
    let loaded = || origin.0.as_ref().unwrap().loaded();
    let before = loaded();

    let path = config.certificate.as_ref().unwrap();
    touch(&cluster.files(&[Role::Origin], valid()));
    let (good, at) = (
        std::fs::read(path).unwrap(),
        path.metadata().unwrap().modified().unwrap(),
    );
    let write = |bytes: &[u8]| {
        std::fs::write(path, bytes).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(at).unwrap();
    };
    write(&vec![b'-'; good.len()]);
    look().await;
    assert!(Arc::ptr_eq(&before, &loaded()), "it cannot be used");
    // Neither its length nor its time tells it from what could not be read.
    write(&good);
    look().await;
    assert_ne!(loaded().certified.cert, before.certified.cert);
}

#[tokio::test]
async fn a_registry_shows_clients_their_own_certificate() {
    let (cluster, public) = (Cluster::new(), Cluster::new());
    let config = public.files(&[Role::Agent], valid());
    let config = RegistryConfig {
        certificate: config.certificate,
        key: config.key,
    };
    let proxy = cluster.open(Role::Proxy).await;
    let registry = Registry::open(&config, &proxy, &cluster.shutdown)
        .await
        .unwrap();
    assert!(!registry.takes_plaintext());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    let serving = async {
        for _ in 0..2 {
            let (socket, _) = listener.accept().await.unwrap();
            registry.accept(socket).await.unwrap();
        }
    };
    // An agent asks for the role; a client believes the authority that is for clients.
    let agent = cluster.open(Role::Agent).await;
    let client = public.open(Role::Agent).await;
    let calling = async {
        let socket = TcpStream::connect(addr).await.unwrap();
        let (_, caller) = agent.connect(socket, Role::Proxy).await.unwrap();
        assert_eq!(caller, of(Role::Proxy));
        let socket = TcpStream::connect(addr).await.unwrap();
        let (_, caller) = client.connect(socket, Role::Agent).await.unwrap();
        assert_eq!(caller, of(Role::Agent));
    };
    let both = async { tokio::join!(serving, calling) };
    tokio::time::timeout(WAIT, both).await.unwrap();
}
