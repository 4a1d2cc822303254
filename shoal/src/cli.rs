//! Commands and flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use service::Role;

use crate::{bench, cert, check, key, output, pull, serve, sim, status, up};

/// Shoal distributes container images inside a cluster, machine to machine.
///
/// Every machine runs an agent, which is a Docker registry on 127.0.0.1. The agents exchange the
/// verified pieces of an image among themselves, so that about one copy leaves the storage however
/// many machines pull it.
///
/// To try it on this machine, run `shoal up` and do what it prints.
#[derive(Debug, Parser)]
#[command(
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Settings: every key of a role's configuration is also an environment variable, \
                  named SHOAL_ and the key in capitals, parts joined by two underscores.\n\
                  Logs go to standard error; RUST_LOG=debug shows more of them."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process, to try Shoal on this machine
    Up(Up),
    /// Run an agent: the registry on each host, exchanging pieces with the others
    Agent(Service),
    /// Run an origin: takes uploads, keeps them in the storage and seeds them
    Origin(Service),
    /// Run a tracker: tells agents of each other
    Tracker(Service),
    /// Run a build-index: manifests, tags and what belongs to a repository
    BuildIndex(Service),
    /// Run a proxy: the registry that takes pushes
    Proxy(Service),
    /// Pull an image through an agent into an OCI image layout
    Pull(Pull),
    /// Show what a running role reports of itself
    Status(Status),
    /// Ask a running role whether it is ready; the exit code tells
    Healthcheck(Healthcheck),
    /// Check a configuration file without running anything
    CheckConfig(CheckConfig),
    /// Make the cluster key, which signs what blobs must hash to
    #[command(subcommand)]
    Key(Key),
    /// Make certificates, by which the parts of a cluster know each other
    #[command(subcommand)]
    Cert(Cert),
    /// Simulate a cluster: many machines in one thread, repeatable to the last event
    #[command(subcommand)]
    Sim(Sim),
    /// Measure a cluster of processes on this machine
    #[command(subcommand)]
    Bench(Bench),
    /// Print the version
    Version,
}

/// Flags of `shoal up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Folder for everything: backend/ is the storage, agent-1/, … are caches that may be lost
    #[arg(
        long,
        value_name = "DIR",
        default_value = "./data",
        env = "SHOAL_UP_DATA"
    )]
    pub(crate) data: PathBuf,
    /// Address of the first agent's registry
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    pub(crate) agent_addr: SocketAddr,
    /// Number of agents; those after the first listen on free ports
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) agents: u16,
    /// Number of origins, which share the blobs among themselves
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) origins: u16,
    /// Address of the proxy, which takes pushes
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5001")]
    pub(crate) proxy_addr: SocketAddr,
    /// Address of the status page
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5080")]
    pub(crate) admin_addr: SocketAddr,
}

/// Flags of a role.
#[derive(Debug, Args)]
pub(crate) struct Service {
    /// Configuration file in YAML; without one, defaults and SHOAL_… variables are used
    #[arg(long, value_name = "FILE", env = "SHOAL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Print the configuration as it would be used, and exit
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// Flags of `shoal pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Image, such as team/app:v1, 127.0.0.1:5000/team/app:v1 or team/app@sha256:…
    pub(crate) image: String,
    /// Folder of the OCI image layout; it is made where missing, and may hold other images
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Agent or other registry to pull through, where IMAGE does not name one
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:5000",
        env = "SHOAL_AGENT"
    )]
    pub(crate) agent: String,
    /// Of an image for several platforms take this one only, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
}

/// Flags of `shoal status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Admin address of the role, or of `shoal up`
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:5080")]
    pub(crate) admin: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `shoal healthcheck`.
#[derive(Debug, Args)]
pub(crate) struct Healthcheck {
    /// Admin address of the role, or of `shoal up`
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:5080")]
    pub(crate) admin: String,
}

/// Flags of `shoal check-config`.
#[derive(Debug, Args)]
pub(crate) struct CheckConfig {
    /// The role that the file is for
    #[arg(value_parser = role())]
    pub(crate) role: Role,
    /// The file
    pub(crate) file: PathBuf,
}

/// What to do with the cluster key.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key: the secret half for the origins, the public half for agents and trackers
    New(KeyNew),
}

/// Flags of `shoal key new`.
#[derive(Debug, Args)]
pub(crate) struct KeyNew {
    /// File of the secret half, which only its owner may read: cluster_key_file of origins
    #[arg(long, value_name = "FILE", default_value = "./data/cluster.key")]
    pub(crate) secret: PathBuf,
    /// File of the public half: cluster_public_key_file of agents and trackers
    #[arg(long, value_name = "FILE", default_value = "./data/cluster.pub")]
    pub(crate) public: PathBuf,
    /// Keep a key that is there; several that start at once make one
    #[arg(long)]
    pub(crate) if_missing: bool,
}

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum Cert {
    /// Make certificates of roles, and an authority for them where the folder has none yet
    New(CertNew),
}

/// Flags of `shoal cert new`.
#[derive(Debug, Args)]
pub(crate) struct CertNew {
    /// Folder for ca.pem, ca.key and for each role ROLE.pem and ROLE.key
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Roles that get a certificate each; all of them where none is named
    #[arg(long, value_name = "ROLE", value_parser = role())]
    pub(crate) role: Vec<Role>,
    /// How long the certificates are valid; the authority is for ten years
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
    /// Make certificates that are there anew, for the same keys; running processes take them
    #[arg(long)]
    pub(crate) renew: bool,
}

/// What to do with the simulator.
#[derive(Debug, Subcommand)]
pub(crate) enum Sim {
    /// List the scenarios
    List,
    /// Run scenarios and report; fails where one is not as expected
    Run {
        /// Names of scenarios; none means all
        scenarios: Vec<String>,
        /// Seed of all randomness
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print the reports as JSON, one a line
        #[arg(long)]
        json: bool,
    },
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Many agents are asked for the same blobs at once
    Swarm(BenchSwarm),
    /// One large blob is pushed through the proxy
    Push {
        /// Length of the blob
        #[arg(long, default_value = "1GiB")]
        size: ByteSize,
        #[arg(long, value_name = "N", default_value_t = 1)]
        origins: u16,
        #[command(flatten)]
        place: BenchPlace,
    },
    /// Many small blobs, which the origin has not looked at since it started
    Small {
        #[arg(long, value_name = "N", default_value_t = 64)]
        blobs: u16,
        /// Length of each blob
        #[arg(long, default_value = "64KiB")]
        size: ByteSize,
        /// Agents that are asked at once
        #[arg(long, value_name = "N", default_value_t = 8)]
        agents: u16,
        #[command(flatten)]
        place: BenchPlace,
    },
    /// Memory of roles that nobody uses
    Idle {
        #[command(flatten)]
        place: BenchPlace,
    },
    /// Everything, as a page for people; takes minutes
    All {
        /// A store to start for the runs over S3, with the flags of the tests' own
        #[arg(long, value_name = "PROGRAM")]
        s3_server: PathBuf,
        /// Folder in which the folders of the roles are made, and removed at the end
        #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
        folder: PathBuf,
        /// What the binary was built from
        #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
        commit: String,
    },
}

/// Flags of `shoal bench swarm`.
#[derive(Debug, Args)]
pub(crate) struct BenchSwarm {
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) agents: u16,
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) origins: u16,
    /// Blobs, which each agent is asked for one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) blobs: u16,
    /// Length of each blob
    #[arg(long, default_value = "1GiB")]
    pub(crate) size: ByteSize,
    /// Most bytes a second that each agent and origin sends to peers
    #[arg(long, value_name = "BYTES_PER_S")]
    pub(crate) rate: Option<ByteSize>,
    /// Start the origins again before the pull, with nothing but what storage has
    #[arg(long)]
    pub(crate) cold: bool,
    /// Kill the only tracker once agents have a quarter of the bytes
    #[arg(long)]
    pub(crate) kill_tracker: bool,
    #[command(flatten)]
    pub(crate) place: BenchPlace,
}

/// Where a cluster is made to be measured, and how figures are printed.
#[derive(Debug, Args)]
pub(crate) struct BenchPlace {
    /// Storage; the keys of a bucket are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long, value_enum, default_value_t = BenchBackend::Fs)]
    pub(crate) backend: BenchBackend,
    /// Endpoint of an S3-compatible store
    #[arg(long, value_name = "URL", requires = "s3_bucket")]
    pub(crate) s3_endpoint: Option<String>,
    /// A bucket that is there
    #[arg(long, value_name = "NAME", requires = "s3_endpoint")]
    pub(crate) s3_bucket: Option<String>,
    /// Instead of an endpoint: a store to start for the run, with the flags of the tests' own
    #[arg(long, value_name = "PROGRAM", conflicts_with = "s3_endpoint")]
    pub(crate) s3_server: Option<PathBuf>,
    /// Folder in which the folders of the roles are made, and removed at the end
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    pub(crate) folder: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What blobs are kept in while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchBackend {
    Fs,
    S3,
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong and what to do about it, for people.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Up(flags) => serve::block_on(up::run(flags))?,
            Command::Agent(flags) => serve::run(Role::Agent, &flags)?,
            Command::Origin(flags) => serve::run(Role::Origin, &flags)?,
            Command::Tracker(flags) => serve::run(Role::Tracker, &flags)?,
            Command::BuildIndex(flags) => serve::run(Role::BuildIndex, &flags)?,
            Command::Proxy(flags) => serve::run(Role::Proxy, &flags)?,
            Command::Pull(flags) => serve::block_on(pull::run(flags))?,
            Command::Status(flags) => serve::block_on(status::show(flags))?,
            Command::Healthcheck(flags) => serve::block_on(status::healthcheck(&flags))?,
            Command::CheckConfig(flags) => check::run(&flags)?,
            Command::Key(Key::New(flags)) => key::new(&flags)?,
            Command::Cert(Cert::New(flags)) => cert::new(&flags)?,
            Command::Sim(what) => return sim::run(what),
            Command::Bench(what) => serve::block_on(bench::run(what))?,
            Command::Version => output::line(format_args!("shoal {}", env!("CARGO_PKG_VERSION")))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns what reads a role, and lets help and errors list all of them.
fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::as_str)).try_map(|text| text.parse::<Role>())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_role() {
        let help = Cli::command().render_long_help().to_string();
        for role in Role::ALL {
            assert!(help.contains(role.as_str()), "{help}");
            let args = ["shoal", "check-config", role.as_str(), "FILE"];
            let Command::CheckConfig(flags) = Cli::parse_from(args).command else {
                panic!("{role} is not checked");
            };
            assert_eq!(flags.role, role);
        }
    }
}
