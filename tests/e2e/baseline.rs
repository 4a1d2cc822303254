use tests::{
    curl, dockerd::Dockerd, folder, image, netns::Network, process::*, registry::Registry, skopeo,
};

#[test]
fn base() {
    let f = folder();
    let storage = f.path().join("s");
    std::fs::create_dir(&storage).unwrap();
    let registry = Registry::start(&storage, f.path());
    let d = Dockerd::start();
    let name = format!("{}/t/a:1", registry.addr);
    d.build(
        &name,
        &[
            ("/one", tests::random::bytes(1, 100)),
            ("/two", vec![5; 100_000]),
        ],
    );
    d.docker(&["push", &name]);
    d.docker(&["rmi", &name]);
    d.docker(&["pull", &name]);
    assert_eq!(
        d.run(&name, &["busybox", "wc", "-c", "/two"]).trim(),
        "100000 /two"
    );
    let i = image::Image::of_sizes(&f.path().join("i"), 1, &[1000, 5000]);
    skopeo::copy(&i.reference(), &format!("docker://{}/t/b:2", registry.addr));
    skopeo::copy(
        &format!("docker://{}/t/b:2", registry.addr),
        &format!("oci:{}/o:latest", f.path().display()),
    );
    image::blobs_of(&f.path().join("o"));
    let a = curl::get(&format!("http://{}/v2/t/b/manifests/3", registry.addr));
    assert_eq!((a.status, a.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    assert!(a.header("content-type").is_some());
    let n = Network::new(2);
    run(&mut n.hosts()[0].enter(&command(
        "/usr/bin/busybox",
        ["ping", "-c", "1", "10.87.0.2"],
    )));
    assert!(n.hosts()[1].received_bytes() > 50);
    registry.stop();
}
