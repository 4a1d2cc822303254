//! An object store in a process of its own, which can be told to fail.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use fake_s3::{Conditions, Counts, Fault, Operation, Rule};
use serde_json::{Value, json};

use crate::netns::Host;
use crate::process::{Process, attempt, run};
use crate::{curl, shoal};

const BUCKET: &str = "images";
const ID: &str = "an-id";
const SECRET: &str = "a-secret-nobody-prints";
/// Ports of a store in a namespace of its own.
const PORT: u16 = 9000;
const CONTROL_PORT: u16 = 9001;

/// What kind of a store it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    pub conditions: Conditions,
}

/// Writes fail, reads do not.
#[must_use]
pub fn no_writes() -> Vec<Rule> {
    [
        Operation::Put,
        Operation::CreateUpload,
        Operation::PutPart,
        Operation::CompleteUpload,
    ]
    .map(|operation| Fault::status(503, "SlowDown").on(operation))
    .into()
}

/// A store with one bucket. It ends with its test.
#[derive(Debug)]
pub struct S3 {
    options: S3Options,
    folder: PathBuf,
    host: Option<Host>,
    addr: SocketAddr,
    control: SocketAddr,
    process: Option<Process>,
}

impl S3 {
    /// Starts a store in a folder, which is made where it is missing, and in a namespace if one is
    /// given.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(options: S3Options, folder: &Path, host: Option<Host>) -> Self {
        std::fs::create_dir_all(folder).expect("the folder is ours");
        let addr = |port| match &host {
            Some(host) => SocketAddr::new(host.ip, port),
            None => shoal::free_addr(),
        };
        let mut store = Self {
            options,
            folder: folder.to_owned(),
            addr: addr(PORT),
            control: addr(CONTROL_PORT),
            host,
            process: None,
        };
        store.restart();
        store
    }

    /// Starts it again after it was killed, with what it had.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn restart(&mut self) {
        let mut command = Command::new(shoal::built("tests-s3"));
        command
            .args(["--bucket", BUCKET, "--access-key-id", ID])
            .args(["--addr", &self.addr.to_string()])
            .args(["--control", &self.control.to_string()])
            .arg("--folder")
            .arg(&self.folder)
            .env("S3_SECRET_ACCESS_KEY", SECRET);
        match self.options.conditions {
            Conditions::Atomic => {}
            Conditions::Racy => {
                command.arg("--racy");
            }
            Conditions::Ignored => {
                command.arg("--ignore-conditions");
            }
        }
        let log = self.folder.with_extension("log");
        let mut process = Process::start("tests-s3", &self.enter(command), &log);
        let mut ask = self.control("GET", "counts", None);
        process.until("answers", |_| {
            attempt(&mut ask).status.success().then_some(())
        });
        self.process = Some(process);
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    #[must_use]
    pub fn bucket(&self) -> &str {
        BUCKET
    }

    /// Returns the id of the key, and the secret.
    #[must_use]
    pub fn keys(&self) -> (&str, &str) {
        (ID, SECRET)
    }

    /// Returns what kind of a store it is.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        self.options.conditions
    }

    /// Returns `backend` of the configurations that use it.
    #[must_use]
    pub fn config(&self) -> Value {
        json!({"s3": {
            "bucket": BUCKET,
            "endpoint": self.endpoint(),
            "access_key_id": ID,
            "secret_access_key": SECRET,
        }})
    }

    /// Returns the folder with the objects.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.folder.join("live").join(BUCKET)
    }

    /// Breaks what a rule says, and nothing else.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn set_fault(&self, rule: impl Into<Rule>) {
        self.set_faults(&[rule.into()]);
    }

    /// Breaks what rules say, and nothing else; with none it works again.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn set_faults(&self, rules: &[Rule]) {
        let rules = serde_json::to_string(rules).expect("it is JSON");
        run(&mut self.control("PUT", "faults", Some(&rules)));
    }

    /// Returns what it was asked for since the start, or since the last reset.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let text = run(&mut self.control("GET", "counts", None));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// # Panics
    /// Where it does not run.
    pub fn reset_counts(&self) {
        run(&mut self.control("DELETE", "counts", None));
    }

    fn control(&self, method: &str, path: &str, body: Option<&str>) -> Command {
        let mut curl = curl::command();
        curl.args(["--fail-with-body", "--request", method]);
        if let Some(body) = body {
            curl.args(["--data-binary", body]);
        }
        curl.arg(format!("http://{}/{path}", self.control));
        self.enter(curl)
    }

    fn enter(&self, command: Command) -> Command {
        match &self.host {
            Some(host) => host.enter(&command),
            None => command,
        }
    }
}
