//! `shoal pull`, and the other commands that ask a running cluster.

use tests::image::{Image, blobs_of};
use tests::process::{attempt, both, run};
use tests::shoal::{Up, command};
use tests::{curl, folder, push, skopeo};

#[test]
fn an_image_becomes_a_layout() {
    let up = Up::start();
    let folder = folder();
    let image = Image::of_sizes(
        &folder.path().join("pushed"),
        1,
        &[10, 4_000_000, 12_000_000],
    );
    skopeo::copy(
        &image.reference(),
        &format!("docker://{}/team/app:v1", up.proxy),
    );
    let output = folder.path().join("pulled");
    let name = format!("{}/team/app:v1", up.agents[1]);
    let args = [
        "pull",
        &name,
        "--output",
        output.to_str().expect("a plain name"),
    ];
    let text = run(&mut command(&args));
    for layer in &image.layers {
        assert!(
            text.contains(&layer.digest.short()),
            "a line for each layer: {text}"
        );
    }
    assert_eq!(blobs_of(&image.folder), blobs_of(&output));

    // Skopeo reads it, so others can.
    let again = folder.path().join("again");
    skopeo::copy(
        &format!("oci:{}:v1", output.display()),
        &format!("oci:{}:latest", again.display()),
    );
    assert_eq!(blobs_of(&image.folder), blobs_of(&again));

    // What is there and right is not fetched again; what is there and wrong is.
    let path = output
        .join("blobs/sha256")
        .join(image.layers[2].digest.hex());
    std::fs::write(&path, &image.layers[2].bytes[..5_000_000]).expect("the folder is ours");
    let path = output
        .join("blobs/sha256")
        .join(image.layers[1].digest.hex());
    let mut wrong = image.layers[1].bytes.clone();
    wrong[1_000_000] ^= 1;
    std::fs::write(&path, wrong).expect("the folder is ours");
    run(&mut command(&args));
    assert_eq!(blobs_of(&image.folder), blobs_of(&output));
}

#[test]
fn by_digest_and_by_default_agent() {
    let up = Up::start();
    let pushed = push::image(&up.proxy(), "team/app", "v1", &[b"layer".to_vec()]);
    let folder = folder();
    let output = folder.path().join("pulled");
    let name = format!("team/app@{}", pushed.manifest);
    let agent = up.agents[0].to_string();
    let output_arg = output.to_str().expect("a plain name");
    run(&mut command(&[
        "pull", &name, "--agent", &agent, "--output", output_arg,
    ]));
    assert_eq!(blobs_of(&output).len(), 3);
}

#[test]
fn what_cannot_be_pulled_is_one_line() {
    let up = Up::start();
    let missing = format!("{}/team/missing:v1", up.agents[0]);
    let nobody = format!("{}/team/app:v1", tests::shoal::free_addr());
    for (image, words) in [
        (&*missing, "team/missing"),
        (&*nobody, "agent"),
        ("UPPER CASE", "UPPER"),
    ] {
        let folder = folder();
        let output =
            attempt(command(&["pull", image, "--output", "out"]).current_dir(folder.path()));
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(text.trim().lines().count(), 1, "{text}");
        assert!(text.contains(words), "{text}");
        assert!(!folder.path().join("out/index.json").exists());
    }
}

#[test]
fn status_and_health() {
    let up = Up::start();
    let _ = push::image(&up.proxy(), "team/app", "v1", &[vec![1; 100_000]]);
    assert_eq!(
        curl::get(&format!("{}/v2/team/app/manifests/v1", up.agent(0))).status,
        200
    );
    let admin = up.admin.to_string();
    assert_eq!(run(&mut command(&["healthcheck", &admin])).trim(), "ready");
    let text = run(&mut command(&["status", &admin]));
    let json: serde_json::Value =
        serde_json::from_str(&run(&mut command(&["status", &admin, "--json"]))).expect("JSON");
    for part in [
        "agent-1",
        "agent-2",
        "origin-1",
        "tracker-1",
        "build-index-1",
        "proxy-1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
        assert!(json["parts"][part].is_object(), "{part}: {json}");
    }
    let page = curl::get(&format!("http://{admin}/"));
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
    );
    assert!(page.text().contains("agent-1"));
    assert!(!page.text().contains("src=\"http") && !page.text().contains("href=\"http"));
    let twin = curl::get(&format!("http://{admin}/status.json"));
    assert!(twin.json()["parts"]["agent-1"].is_object());

    let nobody = tests::shoal::free_addr().to_string();
    for command_name in ["healthcheck", "status"] {
        let output = attempt(&mut command(&[command_name, &nobody]));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(both(&output).trim().lines().count(), 1, "{}", both(&output));
    }
}
