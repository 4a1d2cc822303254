//! Rules about documents.

use std::path::PathBuf;

use cargo_metadata::MetadataCommand;

use crate::{files, read, root};

#[test]
fn the_architecture_mentions_every_crate() {
    let text = read("ARCHITECTURE.md");
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".into(), "--locked".into()])
        .exec()
        .expect("cargo knows the workspace");
    for package in &metadata.packages {
        let folder = package.manifest_path.parent().unwrap();
        let folder = folder.strip_prefix(root()).unwrap();
        let name = format!("`{folder}`");
        assert!(
            text.contains(&name),
            "ARCHITECTURE.md does not mention {name}"
        );
    }
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let paths = files("docs/decisions", ".md");
    assert!(!paths.is_empty());
    for (index, path) in paths.iter().enumerate() {
        let number = format!("{:04}", index + 1);
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(
            name.starts_with(&format!("{number}-")),
            "{name} must start with {number}-"
        );
        let text = read(path);
        assert!(
            text.starts_with(&format!("# {number}. ")),
            "{name} must start with its number and title"
        );
        for part in ["## Decision", "## Reason"] {
            assert!(text.contains(part), "{name} has no part {part:?}");
        }
    }
}

/// Links between files of the tree lead somewhere.
#[test]
fn links_lead_to_files() {
    let mut wrong = Vec::new();
    for path in files("", ".md") {
        let text = read(&path);
        let folder = path.parent().unwrap().to_owned();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
        {
            let target = target.0.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file: PathBuf = root().join(&folder).join(target);
            if !file.exists() {
                wrong.push(format!("{}: {target} does not exist", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a person types first is what README says, so its commands must exist.
#[test]
fn commands_of_the_readme_exist() {
    let readme = read("README.md");
    let makefile = read("Makefile");
    let targets = readme.split("make ").skip(1);
    let targets = targets.map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-');
        &rest[..end.unwrap_or(rest.len())]
    });
    let mut seen = Vec::new();
    for target in targets
        .filter(|target| ["up", "test", "check", "e2e", "sim", "fmt", "image"].contains(target))
    {
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
        seen.push(target);
    }
    assert!(
        seen.starts_with(&["up", "test"]),
        "README opens with make up and make test: {seen:?}"
    );
}
