//! `curl`, the plainest of the real clients.

use std::path::Path;
use std::process::Command;

use crate::process::{both, run};

/// An answer as curl saw it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers of the last response, as they came.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns a header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON: {error}: {}", self.text()))
    }

    /// Returns the code of the first error in an OCI error body.
    ///
    /// # Panics
    /// Where the body is none.
    #[must_use]
    pub fn code(&self) -> String {
        let json = self.json();
        let code = json["errors"][0]["code"].as_str();
        code.unwrap_or_else(|| panic!("no OCI error: {json}"))
            .to_owned()
    }
}

/// Returns a curl that does not read anybody's settings and gives up after a minute.
#[must_use]
pub fn command() -> Command {
    let mut curl = Command::new(crate::program("/usr/bin/curl", "curl"));
    curl.args([
        "-q",
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "60",
    ]);
    curl
}

/// Sends a request and returns the answer, whatever its status.
///
/// # Panics
/// Where there is no whole answer.
#[must_use]
pub fn send(url: &str, args: &[&str]) -> Answer {
    let folder = crate::folder();
    let (head, body) = (folder.path().join("head"), folder.path().join("body"));
    let status = run(command()
        .args(["--output", path(&body), "--dump-header", path(&head)])
        .args(["--write-out", "%{http_code}"])
        .args(args)
        .arg(url));
    let head = std::fs::read_to_string(&head).unwrap_or_default();
    let last = head
        .trim_end()
        .rsplit("\r\n\r\n")
        .next()
        .unwrap_or_default();
    Answer {
        status: status.trim().parse().expect("curl prints the status"),
        head: last.to_owned(),
        body: std::fs::read(&body).unwrap_or_default(),
    }
}

/// Sends a GET request.
///
/// # Panics
/// As [`send`].
#[must_use]
pub fn get(url: &str) -> Answer {
    send(url, &[])
}

/// Sends a HEAD request.
///
/// # Panics
/// As [`send`].
#[must_use]
pub fn head(url: &str) -> Answer {
    let mut answer = send(url, &["--head"]);
    // Curl writes the headers of such an answer where bodies go.
    assert!(
        answer.body.starts_with(b"HTTP/"),
        "a body: {}",
        answer.text()
    );
    answer.body.clear();
    answer
}

/// Sends a GET request whose answer may end early; returns the exit code of curl (18 says that
/// bytes are missing) and what came.
///
/// # Panics
/// Where curl cannot be run.
#[must_use]
pub fn get_cut(url: &str) -> (i32, Vec<u8>, String) {
    let folder = crate::folder();
    let body = folder.path().join("body");
    let output = crate::process::attempt(command().args(["--output", path(&body)]).arg(url));
    let code = output.status.code().unwrap_or(-1);
    (
        code,
        std::fs::read(&body).unwrap_or_default(),
        both(&output),
    )
}

fn path(path: &Path) -> &str {
    path.to_str()
        .expect("folders of the tests have plain names")
}
