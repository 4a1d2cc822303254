//! Agents whose disk gets full, by what is not theirs: one request may fail, and that is all.

use std::time::{Duration, Instant};

use oci::Digest;
use tests::roles::{Cluster, Part, Size};
use tests::volume::{FileSystem, Volume};
use tests::{curl, process, push, random, wait};

const MIB: usize = 1 << 20;
const REPOSITORY: &str = "team/app";
/// How long a client may wait for the end of what cannot be ended well.
const BOUND: Duration = Duration::from_secs(60);
/// What files of a cache take besides the pieces, at most.
const OVERHEAD: u64 = 2 << 20;

/// A blob that was pushed.
struct Blob {
    digest: Digest,
    bytes: Vec<u8>,
}

impl Blob {
    fn push(cluster: &Cluster, seed: u64, length: usize) -> Self {
        let bytes = random::bytes(seed, length);
        let digest = push::blob(&cluster.proxy(), REPOSITORY, &bytes);
        Self { digest, bytes }
    }

    fn url(&self, agent: &Part) -> String {
        format!("{}/v2/{REPOSITORY}/blobs/{}", agent.url(), self.digest)
    }

    /// Pulls it whole.
    fn pull(&self, agent: &Part) {
        let answer = curl::get(&self.url(agent));
        assert_eq!(answer.status, 200, "{}\n{}", answer.head, answer.text());
        assert!(answer.body == self.bytes, "other bytes");
    }

    /// Pulls it, or is told within a bound that it cannot be had; returns whether it came whole.
    fn pull_or_fail(&self, agent: &Part) -> bool {
        let start = Instant::now();
        let (code, came, output) = curl::get_cut(&self.url(agent));
        let took = start.elapsed();
        eprintln!(
            "{} bytes of {} after {took:?}, {code}",
            came.len(),
            self.bytes.len()
        );
        assert!(took < BOUND, "{took:?}");
        let is_error = came.starts_with(b"{\"errors\"");
        assert!(
            is_error || self.bytes.starts_with(&came),
            "wrong bytes: {output}"
        );
        let is_whole = came == self.bytes;
        assert!(
            is_error || is_whole || code != 0,
            "it looks whole: {output}"
        );
        is_whole
    }
}

/// Returns the bytes of pieces that an agent has on its disk.
fn cached(agent: &Part) -> u64 {
    let status = curl::get(&format!("http://{}/status", agent.admin)).json();
    let bytes = status["cache"]["bytes"].as_u64();
    bytes.unwrap_or_else(|| panic!("no cache: {status}"))
}

fn a_full_disk(file_system: FileSystem) {
    let mut cluster = Cluster::new(Size::default());
    let folder = cluster.part("agent-1").folder.clone();
    let volume = Volume::new(file_system, &folder, 128 << 20);
    cluster.start_all();
    let agent = cluster.part("agent-1");
    let before = volume.used();
    let idle = Blob::push(&cluster, 1, 3 * MIB);
    let large = Blob::push(&cluster, 2, 40 * MIB);
    let small = Blob::push(&cluster, 3, 2 * MIB);
    idle.pull(agent);
    volume.fill(6 << 20);

    // It does not fit, and may come through memory all the same.
    let _ = large.pull_or_fail(agent);
    assert!(agent.metric("peer_pieces_not_stored_total", &[]) > 0);
    let log = agent.log();
    assert!(log.contains("no space is left"), "{log}");
    assert!(log.contains("lower the cache's capacity"), "{log}");
    // Another client goes on with what is missing, and gets the right bytes or none.
    let _ = large.pull_or_fail(agent);
    // Others are served, what was there before too.
    small.pull(agent);
    idle.pull(agent);
    large.pull(cluster.part("agent-2"));
    // Not even the name of a blob fits.
    volume.fill_up();
    let new = Blob::push(&cluster, 4, 5 * MIB);
    let _ = new.pull_or_fail(agent);
    process::run(curl::command().args(["--fail", &format!("http://{}/livez", agent.admin)]));

    // There is room again: the same pulls work, and leave all of it on the disk.
    volume.make_room();
    for blob in [&large, &new, &small, &idle] {
        blob.pull(agent);
    }
    let all = [&large, &new].map(|blob| blob.bytes.len() as u64);
    let all: u64 = all.iter().sum();
    wait::until_true("it is on the disk", || cached(agent) >= all);
    let received = agent.metric("peer_received_bytes_total", &[]);
    large.pull(agent);
    new.pull(agent);
    assert_eq!(agent.metric("peer_received_bytes_total", &[]), received);
    // Nothing is left of what failed.
    let (used, pieces) = (volume.used() - before, cached(agent));
    assert!(used <= pieces + OVERHEAD, "{used} bytes for {pieces}");
    // What it wrote is right, also for who begins anew.
    cluster.kill("agent-1");
    cluster.start_part("agent-1");
    let agent = cluster.part("agent-1");
    large.pull(agent);
    assert_eq!(agent.metric("peer_pieces_lost_total", &[]), 0);
}

#[test]
fn an_agent_in_memory_outlives_a_full_disk() {
    a_full_disk(FileSystem::Memory);
}

#[test]
fn an_agent_on_ext4_outlives_a_full_disk() {
    a_full_disk(FileSystem::Ext4);
}
