//! Debian's `docker-registry` (CNCF Distribution), whose storage layout Shoal has too.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::names::Names;
use crate::netns::Host;
use crate::process::Process;

/// A running registry over a folder.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    pub addr: SocketAddr,
}

impl Registry {
    /// Starts a registry over `storage`; its settings and log go to `folder`.
    ///
    /// # Panics
    /// Where it is not installed or does not start.
    #[must_use]
    pub fn start(storage: &Path, folder: &Path) -> Self {
        let program = crate::program("/usr/bin/docker-registry", "docker-registry");
        let addr = crate::shoal::free_addr();
        let config = folder.join(format!("registry-{}.yml", addr.port()));
        let text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: {addr}\n",
            storage.display()
        );
        std::fs::write(&config, text).expect("the folder is ours");
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none");
        let mut process =
            Process::start("docker-registry", &command, &config.with_extension("log"));
        process.until("answers", |_| std::net::TcpStream::connect(addr).ok());
        Self { process, addr }
    }

    /// Starts a registry over `storage` on a machine, as the hosts of `names`: on the port and with
    /// the certificate that clients expect of them. Its settings and log go to `folder`.
    ///
    /// # Panics
    /// Where it is not installed or does not start.
    #[must_use]
    pub fn start_as(names: &Names, host: &Host, storage: &Path, folder: &Path) -> Self {
        let program = crate::program("/usr/bin/docker-registry", "docker-registry");
        let addr = SocketAddr::new(host.ip, 443);
        let config = folder.join("registry-tls.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {addr}\n  tls:\n    certificate: {}\n    key: {}\n",
            storage.display(),
            names.certificate().display(),
            names.key().display(),
        );
        std::fs::write(&config, text).expect("the folder is ours");
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none");
        let log = config.with_extension("log");
        let mut process = Process::start("docker-registry", &host.enter(&command), &log);
        process.until("listens", |output| {
            output.contains("listening on").then_some(())
        });
        Self { process, addr }
    }

    /// Returns everything it has written, requests among it.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Ends it, so that somebody else can write to the folder.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn stop(mut self) {
        self.process.stop();
    }
}
