use std::net::SocketAddr;

use axum::body::Body;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;

const WAIT: Duration = Duration::from_secs(20);

struct Server {
    addr: SocketAddr,
    shutdown: CancellationToken,
    end: JoinHandle<io::Result<()>>,
    /// Lets the requests of `/slow` go on; told when one has come.
    go: Arc<Notify>,
    came: Arc<Notify>,
}

async fn start(options: Options) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (go, came) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (go, came) = (Arc::clone(&go), Arc::clone(&came));
        move || async move {
            came.notify_one();
            go.notified().await;
            "slow"
        }
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/slow", get(slow))
        .route("/long", get(|| async { vec![0; 64 << 20] }))
        .route(
            "/refuse",
            post(|_: Body| async { (http::StatusCode::FORBIDDEN, "no") }),
        );
    let shutdown = CancellationToken::new();
    let end = tokio::spawn(serve(listener, router, options, shutdown.clone()));
    Server {
        addr,
        shutdown,
        end,
        go,
        came,
    }
}

impl Server {
    async fn send(&self, text: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.addr).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        socket
    }
}

fn request(path: &str, head: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n{head}\r\n")
}

async fn rest(mut socket: TcpStream) -> String {
    let mut text = String::new();
    let read = socket.read_to_string(&mut text);
    tokio::time::timeout(WAIT, read).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn answers_are_not_lost() {
    let server = start(Options::default()).await;
    let socket = server.send(&request("/", "connection: close\r\n")).await;
    assert!(rest(socket).await.ends_with("hello"));

    // The client closes its side, and its answer comes later.
    let mut socket = server.send(&request("/slow", "")).await;
    socket.shutdown().await.unwrap();
    server.came.notified().await;
    server.go.notify_one();
    assert!(rest(socket).await.ends_with("slow"));
}

#[tokio::test]
async fn a_refused_body_does_not_reset_the_connection() {
    let server = start(Options::default()).await;
    let length = 8 * 1024 * 1024;
    let head = format!("POST /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    let mut socket = server.send(&head).await;
    // A client that sends everything before it reads.
    socket.write_all(&vec![0; length]).await.unwrap();
    socket.shutdown().await.unwrap();
    let answer = rest(socket).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn open_requests_end_after_shutdown() {
    let server = start(Options::default()).await;
    let idle = server.send("").await;
    let open = server.send(&request("/slow", "")).await;
    server.came.notified().await;
    server.shutdown.cancel();
    assert_eq!(rest(idle).await, "", "who asks nothing is let go");
    for _ in 0..2 {
        let late = rest(server.send(&request("/", "")).await).await;
        assert!(late.starts_with("HTTP/1.1 503"), "{late}");
    }
    server.go.notify_one();
    assert!(rest(open).await.ends_with("slow"));
    server.end.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn requests_that_do_not_end_are_cut() {
    let options = Options {
        drain_timeout: Duration::from_millis(10),
        ..Options::default()
    };
    let server = start(options).await;
    let open = server.send(&request("/slow", "")).await;
    server.came.notified().await;
    server.shutdown.cancel();
    server.end.await.unwrap().unwrap();
    assert_eq!(rest(open).await, "");
}

#[tokio::test]
async fn clients_wait_for_a_connection() {
    let options = Options {
        max_connections: 1,
        ..Options::default()
    };
    let server = start(options).await;
    let first = server
        .send(&request("/slow", "connection: close\r\n"))
        .await;
    server.came.notified().await;
    let mut second = server.send(&request("/", "connection: close\r\n")).await;
    let early = tokio::time::timeout(Duration::from_millis(50), second.read_u8()).await;
    assert!(
        early.is_err(),
        "the second is not refused, and not served yet"
    );
    server.go.notify_one();
    assert!(rest(first).await.ends_with("slow"));
    assert!(rest(second).await.ends_with("hello"));
}

#[tokio::test]
async fn who_sends_no_request_is_closed() {
    let options = Options {
        header_timeout: Duration::from_millis(20),
        ..Options::default()
    };
    let server = start(options).await;
    let socket = server.send("GET / HT").await;
    let answer = rest(socket).await;
    assert!(!answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    let options = Options {
        max_connections: 1,
        write_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let server = start(options).await;
    let mut stuck = server.send(&request("/long", "")).await;
    // There is one connection: the next client is let in when that one is given up.
    let mut next = server.send(&request("/", "connection: close\r\n")).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(WAIT, next.read_to_end(&mut answer));
    read.await.unwrap().unwrap();
    assert!(answer.ends_with(b"hello"));
    let mut whole = Vec::new();
    let read = tokio::time::timeout(WAIT, stuck.read_to_end(&mut whole));
    let _ = read.await.unwrap();
    assert!(whole.len() < 64 << 20, "it was cut");
}
