//! Every kind of client on a machine of its own, with the settings that `docs/clients.md` shows.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::containerd::{self, Containerd};
use tests::dockerd::{self, Dockerd};
use tests::documents::block;
use tests::image::Image;
use tests::names::Names;
use tests::netns::Host;
use tests::podman::Podman;
use tests::process::{Process, run};
use tests::registry::Registry;
use tests::roles::{Cluster, Size};
use tests::{curl, folder, random, skopeo, wait};

const CLIENTS: &str = "docs/clients.md";
const MIB: usize = 1 << 20;
/// How images are called in the documents.
const BY_NAME: &str = "127.0.0.1:5000/team/app:v1";
const MIRRORED: &str = "docker.io/team/app:v1";

/// A cluster whose agents are mirrors at `127.0.0.1:5000` of machines of their own.
fn mirrors(agents: u8, change: impl FnOnce(&Cluster)) -> Cluster {
    let mut cluster = Cluster::new(Size {
        agents,
        apart: true,
        ..Size::default()
    });
    let settings: serde_json::Map<_, _> =
        serde_saphyr::from_str(&block(CLIENTS, "agent-mirror")).expect("the block is YAML");
    for number in 1..=agents {
        cluster.configure(&format!("agent-{number}"), |config| {
            config["registry_addr"] = "127.0.0.1:5000".into();
            for (key, value) in &settings {
                config[key] = value.clone();
            }
        });
    }
    change(&cluster);
    cluster.start_all();
    cluster
}

/// Returns the machine of an agent.
fn machine(cluster: &Cluster, agent: u8) -> &Host {
    cluster.part(&format!("agent-{agent}")).host()
}

/// What every client must have in the end.
struct Expected {
    manifest: String,
    config: String,
    /// As the registry has them.
    layers: Vec<String>,
    /// The ids of the unpacked layers, as docker and podman print them.
    diff_ids: String,
}

impl Expected {
    /// Returns what the agent of a machine serves, and docker says of it.
    fn of(host: &Host, docker: &Dockerd) -> Self {
        let accept = "Accept: application/vnd.docker.distribution.manifest.v2+json";
        let mut curl = curl::command();
        curl.args(["--fail", "--header", accept])
            .arg("http://127.0.0.1:5000/v2/team/app/manifests/v1");
        let text = run(&mut host.enter(&curl));
        let json: Value = serde_json::from_str(&text).expect("a manifest is JSON");
        let digest = |value: &Value| value["digest"].as_str().expect("a digest").to_owned();
        let layers = json["layers"].as_array().expect("a manifest has layers");
        let layers_format = "{{.RootFS.Layers}}";
        let inspect = ["image", "inspect", "--format", layers_format, BY_NAME];
        Self {
            manifest: oci::Digest::sha256(text.as_bytes()).to_string(),
            config: digest(&json["config"]),
            layers: layers.iter().map(digest).collect(),
            diff_ids: docker.docker(&inspect).trim().to_owned(),
        }
    }

    fn check_docker(&self, docker: &Dockerd, name: &str) {
        let format = "{{.Id}} {{.RootFS.Layers}}";
        let found = docker.docker(&["image", "inspect", "--format", format, name]);
        assert_eq!(found.trim(), format!("{} {}", self.config, self.diff_ids));
    }

    fn check_content(&self, content: &[String]) {
        let digests = self.layers.iter().chain([&self.manifest, &self.config]);
        for digest in digests {
            assert!(content.contains(digest), "{digest}: {content:?}");
        }
    }

    fn check_podman(&self, podman: &Podman<'_>, name: &str) {
        let format = "{{.Digest}} sha256:{{.Id}} {{.RootFS.Layers}}";
        let inspect = ["image", "inspect", "--format", format, name];
        let found = run(&mut podman.command(&inspect));
        let Self {
            manifest,
            config,
            diff_ids,
            ..
        } = self;
        assert_eq!(found.trim(), format!("{manifest} {config} {diff_ids}"));
    }

    /// Checks a folder that skopeo wrote.
    fn check_folder(&self, folder: &Path) {
        let blobs = self.layers.iter().chain([&self.config]);
        let mut files: Vec<_> = blobs.map(|digest| (digest, hex(digest))).collect();
        files.push((&self.manifest, "manifest.json"));
        for (digest, file) in files {
            let bytes = std::fs::read(folder.join(file)).expect("skopeo wrote it");
            assert_eq!(oci::Digest::sha256(&bytes).to_string(), *digest, "{file}");
        }
    }
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").expect("it is a sha256")
}

/// Runs a block of commands on a machine, in which `program` stands for a command.
fn run_block(host: &Host, folder: &Path, text: &str, program: &str, command: &Command) {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| format!("'{}'", word.to_str().expect("plain words")));
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).expect("the folder is ours");
    let script = format!(
        "#!/bin/sh\nexec {} \"$@\"\n",
        words.collect::<Vec<_>>().join(" ")
    );
    let path = bin.join(program);
    std::fs::write(&path, script).expect("the folder is ours");
    run(Command::new("/bin/chmod").arg("+x").arg(&path));
    let mut shell = Command::new("/bin/sh");
    shell.args(["-e", "-x", "-c", text]);
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(key, value);
        }
    }
    shell.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    run(host.enter(&shell).current_dir(folder));
}

/// Docker pushes one image; every client pulls it on its own machine, where nobody has it but the
/// agent.
#[test]
fn every_client_gets_the_same_image() {
    let cluster = mirrors(6, |_| {});
    let folder = folder();

    let host = machine(&cluster, 1);
    let docker = Dockerd::start_as(dockerd::Setup {
        host: Some(host),
        ..dockerd::Setup::default()
    });
    docker.build(
        BY_NAME,
        &[
            ("/small", b"a few bytes".to_vec()),
            ("/medium", random::bytes(1, 3 * MIB)),
            ("/large", random::bytes(2, 17 * MIB)),
        ],
    );
    let commands = block(CLIENTS, "docker-name");
    run_block(
        host,
        folder.path(),
        &commands,
        "docker",
        &docker.command(&[]),
    );
    let expected = Expected::of(host, &docker);
    expected.check_docker(&docker, BY_NAME);
    drop(docker);

    let docker = Dockerd::start_as(dockerd::Setup {
        host: Some(machine(&cluster, 2)),
        settings: Some(&block(CLIENTS, "docker-mirror")),
        ..dockerd::Setup::default()
    });
    docker.docker(&["pull", "team/app:v1"]);
    expected.check_docker(&docker, "team/app:v1");
    drop(docker);

    by_containerd(&cluster, &expected, folder.path());
    by_podman_and_skopeo(&cluster, &expected, folder.path());
}

fn by_containerd(cluster: &Cluster, expected: &Expected, folder: &Path) {
    let hosts = block(CLIENTS, "containerd-hosts");
    let host = machine(cluster, 3);
    let ctr = Containerd::start_as(containerd::Setup {
        host: Some(host),
        ..containerd::Setup::default()
    });
    ctr.configure_host("docker.io", &hosts);
    let certs = ctr.hosts();
    let certs = certs.to_str().expect("a plain name");
    let commands = block(CLIENTS, "containerd-pull").replace("/etc/containerd/certs.d", certs);
    let mut command = ctr.ctr(&[]);
    // The one snapshotter that needs nothing of the kernel.
    command.env("CONTAINERD_SNAPSHOTTER", "native");
    run_block(host, folder, &commands, "ctr", &command);
    expected.check_content(&ctr.content());
    drop(ctr);

    let kubernetes = Containerd::start_as(containerd::Setup {
        host: Some(machine(cluster, 4)),
        cri: Some(&block(CLIENTS, "containerd-cri")),
        ..containerd::Setup::default()
    });
    kubernetes.configure_host("docker.io", &hosts);
    kubernetes.pull_for_kubernetes(MIRRORED);
    expected.check_content(&kubernetes.content_for_kubernetes());
}

fn by_podman_and_skopeo(cluster: &Cluster, expected: &Expected, folder: &Path) {
    let registries = block(CLIENTS, "podman-registries");
    let host = machine(cluster, 5);
    let podman = Podman::new(host, None, &registries);
    let commands = block(CLIENTS, "podman-commands");
    run_block(host, folder, &commands, "podman", &podman.command(&[]));
    for name in [BY_NAME, MIRRORED] {
        expected.check_podman(&podman, name);
    }

    let mut skopeo = Command::new(tests::program("/usr/bin/skopeo", "skopeo"));
    skopeo.arg("--registries-conf").arg(podman.registries());
    let commands = block(CLIENTS, "skopeo-commands");
    run_block(machine(cluster, 6), folder, &commands, "skopeo", &skopeo);
    for name in ["app-by-mirror", "app-by-name"] {
        expected.check_folder(&folder.join(name));
    }
}

/// The registry that mirrors are mirrors of, on a machine of its own.
struct Upstream {
    names: Names,
    registry: Registry,
    _folder: tempfile::TempDir,
}

impl Upstream {
    /// Starts Docker Hub, as far as clients can tell, with these images as tags of `team/hub`.
    fn start(host: &Host, images: &[(&str, &Image)]) -> Self {
        let folder = folder();
        let storage = folder.path().join("storage");
        let filling = Registry::start(&storage, folder.path());
        for (tag, image) in images {
            let to = format!("docker://{}/team/hub:{tag}", filling.addr);
            skopeo::copy(&image.reference(), &to);
        }
        filling.stop();
        let names = Names::new(&["registry-1.docker.io"], host.ip);
        let registry = Registry::start_as(&names, host, &storage, folder.path());
        Self {
            names,
            registry,
            _folder: folder,
        }
    }
}

/// Where the agent has no such image, and where it does not run, clients go on to the registry
/// that it is the mirror of.
#[test]
fn clients_go_on_where_the_agent_cannot_help() {
    let mut cluster = mirrors(4, |_| {});
    let folder = folder();
    let images = ["one", "two"].map(|name| {
        let seed = name.len() as u64 + u64::from(name.as_bytes()[0]);
        Image::of_sizes(&folder.path().join(name), seed, &[70_000, 3 * MIB])
    });
    let host = cluster.part("tracker-1").host().clone();
    let upstream = Upstream::start(&host, &[("v1", &images[0]), ("v2", &images[1])]);
    let names = Some(&upstream.names);
    let machines = [1, 2, 3, 4].map(|agent| machine(&cluster, agent).clone());

    let settings = block(CLIENTS, "docker-mirror");
    let docker = Dockerd::start_as(dockerd::Setup {
        host: Some(&machines[0]),
        names,
        settings: Some(&settings),
        ..dockerd::Setup::default()
    });
    let hosts = block(CLIENTS, "containerd-hosts");
    let ctr = Containerd::start_as(containerd::Setup {
        host: Some(&machines[1]),
        names,
        ..containerd::Setup::default()
    });
    ctr.configure_host("docker.io", &hosts);
    let kubernetes = Containerd::start_as(containerd::Setup {
        host: Some(&machines[2]),
        names,
        cri: Some(&block(CLIENTS, "containerd-cri")),
    });
    kubernetes.configure_host("docker.io", &hosts);
    let podman = Podman::new(&machines[3], names, &block(CLIENTS, "podman-registries"));

    for (tag, image) in ["v1", "v2"].iter().zip(&images) {
        let name = format!("docker.io/team/hub:{tag}");
        docker.docker(&["pull", &name]);
        let id = ["image", "inspect", "--format", "{{.Id}}", &*name];
        assert_eq!(docker.docker(&id).trim(), image.config.to_string());
        run(&mut upstream.names.known_to(&ctr.pull_command(&name)));
        kubernetes.pull_for_kubernetes(&name);
        for content in [ctr.content(), kubernetes.content_for_kubernetes()] {
            for layer in &image.layers {
                assert!(content.contains(&layer.digest.to_string()), "{content:?}");
            }
        }
        run(&mut podman.command(&["pull", &name]));
        let digest = ["image", "inspect", "--format", "{{.Digest}}", &*name];
        let found = run(&mut podman.command(&digest));
        assert_eq!(found.trim(), image.manifest.to_string());
        if *tag == "v1" {
            // All of them had asked their agents first.
            for agent in 1..=4 {
                let part = cluster.part(&format!("agent-{agent}"));
                let asked = part.metric("registry_requests_total", &["404"]);
                assert!(asked > 0, "agent-{agent} was not asked");
            }
            for agent in 1..=4 {
                cluster.kill(&format!("agent-{agent}"));
            }
        }
    }
}

/// An agent that dies while it sends a layer costs containerd nothing: the rest comes from the
/// registry.
#[test]
fn containerd_goes_on_at_the_registry_in_the_middle_of_a_layer() {
    let mut cluster = mirrors(1, |cluster| {
        cluster.configure("origin-1", |config| {
            config["peer"]["upload_rate"] = "4MiB".into();
        });
    });
    let folder = folder();
    let image = Image::of_sizes(&folder.path().join("image"), 3, &[24 * MIB]);
    let upstream_host = cluster.part("tracker-1").host().clone();
    let upstream = Upstream::start(&upstream_host, &[("v1", &image)]);
    let host = machine(&cluster, 1).clone();
    let to = "docker://127.0.0.1:5000/team/hub:v1";
    run(&mut host.enter(&skopeo::command(&image.reference(), to)));

    let ctr = Containerd::start_as(containerd::Setup {
        host: Some(&host),
        names: Some(&upstream.names),
        ..containerd::Setup::default()
    });
    ctr.configure_host("docker.io", &block(CLIENTS, "containerd-hosts"));
    let pull = ctr.pull_command("docker.io/team/hub:v1");
    let pull = upstream.names.known_to(&pull);
    let mut pull = Process::start("ctr", &pull, &folder.path().join("ctr.log"));
    let agent = cluster.part("agent-1");
    wait::until_true("the agent sends the layer", || {
        agent.metric("registry_sent_bytes_total", &[]) > 2 * MIB as u64
    });
    cluster.kill("agent-1");
    let status = pull.wait();
    assert!(status.success(), "{status}: {}", pull.output());
    assert!(ctr.content().contains(&image.layers[0].digest.to_string()));
    let log = upstream.registry.log();
    let layer = image.layers[0].digest.to_string();
    let asked = log.lines().find(|line| line.contains(&layer));
    let asked = asked.unwrap_or_else(|| panic!("the registry was not asked: {log}"));
    // 206: the rest of it.
    assert!(asked.contains("206"), "{asked}");
}
