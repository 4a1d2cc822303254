//! Docker's daemon as the client.

use tests::dockerd::Dockerd;
use tests::random;
use tests::shoal::Up;

const MIB: usize = 1 << 20;

/// Layers from a few bytes to many pieces.
fn files() -> [(&'static str, Vec<u8>); 4] {
    [
        ("/small", b"a few bytes".to_vec()),
        ("/zeros", vec![0; 3 * MIB]),
        ("/medium", random::bytes(1, 5 * MIB)),
        ("/large", random::bytes(2, 24 * MIB)),
    ]
}

/// Checks in a container that every layer is there with its bytes.
fn check(docker: &Dockerd, image: &str) {
    for (path, bytes) in files() {
        let expected = oci::Digest::sha256(&bytes).hex();
        let sum = docker.run(image, &["/bin/busybox", "sha256sum", path]);
        assert_eq!(sum.split(' ').next(), Some(&*expected), "{path}");
    }
}

#[test]
fn pushed_through_an_agent_pulled_through_another_and_run() {
    let up = Up::start();
    let pusher = Dockerd::start();
    let pushed = format!("{}/team/app:v1", up.agents[0]);
    pusher.build(&pushed, &files());
    pusher.docker(&["push", &pushed]);

    let puller = Dockerd::start();
    let pulled = format!("{}/team/app:v1", up.agents[1]);
    puller.docker(&["pull", &pulled]);
    check(&puller, &pulled);
    let id = ["inspect", "--format", "{{.Id}}"];
    assert_eq!(
        pusher.docker(&[id[0], id[1], id[2], &pushed]),
        puller.docker(&[id[0], id[1], id[2], &pulled]),
    );
}

#[test]
fn pushed_through_the_proxy_and_moved() {
    let up = Up::start();
    let docker = Dockerd::start();
    let pushed = format!("{}/team/app:v1", up.proxy);
    docker.build(&pushed, &files());
    docker.docker(&["push", &pushed]);
    // The same layers in another repository are mounted, not sent.
    let other = format!("{}/team/other:v1", up.proxy);
    docker.docker(&["tag", &pushed, &other]);
    let output = docker.docker(&["push", &other]);
    assert!(output.contains("Mounted from team/app"), "{output}");

    let pulled = format!("{}/team/other:v1", up.agents[1]);
    docker.docker(&["rmi", &pushed, &other]);
    docker.docker(&["pull", &pulled]);
    check(&docker, &pulled);

    // A tag that moves is seen at once, by every agent.
    let moved = format!("{}/team/other:v1", up.proxy);
    docker.build(&moved, &[("/moved", b"v2".to_vec())]);
    docker.docker(&["push", &moved]);
    for agent in &up.agents {
        let image = format!("{agent}/team/other:v1");
        docker.docker(&["pull", &image]);
        assert_eq!(docker.run(&image, &["/bin/busybox", "cat", "/moved"]), "v2");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let up = Up::start();
    let docker = Dockerd::start();
    let image = format!("{}/team/missing:v1", up.agents[0]);
    let output = tests::process::attempt(&mut docker.command(&["pull", &image]));
    assert!(!output.status.success());
    let text = tests::process::both(&output);
    assert!(
        text.contains("not found") || text.contains("manifest unknown"),
        "{text}"
    );
}
