//! Rules about source files.

use crate::{files, read};

/// A file of this many lines is split before it grows further.
const MAX_LINES: usize = 800;

/// Where files are renamed: the places that know what must be synced before and after.
const RENAMERS: [&str; 3] = [
    "lib/store/src/durable.rs",
    "lib/backend/src/fs.rs",
    "lib/backend/src/fs/",
];

#[test]
fn no_source_file_is_too_long() {
    let mut wrong = Vec::new();
    for path in files("", ".rs") {
        let lines = read(&path).lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{} has {lines} lines; split it", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_renamed_in_one_place() {
    // In two parts, so that this file does not find itself.
    let forbidden = [concat!("fs::", "rename"), concat!("rename", "at")];
    let mut wrong = Vec::new();
    for path in files("", ".rs") {
        let name = path.to_string_lossy();
        if RENAMERS.iter().any(|renamer| name.starts_with(renamer)) {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            if forbidden.iter().any(|word| line.contains(word)) {
                let number = number + 1;
                wrong.push(format!(
                    "{name}:{number} renames a file; use store::durable"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A derived label has the name of the variant as Rust has it; Prometheus has lower case.
#[test]
fn labels_of_metrics_are_written_out() {
    // In two parts, so that this file does not find itself.
    let derived = concat!("EncodeLabel", "Value)]");
    let mut wrong = Vec::new();
    for path in files("", ".rs") {
        for (number, line) in read(&path).lines().enumerate() {
            if line.contains(derived) {
                let (name, number) = (path.display(), number + 1);
                wrong.push(format!("{name}:{number}: write the label in lower case"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_keeps_the_lints() {
    for path in files("", "Cargo.toml") {
        let text = read(&path);
        if text.contains("[package]") {
            let path = path.display();
            assert!(
                text.contains("[lints]\nworkspace = true"),
                "{path} does not keep the lints"
            );
        }
    }
}

#[test]
fn versions_are_named_in_one_place() {
    for path in files("", "Cargo.toml") {
        if path.to_string_lossy() == "Cargo.toml" {
            continue;
        }
        let text = read(&path);
        let mut in_dependencies = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && line.contains('=') {
                let path = path.display();
                assert!(
                    line.contains("workspace = true"),
                    "{path}: {line}: name the version in the workspace"
                );
            }
        }
    }
}
