//! `docker-compose.yml`: what README says, other stores, and roles that die.

use std::path::Path;
use std::process::Command;

use tests::compose::{Compose, SERVICES};
use tests::image::{Image, blobs_of};
use tests::process::{Process, attempt, both, run};
use tests::{folder, random, skopeo, wait};

const MIB: usize = 1 << 20;
const SECRET: &str = "a-secret-nobody-prints";
/// Where the file publishes the registries of agents.
const AGENTS: [&str; 3] = ["127.0.0.1:5000", "127.0.0.1:5010", "127.0.0.1:5020"];

/// Sets the store that the services use, and what the server of the project is.
fn set_store(compose: &mut Compose, bucket: &str, key: &str, flags: &str) {
    compose.set("SHOAL_S3_BUCKET", bucket);
    compose.set("AWS_ACCESS_KEY_ID", key);
    compose.set("AWS_SECRET_ACCESS_KEY", SECRET);
    compose.set("SHOAL_S3_COMMAND", &s3_command(bucket, key, flags));
}

fn s3_command(bucket: &str, key: &str, flags: &str) -> String {
    format!(
        "--addr 0.0.0.0:9000 --folder /data --bucket {bucket} --access-key-id {key} \
         --secret-access-key {SECRET} {flags}"
    )
}

/// Pushes by docker through one agent, pulls through another, and looks at what came.
fn there_and_back(compose: &Compose, tag: &str, seed: u64) {
    let docker = &compose.docker;
    let bytes = random::bytes(seed, 9 * MIB);
    let pushed = format!("{}/team/app:{tag}", AGENTS[0]);
    docker.build(
        &pushed,
        &[("/small", vec![7; 100]), ("/large", bytes.clone())],
    );
    docker.docker(&["push", &pushed]);
    docker.docker(&["rmi", &pushed]);
    for agent in &AGENTS[1..] {
        let pulled = format!("{agent}/team/app:{tag}");
        docker.docker(&["pull", &pulled]);
        let sum = docker.run(&pulled, &["/bin/busybox", "sha256sum", "/large"]);
        let expected = oci::Digest::sha256(&bytes).hex();
        assert_eq!(sum.split(' ').next(), Some(&*expected), "{agent}");
        docker.docker(&["rmi", &pulled]);
    }
}

#[test]
fn what_readme_says_works_and_the_store_is_swapped_by_the_environment() {
    let mut compose = Compose::new();
    set_store(&mut compose, "shoal", "first", "");
    compose.up();
    there_and_back(&compose, "v1", 1);

    // Somebody else's store, which this project does not start.
    let run_s3 = [
        "run",
        "-d",
        "--name",
        "elsewhere",
        "--network",
        "shoal_default",
        "shoal.test/s3:latest",
    ];
    let command = s3_command("other-bucket", "second", "");
    let words: Vec<_> = command.split_whitespace().collect();
    compose.docker.docker(&[&run_s3[..], &words].concat());
    set_store(&mut compose, "other-bucket", "second", "");
    compose.set("SHOAL_S3_ENDPOINT", "http://elsewhere:9000");
    compose.up();
    let gone = format!("{}/team/app:v1", AGENTS[0]);
    let gone = attempt(&mut compose.docker.command(&["pull", &gone]));
    assert!(!gone.status.success(), "the store is still the first one");
    there_and_back(&compose, "v2", 2);
    compose.docker.docker(&["rm", "--force", "elsewhere"]);
}

/// An image to push, and what was told about it.
struct Push {
    image: Image,
    name: String,
}

impl Push {
    fn new(folder: &Path, number: u64) -> Self {
        let sizes = [MIB, 16 * MIB, 16 * MIB];
        let image = Image::of_sizes(&folder.join(format!("image-{number}")), number * 10, &sizes);
        Self {
            image,
            name: format!("team/app:v{number}"),
        }
    }

    fn push(&self, registry: &str) -> Command {
        let to = format!("docker://{registry}/{}", self.name);
        skopeo::command(&self.image.reference(), &to)
    }

    fn pull(&self, registry: &str, to: &Path) -> Command {
        let from = format!("docker://{registry}/{}", self.name);
        skopeo::command(&from, &format!("oci:{}:latest", to.display()))
    }

    /// Pulls through an agent and compares every blob.
    fn check(&self, compose: &Compose, registry: &str) {
        let folder = folder();
        let to = folder.path().join("pulled");
        let pulled = again(compose, &self.pull(registry, &to));
        assert_eq!(blobs_of(&self.image.folder), blobs_of(&to), "{pulled}");
    }
}

/// Runs what a user would run again when it fails, until it succeeds.
fn again(compose: &Compose, command: &Command) -> String {
    let mut said = String::new();
    for _ in 0..10 {
        let output = attempt(&mut compose.enter(command));
        if output.status.success() {
            return said;
        }
        said = both(&output);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    panic!("it fails again and again: {said}");
}

/// Each role dies while one image is pushed and another pulled. Who is told that a push succeeded
/// finds it, whatever dies afterwards.
#[test]
fn any_role_may_die() {
    let mut compose = Compose::new();
    // A store on which tags need one writer, and TLS between all parts.
    set_store(&mut compose, "shoal", "first", "--racy");
    compose.set("SHOAL_TAG_WRITER", "build-index-1");
    compose.set("COMPOSE_FILE", "docker-compose.yml:docker-compose.tls.yml");
    compose.up();
    let folder = folder();
    let mut pushed = Push::new(folder.path(), 0);
    again(&compose, &pushed.push(AGENTS[0]));
    let mut acknowledged = Vec::new();
    let mut interrupted = 0;

    let roles = [
        "origin-1",
        "tracker-1",
        "build-index-1",
        "proxy-1",
        "agent-1",
    ];
    for (role, number) in roles.iter().zip(1..) {
        let next = Push::new(folder.path(), number);
        let to = folder.path().join(format!("pulled-{number}"));
        let victim = compose.aim(role);
        let log = |what: &str| folder.path().join(format!("{what}-{number}.log"));
        let begun = |output: &str| output.contains("Copying blob").then_some(());
        let push = compose.enter(&next.push(AGENTS[0]));
        let mut push = Process::start("push", &push, &log("push"));
        push.until("sends a blob", begun);
        // Through the agent that dies, where it is an agent; else through one that has nothing yet.
        let registry = if *role == "agent-1" {
            AGENTS[0]
        } else {
            AGENTS[1]
        };
        let pull = compose.enter(&pushed.pull(registry, &to));
        let mut pull = Process::start("pull", &pull, &log("pull"));
        pull.until("gets a blob", begun);
        let during = push.ended().is_none() || pull.ended().is_none();
        victim.kill();
        interrupted += u32::from(during);
        let what = format!("{role} died, and clients end");
        let push_ended = wait::until(&what, || push.ended());
        let pull_ended = wait::until(&what, || pull.ended());
        eprintln!("{role} died: push {push_ended}, pull {pull_ended}");
        if push_ended.success() {
            next.check(&compose, AGENTS[1]);
        } else {
            again(&compose, &next.push(AGENTS[0]));
        }
        if pull_ended.success() {
            assert_eq!(blobs_of(&pushed.image.folder), blobs_of(&to), "{role}");
        }
        pushed.check(&compose, registry);
        compose.until_healthy(role);
        acknowledged.push(std::mem::replace(&mut pushed, next));
    }
    acknowledged.push(pushed);
    assert!(interrupted > 0, "everything was over before anybody died");

    // Nothing is left in anybody's memory, and the agent that is asked has seen none of it.
    for victim in SERVICES.map(|service| compose.aim(service)) {
        victim.kill();
    }
    for service in SERVICES {
        compose.until_healthy(service);
    }
    for push in &acknowledged {
        push.check(&compose, AGENTS[2]);
    }
}

/// Both tools that users may have read the file; the newer one where it is installed.
#[test]
fn the_file_is_read_by_both_tools() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker-compose.yml");
    let old = tests::program("/usr/bin/docker-compose", "docker-compose");
    let mut read = Command::new(old);
    let services = run(read.args(["--file", file, "config", "--services"]));
    for service in SERVICES {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
    let docker = tests::program("/usr/bin/docker", "docker.io");
    let new = attempt(Command::new(&docker).args(["compose", "version"]));
    if !new.status.success() {
        eprintln!("Compose v2 is not installed: not tried");
        return;
    }
    let again =
        run(Command::new(&docker).args(["compose", "--file", file, "config", "--services"]));
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&again), sorted(&services));
}
