//! What a person who makes a mistake is told: one line that says what to do, and an exit code.

use std::net::TcpListener;

use tests::folder;
use tests::process::{attempt, both, run};
use tests::shoal::command;

/// Runs a command that must fail at once, and returns the one line it wrote.
fn complaint(args: &[&str], env: &[(&str, &str)]) -> String {
    let mut command = command(args);
    command.envs(env.iter().copied()).env("RUST_LOG", "off");
    let output = attempt(&mut command);
    let text = both(&output);
    assert!(!output.status.success(), "{args:?} did not fail:\n{text}");
    assert_eq!(text.trim().lines().count(), 1, "{args:?}:\n{text}");
    text
}

#[test]
fn a_port_in_use() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = listener.local_addr().expect("it is bound").to_string();
    let folder = folder();
    let data = folder.path().join("data");
    let data = data.to_str().expect("a plain name");
    for flag in ["--agent-addr", "--proxy-addr", "--admin-addr"] {
        let mut args = vec!["up", "--data", data];
        for other in ["--agent-addr", "--proxy-addr", "--admin-addr"] {
            args.extend([
                other,
                if other == flag {
                    &*taken
                } else {
                    "127.0.0.1:0"
                },
            ]);
        }
        let text = complaint(&args, &[]);
        assert!(text.contains(&taken) && text.contains("in use"), "{text}");
        assert!(text.contains(flag), "it names the flag to change: {text}");
    }
}

#[test]
fn a_folder_that_cannot_be_written() {
    let folder = folder();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "").expect("the folder is ours");
    // Root may write everywhere but below a file.
    let data = file.join("data");
    let data = data.to_str().expect("a plain name");
    let text = complaint(&["up", "--data", data], &[]);
    assert!(text.contains(data) && text.contains("--data"), "{text}");
}

#[test]
fn a_folder_that_somebody_else_uses() {
    let up = tests::shoal::Up::start();
    let data = up.data();
    let data = data.to_str().expect("a plain name");
    let any = "127.0.0.1:0";
    let args = [
        "--agent-addr",
        any,
        "--proxy-addr",
        any,
        "--admin-addr",
        any,
    ];
    let text = complaint(&[&["up", "--data", data][..], &args].concat(), &[]);
    assert!(text.contains(data), "{text}");
}

#[test]
fn keys_that_are_not_known() {
    let folder = folder();
    let config = folder.path().join("config.yaml");
    let path = config.to_str().expect("a plain name");
    for role in ["agent", "origin", "tracker", "build-index", "proxy"] {
        std::fs::write(&config, "admin_adr: 127.0.0.1:0\n").expect("the folder is ours");
        for args in [
            vec![role, "--config", path],
            vec!["check-config", role, path],
        ] {
            let text = complaint(&args, &[]);
            assert!(text.contains("admin_adr"), "it names the key: {text}");
            assert!(
                text.contains("admin_addr"),
                "it names the nearest key: {text}"
            );
        }
        std::fs::write(&config, ": :\n  - [\n").expect("the folder is ours");
        assert!(complaint(&[role, "--config", path], &[]).contains(path));
        assert!(complaint(&[role, "--config", "/no/such/file"], &[]).contains("/no/such/file"));
        let env = [("SHOAL_ADMIN_ADR", "127.0.0.1:0")];
        let text = complaint(&[role, "--print-config"], &env);
        assert!(text.contains("SHOAL_ADMIN_ADR"), "{text}");
    }
}

#[test]
fn settings_come_from_the_environment_too() {
    for role in ["agent", "origin", "tracker", "build-index", "proxy"] {
        let mut print = command(&[role, "--print-config"]);
        let text = run(print.env("SHOAL_ADMIN_ADDR", "127.0.0.1:54321"));
        assert!(text.contains("127.0.0.1:54321"), "{role}: {text}");
    }
}

#[test]
fn help_and_version() {
    let help = run(&mut command(&["--help"]));
    for word in [
        "up",
        "agent",
        "origin",
        "tracker",
        "build-index",
        "proxy",
        "pull",
        "check-config",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(run(&mut command(&["version"])).starts_with("shoal "));
    let scenarios = run(&mut command(&["sim", "list"]));
    assert!(scenarios.contains("share "), "{scenarios}");
    let report = run(&mut command(&[
        "sim", "run", "lone", "--seed", "5", "--json",
    ]));
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["seed"], 5);
    assert!(complaint(&["sim", "run", "nonsense"], &[]).contains("sim list"));
}
