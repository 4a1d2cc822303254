//! What only a connection shows: how an answer ends, and whether it arrives.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::tests::Registry;
use crate::tests::fake::Fault;

async fn connect(registry: &Registry) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let router = registry.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    TcpStream::connect(addr).await.unwrap()
}

/// Reads to the end of the connection, which must not be a reset.
async fn read_to_end(connection: &mut TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes).await.unwrap();
    let head = bytes.windows(4).position(|at| at == b"\r\n\r\n").unwrap();
    let body = bytes.split_off(head + 4);
    (String::from_utf8(bytes).unwrap().to_lowercase(), body)
}

#[tokio::test]
async fn a_failing_body_ends_the_connection_before_its_length() {
    let registry = Registry::new();
    let bytes = vec![7; 100_000];
    let digest = registry.push_blob("a", &bytes).await;
    for fault in [Fault::CutAfter(30_000), Fault::EndAfter(30_000)] {
        registry.fake.fail(fault);
        let mut connection = connect(&registry).await;
        let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let (head, body) = read_to_end(&mut connection).await;
        assert!(head.contains("content-length: 100000\r\n"), "{head}");
        assert!(body.len() <= 30_000, "{fault:?}: {} bytes", body.len());
        assert!(body == bytes[..body.len()]);
    }
}

#[tokio::test]
async fn head_keeps_the_length_and_the_connection() {
    let registry = Registry::new();
    let digest = registry.push_blob("a", &[7; 1000]).await;
    let mut connection = connect(&registry).await;
    let head = format!("HEAD /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n");
    let get = "GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    connection.write_all((head + get).as_bytes()).await.unwrap();
    let (head, rest) = read_to_end(&mut connection).await;
    assert!(head.contains("content-length: 1000\r\n"), "{head}");
    assert!(rest.starts_with(b"HTTP/1.1 200") && rest.ends_with(b"{}"));
}

#[tokio::test]
async fn a_client_that_is_refused_while_it_sends_reads_why() {
    let registry = Registry::new();
    let mut connection = connect(&registry).await;
    let count = 8 * 1024 * 1024;
    let head = format!(
        "PATCH /v2/a/blobs/uploads/unknown HTTP/1.1\r\nHost: a\r\nContent-Length: {count}\r\n\
         Connection: close\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    // Everything first, then the answer: more than any socket buffers.
    connection.write_all(&vec![7; count]).await.unwrap();
    let (head, body) = read_to_end(&mut connection).await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains("BLOB_UPLOAD_UNKNOWN")
    );
}

#[tokio::test]
async fn a_client_that_asks_first_is_not_asked_for_bytes_in_vain() {
    let registry = Registry::new();
    let mut connection = connect(&registry).await;
    let head = "PATCH /v2/a/blobs/uploads/unknown HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\
                Expect: 100-continue\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    let (head, _) = read_to_end(&mut connection).await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
}
