//! Authorities that another tool made, and what `shoal cert` makes of them.

use std::path::Path;
use std::process::Command;

use service::Role;
use service::tls::{Caller, Config, Tls};
use tests::process::{attempt, both, run};
use tests::{shoal, tls};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const P256: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

fn openssl(args: &[&str]) {
    let mut openssl = Command::new(tests::program("/usr/bin/openssl", "openssl"));
    run(openssl.args(args));
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Makes an authority, in the place of what is there.
fn make(folder: &Path, key: &[&str], more: &[&str]) {
    let (certificate, secret) = (folder.join("ca.pem"), folder.join("ca.key"));
    let (certificate, secret) = (certificate.to_str(), secret.to_str());
    let mut args = vec!["req", "-x509", "-nodes", "-days", "2"];
    args.extend(key);
    args.extend(["-keyout", secret.expect("a plain name")]);
    args.extend(["-out", certificate.expect("a plain name")]);
    args.extend(more);
    openssl(&args);
}

/// Lets an agent connect with an origin, of which it expects a role; returns what each says of the
/// other.
fn meet(folder: &Path, expected: Role) -> (Result<Caller, String>, Result<Caller, String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the system has threads");
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let open = async |role: Role| {
            let config = serde_json::from_value::<Config>(tls::section(folder, role.as_str()));
            let config = config.expect("it is a section");
            let opened = Tls::open(&config, role, &shutdown).await;
            opened.expect("the certificate is right")
        };
        let (origin, agent) = (open(Role::Origin).await, open(Role::Agent).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let serving = async {
            let (socket, _) = listener.accept().await.expect("somebody calls");
            origin.accept(socket).await
        };
        let calling = async {
            let socket = TcpStream::connect(addr).await.expect("it listens");
            agent.connect(socket, expected).await
        };
        let (served, called) = tokio::join!(serving, calling);
        let who = |(_, caller)| caller;
        (
            served.map(who).map_err(|error| error.to_string()),
            called.map(who).map_err(|error| error.to_string()),
        )
    })
}

#[test]
fn the_authority_may_be_that_of_another_tool() {
    let name = ["-subj", "/C=DE/O=Some company/OU=Keys/CN=Its authority"];
    let p384 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"];
    for key in [
        &P256[..],
        &p384,
        &["-newkey", "rsa:2048"],
        &["-newkey", "ed25519"],
    ] {
        let folder = tests::folder();
        let folder = folder.path();
        make(folder, key, &name);
        let authority = text(&folder.join("ca.pem"));
        tls::make(folder);
        assert_eq!(text(&folder.join("ca.pem")), authority);

        let (served, called) = meet(folder, Role::Origin);
        let (served, called) = (served.expect("it may"), called.expect("it is one"));
        assert!(
            served.may_be(Role::Agent) && !served.may_be(Role::Origin),
            "{key:?}"
        );
        assert!(
            called.may_be(Role::Origin) && !called.may_be(Role::Agent),
            "{key:?}"
        );
        let (_, called) = meet(folder, Role::Tracker);
        let error = called.expect_err("it is no tracker");
        assert!(error.contains("of another role"), "{key:?}: {error}");
    }
}

/// While one authority takes the place of another, the file has both.
#[test]
fn the_authority_with_the_key_signs() {
    let folder = tests::folder();
    let folder = folder.path();
    make(folder, &P256, &["-subj", "/O=Some company/CN=old"]);
    let old = text(&folder.join("ca.pem"));
    make(folder, &P256, &["-subj", "/O=Some company/CN=new"]);
    let both = old + &text(&folder.join("ca.pem"));
    std::fs::write(folder.join("ca.pem"), both).expect("the folder is ours");
    tls::make(folder);
    let (served, called) = meet(folder, Role::Origin);
    assert!(served.is_ok() && called.is_ok(), "{served:?}, {called:?}");
}

/// Whatever is wrong with an authority, the certificate that there is stays.
#[test]
fn what_cannot_be_used_replaces_nothing() {
    let folder = tests::folder();
    let folder = folder.path();
    let out = folder.to_str().expect("a plain name");
    tls::make(folder);
    let certificate = folder.join("origin.pem");
    let before = text(&certificate);
    let name = ["-subj", "/CN=Its authority"];
    let constrained = [
        name[0],
        name[1],
        "-addext",
        "nameConstraints=permitted;DNS:example.com",
    ];
    let parts = ["-subj", "/DC=com/DC=example/CN=Its authority"];
    for (more, expected) in [
        // Everything is right but what others would say of it.
        (&constrained[..], "no certificate of role origin"),
        (&parts, "several parts of one kind"),
    ] {
        make(folder, &P256, more);
        refuses(out, expected);
        assert_eq!(text(&certificate), before, "{expected}");
    }
    make(folder, &P256, &name);
    let key = folder.join("ca.key");
    let key = key.to_str().expect("a plain name");
    openssl(&["ec", "-in", key, "-out", key]);
    assert!(text(&folder.join("ca.key")).contains("BEGIN EC PRIVATE KEY"));
    refuses(out, "openssl pkcs8 -topk8");
    assert_eq!(text(&certificate), before);
    assert!(!folder.join("origin.pem.new").exists());
}

fn refuses(out: &str, expected: &str) {
    let args = ["cert", "new", "--out", out, "--role", "origin", "--renew"];
    let output = attempt(&mut shoal::command(&args));
    let said = both(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(expected), "{expected}: {said}");
}
