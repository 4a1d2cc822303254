//! HTTP by hand, for what no well-behaved client does: leaving in the middle, and asking on
//! whatever the answer is.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long one read may wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// A GET request whose body has not been read yet.
#[derive(Debug)]
pub struct Body {
    stream: BufReader<TcpStream>,
    pub status: u16,
    pub length: Option<u64>,
}

impl Body {
    /// Sends a GET request and reads the head of its answer.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn get(addr: SocketAddr, path: &str) -> Self {
        let mut stream = connect(addr);
        let head = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        stream
            .write_all(head.as_bytes())
            .expect("the request can be sent");
        let mut stream = BufReader::new(stream);
        let head = read_head(&mut stream);
        let length = head.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            let length = key.eq_ignore_ascii_case("content-length");
            length.then(|| value.trim().parse().expect("Content-Length is a number"))
        });
        Self {
            status: status_of(&head),
            length,
            stream,
        }
    }

    /// Reads exactly `count` bytes of the body.
    ///
    /// # Panics
    /// Where they do not come.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream
            .read_exact(&mut bytes)
            .expect("the body goes on");
        bytes
    }

    /// Reads until the other side closes, in whatever way.
    #[must_use]
    pub fn rest(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is an end too; what counts is what came before.
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }

    /// Leaves without a word.
    pub fn leave(self) {
        drop(self);
    }
}

/// Sends the head of a PATCH request and only a part of the body it promises, then leaves.
///
/// # Panics
/// Where it cannot be sent.
pub fn patch_and_leave(addr: SocketAddr, path: &str, part: &[u8], promised: usize) {
    let mut stream = connect(addr);
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {promised}\r\n\r\n"
    );
    stream
        .write_all(head.as_bytes())
        .expect("the request can be sent");
    stream.write_all(part).expect("the body can be sent");
    stream.flush().expect("the body can be sent");
    // The server shall see everything that was sent, and then the end.
    stream
        .shutdown(Shutdown::Write)
        .expect("the connection is open");
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = stream.read(&mut [0; 512]);
}

/// A PATCH request that goes on as long as the test wants.
#[derive(Debug)]
pub struct SlowPatch {
    stream: TcpStream,
}

impl SlowPatch {
    /// Sends the head of a PATCH request of `promised` bytes.
    ///
    /// # Panics
    /// Where it cannot be sent.
    #[must_use]
    pub fn start(addr: SocketAddr, path: &str, promised: usize) -> Self {
        let mut stream = connect(addr);
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {promised}\r\nConnection: close\r\n\r\n"
        );
        stream
            .write_all(head.as_bytes())
            .expect("the request can be sent");
        Self { stream }
    }

    /// Sends more of the body.
    ///
    /// # Errors
    /// The other side is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Returns the status of the answer; `None` where the connection ended without one.
    #[must_use]
    pub fn finish(self) -> Option<u16> {
        let mut line = String::new();
        BufReader::new(self.stream).read_line(&mut line).ok()?;
        line.split(' ').nth(1)?.parse().ok()
    }
}

/// A request of a client that can live with every answer, and with none.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Both `Content-Type` and what is accepted.
    pub media_type: &'a str,
    pub body: &'a [u8],
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    head: Vec<String>,
    pub body: Vec<u8>,
}

impl Request<'_> {
    /// Sends it over a connection of its own. Each step of it may take so long.
    ///
    /// # Errors
    /// There is no whole answer.
    pub fn send(&self, addr: SocketAddr, patience: Duration) -> io::Result<Response> {
        let mut stream = TcpStream::connect_timeout(&addr, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let Self { method, path, .. } = self;
        let (media_type, length) = (self.media_type, self.body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
             Accept: {media_type}\r\nContent-Type: {media_type}\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(self.body)?;
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let mut body = Vec::new();
        stream.read_to_end(&mut body)?;
        let answer = Response {
            status: status_of(&head),
            head,
            body,
        };
        let length = answer.header("content-length");
        match length.and_then(|length| length.parse::<usize>().ok()) {
            Some(length) if length != answer.body.len() => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) | None => Ok(answer),
        }
    }
}

impl Response {
    /// Returns a header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("somebody listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a time-out can be set");
    stream
        .set_write_timeout(Some(PATIENCE))
        .expect("a time-out can be set");
    stream
}

fn read_head(stream: &mut BufReader<TcpStream>) -> Vec<String> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("there is an answer");
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            return head;
        }
        head.push(line);
    }
}

fn status_of(head: &[String]) -> u16 {
    let line = head.first().expect("there is an answer");
    let status = line.split(' ').nth(1).expect("a status line has a status");
    status.parse().expect("a status is a number")
}
