//! `shoal bench`: figures of a cluster of processes on this machine.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bench::{Place, SmallPlan, Storage, Suite, SwarmPlan};
use serde::Serialize;

use crate::cli::{Bench, BenchBackend, BenchPlace, BenchSwarm};
use crate::output;

/// Measures, and prints what came of it.
///
/// # Errors
/// A part that does not start or ends, a pull or push that fails.
pub(crate) async fn run(what: Bench) -> anyhow::Result<()> {
    match what {
        Bench::Swarm(flags) => {
            let report = bench::swarm(&place(&flags.place)?, &plan(&flags)).await?;
            print(&report, flags.place.json)
        }
        Bench::Push {
            size,
            origins,
            place: flags,
        } => {
            let report = bench::push(&place(&flags)?, origins, size.as_u64()).await?;
            print(&report, flags.json)
        }
        Bench::Small {
            blobs,
            size,
            agents,
            place: flags,
        } => {
            let plan = SmallPlan {
                blobs,
                size: size.as_u64(),
                agents,
            };
            print(&bench::small(&place(&flags)?, &plan).await?, flags.json)
        }
        Bench::All {
            s3_server,
            folder,
            commit,
        } => {
            let store = Storage::Server(s3_server);
            let suite = Suite::run(binary()?, folder, store, commit, announce).await?;
            output::line(bench::document(&suite).trim_end())
        }
        Bench::Idle { place: flags } => print(&bench::idle(&place(&flags)?).await?, flags.json),
    }
}

fn plan(flags: &BenchSwarm) -> SwarmPlan {
    SwarmPlan {
        agents: flags.agents,
        origins: flags.origins,
        blobs: flags.blobs,
        size: flags.size.as_u64(),
        rate: flags.rate.map(|rate| rate.as_u64()),
        cold: flags.cold,
        kill_tracker: flags.kill_tracker,
    }
}

fn place(flags: &BenchPlace) -> anyhow::Result<Place> {
    let bucket = flags.s3_endpoint.clone().zip(flags.s3_bucket.clone());
    let storage = match (flags.backend, bucket, &flags.s3_server) {
        (BenchBackend::Fs, ..) => Storage::Folder,
        (BenchBackend::S3, _, Some(program)) => Storage::Server(program.clone()),
        (BenchBackend::S3, Some((endpoint, bucket)), None) => Storage::Bucket { endpoint, bucket },
        (BenchBackend::S3, None, None) => {
            bail!("--backend s3 needs --s3-endpoint and --s3-bucket, or --s3-server");
        }
    };
    Ok(Place {
        binary: binary()?,
        folder: flags.folder.clone(),
        storage,
    })
}

fn binary() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("the binary cannot find itself")
}

fn announce(what: &'static str) {
    // Nobody is left to be told where this fails.
    let _ = writeln!(std::io::stderr().lock(), "measuring: {what}");
}

/// Prints a report: for programs in one line, for people with one key a line.
fn print(report: &impl Serialize, json: bool) -> anyhow::Result<()> {
    output::line(if json {
        serde_json::to_string(report)?
    } else {
        serde_json::to_string_pretty(report)?
    })
}
