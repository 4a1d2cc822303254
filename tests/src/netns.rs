//! Network namespaces: machines of their own as far as the network can tell.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::{attempt, command, run};

/// A switch in a namespace of its own, and hosts connected to it. Removed when dropped.
#[derive(Debug)]
pub struct Network {
    /// What all names start with.
    prefix: String,
    hosts: Vec<Host>,
}

/// A namespace with one interface.
#[derive(Clone, Debug)]
pub struct Host {
    pub netns: String,
    pub ip: IpAddr,
}

static NETWORKS: AtomicU32 = AtomicU32::new(0);

impl Network {
    /// Makes a switch and this many hosts, `10.87.0.1` and up, apart from every other network.
    ///
    /// # Panics
    /// Where namespaces cannot be made.
    #[must_use]
    pub fn new(hosts: u8) -> Self {
        let _ = crate::program("/usr/sbin/ip", "iproute2");
        require_root("a network namespace");
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("sh{}x{number}", std::process::id());
        let mut network = Self {
            prefix,
            hosts: Vec::new(),
        };
        let switch = network.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "sw0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "sw0", "up"]);
        for number in 1..=hosts {
            network.add(number, &switch);
        }
        network
    }

    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    fn switch(&self) -> String {
        format!("{}sw", self.prefix)
    }

    fn add(&mut self, number: u8, switch: &str) {
        let host = Host {
            netns: format!("{}h{number}", self.prefix),
            ip: Ipv4Addr::new(10, 87, 0, number).into(),
        };
        let netns = &host.netns;
        let port = format!("p{number}");
        ip(&["netns", "add", netns]);
        self.hosts.push(host.clone());
        ip(&[
            "-n", switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
            netns,
        ]);
        ip(&["-n", switch, "link", "set", &port, "master", "sw0", "up"]);
        ip(&[
            "-n",
            netns,
            "addr",
            "add",
            &format!("{}/24", host.ip),
            "dev",
            "eth0",
        ]);
        ip(&["-n", netns, "link", "set", "eth0", "up"]);
        ip(&["-n", netns, "link", "set", "lo", "up"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = attempt(&mut command(
                "/usr/sbin/ip",
                ["netns", "delete", &host.netns],
            ));
        }
        let _ = attempt(&mut command(
            "/usr/sbin/ip",
            ["netns", "delete", &self.switch()],
        ));
    }
}

impl Host {
    /// Returns the same command, to be run in the namespace.
    #[must_use]
    pub fn enter(&self, inner: &Command) -> Command {
        // As `ip netns exec`, which besides takes /sys away, and with it what containers need.
        let nsenter = crate::program("/usr/bin/nsenter", "util-linux");
        let mut outer = Command::new(nsenter);
        outer
            .arg(format!("--net=/run/netns/{}", self.netns))
            .arg("--")
            .arg(inner.get_program())
            .args(inner.get_args());
        for (key, value) in inner.get_envs() {
            if let Some(value) = value {
                outer.env(key, value);
            }
        }
        outer
    }

    /// Returns how many bytes the host's interface has sent, headers of every layer included.
    ///
    /// # Panics
    /// Where the interface is gone.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.counter("tx")
    }

    /// Returns how many bytes the host's interface has received.
    ///
    /// # Panics
    /// Where the interface is gone.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.counter("rx")
    }

    fn counter(&self, direction: &str) -> u64 {
        let text = run(&mut command(
            "/usr/sbin/ip",
            ["-n", &self.netns, "-s", "-j", "link", "show", "dev", "eth0"],
        ));
        let json: serde_json::Value = serde_json::from_str(&text).expect("ip prints JSON");
        let bytes = &json[0]["stats64"][direction]["bytes"];
        bytes
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {direction}: {text}"))
    }
}

fn ip(args: &[&str]) {
    run(&mut command("/usr/sbin/ip", args));
}

/// Fails a test that cannot run without root.
///
/// # Panics
/// Where this process is not root.
pub fn require_root(what: &str) {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let root = uid.is_some_and(|uid| uid.split_whitespace().nth(1) == Some("0"));
    assert!(
        root,
        "{what} needs root; run the tests as root: sudo -E make test"
    );
}
